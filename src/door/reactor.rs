//! The door's thread: waits for readiness and deadlines, and serves connections one after the
//! other.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::error::{Error, Kind, Result};
use crate::net::sys::{self, Epoll, Events, Ready};
use crate::net::{local_address, tune_tcp};

use super::accept::{Acceptor, Arrival};
use super::buffers::Arrivals;
use super::connection::{Connection, Fate};
use super::socket::End;
use super::{Admit, Dial, Limits, LinkEnded, Options, Shared, dial_timeout};

/// Reports taken from epoll at a time.
const EVENTS: usize = 256;

/// Connections accepted before those that exist get their turn.
const ACCEPTS: usize = 64;

/// The engine's backlog was full: how long it may take to empty.
const RETRY: Duration = Duration::from_millis(2);

/// Descriptors that a connection can cost the process: the client's, our end towards the engine,
/// and the engine's.
const DESCRIPTORS: u64 = 3;

/// What epoll's tokens mean: the door's own two, and two per connection.
pub(super) struct Token;

impl Token {
    const LISTENER: u64 = 0;
    const WAKE: u64 = 1;

    pub(super) fn client(id: u64) -> u64 {
        id << 1
    }

    pub(super) fn engine(id: u64) -> u64 {
        id << 1 | 1
    }
}

/// What the connections share.
pub(super) struct Context {
    pub(super) epoll: Epoll,
    pub(super) limits: Limits,
    pub(super) admit: Admit,
    pub(super) link_ended: LinkEnded,
    /// The time of this turn of the loop.
    pub(super) now: Instant,
    pub(super) arrivals: Arrivals,
    /// Where bytes of the engine arrive.
    pub(super) answers: Vec<u8>,
    upstream: SockAddr,
    wake_at: Option<Instant>,
    shared: Arc<Shared>,
}

