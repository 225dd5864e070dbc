//! Every bound of the library, with its reason.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A bound that the host can change for the process.
pub(crate) struct Settable {
    usual_ms: u32,
    /// 0: as usual.
    set_ms: AtomicU32,
}

impl Settable {
    const fn new(usual_ms: u32) -> Self {
        Self {
            usual_ms,
            set_ms: AtomicU32::new(0),
        }
    }

    pub(crate) fn set(&self, ms: u32) {
        self.set_ms.store(ms, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Duration {
        let ms = match self.set_ms.load(Ordering::Relaxed) {
            0 => self.usual_ms,
            set => set,
        };
        Duration::from_millis(ms.into())
    }
}

/// The bound of one handle: its own if it was given one, else the process's, whatever that is at the time.
pub(crate) struct Timeout {
    own_ms: AtomicU32,
    otherwise: &'static Settable,
}

impl Timeout {
    pub(crate) const fn new(otherwise: &'static Settable) -> Self {
        Self {
            own_ms: AtomicU32::new(0),
            otherwise,
        }
    }

    /// 0: as the process's.
    pub(crate) fn set(&self, ms: u32) {
        self.own_ms.store(ms, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Duration {
        match self.own_ms.load(Ordering::Relaxed) {
            0 => self.otherwise.get(),
            own => Duration::from_millis(own.into()),
        }
    }
}

impl Clone for Timeout {
    fn clone(&self) -> Self {
        Self {
            own_ms: AtomicU32::new(self.own_ms.load(Ordering::Relaxed)),
            otherwise: self.otherwise,
        }
    }
}

/// What a call on a node or a session may take in all. Long enough for a large transaction on a slow disk, short enough
/// that a caller who has no other thread gets an answer.
pub(crate) static NODE_CALL: Settable = Settable::new(30_000);

/// What a call on a client may take in all, finding the leader included.
pub(crate) static CLIENT_CALL: Settable = Settable::new(10_000);

/// What a start may take, loading the log and waiting for the cluster included; the node then goes on in the background.
pub(crate) static START: Settable = Settable::new(30_000);

/// How long one node may take to say who leads. A host that swallows packets must not use up the whole call.
pub(crate) const PROBE: Duration = Duration::from_secs(2);

/// How long a node that ought to know the leader may take to name it before all others are asked as well.
pub(crate) const QUICK: Duration = Duration::from_millis(300);

/// How long a session waits for an answer before it asks, and asks again, whether the cluster has another leader meanwhile.
/// An election at the timer takes seconds, and asking costs a few round trips.
pub(crate) const LEADER_LOOK: Duration = Duration::from_millis(250);

/// How many nodes are asked at a time.
pub(crate) const PROBES: usize = 10;

/// How long one attempt at a change of the members may take, unless the node has to catch up first. It is two round trips
/// to the majority; a leader that is not done by then has lost its followers, and another one may lead already.
pub(crate) const CHANGE: Duration = Duration::from_secs(5);

/// How long a node that stops may take to give its lead away. Nobody can write meanwhile, and an election would be over.
pub(crate) const GIVE_LEAD: Duration = Duration::from_millis(500);

/// How much of the log the next leader may lack, in bytes. While it gets the rest nobody can write; without a leader, and
/// without what was not acknowledged, the others go on within a tenth of a second.
pub(crate) const HEIR_LACKS: u64 = 1 << 20;

/// How long the engine may take to stop before the caller gets its thread back.
pub(crate) static STOP: Settable = Settable::new(30_000);

/// What other threads of one handle may wait for, in the engine's queue of writers.
pub(crate) const BUSY_TIMEOUT_MS: u32 = 5_000;

/// Latencies that the engine accepts, in milliseconds.
pub(crate) const LATENCY_MS: std::ops::RangeInclusive<u32> = 1..=3_600_000;

/// Units of the log that the engine can write, in bytes.
pub(crate) const BLOCK_SIZE: std::ops::RangeInclusive<u32> = 512..=262_144;

/// Entries that the engine insists on keeping behind a snapshot.
pub(crate) const TRAILING: u32 = 4;

/// The engine copies the name into a fixed path buffer; what is longer closes the connection without a word.
pub(crate) const DATABASE_NAME: usize = 200;

/// To the engine `a.db-wal` is another name of `a.db`, and where that is no database each connection got one of its own.
pub(crate) const NO_DATABASE: [&str; 2] = ["-wal", "-journal"];

/// A response's header could announce 32 GiB. Two of SQLite's largest values fit in this, and no sane row is larger.
pub(crate) const RESPONSE: u64 = 2 << 30;

/// Sessions that one handle keeps for reads while its main one is busy.
pub(crate) const SPARES: usize = 16;

/// Messages that wait for the log callback; a host that reads slower loses the rest and is told how many.
pub(crate) const LOG_QUEUE: usize = 1000;

/// A message to the log callback is cut after so many bytes; an address list can be long.
pub(crate) const LOG_MESSAGE: usize = 4096;

/// How long metrics wait for a data directory to be read; a disk may not answer at all.
pub(crate) const DIRECTORY_LOOK: Duration = Duration::from_secs(1);

/// What the messages that still wait may take when the log callback is removed.
pub(crate) const LOG_DRAIN: Duration = Duration::from_secs(1);

/// Bytes of one value that SQLite takes; its own default limit, which the engine leaves alone.
pub(crate) const VALUE: u64 = 1_000_000_000;

/// Bytes of SQL and parameters in one request. The engine's read buffer counts in 32 bits and must not double to zero.
pub(crate) const REQUEST: u64 = (1 << 31) - (1 << 20);

/// Prepared statements that a session keeps besides those that are open: enough for a program's inner loop, and each costs
/// the leader a few kilobytes.
pub(crate) const CACHED_STATEMENTS: usize = 16;

/// Statements that are committed together, and bytes of their text: enough that a commit's cost is shared, few enough that
/// nobody waits long for the statements of others, and that all of them can be on their way at once (see `PIPELINE`).
pub(crate) const GROUP: usize = 64;
pub(crate) const GROUP_BYTES: usize = PIPELINE_BYTES;

/// What must be left of its time for a call to run the statements of others with its own.
pub(crate) const GROUP_TIME: Duration = Duration::from_secs(2);

/// How long behind its deadline a call waits for the result of its statement that others are about to commit.
pub(crate) const GROUP_GRACE: Duration = Duration::from_millis(100);

/// How long a session waits for another one's transaction, unless it is told otherwise. Longer than the engine's own
/// queue of writers keeps a statement.
pub(crate) const SESSION_BUSY: Duration = Duration::from_secs(10);

/// What closing unfinished rows may read to keep the connection, rather than drop it: less than a new connection costs.
pub(crate) const DRAIN_BYTES: usize = 256 << 10;
pub(crate) const DRAIN_TIME: Duration = Duration::from_millis(20);

/// Requests of a batch on their way at once. Their answers, 24 bytes each, fit every socket buffer, so that neither side
/// waits for the other to read.
pub(crate) const PIPELINE: usize = 128;
pub(crate) const PIPELINE_BYTES: usize = 64 << 10;

/// The highest number that SQLite lets a parameter have, in the engine's build.
pub(crate) const PARAMETERS: usize = 32_766;

/// Bytes of one transaction of a load. Far below what delays heartbeats, far above what a commit costs.
pub(crate) const LOAD_TRANSACTION: usize = 4 << 20;

/// Bytes and rows that a load holds in memory at a time.
pub(crate) const LOAD_BATCH: usize = 512 << 10;
pub(crate) const LOAD_ROWS: usize = 4096;

/// How often, at most, a long operation tells how far it is.
pub(crate) const REPORT: Duration = Duration::from_millis(20);

/// Requests that a queue takes, counted until their results are polled, unless its maker wants another number: enough to
/// keep every thread busy, few enough that who submits without polling notices before memory does.
pub(crate) const QUEUE: usize = 4096;
pub(crate) const QUEUE_MOST: usize = 1 << 20;

/// Threads that run the requests of all queues, one for each session that is busy.
pub(crate) const QUEUE_THREADS: usize = 64;

/// Up to here threads come for requests of sessions inside a transaction alone: all others may be waiting for its end.
pub(crate) const QUEUE_THREADS_URGENT: usize = 256;

/// A thread that had nothing to do for so long leaves.
pub(crate) const QUEUE_IDLE: Duration = Duration::from_secs(5);
