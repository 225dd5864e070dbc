//! Memory that callers own.
//!
//! Every allocation of this library is libc's malloc, so a finished `Vec` can be handed over as it is and goes back
//! through `dqlitepy_free`, or `free`.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::{c_char, c_void};

struct Malloc;

#[global_allocator]
static MALLOC: Malloc = Malloc;

/// malloc's own alignment; what needs more takes the other way.
const NATURAL: usize = 16;

/// A buffer that grows to this size gets `ROOM` at once, of which only what is touched is memory (unless the host has asked
/// for mlockall).
const LARGE: usize = 1 << 20;

/// Just above the largest size that glibc ever serves from its heap (DEFAULT_MMAP_THRESHOLD_MAX): what is larger is a
/// mapping, which grows, shrinks and goes without a copy. A heap would keep a hole of each size that the buffer had.
const ROOM: usize = (32 << 20) + (1 << 16);

// SAFETY: malloc, calloc, realloc and free keep the promises of GlobalAlloc for alignments up to NATURAL; beyond that
// aligned_alloc does, and a larger or smaller block is made by copying, as realloc would lose the alignment.
unsafe impl GlobalAlloc for Malloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= NATURAL {
            // SAFETY: any size is allowed.
            unsafe { libc::malloc(layout.size()) }.cast()
        } else {
            // SAFETY: the alignment is a power of two, and the size is rounded up to a multiple of it.
            unsafe { libc::aligned_alloc(layout.align(), layout.pad_to_align().size()) }.cast()
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= NATURAL {
            // SAFETY: any size is allowed.
            return unsafe { libc::calloc(1, layout.size()) }.cast();
        }
        // SAFETY: the caller's promise is the same for both.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block has `size` bytes.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the block came from one of malloc's functions.
        unsafe { libc::free(block.cast()) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= NATURAL {
            // SAFETY: as the caller promises to us.
            return unsafe { resize(block.cast(), layout.size(), size) }.cast();
        }
        // SAFETY: `size` does not overflow when rounded up to the alignment; that is the caller's promise.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: as above.
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            // SAFETY: both blocks have at least the smaller size and are distinct.
            unsafe {
                moved.copy_from_nonoverlapping(block, size.min(layout.size()));
                self.dealloc(block, layout);
            }
        }
        moved
    }
}

/// realloc, with the room for more where a buffer grows large.
///
/// # Safety
/// The block came from malloc with at least `had` bytes, and is not used again unless the result is NULL.
unsafe fn resize(block: *mut c_void, had: usize, size: usize) -> *mut c_void {
    let grows_large = size > had && size >= LARGE;
    // SAFETY: the block came from malloc.
    if grows_large && size <= unsafe { libc::malloc_usable_size(block) } {
        return block;
    }
    let room = if grows_large { size.max(ROOM) } else { size };
    // SAFETY: the block came from malloc.
    let resized = unsafe { libc::realloc(block, room) };
    if resized.is_null() && room > size {
        // SAFETY: as above; a failed realloc left the block as it was.
        return unsafe { libc::realloc(block, size) };
    }
    resized
}

/// Hands the bytes over as a C string; they hold no NUL (JSON and messages never do).
pub(super) fn into_c_string(mut bytes: Vec<u8>) -> *mut c_char {
    debug_assert!(!bytes.contains(&0));
    bytes.push(0);
    bytes.shrink_to_fit();
    Box::into_raw(bytes.into_boxed_slice()).cast()
}

/// Frees what `into_c_string` handed out.
///
/// # Safety
/// `block` is NULL or came from `into_c_string` (or malloc) and is not used again.
pub(super) unsafe fn free(block: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { libc::free(block) };
}
