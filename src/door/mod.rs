//! The node's front door: what the network may say to the engine.
//!
//! The engine can be killed by a handful of bytes, so the node's address belongs to the door, and no byte reaches the engine
//! unseen. A door accepts connections and reads up to the end of the first request. If that is in order, the engine gets
//! the socket and serves it from then on, without the door in between; before it looks at a request it asks `visit`,
//! on its own thread (docs/adr/0008). A connection whose first request is CONNECT is a raft link: if the node expects that
//! peer, nothing is asked any more.
//!
//! | file | holds |
//! | --- | --- |
//! | `inbound` | checking requests, without I/O |
//! | `connection` | one client: its first request, the handing over, the last words |
//! | `visit` | what the engine asks meanwhile |
//! | `socket` | a client's socket |
//! | `accept` | taking connections in, also when descriptors run out |
//! | `reactor` | the thread: readiness, deadlines, who makes room |
//!
//! One thread serves all connections, so that a thousand strangers cost a thousand small structs
//! and nothing else.

mod accept;
mod connection;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod inbound;
mod reactor;
mod socket;
#[cfg(test)]
mod tests;
mod visit;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use crate::engine::visit::Check;
use crate::error::{Error, Result};
use crate::net::Listener;
use crate::net::sys::{self, EventFd};

/// Whether a raft link from the node of this id and address may come in.
pub(crate) type Admit = Box<dyn Fn(u64, &str) -> bool + Send + Sync>;

/// Takes a connection over, with the bytes that were read of it.
pub(crate) type Engine = Box<dyn Fn(OwnedFd, &[u8], Check) -> Result<()> + Send + Sync>;

/// What a door is opened with. Both are called on the door's thread while every other connection waits: they must be quick.
pub(crate) struct Options {
    pub(crate) limits: Limits,
    pub(crate) admit: Admit,
    pub(crate) engine: Engine,
}

/// What one door spends on strangers, at most.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Connections at a time. Each can take two descriptors of the process (ours and the engine's), so a process with a
    /// small `ulimit -n` gets fewer: the host keeps half of its descriptors for itself.
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
    pub(crate) arriving: u64,
    /// From accept to the end of the first request.
    pub(crate) handshake: Duration,
    /// The longest pause inside a request.
    pub(crate) pause: Duration,
    /// How long a client may leave its answer unread. As long as it reads, a host that is gone is noticed sooner; but to
    /// the kernel's timer a program that pauses between two rows looks the same as a dead host.
    pub(crate) unread: Duration,
    /// How long our last words may take.
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
            arriving: 2 << 30,
            handshake: Duration::from_secs(10),
            pause: Duration::from_secs(30),
            unread: Duration::from_secs(600),
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

/// What the door's thread, its owner and the engine's thread see.
struct Shared {
    wake: EventFd,
    stop: AtomicBool,
    /// Connections that the engine has done with.
    left: Mutex<Vec<Left>>,
    accepted: AtomicU64,
    refused: AtomicU64,
    open: AtomicU64,
}

/// The engine has closed its side of this connection; the door says what is left to be said.
struct Left {
    id: u64,
    last_words: Vec<u8>,
}

impl Door {
    /// Serves `listener` on a thread of its own.
    pub(crate) fn open(listener: Listener, options: Options) -> Result<Self> {
        let failed = |error| Error::internal(format!("opening the door: {error}"));
        let shared = Arc::new(Shared {
            wake: EventFd::new().map_err(failed)?,
            stop: AtomicBool::new(false),
            left: Mutex::default(),
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
