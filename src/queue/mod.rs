//! Calls that are made for callers who must not wait: a request is put into a queue, a thread of ours makes the call, and
//! the result is fetched when a descriptor says that there is one.
//!
//! | file | holds |
//! | --- | --- |
//! | `mod` | a queue: what was submitted, what has come of it |
//! | `work` | what can be asked, and how it is ended early |
//! | `pool` | the threads of all queues of the process |

mod pool;
mod work;

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use once_cell::sync::Lazy;
use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::memory;
use crate::net::sys::EventFd;
use crate::queue::pool::{Pool, Task};
use crate::queue::work::Reins;

pub(crate) use crate::queue::work::{Outcome, Work};

static POOL: Lazy<Arc<Pool<Request>>> = Lazy::new(|| Pool::new(limits::QUEUE_IDLE));

/// Of the requests of all queues.
static IDS: AtomicU64 = AtomicU64::new(1);

/// Results that are handed over at a time while there is no memory for more.
const FEW: usize = 64;

/// Bit of the lanes that are no session's address.
const ALONE: u64 = 1 << 63;

/// What stands behind a queue's handle.
pub(crate) struct Queue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Readable while results wait.
    ready: EventFd,
    /// Told when the last request has ended.
    ended: Condvar,
    capacity: usize,
}

#[derive(Default)]
struct State {
    closed: bool,
    /// Places that are taken and not yet filled.
    reserved: usize,
    pending: HashMap<u64, Pending>,
    done: VecDeque<Completion>,
}

/// What a queue knows of a request that has not ended.
struct Pending {
    token: u64,
    reins: Arc<Reins>,
    closes: bool,
}

/// What came of a request.
pub(crate) struct Completion {
    pub(crate) token: u64,
    pub(crate) outcome: Result<Outcome>,
}

/// A place in a queue, given back unless it is filled.
pub(crate) struct Place(Option<Arc<Shared>>);

struct Request {
    id: u64,
    lane: u64,
    work: Work,
    reins: Arc<Reins>,
    queue: Arc<Shared>,
}

impl Queue {
    /// A queue for `capacity` requests; 0 stands for the default.
    pub(crate) fn new(capacity: u64) -> Result<Self> {
        let capacity = match usize::try_from(capacity) {
            Ok(0) => limits::QUEUE,
            Ok(capacity) if capacity <= limits::QUEUE_MOST => capacity,
            _ => {
                return Err(Error::invalid(format!(
                    "a queue takes {} requests at most, not {capacity}",
                    limits::QUEUE_MOST
                )));
            }
        };
        let ready = EventFd::new().map_err(|error| Error::internal(format!("no descriptor for a queue: {error}")))?;
        Ok(Self(Arc::new(Shared {
            state: Mutex::default(),
            ready,
            ended: Condvar::new(),
            capacity,
        })))
    }

    /// Readable while results wait.
    pub(crate) fn fd(&self) -> i32 {
        self.0.ready.as_fd().as_raw_fd()
    }

    /// A place for one more request.
    pub(crate) fn reserve(&self) -> Result<Place> {
        let mut state = self.0.state.lock();
        if state.closed {
            return Err(closed());
        }
        if state.pending.len() + state.done.len() + state.reserved >= self.0.capacity {
            return Err(Error::new(
                Kind::Full,
                format!(
                    "the queue holds {} requests, as many as it takes; nothing was submitted. Poll it, then submit again",
                    self.0.capacity
                ),
            ));
        }
        // Also for its result.
        let (more, results) = (state.reserved + 1, state.pending.len() + state.reserved + 1);
        let no_room = state.pending.try_reserve(more).is_err() || state.done.try_reserve(results).is_err();
        if no_room {
            return Err(memory::none_for(results * size_of::<Completion>(), "results"));
        }
        state.reserved += 1;
        Ok(Place(Some(Arc::clone(&self.0))))
    }

    /// Up to `most` results, in the order in which they came.
    pub(crate) fn poll(&self, most: usize) -> Vec<Completion> {
        let mut state = self.0.state.lock();
        let mut count = most.min(state.done.len());
        let mut taken = Vec::new();
        if taken.try_reserve_exact(count).is_err() {
            count = count.min(FEW);
        }
        taken.extend(state.done.drain(..count));
        if state.done.is_empty() {
            self.0.ready.clear();
        } else {
            // In case that the host has read the descriptor.
            self.0.ready.signal();
        }
        taken
    }

