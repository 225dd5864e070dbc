//! One SQL value, as a parameter or in a row. [protocol 4.3]

use super::cursor::{Cursor, Malformed, put_blob, put_text, put_u64};

/// The type codes. They fit 4 bits, because a row packs two of them into a byte.
const INTEGER: u8 = 1;
const FLOAT: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;
const NULL: u8 = 5;
const UNIXTIME: u8 = 9;
const ISO8601: u8 = 10;
const BOOLEAN: u8 = 11;

/// A value whose bytes stand elsewhere. Text is whatever SQLite holds, UTF-8 or not, up to a NUL.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
    /// An INTEGER out of a column declared DATETIME, DATE or TIMESTAMP. Rows only: the engine
    /// cannot bind it.
    UnixTime(i64),
    /// A TEXT or NULL out of such a column, NULL as the empty text. As a parameter it is TEXT.
    Iso8601(&'a [u8]),
    /// An INTEGER or NULL out of a column declared BOOLEAN, not reduced to 0 and 1, NULL as 0.
    Boolean(u64),
}

impl<'a> Value<'a> {
    /// Reads the value that `code` announces.
    #[inline(always)]
    pub(super) fn read(code: u8, from: &mut Cursor<'a>) -> Result<Self, Malformed> {
        Ok(match code {
            INTEGER => Self::Integer(from.u64("integer value")?.cast_signed()),
            FLOAT => Self::Real(f64::from_bits(from.u64("float value")?)),
            TEXT => Self::Text(from.text("text value")?),
            BLOB => Self::Blob(from.blob("blob value")?),
            NULL => {
                from.u64("null value")?;
                Self::Null
            }
            UNIXTIME => Self::UnixTime(from.u64("unix time value")?.cast_signed()),
            ISO8601 => Self::Iso8601(from.text("time text value")?),
            BOOLEAN => Self::Boolean(from.u64("boolean value")?),
            _ => return from.malformed("value of an unknown type"),
        })
    }

    /// Appends the value without its type code.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Integer(value) | Self::UnixTime(value) => put_u64(value.cast_unsigned(), out),
            Self::Real(value) => put_u64(value.to_bits(), out),
            Self::Text(text) | Self::Iso8601(text) => put_text(text, out),
            Self::Blob(blob) => put_blob(blob, out),
            // NULL takes a word too: every value of a tuple has a place.
            Self::Null => put_u64(0, out),
            Self::Boolean(value) => put_u64(value, out),
        }
    }

    /// Bytes that the value takes at most, its type code and padding among them.
    pub(super) fn room(&self) -> usize {
        match self {
            Self::Text(bytes) | Self::Iso8601(bytes) | Self::Blob(bytes) => bytes.len() + 24,
            _ => 16,
        }
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Integer(_) => INTEGER,
            Self::Real(_) => FLOAT,
            Self::Text(_) => TEXT,
            Self::Blob(_) => BLOB,
            Self::Null => NULL,
            Self::UnixTime(_) => UNIXTIME,
            Self::Iso8601(_) => ISO8601,
            Self::Boolean(_) => BOOLEAN,
        }
    }
}
