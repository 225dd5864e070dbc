//! The kinds of field that the table of requests is made of.
//!
//! A kind knows how its field is laid out, and what the door demands of one that comes from the
//! network. Whatever the engine would abort, hang or go wrong on is refused here, next to the type,
//! so that the table alone says which request is checked for what.

use super::cursor::{Cursor, put_text, put_u32, put_u64};
use super::params::Params;
use super::request::{ERROR, PARSE, PROTOCOL, Refused};
use super::response::Role;

/// One kind of field.
pub(crate) trait Field<'a> {
    /// What the field is in [`super::Request`].
    type Value: Copy;

    /// The lowest schema of the request that can say `value`.
    fn schema(_value: Self::Value) -> u8 {
        0
    }

    /// Appends the field as schema `schema` lays it out.
    fn put(value: Self::Value, schema: u8, out: &mut Vec<u8>);

    /// Reads the field, or says why a peer may not send it so.
    fn get(from: &mut Cursor<'a>, schema: u8) -> Result<Self::Value, Refused>;
}

/// Eight bytes; every value will do.
pub(crate) struct Word;

impl<'a> Field<'a> for Word {
    type Value = u64;

    fn put(value: u64, _: u8, out: &mut Vec<u8>) {
        put_u64(value, out);
    }

    fn get(from: &mut Cursor<'a>, _: u8) -> Result<u64, Refused> {
        Ok(from.u64("word")?)
    }
}

/// Four bytes; they come in pairs. Every value will do.
pub(crate) struct Half;

impl<'a> Field<'a> for Half {
    type Value = u32;

    fn put(value: u32, _: u8, out: &mut Vec<u8>) {
        put_u32(value, out);
    }

    fn get(from: &mut Cursor<'a>, _: u8) -> Result<u32, Refused> {
        Ok(from.u32("half word")?)
    }
}

/// Any text.
pub(crate) struct Text;

impl<'a> Field<'a> for Text {
    type Value = &'a [u8];

    fn put(value: &'a [u8], _: u8, out: &mut Vec<u8>) {
        put_text(value, out);
    }

    fn get(from: &mut Cursor<'a>, _: u8) -> Result<&'a [u8], Refused> {
        Ok(from.text("text")?)
    }
}

/// Words that are laid out like another kind, with more demanded of what arrives.
macro_rules! stricter {
    ($(#[$doc:meta])* $kind:ident: $base:ident $(at schema $schema:literal)?, $value:ident => $check:block) => {
        $(#[$doc])*
        pub(crate) struct $kind;

        impl<'a> Field<'a> for $kind {
            type Value = <$base as Field<'a>>::Value;

            $(fn schema(_: Self::Value) -> u8 {
                $schema
            })?

            fn put(value: Self::Value, schema: u8, out: &mut Vec<u8>) {
                $base::put(value, schema, out);
            }

            fn get(from: &mut Cursor<'a>, schema: u8) -> Result<Self::Value, Refused> {
                let $value = $base::get(from, schema)?;
                $check
                Ok($value)
            }
        }
    };
}

stricter! {
    /// SQL of which the first statement is wanted and the rest is the caller's: schema 1 of PREPARE
    /// allows a rest and says where it starts. [protocol 5]
    Script: Text at schema 1, _sql => {}
}

stricter! {
    /// The id of a node. Raft asserts that it is not 0. [engine 4 O]
    NodeId: Word, id => {
        if id == 0 {
            return Err(Refused::new(ERROR, "a node id cannot be 0"));
        }
    }
}

stricter! {
    /// The address of a node.
    Address: Text, address => {
        if address.is_empty() {
            return Err(Refused::new(ERROR, "a node needs an address"));
        }
    }
}

/// Bytes of the longest database name that may be opened.
const LONGEST_NAME: usize = 200;

/// To the engine these are other names of the database without them, or one of its own for each connection.
pub(super) const ENDINGS: [&str; 2] = ["-wal", "-journal"];

stricter! {
    /// The name of a database to open. To the engine it is a key, but it becomes part of file names
    /// and SQLite URIs elsewhere, and one near the limit of 512 ends the connection. [protocol 5.1]
    Database: Text, name => {
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(Refused::new(ERROR, format!(
                "a database name has 1 to {LONGEST_NAME} bytes, not {}", name.len()
            )));
        }
        if let Some(bad) = name.iter().find(|byte| b"/:?".contains(byte)) {
            return Err(Refused::new(ERROR, format!(
                "a database name cannot hold '{}'", char::from(*bad)
            )));
        }
        if let Some(bad) = ENDINGS.iter().find(|ending| name.ends_with(ending.as_bytes())) {
            return Err(Refused::new(ERROR, format!("a database name cannot end with {bad}")));
        }
    }
}

stricter! {
    /// The layout of the members; the engine answers 1005 to others itself. [protocol 5.1]
    ClusterFormat: Word, format => {
        if format > 1 {
            return Err(Refused::new(PARSE, "unrecognized cluster format"));
        }
    }
}

stricter! {
    /// The layout of the metadata; the engine aborts after its answer to others. [protocol 5.1]
    DescribeFormat: Word, format => {
        if format != 0 {
            return Err(Refused::new(PROTOCOL, "bad format version"));
        }
    }
}

/// The role to assign. The engine takes any number it does not know for a stand-by, which may cost
/// the cluster its only voter. [protocol 5]
pub(crate) struct RoleNumber;

impl<'a> Field<'a> for RoleNumber {
    type Value = u64;

    fn put(value: u64, _: u8, out: &mut Vec<u8>) {
        put_u64(value, out);
    }

    fn get(from: &mut Cursor<'a>, _: u8) -> Result<u64, Refused> {
        // The request was once called PROMOTE, had no role and made a voter; it still may.
        if from.is_empty() {
            return Ok(Role::Voter.into());
        }
        let number = from.u64("role")?;
        match Role::try_from(number) {
            Ok(role) => Ok(role.into()),
            Err(unknown) => Err(Refused::new(ERROR, format!("{unknown} is not a role"))),
        }
    }
}

/// The parameters of a statement, always the last field.
pub(crate) struct Tuple;

impl<'a> Field<'a> for Tuple {
    type Value = Params<'a>;

    fn schema(value: Params<'a>) -> u8 {
        value.schema()
    }

    fn put(value: Params<'a>, schema: u8, out: &mut Vec<u8>) {
        value.write(schema, out);
    }

    fn get(from: &mut Cursor<'a>, schema: u8) -> Result<Params<'a>, Refused> {
        Params::read(schema, from)
    }
}