impl Context {
    pub(super) fn count_refused(&self) {
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections are looked at for deadlines no later than this.
    pub(super) fn wake_at(&mut self, deadline: Instant) {
        self.wake_at = earliest(self.wake_at, Some(deadline));
    }

    /// A connection to the engine, or nothing while its backlog is full.
    pub(super) fn connect(&self, token: u64) -> io::Result<Option<End>> {
        self.dial()?
            .map(|socket| End::unix(socket, token, &self.epoll))
            .transpose()
    }

    fn dial(&self) -> io::Result<Option<OwnedFd>> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        match socket.connect(&self.upstream) {
            Ok(()) => Ok(Some(socket.into())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

pub(super) struct Reactor {
    cx: Context,
    acceptor: Acceptor,
    connections: HashMap<u64, Connection>,
    /// Never used twice, so that a report of a connection that is gone finds nothing.
    next_id: u64,
    /// At most so many connections at a time.
    most: usize,
    /// Connections with more to do at once, and those that wait for the engine's backlog.
    again: Vec<u64>,
    retry: Vec<u64>,
    retry_at: Option<Instant>,
    dials: Vec<Dial>,
}

impl Reactor {
    pub(super) fn new(listener: TcpListener, options: Options, shared: Arc<Shared>) -> Result<Self> {
        let failed = |error| Error::internal(format!("opening the door: {error}"));
        let upstream = local_address(&options.upstream)?;
        let epoll = Epoll::new().map_err(failed)?;
        epoll
            .add(&shared.wake, Token::WAKE, sys::Interest::READ_LEVEL)
            .map_err(failed)?;
        let acceptor = Acceptor::new(listener, Token::LISTENER, &epoll).map_err(failed)?;
        let affordable = sys::descriptor_limit() / 2 / DESCRIPTORS;
        let most = usize::try_from(affordable)
            .unwrap_or(usize::MAX)
            .min(options.limits.connections);
        Ok(Self {
            cx: Context {
                epoll,
                now: Instant::now(),
                arrivals: Arrivals::new(&options.limits),
                answers: Vec::with_capacity(options.limits.buffer),
                limits: options.limits,
                admit: options.admit,
                link_ended: options.link_ended,
                upstream,
                wake_at: None,
                shared,
            },
            acceptor,
            connections: HashMap::new(),
            next_id: 1,
            most,
            again: Vec::new(),
            retry: Vec::new(),
            retry_at: None,
            dials: Vec::new(),
        })
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        while !self.cx.shared.stop.load(Ordering::Acquire) {
            let timeout = self.timeout();
            // This fails only if somebody closed our descriptors; a loop without them would spin.
            if self.cx.epoll.wait(&mut events, timeout).is_err() {
                break;
            }
            self.cx.now = Instant::now();
            for index in 0..events.len() {
                if let Some(ready) = events.get(index) {
                    self.handle(ready);
                }
            }
            self.catch_up();
        }
        let mut dials = self.cx.shared.dials.lock();
        dials.over = true;
        dials.queue.clear();
        drop(dials);
        self.cx.shared.open.store(0, Ordering::Relaxed);
    }

    /// How long nothing is to be done unless epoll says so.
    fn timeout(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let next = earliest(self.cx.wake_at, self.retry_at);
        let next = earliest(next, self.acceptor.paused_until());
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    fn handle(&mut self, ready: Ready) {
        match ready.token {
            Token::LISTENER => self.accept(),
            Token::WAKE => {
                self.cx.shared.wake.clear();
                self.dials.extend(self.cx.shared.dials.lock().queue.drain(..));
                self.dial();
            }
            token => self.serve(token >> 1, |connection, cx| {
                if token & 1 == 0 {
                    connection.client_ready(ready, cx)
                } else {
                    connection.engine_ready(ready, cx)
                }
            }),
        }
    }

    /// What does not come from epoll: unfinished work, retries, deadlines.
    fn catch_up(&mut self) {
        for id in mem::take(&mut self.again) {
            self.serve(id, Connection::serve);
        }
        if self.retry_at.is_some_and(|at| at <= self.cx.now) {
            self.retry_at = None;
            self.retry();
        }
        if self.cx.wake_at.is_some_and(|at| at <= self.cx.now) {
            self.sweep();
        }
        self.acceptor.resume(self.cx.now, &self.cx.epoll);
    }

    /// Tries those that wait for the engine's backlog, in turn, up to the first that finds it full
    /// again.
    fn retry(&mut self) {
        self.dial();
        let mut waiting = mem::take(&mut self.retry).into_iter();
        while self.retry.is_empty()
            && let Some(id) = waiting.next()
        {
            self.serve(id, Connection::serve);
        }
        self.retry.extend(waiting);
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
            Ok(Fate::Again) => self.again.push(id),
            Ok(Fate::Retry) => {
                self.retry.push(id);
                self.retry_at = self.retry_at.or(Some(self.cx.now + RETRY));
            }
            Ok(Fate::Close) => self.remove(id),
            Err(_) => {
                self.cx.arrivals.renew();
                self.remove(id);
            }
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some(mut connection) = self.connections.remove(&id) {
            let cx = &mut self.cx;
            // It calls `link_ended`, which is not ours.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| connection.release(cx)));
            self.cx
                .shared
                .open
                .store(self.connections.len() as u64, Ordering::Relaxed);
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            match self.acceptor.accept(self.cx.now, &self.cx.epoll) {
                Arrival::Nothing => return,
                Arrival::Vanished => {}
                Arrival::TurnedAway => self.cx.count_refused(),
                Arrival::Connection(stream) => self.admit(stream),
            }
        }
    }

    /// Takes a connection in, if there is room.
    fn admit(&mut self, stream: TcpStream) {
        if self.connections.len() >= self.most + self.cx.limits.links && !self.evict() {
            // Left in the queue instead, it would keep out those that come when there is room.
            return self.cx.count_refused();
        }
        // Settings that fail on a connection that is already dead are of no interest.
        let _ = tune_tcp(&stream);
        let id = self.next_id;
        self.next_id += 1;
        let links_only = self.connections.len() >= self.most;
        if let Ok(connection) = Connection::new(id, stream, links_only, &self.cx) {
            self.cx.wake_at = earliest(self.cx.wake_at, connection.deadline());
            self.connections.insert(id, connection);
            self.cx.shared.accepted.fetch_add(1, Ordering::Relaxed);
            self.cx
                .shared
                .open
                .store(self.connections.len() as u64, Ordering::Relaxed);
        }
    }

    /// Makes room by closing the oldest connection that has said nothing valid yet: a real peer
    /// says it at once, so silent connections cannot keep it out.
    fn evict(&mut self) -> bool {
        let silent = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.in_handshake());
        let Some(oldest) = silent.map(|(id, _)| *id).min() else {
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
                Some(deadline) if deadline <= now => late.push((*id, connection.client_is_late())),
                other => self.cx.wake_at = earliest(self.cx.wake_at, other),
            }
        }
        for (id, client_is_late) in late {
            if client_is_late {
                self.cx.count_refused();
            }
            self.remove(id);
        }
    }

    /// Serves the wishes for connections to the engine; those that find its backlog full wait for
    /// the next time.
    fn dial(&mut self) {
        for wish in mem::take(&mut self.dials) {
            let answer = match self.cx.dial() {
                Ok(Some(socket)) => {
                    let stream = UnixStream::from(socket);
                    stream.set_nonblocking(false).map(|()| stream)
                }
                Ok(None) if wish.deadline <= self.cx.now => {
                    let _ = wish.answer.send(Err(dial_timeout()));
                    continue;
                }
                Ok(None) => {
                    self.dials.push(wish);
                    self.retry_at = self.retry_at.or(Some(self.cx.now + RETRY));
                    continue;
                }
                Err(error) => Err(error),
            };
            let _ = wish.answer.send(answer.map_err(|error| {
                let message = format!("connecting to the node's own engine: {error}");
                Error::new(Kind::Stopped, message)
            }));
        }
    }
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
