//! A forked child has our memory and our descriptors, but none of our threads: nothing of ours can work there. What runs in
//! the child takes no lock, because any thread of the parent may have held it.

use std::iter;
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use crate::engine::sys;
use crate::error::{Error, Result};

/// Whether there is anything that a child could not use.
static USED: AtomicBool = AtomicBool::new(false);

static CHILD: AtomicBool = AtomicBool::new(false);

/// When the library is loaded: later a thread could fork while another one does it.
#[used]
// SAFETY: the loader calls what stands there, once, as a function without arguments that it needs.
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = watch_forks;

extern "C" fn watch_forks() {
    // SAFETY: the handler uses only atomics, fstat and close, which are async-signal-safe, and the library is never
    // unloaded (-z nodelete), so the pointer stays good.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
}

/// From the first object on, a fork makes a child in which this library refuses to work.
pub(crate) fn arm() {
    USED.store(true, Ordering::Relaxed);
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

/// Descriptors that a child must not keep: it would hold the port and the lock of a node that its parent stopped.
struct Places {
    places: [Place; 64],
    /// When these are full. A child only looks whether it is there.
    more: OnceLock<Box<Self>>,
}

struct Place {
    fd: AtomicI32,
    /// Which file it is (device and inode). Its owner may have closed it just now, and the host have got its number.
    file: [AtomicU64; 2],
}

static HELD: Places = Places::new();

/// Instead of a descriptor: the place is free, or being written.
const NONE: i32 = -1;
const TAKEN: i32 = -2;

impl Place {
    const fn free() -> Self {
        Self {
            fd: AtomicI32::new(NONE),
            file: [const { AtomicU64::new(0) }; 2],
        }
    }
}

impl Places {
    const fn new() -> Self {
        Self {
            places: [const { Place::free() }; 64],
            more: OnceLock::new(),
        }
    }

    fn take(&self) -> Option<&Place> {
        self.places.iter().find(|place| {
            place
                .fd
                .compare_exchange(NONE, TAKEN, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        })
    }

    /// These and those after them.
    fn all(&'static self) -> impl Iterator<Item = &'static Self> {
        iter::successors(Some(self), |places| places.more.get().map(Box::as_ref))
    }
}

/// A descriptor that a forked child closes, until this value is dropped.
pub(crate) struct NotForChildren(&'static Place);

impl NotForChildren {
    pub(crate) fn new(fd: i32) -> Self {
        let mut places = &HELD;
        let place = loop {
            match places.take() {
                Some(place) => break place,
                None => places = places.more.get_or_init(|| Box::new(Places::new())),
            }
        };
        let file = file_of(fd);
        for (part, value) in place.file.iter().zip(file) {
            part.store(value, Ordering::Relaxed);
        }
        place.fd.store(fd, Ordering::Release);
        Self(place)
    }
}

impl Drop for NotForChildren {
    fn drop(&mut self) {
        self.0.fd.store(NONE, Ordering::Release);
    }
}

/// The device and inode of a descriptor; zeros if it is none.
fn file_of(fd: i32) -> [u64; 2] {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the struct is of the right type and writable; all zeros are valid.
    let stat = unsafe {
        libc::fstat(fd, stat.as_mut_ptr());
        stat.assume_init()
    };
    [stat.st_dev, stat.st_ino]
}

extern "C" fn in_child() {
    CHILD.store(USED.load(Ordering::Relaxed), Ordering::Relaxed);
    // SAFETY: the only thread of this process calls it.
    unsafe { sys::glue_reserve_in_child() };
    let held = HELD.all().flat_map(|places| &places.places);
    for place in held.filter(|_| !cfg!(without = "atfork")) {
        let fd = place.fd.swap(NONE, Ordering::Acquire);
        if fd >= 0 && file_of(fd) == [0, 1].map(|part| place.file[part].load(Ordering::Relaxed)) {
            // SAFETY: the child's own copy of a descriptor that was open when it was forked.
            unsafe { libc::close(fd) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsRawFd, OwnedFd};

    use super::*;

    /// The exit code of a child that runs `body`, which takes no lock.
    fn in_forked_child(body: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child makes system calls only and ends.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::alarm(10);
                libc::_exit(body());
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
            assert!(libc::WIFEXITED(status), "{status}");
            libc::WEXITSTATUS(status)
        }
    }

    fn is_open(fd: i32) -> bool {
        // SAFETY: it asks about a number.
        unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
    }

    #[test]
    fn a_child_keeps_none_of_however_many() {
        let files: Vec<OwnedFd> = (0..300).map(|_| File::open("/dev/null").unwrap().into()).collect();
        let held: Vec<_> = files.iter().map(|file| NotForChildren::new(file.as_raw_fd())).collect();
        let kept = || files.iter().filter(|file| is_open(file.as_raw_fd())).count();
        assert_eq!(in_forked_child(|| i32::from(kept() > 0)), 0);
        drop(held);
        assert_eq!(in_forked_child(|| i32::from(kept() < 300)), 0);
        assert_eq!(kept(), 300);
    }

    #[test]
    fn a_child_keeps_what_got_the_number_of_a_closed_one() {
        let (ours, hosts) = (File::open("/dev/null").unwrap(), File::open("/dev/zero").unwrap());
        let _held = NotForChildren::new(ours.as_raw_fd());
        // SAFETY: as if ours had been closed and the number given to the other one.
        unsafe { libc::dup2(hosts.as_raw_fd(), ours.as_raw_fd()) };
        assert_eq!(in_forked_child(|| i32::from(!is_open(ours.as_raw_fd()))), 0);
    }
}
