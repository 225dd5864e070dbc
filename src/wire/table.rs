//! The table of requests: the one place where their types, names, schemas, fields and senders
//! stand. The encoder, the decoder, the door's checks and the documentation of [`Request`] are
//! made from it. [protocol 5]

use super::cursor::Cursor;
use super::fields::{
    Address, ClusterFormat, Database, DescribeFormat, Field, Half, NodeId, RoleNumber, Script, Text, Tuple, Word,
};
use super::params::Params;
use super::request::Refused;

/// What the table says about a request besides its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    /// The message type.
    pub(crate) kind: u8,
    /// The name in the protocol.
    pub(crate) name: &'static str,
    /// The newest schema; all from 0 on are known.
    pub(crate) schema: u8,
    /// Whether only the leader serves it; other nodes answer 10250.
    pub(crate) leader_only: bool,
    /// Whether a client may send it. What a client may not send, only another node may.
    pub(crate) client: bool,
    /// The code that the engine answers a schema with that it does not know.
    pub(super) bad_schema: u64,
}

/// Turns the words of the table's columns into what they mean.
macro_rules! column {
    (leader) => {
        true
    };
    (any) => {
        false
    };
    (client) => {
        true
    };
    (node) => {
        false
    };
}

macro_rules! requests {
    (
        $( $kind:literal $name:ident, schemas 0..=$schema:literal else $bad_schema:literal,
           served by $served:ident, sent by $sender:ident
           => $variant:ident $( { $( $field:ident: $field_type:ty as $field_kind:ident ),* } )? ; )*
        $( never $unserved:literal $unserved_name:ident; )*
    ) => {
        /// A request, borrowed from whoever sends it or from the body that it came in.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub(crate) enum Request<'a> {
            $(
                #[doc = concat!(
                    "`", stringify!($name), "`, type ", $kind, ", schemas 0 to ", $schema,
                    ", served by: ", stringify!($served), ", sent by: ", stringify!($sender), "."
                )]
                $variant $( { $( $field: $field_type ),* } )?,
            )*
        }

        /// What the table knows of a type; nothing of those that the engine does not serve.
        pub(crate) fn spec(kind: u8) -> Option<&'static Spec> {
            match kind {
                $( $kind => Some(&Spec {
                    kind: $kind,
                    name: stringify!($name),
                    schema: $schema,
                    leader_only: column!($served),
                    client: column!($sender),
                    bad_schema: $bad_schema,
                }), )*
                _ => None,
            }
        }

        /// The name of a request type, for messages.
        pub(crate) fn request_name(kind: u8) -> &'static str {
            match kind {
                $( $kind => stringify!($name), )*
                $( $unserved => stringify!($unserved_name), )*
                _ => "unknown request",
            }
        }

        impl<'a> Request<'a> {
            /// The message type.
            pub(crate) fn kind(&self) -> u8 {
                match self { $( Self::$variant { .. } => $kind, )* }
            }

            /// The schema that the request is sent in: the oldest that can say it.
            pub(super) fn schema(&self) -> u8 {
                match *self {
                    $( Self::$variant $( { $( $field ),* } )? =>
                        0 $( $( .max($field_kind::schema($field)) )* )?, )*
                }
            }

            pub(super) fn put_fields(&self, schema: u8, out: &mut Vec<u8>) {
                match *self {
                    $( Self::$variant $( { $( $field ),* } )? => {
                        $( $( $field_kind::put($field, schema, out); )* )?
                    } )*
                }
            }

            /// Reads the fields of a request that the table knows. Words behind them are ignored.
            pub(super) fn get_fields(
                kind: u8,
                schema: u8,
                from: &mut Cursor<'a>,
            ) -> Result<Self, Refused> {
                match kind {
                    $( $kind => Ok(Self::$variant $( { $(
                        $field: $field_kind::get(from, schema)
                            .map_err(|refused| refused.within(stringify!($field)))?
                    ),* } )? ), )*
                    _ => Err(Refused::unknown_type()),
                }
            }
        }
    };
}

requests! {
    0 LEADER, schemas 0..=0 else 1005, served by any, sent by client
        => Leader;
    1 CLIENT, schemas 0..=0 else 1005, served by any, sent by client
        => Client { id: u64 as Word };
    3 OPEN, schemas 0..=0 else 1005, served by leader, sent by client
        => Open { name: &'a [u8] as Database, flags: u64 as Word, vfs: &'a [u8] as Text };
    4 PREPARE, schemas 0..=1 else 1, served by leader, sent by client
        => Prepare { db: u64 as Word, sql: &'a [u8] as Script };
    5 EXEC, schemas 0..=1 else 1, served by leader, sent by client
        => Exec { db: u32 as Half, stmt: u32 as Half, params: Params<'a> as Tuple };
    6 QUERY, schemas 0..=1 else 1, served by leader, sent by client
        => Query { db: u32 as Half, stmt: u32 as Half, params: Params<'a> as Tuple };
    7 FINALIZE, schemas 0..=0 else 1005, served by any, sent by client
        => Finalize { db: u32 as Half, stmt: u32 as Half };
    8 EXEC_SQL, schemas 0..=1 else 1, served by leader, sent by client
        => ExecSql { db: u64 as Word, sql: &'a [u8] as Text, params: Params<'a> as Tuple };
    9 QUERY_SQL, schemas 0..=1 else 1, served by leader, sent by client
        => QuerySql { db: u64 as Word, sql: &'a [u8] as Text, params: Params<'a> as Tuple };
    10 INTERRUPT, schemas 0..=0 else 1005, served by any, sent by client
        => Interrupt { db: u64 as Word };
    11 CONNECT, schemas 0..=0 else 1005, served by any, sent by node
        => Connect { id: u64 as NodeId, address: &'a [u8] as Address };
    12 ADD, schemas 0..=0 else 1005, served by leader, sent by client
        => Add { id: u64 as NodeId, address: &'a [u8] as Address };
    13 ASSIGN, schemas 0..=0 else 1005, served by leader, sent by client
        => Assign { id: u64 as NodeId, role: u64 as RoleNumber };
    14 REMOVE, schemas 0..=0 else 1005, served by leader, sent by client
        => Remove { id: u64 as NodeId };
    15 DUMP, schemas 0..=0 else 1005, served by any, sent by client
        => Dump { name: &'a [u8] as Text };
    16 CLUSTER, schemas 0..=0 else 1005, served by any, sent by client
        => Cluster { format: u64 as ClusterFormat };
    17 TRANSFER, schemas 0..=0 else 1005, served by leader, sent by client
        => Transfer { id: u64 as Word };
    18 DESCRIBE, schemas 0..=0 else 1005, served by any, sent by client
        => Describe { format: u64 as DescribeFormat };
    19 WEIGHT, schemas 0..=0 else 1005, served by any, sent by client
        => Weight { weight: u64 as Word };
    never 2 HEARTBEAT;
}
