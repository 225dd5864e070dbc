//! The door's thread: waits for readiness and deadlines, and sees to connections one after the other.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::error::{Error, Result};
use crate::net::sys::{self, Epoll, Events, Ready};
use crate::net::{Listener, tune_tcp};

use super::accept::{Acceptor, Arrival};
use super::connection::{Connection, Fate};
use super::{Admit, Engine, Left, Limits, Options, Shared};

/// Reports taken from epoll at a time.
const EVENTS: usize = 256;

/// Connections accepted before those that exist get their turn.
const ACCEPTS: usize = 64;

/// Descriptors that a connection costs the process: ours and the engine's.
const DESCRIPTORS: u64 = 2;

/// What epoll's tokens mean that are not the number of a connection.
const WAKE: u64 = 0;
const LISTENERS: u64 = 1;

/// What the connections share.
pub(super) struct Context {
    pub(super) epoll: Epoll,
    pub(super) limits: Limits,
    pub(super) admit: Admit,
    pub(super) engine: Engine,
    /// The time of this turn of the loop.
    pub(super) now: Instant,
    pub(super) shared: Arc<Shared>,
    wake_at: Option<Instant>,
}

impl Context {
    pub(super) fn count_refused(&self) {
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections are looked at for deadlines no later than this.
    pub(super) fn wake_at(&mut self, deadline: Instant) {
        self.wake_at = earliest(self.wake_at, Some(deadline));
    }
}

pub(super) struct Reactor {
    cx: Context,
    acceptors: Vec<Acceptor>,
    connections: HashMap<u64, Connection>,
    /// Never used twice, so that what is told of a connection that is gone finds nothing.
    next_id: u64,
    /// At most so many connections at a time.
    most: usize,
}

impl Reactor {
    pub(super) fn new(listener: Listener, options: Options, shared: Arc<Shared>) -> Result<Self> {
        let failed = |error: io::Error| Error::internal(format!("opening the door: {error}"));
        let epoll = Epoll::new().map_err(failed)?;
        epoll
            .add(&shared.wake, WAKE, sys::Interest::READ_LEVEL)
            .map_err(failed)?;
        let acceptors: Vec<_> = (LISTENERS..)
            .zip(listener.into_sockets())
            .map(|(token, socket)| Acceptor::new(socket, token, &epoll))
            .collect::<io::Result<_>>()
            .map_err(failed)?;
        let affordable = sys::descriptor_limit() / 2 / DESCRIPTORS;
        let most = usize::try_from(affordable)
            .unwrap_or(usize::MAX)
            .min(options.limits.connections);
        Ok(Self {
            cx: Context {
                epoll,
                now: Instant::now(),
                limits: options.limits,
                admit: options.admit,
                engine: options.engine,
                wake_at: None,
                shared,
            },
            next_id: LISTENERS + acceptors.len() as u64,
            acceptors,
            connections: HashMap::new(),
            most,
        })
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        while !self.cx.shared.stop.load(Ordering::Acquire) {
            // This fails only if somebody closed our descriptors; a loop without them would spin.
            if self.cx.epoll.wait(&mut events, self.timeout()).is_err() {
                break;
            }
            self.cx.now = Instant::now();
            for index in 0..events.len() {
                if let Some(ready) = events.get(index) {
                    self.handle(ready);
                }
            }
            if self.cx.wake_at.is_some_and(|at| at <= self.cx.now) {
                self.sweep();
            }
            for acceptor in &mut self.acceptors {
                acceptor.resume(self.cx.now, &self.cx.epoll);
            }
        }
        self.cx.shared.open.store(0, Ordering::Relaxed);
    }

    /// How long nothing is to be done unless epoll says so.
    fn timeout(&self) -> Option<Duration> {
        let paused = self.acceptors.iter().map(Acceptor::paused_until);
        let next = paused.fold(self.cx.wake_at, earliest);
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    fn handle(&mut self, ready: Ready) {
        match ready.token {
            WAKE => {
                self.cx.shared.wake.clear();
                let left = mem::take(&mut *self.cx.shared.left.lock());
                for Left { id, last_words } in left {
                    self.serve(id, |connection, cx| connection.part(last_words, cx));
                }
            }
            token => match token
                .checked_sub(LISTENERS)
                .and_then(|index| usize::try_from(index).ok())
            {
                Some(index) if index < self.acceptors.len() => self.accept(index),
                _ => self.serve(token, |connection, cx| connection.client_ready(ready, cx)),
            },
        }
    }

    /// Serves one connection. A panic in there, be it of a decoder or of `admit`, costs that
    /// connection only.
    fn serve(&mut self, id: u64, work: impl FnOnce(&mut Connection, &mut Context) -> Fate) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let cx = &mut self.cx;
        match panic::catch_unwind(AssertUnwindSafe(|| work(connection, cx))) {
            Ok(Fate::Wait) => {}
            Ok(Fate::Close) | Err(_) => self.remove(id),
        }
    }

    fn remove(&mut self, id: u64) {
        self.connections.remove(&id);
        self.count_open();
    }

    fn count_open(&self) {
        let open = self.connections.len() as u64;
        self.cx.shared.open.store(open, Ordering::Relaxed);
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPTS {
            let Some(acceptor) = self.acceptors.get_mut(index) else {
                return;
            };
            match acceptor.accept(self.cx.now, &self.cx.epoll) {
                Arrival::Nothing => return,
                Arrival::Vanished => {}
                Arrival::TurnedAway => self.cx.count_refused(),
                Arrival::Connection(stream) => self.admit(stream),
            }
        }
    }

    /// Takes a connection in, if there is room.
    fn admit(&mut self, stream: Socket) {
        if self.is_full() {
            self.evict(Connection::has_ended);
        }
        if self.connections.len() >= self.most + self.cx.limits.links && !self.evict(Connection::in_handshake) {
            // Left in the queue instead, it would keep out those that come when there is room.
            return self.cx.count_refused();
        }
        // Settings that fail on a connection that is already dead are of no interest.
        let _ = tune_tcp(&stream);
        let id = self.next_id;
        self.next_id += 1;
        if let Ok(connection) = Connection::new(id, stream, self.is_full(), &self.cx) {
            self.cx.wake_at = earliest(self.cx.wake_at, connection.deadline());
            self.connections.insert(id, connection);
            self.cx.shared.accepted.fetch_add(1, Ordering::Relaxed);
            self.count_open();
        }
    }

    fn is_full(&self) -> bool {
        self.connections.len() >= self.most
    }

    /// Makes room by closing the oldest connection of a kind: one whose client will say no more, though the engine has not
    /// done what it asked for, or one that has said nothing valid yet. A real peer says it at once, so silent connections
    /// cannot keep it out.
    fn evict(&mut self, kind: fn(&Connection) -> bool) -> bool {
        let candidates = self.connections.iter().filter(|(_, connection)| kind(connection));
        let Some(oldest) = candidates.map(|(id, _)| *id).min() else {
            return false;
        };
        self.cx.count_refused();
        self.remove(oldest);
        true
    }

    /// Closes the connections whose deadline has passed, and finds the next one.
    fn sweep(&mut self) {
        let now = self.cx.now;
        let mut late = Vec::new();
        self.cx.wake_at = None;
        for (id, connection) in &self.connections {
            match connection.deadline() {
                Some(deadline) if deadline <= now => late.push((*id, connection.in_handshake())),
                other => self.cx.wake_at = earliest(self.cx.wake_at, other),
            }
        }
        for (id, silent) in late {
            if silent {
                self.cx.count_refused();
            }
            self.remove(id);
        }
    }
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
