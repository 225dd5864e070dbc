//! Memory that callers own.
//!
//! Every allocation of this library is libc's malloc, so a finished `Vec` can be handed over as it is and goes back
//! through `dqlitepy_free`, or `free`; but for what comes from the reserve when malloc has nothing, which is copied then.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::{c_char, c_void};
use std::mem::ManuallyDrop;

use crate::engine::reserve;
use crate::error::Result;
use crate::memory;

struct Malloc;

#[global_allocator]
static MALLOC: Malloc = Malloc;

/// malloc's own alignment; what needs more takes the other way.
const NATURAL: usize = 16;

/// A buffer that grows to this size (`render::text` knows it) gets `ROOM` at once, of which only what is touched is memory (unless the host has asked
/// for mlockall).
const LARGE: usize = 1 << 20;

/// Above the largest size that glibc ever serves from its heap (DEFAULT_MMAP_THRESHOLD_MAX): what is larger is a mapping, which
/// shrinks and goes without a copy. A heap would keep a hole of each size that the buffer had.
const ROOM: usize = (32 << 20) + HUGE;

/// A huge page: to touch one costs as much as 25 small ones, and 10 MB in small ones are 5 ms.
const HUGE: usize = 2 << 20;

// SAFETY: malloc, calloc, realloc and free keep the promises of GlobalAlloc for alignments up to NATURAL; beyond that
// aligned_alloc does, and a larger or smaller block is made by copying, as realloc would lose the alignment.
unsafe impl GlobalAlloc for Malloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block: *mut u8 = if layout.align() <= NATURAL {
            // SAFETY: any size is allowed.
            unsafe { libc::malloc(layout.size()) }.cast()
        } else {
            // SAFETY: the alignment is a power of two, and the size is rounded up to a multiple of it.
            unsafe { libc::aligned_alloc(layout.align(), layout.pad_to_align().size()) }.cast()
        };
        if block.is_null() && layout.align() <= reserve::ALIGNMENT {
            return reserve::take(layout.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= NATURAL {
            // SAFETY: any size is allowed.
            let block: *mut u8 = unsafe { libc::calloc(1, layout.size()) }.cast();
            if !block.is_null() {
                return block;
            }
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
        // SAFETY: the block came from one of malloc's functions, or from the reserve, which stands in for them.
        unsafe { libc::free(block.cast()) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= NATURAL {
            // SAFETY: as the caller promises to us.
            let resized: *mut u8 = unsafe { resize(block.cast(), layout.size(), size) }.cast();
            if !resized.is_null() {
                return resized;
            }
            if size <= layout.size() {
                return block;
            }
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
    if size > had && size >= LARGE {
        // SAFETY: the block came from malloc.
        if size <= unsafe { libc::malloc_usable_size(block) } {
            return block;
        }
        let room = roomy(size);
        if !room.is_null() {
            // SAFETY: the old block has `had` bytes, the new one more; nobody reads the old one any more.
            unsafe {
                carry(block.cast(), room.cast(), had);
                libc::free(block);
            }
            return room;
        }
    }
    // SAFETY: the block came from malloc.
    unsafe { libc::realloc(block, size) }
}

/// `ROOM` or more from malloc, in huge pages if the host has them for those who ask; NULL if memory is short. malloc's own
/// word in front lies outside: once a small page is touched there, the rest of a huge page is small as well.
fn roomy(size: usize) -> *mut c_void {
    let size = size.max(ROOM).next_multiple_of(HUGE);
    // SAFETY: the alignment is a power of two and divides the size.
    let room = unsafe { libc::aligned_alloc(HUGE, size) };
    if !room.is_null() {
        // SAFETY: the range is ours, and what it holds stays as it is. Refused, it is small pages.
        unsafe { libc::madvise(room, size, libc::MADV_HUGEPAGE) };
    }
    room
}

/// Copies `size` bytes and gives back, as it goes, the huge pages that they came from: what moves is not there twice.
///
/// # Safety
/// Both blocks have so many bytes and are distinct; those of `from` are lost.
unsafe fn carry(from: *mut u8, to: *mut u8, size: usize) {
    for start in (0..size).step_by(HUGE) {
        let piece = HUGE.min(size - start);
        // SAFETY: inside both, by the caller's promise. What is given back is whole pages of `from` and was copied.
        unsafe {
            to.add(start).copy_from_nonoverlapping(from.add(start), piece);
            if piece == HUGE && from.addr().is_multiple_of(HUGE) {
                libc::madvise(from.add(start).cast(), HUGE, libc::MADV_DONTNEED);
            }
        }
    }
}

/// Hands the bytes over as a C string; they hold no NUL (JSON and messages never do). NULL without memory for it.
pub(super) fn into_c_string(mut bytes: Vec<u8>) -> *mut c_char {
    debug_assert!(!bytes.contains(&0));
    bytes.push(0);
    let (size, room) = (bytes.len(), bytes.capacity());
    if reserve::holds(bytes.as_ptr()) {
        return from_reserve(&bytes);
    }
    let block = ManuallyDrop::new(bytes).as_mut_ptr();
    if room <= worth(size) && room < LARGE {
        return block.cast();
    }
    // SAFETY: the block came from malloc, and nobody else has it any more.
    let shrunk = unsafe { libc::realloc(block.cast(), worth(size)) };
    if shrunk.is_null() { block.cast() } else { shrunk.cast() }
}

/// What is said of a call for whose result there is no memory.
pub(super) const STAYS_DONE: &str = "what the statement did stays done";

/// The same for the result of a call.
pub(super) fn handed_over(bytes: Vec<u8>) -> Result<*mut c_char> {
    let size = bytes.len();
    let text = into_c_string(bytes);
    if text.is_null() {
        return Err(memory::none_for(size, "the result").with(STAYS_DONE));
    }
    Ok(text)
}

/// A copy that the caller can free; NULL without memory for it.
#[cold]
fn from_reserve(bytes: &[u8]) -> *mut c_char {
    let block = reserve::host_malloc(bytes.len());
    if !block.is_null() {
        // SAFETY: it has this size.
        unsafe { block.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
    block.cast()
}

/// How much room a finished text may keep: it does not live long, and to take a huge page apart costs as much as the page.
fn worth(size: usize) -> usize {
    if size < HUGE / 4 {
        return size * 2;
    }
    size.next_multiple_of(HUGE)
}

/// Frees what `into_c_string` handed out.
///
/// # Safety
/// `block` is NULL or came from `into_c_string` (or malloc) and is not used again.
pub(super) unsafe fn free(block: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { libc::free(block) };
}

#[cfg(test)]
mod tests {
    use super::into_c_string;
    use std::ffi::CStr;

    /// Page faults of this thread so far.
    fn faults() -> i64 {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the struct is of the right type and writable; all zeros are valid.
        unsafe {
            libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
            usage.assume_init().ru_minflt
        }
    }

    #[test]
    fn a_text_of_any_size_is_handed_over_whole() {
        for size in [
            0, 1, 7, 5000, 300_000, 600_000, 1_048_575, 1_048_576, 3_000_000, 50_000_000,
        ] {
            let mut bytes = Vec::new();
            while bytes.len() < size {
                let piece: Vec<u8> = (0..size.min(40_000)).map(|i| b'!' + (i % 90) as u8).collect();
                bytes.extend_from_slice(&piece[..piece.len().min(size - bytes.len())]);
            }
            let expected = bytes.clone();
            let text = into_c_string(bytes);
            // SAFETY: a NUL-terminated text of ours, freed once.
            unsafe {
                assert!(CStr::from_ptr(text).to_bytes() == expected, "{size} bytes");
                super::free(text.cast());
            }
        }
    }

    #[test]
    #[cfg_attr(sanitized, ignore = "the sanitizer's malloc is not glibc's")]
    fn a_large_buffer_is_not_touched_page_by_page() {
        let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        if !setting.contains("[madvise]") && !setting.contains("[always]") {
            eprintln!("skipped: this host has no huge pages for those who ask");
            return;
        }
        let mut bytes: Vec<u8> = Vec::with_capacity(1000);
        let before = faults();
        // To a size that it has to be mapped elsewhere for.
        while bytes.len() < 64 << 20 {
            bytes.extend_from_slice(&[7; 8000]);
        }
        let took = faults() - before;
        assert!(took < 3000, "{took} page faults for 64 MB, which are 16384 small pages");
    }
}
