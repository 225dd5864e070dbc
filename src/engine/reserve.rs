//! The reserve of vendor/glue/reserve.c, which is for when there is no memory.

use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::engine::sys;

/// Up to here an allocation may have all of the reserve. Larger ones have the first half, and from 1 MiB on none of it.
const SMALL: usize = 64 << 10;

/// The strictest alignment that its blocks have.
pub(crate) const ALIGNMENT: usize = 128;

/// What a guard asks for to learn whether memory has come back, and what a new thread needs besides its stack.
const PROBE: usize = 256 << 10;

/// How long a small allocation waits for others to give back, when even the reserve is used up, before the process ends.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSES: u32 = 2_000;

/// Whether a call that comes now has to be refused.
#[inline(always)]
pub(crate) fn is_short() -> bool {
    // SAFETY: a number that C changes by atomic operations only.
    let used = unsafe { AtomicU32::from_ptr(&raw mut sys::glue_reserve_used) };
    used.load(Ordering::Relaxed) != 0 && !has_come_back()
}

/// Whether malloc has something to spare.
#[cold]
pub(crate) fn has_come_back() -> bool {
    // SAFETY: any size is allowed.
    unsafe { sys::glue_memory_has(PROBE) }
}

/// Whether this thread may use variables of its own.
#[inline(always)]
pub(crate) fn thread_is_ready() -> bool {
    // SAFETY: it may be called at any time.
    unsafe { sys::glue_thread_is_ready() }
}

/// A block where malloc had none, to be given back by free; NULL if it is large, or nobody gives anything back.
#[cold]
pub(crate) fn take(size: usize) -> *mut u8 {
    if size > SMALL {
        // SAFETY: any size is allowed.
        return unsafe { sys::glue_reserve_take(size, 50) }.cast();
    }
    for _ in 0..PAUSES {
        // SAFETY: any size is allowed.
        let block = unsafe {
            let block = sys::glue_reserve_take(size, 100);
            if block.is_null() { libc::malloc(size) } else { block }
        };
        if !block.is_null() {
            return block.cast();
        }
        thread::sleep(PAUSE);
    }
    ptr::null_mut()
}

/// Whether the block came from the reserve, so that nobody but this library can give it back.
pub(crate) fn holds(block: *const u8) -> bool {
    // SAFETY: only the address counts.
    unsafe { sys::glue_reserve_is_ours(block.cast()) }
}

/// malloc without the reserve: a block that the host may free.
pub(crate) fn host_malloc(size: usize) -> *mut u8 {
    // SAFETY: any size is allowed.
    unsafe { sys::glue_host_malloc(size) }.cast()
}
