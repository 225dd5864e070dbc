//! One client: its socket, its connection to the engine, and the bytes between them.

use std::io;
use std::mem;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::net::sys::Ready;
use crate::wire::{self, Refused};

use super::buffers::Backlog;
use super::inbound::{Inbound, Step};
use super::reactor::{Context, Token};
use super::socket::{End, Read};

/// How often both directions are served before the other connections get their turn.
const ROUNDS: usize = 16;

/// SQLite's code for running out of memory.
const NO_MEMORY: u64 = 7;

pub(super) struct Connection {
    id: u64,
    client: End,
    /// Opened by the first request that may pass.
    engine: Option<End>,
    inbound: Inbound,
    outbound: Backlog,
    phase: Phase,
    /// Whose raft link it is.
    peer: Option<u64>,
    /// The door is full: there is room only for raft links.
    links_only: bool,
    deadline: Option<Instant>,
    /// How much of [`Arrivals`] is accounted to it.
    collected: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Requests in, answers out.
    Open,
    /// No more requests. What may pass still does, then the engine is told that it was all; it
    /// closes when it has answered it, and then come our own last words, which so never overtake an
    /// answer.
    Ending { last_words: Vec<u8>, told: bool },
    /// The engine has closed; the client takes what is left.
    Flushing,
    /// The client has been told that it was all, and has time to read it.
    Lingering,
}

/// What becomes of a connection after it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing to do until epoll says so.
    Wait,
    /// There is more to do, after the others had their turn.
    Again,
    /// The engine's backlog is full: try again shortly.
    Retry,
    Close,
}

enum Progress {
    Moved,
    Still,
    Is(Fate),
}

