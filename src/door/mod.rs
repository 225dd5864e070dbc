//! The node's front door: what the network may say to the engine.
//!
//! The engine can be killed by a handful of bytes, so it listens only on an abstract socket of this
//! process, and the node's address belongs to the door. A door accepts connections, checks the
//! version word and every request whole, and passes on what is in order; answers go back unread. A
//! connection whose first request is CONNECT is a raft link: if the node expects that peer, its
//! bytes pass untouched from then on.
//!
//! | file | holds |
//! | --- | --- |
//! | `inbound` | cutting the stream of a client into checked requests, without I/O |
//! | `connection` | one client, its connection to the engine, and the bytes between them |
//! | `socket` | one end of a connection: edge-triggered readiness, reading and writing |
//! | `buffers` | who holds which memory |
//! | `accept` | taking connections in, also when descriptors run out |
//! | `reactor` | the thread: readiness, deadlines, dialling |
//!
//! One thread serves all connections, so that a thousand strangers cost a thousand small structs
//! and nothing else.

mod accept;
mod buffers;
mod connection;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod inbound;
mod reactor;
mod socket;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, Kind, Result};
use crate::net::sys::{self, EventFd};

/// Whether a raft link from the node of this id and address may come in.
pub(crate) type Admit = Box<dyn Fn(u64, &str) -> bool + Send + Sync>;

/// Told, on the door's thread, when the raft link from the node of this id has ended.
pub(crate) type LinkEnded = Box<dyn Fn(u64) + Send + Sync>;

/// What a door is opened with.
pub(crate) struct Options {
    /// The engine's abstract socket, `@` and a name.
    pub(crate) upstream: String,
    pub(crate) limits: Limits,
    /// Called on the door's thread while every other connection waits: it must be quick.
    pub(crate) admit: Admit,
    pub(crate) link_ended: LinkEnded,
}

/// What one door spends on strangers, at most.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Connections at a time. Each can take three descriptors of the process (the client, our end
    /// and the engine's), so a process with a small `ulimit -n` gets fewer: the host keeps half of
    /// its descriptors for itself.
    pub(crate) connections: usize,
    /// Connections beyond that number which may become raft links and nothing else, so that no
    /// number of clients cuts the node off from its cluster.
    pub(crate) links: usize,
    /// The longest request body. SQLite takes values and SQL texts of up to 10^9 bytes, so 1 GiB
    /// holds the largest that can succeed; at 2 GiB the engine's 32-bit buffer size overflows and
    /// its loop spins for ever.
    pub(crate) request: u64,
    /// The longest body of the first request. Nothing that makes sense before OPEN is larger than a
    /// name.
    pub(crate) first_request: u64,
    /// Memory for requests that are still arriving, over all connections: two of the largest at a
    /// time.
    pub(crate) collected: usize,
    /// Bytes held for a side that does not take them. While they wait, nothing more is read from
    /// the other side.
    pub(crate) buffer: usize,
    /// From accept to the end of the first request.
    pub(crate) handshake: Duration,
    /// The longest pause inside a request.
    pub(crate) pause: Duration,
    /// The longest pause while the rest is passed on after one side has ended.
    pub(crate) drain: Duration,
    /// How long to wait for a client to close after our last words. Closing first, with bytes of it
    /// unread, would reset the connection, and it might never see them.
    pub(crate) linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1000,
            links: 64,
            request: 1 << 30,
            first_request: 64 << 10,
            collected: 2 << 30,
            buffer: 256 << 10,
            handshake: Duration::from_secs(10),
            pause: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            linger: Duration::from_secs(1),
        }
    }
}

/// What a door has done so far.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    /// Connections taken in.
    pub(crate) accepted: u64,
    /// Connections that were turned away or ended for what they sent or failed to send.
    pub(crate) refused: u64,
    /// Connections that exist now.
    pub(crate) open: u64,
}

/// A door in service. Dropping it closes it.
pub(crate) struct Door {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the door's thread and its owner both see.
struct Shared {
    wake: EventFd,
    stop: AtomicBool,
    dials: Mutex<Dials>,
    accepted: AtomicU64,
    refused: AtomicU64,
    open: AtomicU64,
}

#[derive(Default)]
struct Dials {
    queue: VecDeque<Dial>,
    /// The thread has gone; nobody would answer.
    over: bool,
}

/// A wish for a connection to the engine.
struct Dial {
    deadline: Instant,
    answer: SyncSender<Result<UnixStream>>,
}

impl Door {
    /// Serves `listener` on a thread of its own, in the network namespace of the caller.
    pub(crate) fn open(listener: TcpListener, options: Options) -> Result<Self> {
        let failed = |error| Error::internal(format!("opening the door: {error}"));
        let shared = Arc::new(Shared {
            wake: EventFd::new().map_err(failed)?,
            stop: AtomicBool::new(false),
            dials: Mutex::default(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            open: AtomicU64::new(0),
        });
        let reactor = reactor::Reactor::new(listener, options, Arc::clone(&shared))?;
        let thread = sys::spawn("dqlite-door", move || reactor.run()).map_err(failed)?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Connects to the engine, in blocking mode. The door's thread does it, because an abstract
    /// name means something only in the network namespace that the engine was started in, and the
    /// caller may have left that.
    pub(crate) fn dial(&self, deadline: Instant) -> Result<UnixStream> {
        let closed = || Error::new(Kind::Shutdown, "the node's door is closed");
        let (answer, waiting) = mpsc::sync_channel(1);
        {
            let mut dials = self.shared.dials.lock();
            if dials.over {
                return Err(closed());
            }
            dials.queue.push_back(Dial { deadline, answer });
        }
        self.shared.wake.signal();
        match waiting.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(dial_timeout()),
            Err(RecvTimeoutError::Disconnected) => Err(closed()),
        }
    }

    /// Stops listening and ends every connection before it returns. Later calls find nothing to do.
    pub(crate) fn close(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake.signal();
        // Held while joining, so that a second caller also returns only when all is closed.
        let mut thread = self.thread.lock();
        if thread
            .as_ref()
            .is_some_and(|it| it.thread().id() == thread::current().id())
        {
            // `admit` closes its own door: the loop ends after this event, nobody can wait for it
            // here.
            return;
        }
        if let Some(thread) = thread.take() {
            let _ = thread.join();
        }
    }

    #[cfg(test)]
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            accepted: self.shared.accepted.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
            open: self.shared.open.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

fn dial_timeout() -> Error {
    Error::new(Kind::Timeout, "the engine took no connection before the deadline")
}
