//! Answers of a node. [protocol 6]

use super::Header;
use super::cursor::{Cursor, Malformed};
use super::rows::Rows;

/// The types of response.
mod kind {
    pub(super) const FAILURE: u8 = 0;
    pub(super) const NODE: u8 = 1;
    pub(super) const WELCOME: u8 = 2;
    pub(super) const NODES: u8 = 3;
    pub(super) const DB: u8 = 4;
    pub(super) const STMT: u8 = 5;
    pub(super) const RESULT: u8 = 6;
    pub(super) const ROWS: u8 = 7;
    pub(super) const EMPTY: u8 = 8;
    pub(super) const FILES: u8 = 9;
    pub(super) const METADATA: u8 = 10;
}

pub(super) const FAILURE: u8 = kind::FAILURE;
pub(super) const FILES: u8 = kind::FILES;

/// What a member of a cluster does. [protocol 5]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Holds the data and takes part in elections.
    Voter,
    /// Holds the data.
    StandBy,
    /// Does neither.
    Spare,
}

impl From<Role> for u64 {
    fn from(role: Role) -> Self {
        match role {
            Role::Voter => 0,
            Role::StandBy => 1,
            Role::Spare => 2,
        }
    }
}

impl TryFrom<u64> for Role {
    /// The number that is no role.
    type Error = u64;

    fn try_from(number: u64) -> Result<Self, u64> {
        match number {
            0 => Ok(Self::Voter),
            1 => Ok(Self::StandBy),
            2 => Ok(Self::Spare),
            unknown => Err(unknown),
        }
    }
}

/// One entry of NODES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member<'a> {
    pub(crate) id: u64,
    pub(crate) address: &'a [u8],
    pub(crate) role: Role,
}

/// One entry of FILES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct File<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) data: &'a [u8],
}

/// An answer, borrowed from the body that it came in.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "some fields of the protocol have no reader here")]
pub(crate) enum Response<'a> {
    /// The request failed, or never began; the connection stays usable.
    Failure { code: u64, message: &'a [u8] },
    /// The leader, as the node sees it; id 0 and no address if it sees none.
    Node { id: u64, address: &'a [u8] },
    /// The client is known. The node never insists on the heartbeat.
    Welcome { heartbeat_ms: u64 },
    /// The members; the layout of CLUSTER format 1, the only one that names the role.
    Nodes(Vec<Member<'a>>),
    /// The database is open.
    Db { id: u32 },
    /// The statement is prepared. `tail` is the offset of the SQL behind it, in schema 1 only.
    Stmt {
        db: u32,
        id: u32,
        params: u64,
        tail: Option<u64>,
    },
    /// The statement ran. The numbers are those of the last change on the connection, which need
    /// not be this statement.
    Result { last_insert_id: i64, rows_affected: u64 },
    /// The first or a further part of a result.
    Rows(Rows<'a>),
    /// Done, nothing to say.
    Empty,
    /// A database and its WAL.
    Files(Vec<File<'a>>),
    /// How the node wants to be weighed when roles are dealt.
    Metadata { failure_domain: u64, weight: u64 },
}

impl<'a> Response<'a> {
    /// Decodes the answer to anything but QUERY and QUERY_SQL. Words behind the known fields of a
    /// fixed layout are ignored; a FAILURE or NODES or FILES has to fill its body.
    pub(crate) fn decode(header: Header, body: &'a [u8]) -> Result<Self, Malformed> {
        let mut from = Cursor::new(body);
        if header.body_len() != body.len() as u64 {
            return from.malformed("body of another length than announced");
        }
        // STMT alone has two layouts; an unknown one must not be read as if it were known.
        if header.schema > u8::from(header.kind == kind::STMT) {
            return from.malformed("response schema");
        }
        match header.kind {
            kind::FAILURE => failure(body),
            kind::NODES => nodes(&mut from),
            kind::ROWS => Rows::parse(body).map(Self::Rows),
            kind::FILES => files(&mut from),
            kind::STMT => stmt(header.schema, &mut from),
            _ => fixed(header.kind, &mut from),
        }
    }

    /// Decodes an answer to QUERY or QUERY_SQL. There the server appends a FAILURE to whatever it
    /// has written of the rows, and only the message type changes. [protocol 11.1]
    pub(crate) fn decode_query(header: Header, body: &'a [u8]) -> Result<Self, Malformed> {
        let decoded = Self::decode(header, body);
        if cfg!(without = "prefix") {
            return decoded;
        }
        if header.kind == kind::FAILURE && header.schema == 0 && decoded.is_err() {
            return failure_behind_rows(header, body);
        }
        decoded
    }

    /// The name in the protocol, for messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Failure { .. } => "FAILURE",
            Self::Node { .. } => "NODE",
            Self::Welcome { .. } => "WELCOME",
            Self::Nodes(_) => "NODES",
            Self::Db { .. } => "DB",
            Self::Stmt { .. } => "STMT",
            Self::Result { .. } => "RESULT",
            Self::Rows(_) => "ROWS",
            Self::Empty => "EMPTY",
            Self::Files(_) => "FILES",
            Self::Metadata { .. } => "METADATA",
        }
    }
}

/// The responses that are a few fields in a row.
fn fixed<'a>(code: u8, from: &mut Cursor<'a>) -> Result<Response<'a>, Malformed> {
    Ok(match code {
        kind::NODE => Response::Node {
            id: from.u64("node id")?,
            address: from.text("node address")?,
        },
        kind::WELCOME => Response::Welcome {
            heartbeat_ms: from.u64("heartbeat timeout")?,
        },
        kind::DB => {
            let id = from.u32("database id")?;
            from.u32("padding of the database id")?;
            Response::Db { id }
        }
        kind::RESULT => Response::Result {
            last_insert_id: from.u64("last insert id")?.cast_signed(),
            rows_affected: from.u64("rows affected")?,
        },
        kind::EMPTY => {
            from.u64("unused word")?;
            Response::Empty
        }
        kind::METADATA => Response::Metadata {
            failure_domain: from.u64("failure domain")?,
            weight: from.u64("weight")?,
        },
        _ => return from.malformed("response type"),
    })
}

