//! The parameters of a statement. [protocol 4.1]
//!
//! A tuple is a count, one type code per value, padding, then the values. Schema 0 counts in a
//! byte, schema 1 in four. Without parameters there is no tuple at all: the body just ends.

use super::cursor::{Cursor, Malformed, pad, put_u32};
use super::request::{ERROR, Refused};
use super::value::Value;

/// The values bound to a statement: a slice to be sent, or a tuple that arrived and was checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Params<'a>(Source<'a>);

#[derive(Clone, Copy, Debug)]
enum Source<'a> {
    Slice(&'a [Value<'a>]),
    /// `codes` has one type code per value, and `values` was read once to its end.
    Tuple {
        codes: &'a [u8],
        values: &'a [u8],
    },
}

impl<'a> Params<'a> {
    pub(crate) const NONE: Self = Self(Source::Slice(&[]));

    pub(crate) const fn new(values: &'a [Value<'a>]) -> Self {
        Self(Source::Slice(values))
    }

    pub(crate) fn len(&self) -> usize {
        match self.0 {
            Source::Slice(values) => values.len(),
            Source::Tuple { codes, .. } => codes.len(),
        }
    }

    /// The values in the order of their SQLite index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (slice, codes, values): (&[Value<'a>], &[u8], &[u8]) = match self.0 {
            Source::Slice(values) => (values, &[], &[]),
            Source::Tuple { codes, values } => (&[], codes, values),
        };
        let mut cursor = Cursor::new(values);
        let decoded = codes.iter().map_while(move |code| Value::read(*code, &mut cursor).ok());
        slice.iter().copied().chain(decoded)
    }

    /// Bytes that `write` appends at most.
    pub(super) fn room(&self) -> usize {
        self.iter().map(|value| value.room()).sum::<usize>() + 16
    }

    /// The oldest schema that can count the values.
    pub(super) fn schema(&self) -> u8 {
        u8::from(self.len() > usize::from(u8::MAX))
    }

    pub(super) fn write(&self, schema: u8, out: &mut Vec<u8>) {
        let count = self.len();
        if count == 0 {
            return;
        }
        let start = out.len();
        if schema == 0 {
            out.push(u8::try_from(count).unwrap_or(u8::MAX));
        } else {
            put_u32(u32::try_from(count).unwrap_or(u32::MAX), out);
        }
        out.extend(self.iter().map(|value| value.code()));
        pad((out.len() - start).wrapping_neg() % 8, out);
        self.iter().for_each(|value| value.write(out));
    }

    /// Takes the tuple off the body only if every value of it is whole and can be bound.
    pub(super) fn read(schema: u8, from: &mut Cursor<'a>) -> Result<Self, Refused> {
        if from.is_empty() {
            return Ok(Self::NONE);
        }
        let codes = read_codes(schema, from)?;
        let values = from.rest();
        for code in codes {
            if let Value::UnixTime(_) = Value::read(*code, from)? {
                return Err(Refused::new(ERROR, "a UNIXTIME value cannot be bound"));
            }
        }
        Ok(Self(Source::Tuple { codes, values }))
    }
}

/// The head of a tuple: the count, the type codes and their padding.
fn read_codes<'a>(schema: u8, from: &mut Cursor<'a>) -> Result<&'a [u8], Malformed> {
    let rest = from.rest();
    let (width, count) = match (schema, rest) {
        (0, &[count, ..]) => (1, u32::from(count)),
        (1, &[a, b, c, d, ..]) => (4, u32::from_le_bytes([a, b, c, d])),
        _ => return from.malformed("parameter count"),
    };
    let len = u64::from(count) + width;
    let head = from.bytes(len.next_multiple_of(8), "parameter types")?;
    // Both are shorter than `head`, which lies in memory.
    Ok(&head[width as usize..len as usize])
}

impl PartialEq for Params<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}
