//! Rows as a JSON array of objects.
//!
//! The output is always valid UTF-8 and loses nothing: a byte that is no part of valid UTF-8
//! becomes an escape from `\udc80` to `\udcff`, of which Python's surrogateescape makes the byte
//! again.

use super::number::{integer, real, whole};
use super::text::{Text, copy};
use super::time::{Stamp, from_unix};
use crate::wire::{Malformed, Rows, Value};

/// The rows of one result, part by part, in one growing buffer.
#[derive(Default)]
pub(crate) struct JsonArray {
    out: Text,
    /// What stands before the value of each column: `,{"first":`, then `,"next":`.
    keys: Vec<Box<[u8]>>,
    rows: u64,
}

/// Twice the usual part of a result.
const EXPECTED: usize = 128 << 10;

impl JsonArray {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Whether there is memory for the text of a part, if its values are not mostly escapes.
    pub(crate) fn can_take(&mut self, rows: &Rows<'_>) -> bool {
        self.out.can_take(rows.body().len().saturating_mul(2))
    }

    /// False if memory ran out all the same.
    pub(crate) fn is_whole(&self) -> bool {
        !self.out.is_cut()
    }

    /// Takes all rows of one part. After an error the array is of no use any more.
    pub(crate) fn part(&mut self, rows: &mut Rows<'_>) -> Result<(), Malformed> {
        // Every part repeats the names, which do not change within one result.
        if self.keys.len() != rows.columns() {
            let keys: Option<_> = rows.names().enumerate().map(|(i, name)| key(name, i == 0)).collect();
            let Some(keys) = keys else {
                self.out.cut();
                return Ok(());
            };
            self.keys = keys;
            // As JSON it is about as long. A single value may be longer than should be taken on suspicion.
            self.out.expect(rows.body().len().min(EXPECTED));
        }
        // Without columns there are no rows, but the end is to be read.
        while rows.next_row()? {
            for key in &self.keys {
                self.out.put(key);
                value(&mut self.out, rows.next_value()?);
            }
            self.out.push(b'}');
            self.rows += 1;
        }
        Ok(())
    }

    pub(crate) fn row_count(&self) -> u64 {
        self.rows
    }

    /// The bytes so far.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    /// None if memory ran out.
    pub(crate) fn finish(mut self) -> Option<Vec<u8>> {
        match self.out.first_mut() {
            // The comma before the first row.
            Some(comma) => *comma = b'[',
            None => self.out.push(b'['),
        }
        self.out.push(b']');
        self.is_whole().then(|| self.out.into_vec())
    }
}

/// The members of a cluster as dqlitepy reads them: id, address, role.
pub(crate) fn members<'a>(list: impl IntoIterator<Item = (u64, &'a str, u64)>) -> Vec<u8> {
    let mut out = Text::from(b"[");
    for (id, address, role) in list {
        if out.len() > 1 {
            out.put(b", ");
        }
        out.put(b"{\"id\": ");
        whole(&mut out, id);
        out.put(b", \"address\": ");
        string(&mut out, address.as_bytes());
        out.put(b", \"role\": ");
        whole(&mut out, role);
        out.push(b'}');
    }
    out.push(b']');
    out.into_vec()
}

/// None without memory for it: a name may be as long as the statement.
fn key(name: &[u8], first: bool) -> Option<Box<[u8]>> {
    let mut key = Text::default();
    if !key.can_take(name.len().saturating_mul(2)) {
        return None;
    }
    key.put(if first { b",{" } else { b"," });
    string(&mut key, name);
    key.push(b':');
    (!key.is_cut()).then(|| key.into_vec().into())
}

#[inline(always)]
fn value(out: &mut Text, value: Value<'_>) {
    match value {
        Value::Null => out.put(b"null"),
        Value::Integer(n) => integer(out, n),
        Value::Real(x) => real(out, x),
        Value::Text(bytes) | Value::Blob(bytes) => string(out, bytes),
        Value::Boolean(0) => out.put(b"false"),
        Value::Boolean(_) => out.put(b"true"),
        Value::UnixTime(seconds) => match from_unix(seconds) {
            Some(text) => {
                out.push(b'"');
                out.put(&text);
                out.push(b'"');
            }
            None => integer(out, seconds),
        },
        Value::Iso8601(bytes) => match Stamp::parse(bytes) {
            Some(stamp) => {
                out.push(b'"');
                stamp.write(out);
                out.push(b'"');
            }
            None => string(out, bytes),
        },
    }
}

