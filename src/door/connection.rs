//! One client: from accept to its first request, while the engine serves it, and its last moments.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::net::sys::{Interest, Ready};
use crate::wire::{self, Refused};

use super::inbound::{Greeting, Step};
use super::reactor::Context;
use super::socket::{End, Read};
use super::visit;

/// How much room is made at a time for a first request: a header may announce what never comes.
const GROWTH: usize = 4 << 10;

pub(super) struct Connection {
    id: u64,
    client: End,
    phase: Phase,
    /// The door is full: there is room only for raft links.
    links_only: bool,
    deadline: Option<Instant>,
}

enum Phase {
    /// It has yet to say something valid.
    Greeting(Greeting),
    /// The engine serves it, on a descriptor of its own.
    Served {
        /// The client will send no more, and has perhaps gone.
        ended: bool,
    },
    /// The engine has closed, or never had it; the client takes our last words, of which so many are gone.
    Flushing { last_words: Vec<u8>, sent: usize },
    /// The client has been told that it was all, and has time to read it.
    Lingering,
}

/// What becomes of a connection after it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing to do until epoll says so.
    Wait,
    Close,
}

impl Connection {
    pub(super) fn new(id: u64, client: Socket, links_only: bool, cx: &Context) -> io::Result<Self> {
        Ok(Self {
            id,
            client: End::new(client, id, &cx.epoll)?,
            phase: Phase::Greeting(Greeting::default()),
            links_only,
            deadline: Some(cx.now + cx.limits.handshake),
        })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether it has yet to say something valid.
    pub(super) fn in_handshake(&self) -> bool {
        matches!(self.phase, Phase::Greeting(_))
    }

    /// Whether the engine serves somebody who will say no more.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Served { ended: true })
    }

    /// Does what epoll's report makes possible.
    pub(super) fn client_ready(&mut self, ready: Ready, cx: &mut Context) -> Fate {
        if ready.broken() {
            return Fate::Close;
        }
        match &mut self.phase {
            Phase::Greeting(_) => self.greet(cx),
            Phase::Served { ended } => {
                *ended |= ready.ended();
                Fate::Wait
            }
            Phase::Flushing { .. } => self.flush(cx),
            Phase::Lingering => self.ignore(),
        }
    }

    /// Reads exactly up to the end of the first request, and looks at it.
    fn greet(&mut self, cx: &mut Context) -> Fate {
        while let Phase::Greeting(greeting) = &mut self.phase {
            match greeting.step(cx.limits.first_request) {
                Step::More(lacking) => {
                    let buffer = greeting.buffer();
                    buffer.reserve_exact(lacking.min(GROWTH));
                    match self.client.read(buffer, lacking) {
                        Read::Some => {}
                        Read::Nothing => return Fate::Wait,
                        Read::End => return Fate::Close,
                    }
                }
                Step::Request if self.links_only => return turn_away(cx),
                Step::Request => return self.hand_over(cx),
                Step::Link { id, address } if (cx.admit)(id, &address) => return self.hand_over(cx),
                Step::Link { .. } | Step::Stranger => return turn_away(cx),
                Step::Refused(Refused { code, message }) => {
                    cx.count_refused();
                    let mut failure = Vec::new();
                    wire::encode_failure(code, &message, &mut failure);
                    return self.part(failure, cx);
                }
            }
        }
        Fate::Wait
    }

    /// From here on the engine reads and writes. Of the client's end epoll still tells.
    fn hand_over(&mut self, cx: &Context) -> Fate {
        let Phase::Greeting(greeting) = &mut self.phase else {
            return Fate::Close;
        };
        let copy = match self.client.copy() {
            Ok(copy) if self.client.watch(Interest::END, &cx.epoll).is_ok() => copy,
            _ => return turn_away(cx),
        };
        let first = mem::take(greeting.buffer());
        let check = visit::check(self.id, cx.limits.request, Arc::clone(&cx.shared));
        // Without an engine the connection is closed, which a client takes as a reason to look for another node.
        match (cx.engine)(copy, &first, check) {
            Ok(()) => {
                self.phase = Phase::Served { ended: false };
                self.deadline = None;
                Fate::Wait
            }
            Err(_) => Fate::Close,
        }
    }

    /// The last words, after which the connection ends.
    pub(super) fn part(&mut self, last_words: Vec<u8>, cx: &mut Context) -> Fate {
        self.phase = Phase::Flushing { last_words, sent: 0 };
        self.set_deadline(cx.limits.drain, cx);
        self.flush(cx)
    }

    fn flush(&mut self, cx: &mut Context) -> Fate {
        let Phase::Flushing { last_words, sent } = &mut self.phase else {
            return Fate::Wait;
        };
        while let Some(rest) = last_words.get(*sent..).filter(|rest| !rest.is_empty()) {
            match self.client.write(rest) {
                Ok(0) => return self.watch(Interest::WRITE_LEVEL, cx),
                Ok(count) => *sent += count,
                Err(_) => return Fate::Close,
            }
        }
        // Closed in our direction only: the client's end, which may have come already, is then the last thing.
        self.client.end_writes();
        self.phase = Phase::Lingering;
        self.set_deadline(cx.limits.linger, cx);
        self.watch(Interest::READ_LEVEL, cx)
    }

    fn watch(&self, interest: Interest, cx: &Context) -> Fate {
        match self.client.watch(interest, &cx.epoll) {
            Ok(()) => Fate::Wait,
            Err(_) => Fate::Close,
        }
    }

    fn ignore(&self) -> Fate {
        match self.client.read(&mut Vec::with_capacity(GROWTH), GROWTH) {
            Read::Some | Read::Nothing => Fate::Wait,
            Read::End => Fate::Close,
        }
    }

    fn set_deadline(&mut self, after: Duration, cx: &mut Context) {
        let deadline = cx.now + after;
        self.deadline = Some(deadline);
        cx.wake_at(deadline);
    }
}

fn turn_away(cx: &Context) -> Fate {
    cx.count_refused();
    Fate::Close
}
