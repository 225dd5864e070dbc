//! Values that a statement keeps until it runs.

use crate::error::{Error, Result};
use crate::limits;
use crate::memory;
use crate::render;
use crate::wire::Value;

/// What SQLite says of a value that is too long.
pub(super) const TOO_BIG: i32 = 18;

/// A parameter with memory of its own.
#[derive(Debug, Default, PartialEq)]
pub(crate) enum Owned {
    #[default]
    Null,
    Integer(i64),
    Real(f64),
    Text(Box<[u8]>),
    Blob(Box<[u8]>),
    /// A time as text; on the wire it says so, in the database it is text.
    Time(Box<[u8]>),
    Boolean(bool),
}

impl Owned {
    pub(super) fn as_value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Integer(number) => Value::Integer(*number),
            Self::Real(number) => Value::Real(*number),
            Self::Text(bytes) => Value::Text(bytes),
            Self::Blob(bytes) => Value::Blob(bytes),
            Self::Time(bytes) => Value::Iso8601(bytes),
            Self::Boolean(on) => Value::Boolean(u64::from(*on)),
        }
    }

    /// Copies a value that parameter `index` is to have, if the engine can carry it.
    pub(super) fn copy(value: Value<'_>, index: usize) -> Result<Self> {
        let check = |bytes: &[u8]| check_size(bytes.len() as u64, index);
        Ok(match value {
            Value::Null => Self::Null,
            Value::Integer(number) => Self::Integer(number),
            Value::Real(number) => Self::Real(number),
            Value::Blob(bytes) => {
                check(bytes)?;
                Self::Blob(memory::copy(bytes, "a value")?)
            }
            Value::Text(bytes) => {
                check(bytes)?;
                Self::Text(memory::copy(without_nul(bytes, index)?, "a value")?)
            }
            Value::Iso8601(bytes) => {
                check(bytes)?;
                Self::Time(memory::copy(without_nul(bytes, index)?, "a value")?)
            }
            Value::UnixTime(seconds) => Self::time(seconds, 0, index)?,
            Value::Boolean(number) => Self::Boolean(number != 0),
        })
    }

    /// A point in time, in the form that go-dqlite stores: "2024-01-02 03:04:05.5+00:00".
    pub(super) fn time(seconds: i64, nanoseconds: u32, index: usize) -> Result<Self> {
        match render::sql_time(seconds, nanoseconds) {
            Some(text) => Ok(Self::Time(text.into_boxed_slice())),
            None => Err(Error::invalid(format!(
                "parameter {index}: {seconds} s and {nanoseconds} ns is no time of the years 0 to 9999"
            ))),
        }
    }
}

/// Refuses what SQLite would refuse, before a byte of it is read or sent.
pub(crate) fn check_size(size: u64, index: usize) -> Result<()> {
    if size <= limits::VALUE {
        return Ok(());
    }
    Err(Error::sql(
        TOO_BIG,
        format!(
            "parameter {index} has {size} bytes, and SQLite takes {} at most",
            limits::VALUE
        ),
    ))
}

/// Refuses parameters that together do not fit a request.
pub(super) fn check_total(values: &[Owned], sql: &str) -> Result<()> {
    let bytes = |value: &Owned| match value {
        Owned::Text(bytes) | Owned::Blob(bytes) | Owned::Time(bytes) => bytes.len() as u64 + 24,
        _ => 16,
    };
    let total = values.iter().map(bytes).sum::<u64>() + sql.len() as u64;
    if total <= limits::REQUEST {
        return Ok(());
    }
    Err(Error::sql(
        TOO_BIG,
        format!(
            "the statement and its parameters have {total} bytes, and a request carries {} at most",
            limits::REQUEST
        ),
    ))
}

/// A longer text SQLite refuses; and one of 2 GiB would hang the engine, whose buffer counts in 32 bits. [engine 4 N]
pub(super) fn check_text(sql: &str) -> Result<()> {
    let size = sql.len() as u64;
    if size <= limits::VALUE {
        return Ok(());
    }
    Err(Error::sql(
        TOO_BIG,
        format!(
            "the statement has {size} bytes, and SQLite takes {} at most",
            limits::VALUE
        ),
    ))
}

fn without_nul(bytes: &[u8], index: usize) -> Result<&[u8]> {
    match memchr::memchr(0, bytes) {
        None => Ok(bytes),
        Some(at) => Err(Error::invalid(format!(
            "parameter {index}: a text with a NUL (byte {at}) cannot travel to the engine; write CAST(? AS TEXT) in the \
             SQL and bind the bytes as a blob"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_travel_is_refused_by_name() {
        let error = Owned::copy(Value::Text(b"ab\0c"), 3).unwrap_err();
        assert!(
            error.message().contains("parameter 3") && error.message().contains("CAST(? AS TEXT)"),
            "{error}"
        );
        assert_eq!(check_size(1_000_000_001, 2).unwrap_err().sqlite_code(), TOO_BIG);
        assert!(check_size(1_000_000_000, 2).is_ok());
        assert!(Owned::time(i64::MAX, 0, 1).is_err());
        assert!(Owned::time(0, 1_000_000_000, 1).is_err());
    }

    #[test]
    fn times() {
        let text = |seconds, nanoseconds| match Owned::time(seconds, nanoseconds, 1).unwrap() {
            Owned::Time(bytes) => String::from_utf8(bytes.into_vec()).unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(text(0, 0), "1970-01-01 00:00:00+00:00");
        assert_eq!(text(1_704_164_645, 500_000_000), "2024-01-02 03:04:05.5+00:00");
        assert_eq!(text(-1, 1), "1969-12-31 23:59:59.000000001+00:00");
    }
}