#[inline]
pub(super) fn string(out: &mut Text, bytes: &[u8]) {
    if !is_plain(bytes) {
        out.push(b'"');
        escaped(out, bytes);
        out.push(b'"');
        return;
    }
    if let [open, inside @ .., close] = out.next(bytes.len() + 2) {
        *open = b'"';
        copy(inside, bytes);
        *close = b'"';
    }
}

/// ASCII that JSON takes as it is. The loops have no early exit, so they compile to vector instructions; the last bytes
/// are looked at together with some before them.
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<16>();
    let plain = blocks.iter().fold(true, |plain, block| plain & all_plain(block));
    plain
        & match (
            bytes.last_chunk::<16>(),
            rest.last_chunk::<8>(),
            rest.first_chunk::<8>(),
        ) {
            _ if rest.is_empty() => true,
            (Some(last), ..) => all_plain(last),
            (_, Some(last), Some(first)) => all_plain(first) & all_plain(last),
            _ => rest.iter().fold(true, |plain, byte| plain & all_plain(&[*byte])),
        }
}

#[inline]
fn all_plain<const N: usize>(bytes: &[u8; N]) -> bool {
    bytes.iter().fold(true, |plain, &b| {
        plain & (0x20..0x80).contains(&b) & (b != b'"') & (b != b'\\')
    })
}

/// Kept apart so that the loop over rows stays small.
#[inline(never)]
fn escaped(out: &mut Text, bytes: &[u8]) {
    // Looking at the whole first is several times faster than going chunk by chunk.
    if std::str::from_utf8(bytes).is_ok() {
        return valid(out, bytes);
    }
    for chunk in bytes.utf8_chunks() {
        valid(out, chunk.valid().as_bytes());
        for &b in chunk.invalid() {
            unicode_escape(out, *b"dc", b);
        }
    }
}

/// Valid UTF-8, of which only ASCII needs escapes.
fn valid(out: &mut Text, mut bytes: &[u8]) {
    while let Some(n) = first_special(bytes) {
        out.put(&bytes[..n]);
        match ESCAPE[usize::from(bytes[n])] {
            b'u' => unicode_escape(out, *b"00", bytes[n]),
            letter => out.put(&[b'\\', letter]),
        }
        bytes = &bytes[n + 1..];
    }
    out.put(bytes);
}

/// Where the first byte stands that needs an escape. It is often near; looking at whole blocks pays
/// only behind a run without any.
fn first_special(bytes: &[u8]) -> Option<usize> {
    let special = |b: &u8| ESCAPE[usize::from(*b)] != 0;
    let (near, far) = bytes.split_at(bytes.len().min(16));
    if let Some(n) = near.iter().position(special) {
        return Some(n);
    }
    let (blocks, _) = far.as_chunks::<16>();
    let clean = |block: &&[u8; 16]| {
        block
            .iter()
            .fold(true, |clean, &b| clean & (b >= 0x20) & (b != b'"') & (b != b'\\'))
    };
    let skip = blocks.iter().take_while(clean).count() * 16;
    let n = far[skip..].iter().position(special)?;
    Some(near.len() + skip + n)
}

fn unicode_escape(out: &mut Text, [a, b]: [u8; 2], byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
    out.put(&[b'\\', b'u', a, b, high, low]);
}

/// What follows the backslash for each byte that needs one; `u` stands for the long form.
const ESCAPE: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 0x20 {
        table[i] = b'u';
        i += 1;
    }
    table[b'\n' as usize] = b'n';
    table[b'\t' as usize] = b't';
    table[b'\r' as usize] = b'r';
    table[0x08] = b'b';
    table[0x0c] = b'f';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