fn stmt<'a>(schema: u8, from: &mut Cursor<'a>) -> Result<Response<'a>, Malformed> {
    Ok(Response::Stmt {
        db: from.u32("database id")?,
        id: from.u32("statement id")?,
        params: from.u64("parameter count")?,
        tail: match schema {
            0 => None,
            _ => Some(from.u64("tail offset")?),
        },
    })
}

/// Bytes of a FAILURE's text that are taken; SQLite puts the statement's words into some.
const MESSAGE: usize = 64 << 10;

/// A list with a count in front. The least size of an entry bounds what a count may claim.
fn list<'a, T>(
    from: &mut Cursor<'a>,
    least: usize,
    mut entry: impl FnMut(&mut Cursor<'a>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = from.u64("number of entries")?;
    let count = match usize::try_from(count) {
        Ok(count) if count <= from.rest().len() / least => count,
        _ => return from.malformed("number of entries"),
    };
    let mut entries = Vec::new();
    if entries.try_reserve_exact(count).is_err() {
        return from.malformed("number of entries, for which there is no memory");
    }
    for _ in 0..count {
        entries.push(entry(from)?);
    }
    if !from.is_empty() {
        return from.malformed("bytes behind the last entry");
    }
    Ok(entries)
}

fn nodes<'a>(from: &mut Cursor<'a>) -> Result<Response<'a>, Malformed> {
    list(from, 24, |from| {
        let id = from.u64("member id")?;
        let address = from.text("member address")?;
        let Ok(role) = Role::try_from(from.u64("member role")?) else {
            return from.malformed("member role");
        };
        Ok(Member { id, address, role })
    })
    .map(Response::Nodes)
}

fn files<'a>(from: &mut Cursor<'a>) -> Result<Response<'a>, Malformed> {
    list(from, 16, |from| {
        let name = from.text("file name")?;
        let size = from.u64("file size")?;
        // Not padded: a database has whole pages, and the next entry must start on a word.
        if !size.is_multiple_of(8) {
            return from.malformed("file size");
        }
        let data = from.bytes(size, "file content")?;
        Ok(File { name, data })
    })
    .map(Response::Files)
}

/// A FAILURE that begins with `at` and fills the rest of the body. Anything behind the message
/// means that these words are something else, and a wrong code may cost a write done twice.
fn failure(at: &[u8]) -> Result<Response<'_>, Malformed> {
    let mut from = Cursor::new(at);
    let code = from.u64("failure code")?;
    let message = from.text("failure message")?;
    if !from.is_empty() {
        return from.malformed("bytes behind the failure message");
    }
    let message = &message[..message.len().min(MESSAGE)];
    Ok(Response::Failure { code, message })
}

/// The message fills the end of the body and its code is far below 2^56, so the last NUL that is
/// not in the last word is the top byte of the code. The rows in front of it must end just there.
fn failure_behind_rows(header: Header, body: &[u8]) -> Result<Response<'_>, Malformed> {
    let unreadable = Malformed {
        what: "failure behind rows",
        at: 0,
    };
    if header.body_len() != body.len() as u64 || body.len() < 8 {
        return Err(unreadable);
    }
    let last_nul = memchr::memrchr(0, &body[..body.len() - 8]);
    let Some(start) = last_nul.and_then(|nul| nul.checked_sub(7)) else {
        return Err(unreadable);
    };
    let mut rows = Rows::parse(body)?;
    while rows.position() < start {
        if !rows.next_row()? {
            return Err(unreadable);
        }
        rows.skip_row()?;
    }
    if rows.position() != start {
        return Err(unreadable);
    }
    failure(&body[start..])
}