    /// Ends the requests with this token: one that waits never runs, one that runs is interrupted. False if there is none.
    pub(crate) fn cancel(&self, token: u64) -> bool {
        let mut state = self.0.state.lock();
        let found = state.pending.values().any(|it| it.token == token && !it.closes);
        let removed = state.end(|it| it.token == token);
        for request in &removed {
            self.0.complete(&mut state, request.id, Err(crate::client::cancelled()));
        }
        // What the requests hold is let go without the lock.
        drop(state);
        found
    }

    /// Ends all requests, whose results nobody will fetch, and waits for those that run.
    pub(crate) fn close(&self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        let removed = state.end(|_| true);
        for request in &removed {
            state.pending.remove(&request.id);
        }
        let deadline = Instant::now() + limits::STOP.get();
        while !state.pending.is_empty() && !self.0.ended.wait_until(&mut state, deadline).timed_out() {}
        let done = std::mem::take(&mut state.done);
        drop(state);
        drop((removed, done));
        // Whoever watches the descriptor in another thread is woken before it goes.
        self.0.ready.signal();
    }
}

impl State {
    /// Ends what is meant: what runs is interrupted, and what waits is given to the caller.
    fn end(&self, meant: impl Fn(&Pending) -> bool) -> Vec<Request> {
        let meant = |pending: &&Pending| meant(pending) && !pending.closes;
        // All of them before the first is taken out: its place would be free, and what stood behind it would run without it.
        self.pending.values().filter(meant).for_each(|it| it.reins.pull());
        POOL.remove(|request| self.pending.get(&request.id).is_some_and(|it| meant(&it)))
    }
}

impl Shared {
    /// A request has ended.
    fn complete(&self, state: &mut State, id: u64, outcome: Result<Outcome>) {
        let Some(pending) = state.pending.remove(&id) else {
            return;
        };
        state.done.push_back(Completion {
            token: pending.token,
            outcome: pending.reins.judge(outcome),
        });
        self.ready.signal();
        if state.pending.is_empty() {
            self.ended.notify_all();
        }
    }
}

impl Place {
    /// Fills the place. The result will come with `token`.
    pub(crate) fn submit(mut self, token: u64, work: Work) -> Result<()> {
        let Some(queue) = self.0.take() else {
            return Err(closed());
        };
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let request = Request {
            id,
            lane: work.session().map_or(ALONE | id, |session| Arc::as_ptr(session) as u64),
            reins: Arc::new(Reins::of(&work)),
            work,
            queue: Arc::clone(&queue),
        };
        let mut state = queue.state.lock();
        state.reserved -= 1;
        let pending = request.pending(token);
        if state.closed && !pending.closes {
            return Err(closed());
        }
        state.pending.insert(id, pending);
        drop(state);
        POOL.push(request).inspect_err(|_| {
            queue.state.lock().pending.remove(&id);
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(queue) = &self.0 {
            queue.state.lock().reserved -= 1;
        }
    }
}

impl Request {
    fn pending(&self, token: u64) -> Pending {
        Pending {
            token,
            reins: Arc::clone(&self.reins),
            closes: self.work.closes(),
        }
    }
}

impl Task for Request {
    fn id(&self) -> u64 {
        self.id
    }

    fn lane(&self) -> u64 {
        self.lane
    }

    fn is_urgent(&self) -> bool {
        self.work.session().is_some_and(|session| session.is_engaged())
    }

    fn run(self) {
        let (work, reins) = (self.work, &self.reins);
        let outcome = catch_unwind(AssertUnwindSafe(|| work.run(reins))).unwrap_or_else(|_| {
            Err(Error::internal(
                "a bug in libdqlitepy: a request panicked; please report it",
            ))
        });
        let mut state = self.queue.state.lock();
        self.queue.complete(&mut state, self.id, outcome);
    }
}

fn closed() -> Error {
    Error::new(Kind::Shutdown, "the queue was closed during the call")
}

#[cfg(test)]
mod tests;
