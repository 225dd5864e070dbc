//! The protocol between a client and a node, without any I/O: bytes in, messages out.
//!
//! A connection starts with one word (8 bytes), the [`VERSION`]. After it every message is a
//! [`Header`] of one word and a body of whole words, integers little-endian. The client sends a
//! [`Request`] and reads the answer, a [`Response`], before it sends the next one.
//!
//! | file | holds |
//! | --- | --- |
//! | `table` | every request once: type, name, schemas, fields, who may send it |
//! | `fields` | the kinds of field that the table names, and what the door demands of each |
//! | `request`, `params` | encoding requests, and checking those of a stranger |
//! | `response`, `rows`, `files` | decoding answers |
//! | `link` | what nodes send each other, and whether that is whole |
//! | `value`, `cursor` | single values, and the primitives below them |
//!
//! Nothing here trusts a byte. A decoder never reads past the body it was given, never panics and
//! never allocates more than a small multiple of that body.
//!
//! A tag such as `[protocol 4.1]` names the section of docs/protocol that the line depends on.

mod cursor;
mod fields;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(crate) mod link;
mod params;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod refusals;
mod request;
mod response;
mod rows;
mod table;
#[cfg(test)]
mod tests;
mod value;
#[cfg(test)]
mod vectors;

pub(crate) use cursor::Malformed;
pub(crate) use files::{Files, Piece};
pub(crate) use params::Params;
pub(crate) use request::{Refused, When, encode_failure};
pub(crate) use response::{Response, Role};
pub(crate) use rows::{End, Rows};
pub(crate) use table::Request;
pub(crate) use value::Value;
#[cfg(test)]
use {
    response::{File, Member},
    table::{Spec, request_name, spec},
};

/// The first word of a connection. [protocol 1]
pub(crate) const VERSION: u64 = 1;

/// The first word that clients before 1.0 sent; nodes still take it. [protocol 1]
pub(crate) const VERSION_LEGACY: u64 = 0x8610_4dd7_6043_3fe5;

/// Bytes of a message header. [protocol 2]
pub(crate) const HEADER_LEN: usize = 8;

/// The longest request body that may reach the engine: at 2 GiB its read buffer, sized in 32 bits,
/// doubles to zero and its loop spins for ever. [engine 4 N]
pub(crate) const MAX_REQUEST_BODY: u64 = (1 << 31) - 8;

/// What stands in front of every body. [protocol 2]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Length of the body in words of 8 bytes.
    pub(crate) words: u32,
    /// The message type; requests and responses number theirs separately.
    pub(crate) kind: u8,
    /// The version of the layout of this message type.
    pub(crate) schema: u8,
}

impl Header {
    /// Every 8 bytes are a header. The last two carry no meaning and are not looked at.
    pub(crate) fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        let [a, b, c, d, kind, schema, _, _] = *bytes;
        Self {
            words: u32::from_le_bytes([a, b, c, d]),
            kind,
            schema,
        }
    }

    /// Length of the body in bytes.
    pub(crate) fn body_len(self) -> u64 {
        u64::from(self.words) * 8
    }
}
