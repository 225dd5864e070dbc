//! Cutting what a client sends into checked requests. No I/O: bytes are put in, steps come out.

use std::str::Utf8Error;

use crate::wire::{self, Header, Refused, Request};

use super::Limits;

const WORD: usize = 8;

/// SQLite's code for something too big, and the engine's for a request that cannot be read.
const TOO_BIG: u64 = 18;
const PARSE: u64 = 1005;

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing further without more bytes.
    More,
    /// One more request may pass.
    Request,
    /// The connection wants to be a raft link. Nothing passes before [`Inbound::admit`].
    Link { id: u64, address: String },
    /// A request that must not reach the engine; nothing after it is looked at.
    Refused(Refused),
    /// The first word is none that a client of dqlite sends.
    Stranger,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Version,
    First,
    Requests,
    Link,
}

/// The bytes of one client: first those that may pass on, then those not looked at yet.
pub(super) struct Inbound {
    buffer: Vec<u8>,
    /// Up to here bytes have been passed on.
    sent: usize,
    /// Up to here bytes may be passed on.
    passed: usize,
    /// Up to here bytes have been looked at.
    seen: usize,
    stage: Stage,
}

impl Inbound {
    pub(super) fn new() -> Self {
        Self {
            buffer: Vec::new(),
            sent: 0,
            passed: 0,
            seen: 0,
            stage: Stage::Version,
        }
    }

    /// Where arriving bytes are to be appended.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Bytes that may be passed on now.
    pub(super) fn passing(&self) -> &[u8] {
        self.buffer.get(self.sent..self.passed).unwrap_or_default()
    }

    /// The first `count` of the passing bytes have been passed on.
    pub(super) fn advance(&mut self, count: usize) {
        self.sent = self.passed.min(self.sent + count);
        if self.sent == self.passed {
            // What is left is the start of a request, at most one read long unless it is the
            // request itself.
            self.buffer.drain(..self.sent);
            self.seen -= self.sent;
            (self.sent, self.passed) = (0, 0);
        }
    }

    /// Throws away what may not pass (or not any more), so that the memory is free.
    pub(super) fn forget_rest(&mut self) {
        self.buffer.truncate(self.passed);
        self.seen = self.passed;
    }

    /// No request has been seen whole yet.
    pub(super) fn in_handshake(&self) -> bool {
        matches!(self.stage, Stage::Version | Stage::First)
    }

    /// A request has started and not ended.
    pub(super) fn in_request(&self) -> bool {
        self.buffer.len() > self.seen
    }

    /// How many bytes the request that has started still lacks; 0 if that is not known.
    pub(super) fn lacking(&self) -> usize {
        match self.header() {
            Some((_, end)) if self.stage != Stage::Version => end.saturating_sub(self.buffer.len()),
            _ => 0,
        }
    }

    /// Looks at the next piece. To be called until it wants more.
    pub(super) fn step(&mut self, limits: &Limits) -> Step {
        if self.stage == Stage::Version {
            match self.version() {
                None => return Step::More,
                Some(false) => return Step::Stranger,
                // Seen but not passed: the engine hears of a client only once that has said
                // something valid.
                Some(true) if cfg!(without = "checks") => self.stage = Stage::Link,
                Some(true) => (self.seen, self.stage) = (WORD, Stage::First),
            }
        }
        match self.stage {
            Stage::Link => {
                self.seen = self.buffer.len();
                self.passed = self.seen;
                Step::More
            }
            Stage::Requests => self.request(limits.request),
            Stage::Version | Stage::First => self.request(limits.first_request),
        }
    }

    /// The link that [`Step::Link`] told of may pass, and everything after it.
    pub(super) fn admit(&mut self) {
        self.stage = Stage::Link;
    }

    /// Whether the first word is a version that the engine takes, once it is there.
    fn version(&self) -> Option<bool> {
        let word = u64::from_le_bytes(*self.buffer.first_chunk::<WORD>()?);
        Some(word == wire::VERSION || word == wire::VERSION_LEGACY)
    }

    /// The header at hand, and where its request ends.
    fn header(&self) -> Option<(Header, usize)> {
        let header = Header::parse(self.buffer.get(self.seen..)?.first_chunk::<WORD>()?);
        let body = usize::try_from(header.body_len()).unwrap_or(usize::MAX);
        Some((header, (self.seen + WORD).saturating_add(body)))
    }

    fn request(&mut self, limit: u64) -> Step {
        let Some((header, end)) = self.header() else {
            return Step::More;
        };
        // All that a header can be refused for, before its body is waited for.
        if let Err(refused) = header.check_request() {
            return Step::Refused(refused);
        }
        if header.body_len() > limit {
            let message = format!(
                "a request of {} bytes, where at most {limit} are taken",
                header.body_len()
            );
            return refuse(TOO_BIG, message);
        }
        let Some(body) = self.buffer.get(self.seen + WORD..end) else {
            return Step::More;
        };
        match Request::decode(header, body) {
            Err(refused) => Step::Refused(refused),
            Ok(Request::Connect { id, address }) => self.link(id, str::from_utf8(address).map(str::to_owned), end),
            Ok(_) => {
                (self.seen, self.passed, self.stage) = (end, end, Stage::Requests);
                Step::Request
            }
        }
    }

    /// A raft link takes the whole connection, so it is the first request or none.
    fn link(&mut self, id: u64, address: Result<String, Utf8Error>, end: usize) -> Step {
        if self.stage != Stage::First {
            return refuse(PARSE, "CONNECT: only the first request of a connection may be one");
        }
        let Ok(address) = address else {
            return refuse(PARSE, "CONNECT: address: not UTF-8");
        };
        self.seen = end;
        Step::Link { id, address }
    }
}

fn refuse(code: u64, message: impl Into<String>) -> Step {
    Step::Refused(Refused {
        code,
        message: message.into(),
    })
}

#[cfg(test)]
#[path = "inbound_tests.rs"]
mod tests;