impl Connection {
    pub(super) fn new(id: u64, client: TcpStream, links_only: bool, cx: &Context) -> io::Result<Self> {
        let client = End::tcp(OwnedFd::from(client), Token::client(id), &cx.epoll)?;
        Ok(Self {
            id,
            client,
            engine: None,
            inbound: Inbound::new(),
            outbound: Backlog::default(),
            phase: Phase::Open,
            peer: None,
            links_only,
            deadline: Some(cx.now + cx.limits.handshake),
            collected: 0,
        })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether the deadline that has passed was the client's to keep.
    pub(super) fn client_is_late(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether it has yet to say something valid.
    pub(super) fn in_handshake(&self) -> bool {
        self.phase == Phase::Open && self.inbound.in_handshake()
    }

    /// Takes note of what epoll said of the client.
    pub(super) fn client_ready(&mut self, ready: Ready, cx: &mut Context) -> Fate {
        self.client.note(ready);
        if ready.broken() {
            return Fate::Close;
        }
        self.serve(cx)
    }

    /// Takes note of what epoll said of the engine.
    pub(super) fn engine_ready(&mut self, ready: Ready, cx: &mut Context) -> Fate {
        if let Some(engine) = &mut self.engine {
            engine.note(ready);
        }
        self.serve(cx)
    }

    /// Moves what can be moved.
    pub(super) fn serve(&mut self, cx: &mut Context) -> Fate {
        let fate = self.rounds(cx);
        cx.arrivals.take_back(&mut self.inbound, &mut self.collected);
        fate
    }

    fn rounds(&mut self, cx: &mut Context) -> Fate {
        for _ in 0..ROUNDS {
            let inward = self.inward(cx);
            if let Progress::Is(Fate::Close) = inward {
                return Fate::Close;
            }
            let outward = self.outward(cx);
            match (inward, outward) {
                (_, Progress::Is(fate)) => return fate,
                (Progress::Moved, _) | (_, Progress::Moved) => {}
                (Progress::Is(fate), _) => return fate,
                (Progress::Still, Progress::Still) => return Fate::Wait,
            }
        }
        Fate::Again
    }

    /// One step from the client towards the engine.
    fn inward(&mut self, cx: &mut Context) -> Progress {
        if !self.inbound.passing().is_empty() && self.phase != Phase::Flushing && self.phase != Phase::Lingering {
            return self.pass(cx);
        }
        match &mut self.phase {
            Phase::Open if self.client.readable() => self.take_in(cx),
            Phase::Ending { told: false, .. } => self.tell_engine(cx),
            Phase::Lingering if self.client.readable() => self.ignore(cx),
            _ => Progress::Still,
        }
    }

    /// One step from the engine towards the client.
    fn outward(&mut self, cx: &mut Context) -> Progress {
        if !self.outbound.is_empty() {
            return self.flush(cx);
        }
        match &mut self.engine {
            Some(engine) if engine.readable() => {
                cx.answers.clear();
                match engine.read(&mut cx.answers) {
                    Read::Some => self.answer(cx),
                    Read::Nothing => Progress::Still,
                    Read::End => self.engine_ended(cx),
                }
            }
            _ if self.phase == Phase::Flushing => self.linger(cx),
            _ => Progress::Still,
        }
    }

    /// Reads from the client and looks at what came.
    fn take_in(&mut self, cx: &mut Context) -> Progress {
        if !cx.arrivals.lend(&mut self.inbound) {
            return self.refuse(
                cx,
                NO_MEMORY,
                "too much is arriving at this node at once, try again later",
            );
        }
        match self.client.read(self.inbound.buffer()) {
            Read::Some => self.look(cx),
            Read::Nothing => Progress::Still,
            Read::End => {
                self.tell_link_ended(cx);
                self.inbound.forget_rest();
                self.end(Vec::new(), cx)
            }
        }
    }

    fn look(&mut self, cx: &mut Context) -> Progress {
        loop {
            match self.inbound.step(&cx.limits) {
                Step::More => break,
                Step::Request if self.links_only => return Self::turn_away(cx),
                Step::Request => {}
                Step::Link { id, address } if (cx.admit)(id, &address) => {
                    self.inbound.admit();
                    self.peer = Some(id);
                }
                Step::Link { .. } | Step::Stranger => return Self::turn_away(cx),
                Step::Refused(Refused { code, message }) => return self.refuse(cx, code, &message),
            }
        }
        self.renew_deadline(cx);
        Progress::Moved
    }

    fn turn_away(cx: &Context) -> Progress {
        cx.count_refused();
        Progress::Is(Fate::Close)
    }

    /// Sends to the engine what may pass, connecting to it first if this is the first.
    fn pass(&mut self, cx: &mut Context) -> Progress {
        if self.engine.is_none() {
            match cx.connect(Token::engine(self.id)) {
                Ok(Some(engine)) => self.engine = Some(engine),
                Ok(None) => return Progress::Is(Fate::Retry),
                // The engine is gone; a client takes a closed connection as a reason to look for
                // another node.
                Err(_) => return Progress::Is(Fate::Close),
            }
        }
        let Some(engine) = self.engine.as_mut().filter(|engine| engine.writable()) else {
            return Progress::Still;
        };
        match engine.write(self.inbound.passing(), &cx.epoll) {
            Ok(0) => Progress::Still,
            Ok(count) => {
                self.inbound.advance(count);
                self.renew_deadline(cx);
                Progress::Moved
            }
            // It closed; what it said before that is still there to be read.
            Err(_) => {
                self.inbound = Inbound::new();
                match self.phase {
                    Phase::Open => self.end(Vec::new(), cx),
                    _ => Progress::Moved,
                }
            }
        }
    }

    /// Answers a request that must not pass, and ends the connection.
    fn refuse(&mut self, cx: &mut Context, code: u64, message: &str) -> Progress {
        cx.count_refused();
        self.inbound.forget_rest();
        let mut failure = Vec::new();
        wire::encode_failure(code, message, &mut failure);
        self.end(failure, cx)
    }

    fn end(&mut self, last_words: Vec<u8>, cx: &mut Context) -> Progress {
        self.phase = Phase::Ending {
            last_words,
            told: false,
        };
        self.set_deadline(cx.limits.drain, cx);
        Progress::Moved
    }

    /// Everything that may pass has passed: the engine shall answer it and close.
    fn tell_engine(&mut self, cx: &mut Context) -> Progress {
        let Some(engine) = &self.engine else {
            return self.engine_ended(cx);
        };
        engine.end_writes();
        if let Phase::Ending { told, .. } = &mut self.phase {
            *told = true;
        }
        Progress::Still
    }

    fn engine_ended(&mut self, cx: &mut Context) -> Progress {
        self.engine = None;
        if let Phase::Ending { last_words, .. } = mem::replace(&mut self.phase, Phase::Flushing) {
            self.outbound.push(&last_words);
        }
        self.inbound = Inbound::new();
        self.set_deadline(cx.limits.drain, cx);
        Progress::Moved
    }

    /// Sends the client what was just read, and keeps what it does not take.
    fn answer(&mut self, cx: &mut Context) -> Progress {
        let written = if self.client.writable() {
            match self.client.write(&cx.answers, &cx.epoll) {
                Ok(written) => written,
                Err(_) => return Progress::Is(Fate::Close),
            }
        } else {
            0
        };
        if let Some(rest) = cx.answers.get(written..).filter(|rest| !rest.is_empty()) {
            self.outbound.push(rest);
        }
        self.renew_deadline(cx);
        Progress::Moved
    }

    fn flush(&mut self, cx: &mut Context) -> Progress {
        if !self.client.writable() {
            return Progress::Still;
        }
        match self.client.write(self.outbound.rest(), &cx.epoll) {
            Ok(0) => Progress::Still,
            Ok(count) => {
                self.outbound.advance(count);
                self.renew_deadline(cx);
                Progress::Moved
            }
            Err(_) => Progress::Is(Fate::Close),
        }
    }

    /// Closes our direction; the client's end, which may have come already, is then the last thing.
    fn linger(&mut self, cx: &mut Context) -> Progress {
        self.client.end_writes();
        self.phase = Phase::Lingering;
        self.set_deadline(cx.limits.linger, cx);
        Progress::Moved
    }

    fn ignore(&mut self, cx: &mut Context) -> Progress {
        cx.answers.clear();
        match self.client.read(&mut cx.answers) {
            Read::Some => Progress::Moved,
            Read::Nothing => Progress::Still,
            Read::End => Progress::Is(Fate::Close),
        }
    }

    fn set_deadline(&mut self, after: Duration, cx: &mut Context) {
        let deadline = cx.now + after;
        self.deadline = Some(deadline);
        cx.wake_at(deadline);
    }

    /// Something moved: the time for the next move starts anew. The handshake's time does not, nor
    /// that of lingering.
    fn renew_deadline(&mut self, cx: &mut Context) {
        match self.phase {
            Phase::Open if self.inbound.in_handshake() || self.engine.is_none() => {}
            // While the engine does not take what is whole, a pause after it is not the client's.
            Phase::Open if self.inbound.in_request() && self.inbound.passing().is_empty() => {
                self.set_deadline(cx.limits.pause, cx);
            }
            Phase::Open => self.deadline = None,
            Phase::Ending { .. } | Phase::Flushing => self.set_deadline(cx.limits.drain, cx),
            Phase::Lingering => {}
        }
    }

    /// Frees what the connection holds of the door's budget.
    pub(super) fn release(&mut self, cx: &mut Context) {
        cx.arrivals.release(mem::take(&mut self.collected));
        self.tell_link_ended(cx);
    }

    /// Says so at once: if the link was the leader's, every millisecond until the next one counts.
    fn tell_link_ended(&mut self, cx: &Context) {
        if let Some(peer) = self.peer.take() {
            (cx.link_ended)(peer);
        }
    }
}
