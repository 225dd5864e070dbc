//! A forked child has our memory and our descriptors, but none of our threads: nothing of ours can work there.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crate::error::{Error, Result};

/// Descriptors that a child must not keep: it would hold the port and the lock of a node that its parent stopped.
/// A fixed array without locks, because the handler runs in a child whose parent's threads may have held any lock.
const PLACES: usize = 128;
static HELD: [AtomicI32; PLACES] = [const { AtomicI32::new(NONE) }; PLACES];
const NONE: i32 = -1;

static CHILD: AtomicBool = AtomicBool::new(false);

/// From the first object on, a fork makes a child in which this library refuses to work.
pub(crate) fn arm() {
    static ARMED: Once = Once::new();
    ARMED.call_once(|| {
        // SAFETY: the handler uses only atomics and close, which are async-signal-safe, and the library is never
        // unloaded (-z nodelete), so the pointer stays good.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

/// Fails in a child whose parent used the library.
pub(crate) fn check() -> Result<()> {
    if CHILD.load(Ordering::Relaxed) {
        return Err(Error::misuse(
            "this process was forked from one that uses dqlitepy, whose nodes, connections and threads stayed there: \
             use the library in one of the two only, or start the child with exec (multiprocessing: spawn)",
        ));
    }
    Ok(())
}

/// A descriptor that a forked child closes, until this value is dropped. Beyond the places of the table it is not.
pub(crate) struct NotForChildren(Option<&'static AtomicI32>);

impl NotForChildren {
    pub(crate) fn new(fd: i32) -> Self {
        Self(HELD.iter().find(|place| {
            place
                .compare_exchange(NONE, fd, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        }))
    }
}

impl Drop for NotForChildren {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.store(NONE, Ordering::Release);
        }
    }
}

extern "C" fn in_child() {
    CHILD.store(true, Ordering::Relaxed);
    for place in HELD.iter().filter(|_| !cfg!(without = "atfork")) {
        let fd = place.swap(NONE, Ordering::Relaxed);
        if fd != NONE {
            // SAFETY: the child's own copy of a descriptor that was open when it was forked.
            unsafe { libc::close(fd) };
        }
    }
}
