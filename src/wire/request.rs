//! Encoding requests, and the check that the door makes of those from the network.

use super::cursor::{Cursor, Malformed, begin, finish, put_text, put_u64};
use super::params::Params;
use super::response::FAILURE;
use super::table::{Request, request_name, spec};
use super::{Header, MAX_REQUEST_BODY};

/// SQLite's code for an error without a better one. [protocol 8]
pub(super) const ERROR: u64 = 1;
/// SQLite's code for a broken locking protocol, which the engine gives for a format. [protocol 8]
pub(super) const PROTOCOL: u64 = 15;
/// The engine's code for a request that it cannot parse. [protocol 8]
pub(super) const PARSE: u64 = 1005;

/// More than a header with all fields of a fixed size and paddings.
const LEAST: usize = 128;

/// Where the half word lies in a header that carries no meaning in the protocol. [protocol 2]
const EXTRA: usize = 6;

/// What EXEC and EXEC_SQL demand of their connection, in the half word of the header that others ignore: where it does not
/// hold, our engine (vendor/glue/gateway.c) knows no such statement, code 12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Always = 0,
    InTransaction = 1,
    OutsideTransaction = 2,
}

/// Why a request must not reach the engine, as a FAILURE says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The code that the engine itself would use for it, where it has one.
    pub(crate) code: u64,
    pub(crate) message: String,
}

impl Refused {
    pub(super) fn new(code: u64, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The engine's own words, which other clients may look for.
    pub(super) fn unknown_type() -> Self {
        Self::new(PARSE, "unrecognized request type")
    }

    /// The same, with the field or request that it happened in put in front.
    pub(super) fn within(mut self, place: &str) -> Self {
        self.message.insert_str(0, ": ");
        self.message.insert_str(0, place);
        self
    }
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        Self::new(PARSE, malformed.to_string())
    }
}

impl Header {
    /// What can be said of a request before its body is there: the type, the schema and the size.
    pub(crate) fn check_request(self) -> Result<(), Refused> {
        let Some(spec) = spec(self.kind) else {
            let refused = Refused::unknown_type();
            return Err(refused.within(&format!("{} {}", request_name(self.kind), self.kind)));
        };
        if self.schema > spec.schema {
            let refused = Refused::new(spec.bad_schema, "unrecognized schema version");
            return Err(refused.within(spec.name));
        }
        // The engine neither answers a body of no words nor reads on. [protocol 2]
        if self.words == 0 {
            return Err(Refused::new(PARSE, "a body of no words").within(spec.name));
        }
        if self.body_len() > MAX_REQUEST_BODY {
            let message = format!("a body of {} bytes is too long", self.body_len());
            return Err(Refused::new(PARSE, message).within(spec.name));
        }
        Ok(())
    }

    /// Whether it makes the connection a raft link, which takes all that follows.
    pub(crate) fn makes_link(self) -> bool {
        spec(self.kind).is_some_and(|spec| !spec.client)
    }
}

impl<'a> Request<'a> {
    /// Appends the request with its header, in the oldest schema that can say it.
    ///
    /// The limits are the caller's: no text may hold a NUL, and what is appended may not be longer
    /// than [`MAX_REQUEST_BODY`] and the header.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.encode_as(self.schema(), out);
    }

    /// The same for a request that our engine runs under a condition only. Others do not look at it.
    pub(crate) fn encode_when(&self, when: When, out: &mut Vec<u8>) {
        let start = out.len();
        self.encode(out);
        out[start + EXTRA] = when as u8;
    }

    pub(super) fn encode_as(&self, schema: u8, out: &mut Vec<u8>) {
        let start = begin(self.kind(), schema, out);
        let body = out.len();
        self.put_fields(schema, out);
        // A request without fields is one unused word, because no body may be empty.
        if out.len() == body {
            put_u64(0, out);
        }
        finish(start, out);
    }

    /// Bytes that `encode` appends at most.
    pub(crate) fn room(&self) -> usize {
        let (text, params) = match *self {
            Self::Exec { params, .. } | Self::Query { params, .. } => (0, params),
            Self::ExecSql { sql, params, .. } | Self::QuerySql { sql, params, .. } => (sql.len(), params),
            Self::Prepare { sql, .. } => (sql.len(), Params::NONE),
            Self::Open { name, .. } | Self::Dump { name } => (name.len(), Params::NONE),
            Self::Connect { address, .. } | Self::Add { address, .. } => (address.len(), Params::NONE),
            _ => (0, Params::NONE),
        };
        LEAST + text + params.room()
    }

    /// Decodes a request of a stranger, and refuses it if the engine could come to harm by it.
    pub(crate) fn decode(header: Header, body: &'a [u8]) -> Result<Self, Refused> {
        header.check_request()?;
        let name = request_name(header.kind);
        if header.body_len() != body.len() as u64 {
            let message = format!("{} bytes of a body of {}", body.len(), header.body_len());
            return Err(Refused::new(PARSE, message).within(name));
        }
        let mut from = Cursor::new(body);
        Self::get_fields(header.kind, header.schema, &mut from).map_err(|refused| refused.within(name))
    }

    /// The name in the protocol, for messages.
    pub(crate) fn name(&self) -> &'static str {
        request_name(self.kind())
    }
}

/// Appends the FAILURE that the door answers with. A NUL ends the message, as it would on the wire.
pub(crate) fn encode_failure(code: u64, message: &str, out: &mut Vec<u8>) {
    let text = message.split('\0').next().unwrap_or_default();
    let start = begin(FAILURE, 0, out);
    put_u64(code, out);
    put_text(text.as_bytes(), out);
    finish(start, out);
}
