//! Checking what a client sends: its first request as it arrives, the others as the engine comes upon them. No I/O.

use crate::wire::{self, HEADER_LEN, Header, Refused, Request};

const WORD: usize = 8;

/// SQLite's code for something too big, and the engine's for a request that cannot be read.
const TOO_BIG: u64 = 18;
const PARSE: u64 = 1005;

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing can be said before so many bytes more are there.
    More(usize),
    /// A request of a client, whole and in order.
    Request,
    /// The connection wants to be a raft link.
    Link { id: u64, address: String },
    /// A request that must not reach the engine.
    Refused(Refused),
    /// The first word is none that a client of dqlite sends.
    Stranger,
}

/// The version word and the first request. Not a byte of what follows is taken, so that the engine can go on from there.
#[derive(Default)]
pub(super) struct Greeting {
    bytes: Vec<u8>,
}

impl Greeting {
    /// Where arriving bytes are to be appended, never more than [`Step::More`] asked for.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn step(&self, limit: u64) -> Step {
        let missing = |end: usize| Step::More(end.saturating_sub(self.bytes.len()));
        let Some((version, rest)) = self.bytes.split_first_chunk() else {
            return missing(WORD);
        };
        if !matches!(u64::from_le_bytes(*version), wire::VERSION | wire::VERSION_LEGACY) {
            return Step::Stranger;
        }
        if cfg!(without = "checks") {
            return Step::Request;
        }
        let Some((head, body)) = rest.split_first_chunk() else {
            return missing(WORD + HEADER_LEN);
        };
        let header = match check_header(head, limit) {
            Ok(header) => header,
            Err(refused) => return Step::Refused(refused),
        };
        let length = usize::try_from(header.body_len()).unwrap_or(usize::MAX);
        if body.len() < length {
            return Step::More(length - body.len());
        }
        match Request::decode(header, body) {
            Err(refused) => Step::Refused(refused),
            Ok(Request::Connect { id, address }) => match str::from_utf8(address) {
                Ok(address) => Step::Link {
                    id,
                    address: address.to_owned(),
                },
                Err(_) => Step::Refused(parse("CONNECT: address: not UTF-8")),
            },
            Ok(_) => Step::Request,
        }
    }
}

/// The requests behind the first.
#[derive(Default)]
pub(super) struct Later {
    header: Option<Header>,
}

impl Later {
    /// All that a header can be refused for, before there is room for its body.
    pub(super) fn header(&mut self, bytes: &[u8; HEADER_LEN], limit: u64) -> Result<(), Refused> {
        if cfg!(without = "checks") {
            return Ok(());
        }
        let header = check_header(bytes, limit)?;
        if header.makes_link() {
            return Err(parse("CONNECT: only the first request of a connection may be one"));
        }
        self.header = Some(header);
        Ok(())
    }

    /// The body that belongs to the last header.
    pub(super) fn body(&mut self, body: &[u8]) -> Result<(), Refused> {
        self.header
            .take()
            .map_or(Ok(()), |header| Request::decode(header, body).map(drop))
    }
}

fn check_header(bytes: &[u8; HEADER_LEN], limit: u64) -> Result<Header, Refused> {
    let header = Header::parse(bytes);
    header.check_request()?;
    if header.body_len() > limit {
        return Err(Refused {
            code: TOO_BIG,
            message: format!(
                "a request of {} bytes, where at most {limit} are taken",
                header.body_len()
            ),
        });
    }
    Ok(header)
}

fn parse(message: &str) -> Refused {
    Refused {
        code: PARSE,
        message: message.to_owned(),
    }
}

#[cfg(test)]
#[path = "inbound_tests.rs"]
mod tests;
