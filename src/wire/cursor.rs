//! Reading and writing the primitive fields. [protocol 3]
//!
//! Padding is always computed from the length of the field itself, never from a position, so that a
//! message may be appended at any offset of a buffer.

use std::fmt;

/// A message that does not have the shape its header promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// The field that could not be read, or that holds what it may not.
    pub(crate) what: &'static str,
    /// How much of the body had been read, in bytes.
    pub(crate) at: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is cut off or not valid at byte {} of the body",
            self.what, self.at
        )
    }
}

/// The unread part of a body. After a read that fails there is none, so that no later read can
/// find something to decode in what is out of step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    len: usize,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self {
            len: body.len(),
            rest: body,
        }
    }

    /// Goes on in a body where another cursor stopped; behind its end there is nothing to read.
    #[inline]
    pub(super) fn at(body: &'a [u8], position: usize) -> Self {
        Self {
            len: body.len(),
            rest: body.get(position..).unwrap_or_default(),
        }
    }

    #[inline]
    pub(super) fn position(&self) -> usize {
        self.len - self.rest.len()
    }

    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[cold]
    #[inline(never)]
    pub(super) fn malformed<T>(&mut self, what: &'static str) -> Result<T, Malformed> {
        let at = self.position();
        self.rest = &[];
        Err(Malformed { what, at })
    }

    #[inline]
    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        let Some((word, rest)) = self.rest.split_first_chunk() else {
            return self.malformed(what);
        };
        self.rest = rest;
        Ok(u64::from_le_bytes(*word))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        let Some((half, rest)) = self.rest.split_first_chunk() else {
            return self.malformed(what);
        };
        self.rest = rest;
        Ok(u32::from_le_bytes(*half))
    }

    /// `count` bytes as they are; the length comes from the peer and may be anything.
    #[inline]
    pub(super) fn bytes(&mut self, count: u64, what: &'static str) -> Result<&'a [u8], Malformed> {
        let split = usize::try_from(count).ok();
        let Some((bytes, rest)) = split.and_then(|n| self.rest.split_at_checked(n)) else {
            return self.malformed(what);
        };
        self.rest = rest;
        Ok(bytes)
    }

    /// A text without its NUL; the padding behind the NUL must be there, its content is ignored.
    #[inline]
    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let Some(len) = first_nul(self.rest) else {
            return self.malformed(what);
        };
        // The NUL belongs to the padded size, so a text of 8 bytes takes two words.
        let Some((padded, rest)) = self.rest.split_at_checked((len / 8 + 1) * 8) else {
            return self.malformed(what);
        };
        self.rest = rest;
        Ok(&padded[..len])
    }

    /// A blob. The server leaves old memory in the padding, so its content says nothing.
    #[inline]
    pub(super) fn blob(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let len = self.u64(what)?;
        let padded = len.checked_next_multiple_of(8).unwrap_or(u64::MAX);
        let padded = self.bytes(padded, what)?;
        // The length is at most that of `padded`, which fits the address space.
        Ok(&padded[..len as usize])
    }
}

/// Where the first NUL stands. Most texts are short and end before a search that is made for long ones has begun.
#[inline]
fn first_nul(bytes: &[u8]) -> Option<usize> {
    const NEAR: usize = 8;
    const ONES: u64 = u64::MAX / 0xff;
    let (words, _) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().take(NEAR).enumerate() {
        let word = u64::from_le_bytes(*word);
        // The high bit of each byte that is zero; above the first such byte a borrow may set others.
        let nuls = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if nuls != 0 {
            return Some(at * 8 + nuls.trailing_zeros() as usize / 8);
        }
    }
    let far = bytes.len().min(NEAR * 8);
    memchr::memchr(0, &bytes[far..]).map(|at| far + at)
}

/// Starts a message in `out`; [`finish`] must be given the result. [protocol 2]
pub(super) fn begin(kind: u8, schema: u8, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind, schema, 0, 0]);
    start
}

/// Writes the length of the message that began at `start` into its header. A body that the 32 bits
/// cannot count is over every limit of the engine: the caller has to look at the length first.
pub(super) fn finish(start: usize, out: &mut [u8]) {
    let words = (out.len() - start) / 8 - 1;
    let words = u32::try_from(words).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&words.to_le_bytes());
}

pub(super) fn put_u64(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u32(value: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// A NUL inside the text would end it early and shift all that follows: callers check.
pub(super) fn put_text(text: &[u8], out: &mut Vec<u8>) {
    debug_assert!(!text.contains(&0), "a text cannot carry a NUL");
    out.extend_from_slice(text);
    pad(8 - text.len() % 8, out);
}

pub(super) fn put_blob(blob: &[u8], out: &mut Vec<u8>) {
    put_u64(blob.len() as u64, out);
    out.extend_from_slice(blob);
    pad(blob.len().wrapping_neg() % 8, out);
}

/// Appends `count` zero bytes, 8 at most.
pub(super) fn pad(count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 8][..count]);
}
