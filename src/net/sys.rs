//! What the standard library lacks: epoll, eventfd, signal masks, send and recv with flags.
//! The only file of this room with `unsafe`; everything here is safe to call.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use crate::memory;

/// Signals that a thread raises by its own doing. Blocking them would not stop the fault, only its
/// report.
const SYNCHRONOUS: [libc::c_int; 7] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGSYS,
];

/// As much as the threads of most programs have: statements run on the thread that asks only where there is stack for them
/// (docs/adr/0009). What nobody uses costs nothing but addresses.
const STACK: usize = 8 << 20;

/// What a thread takes of the heap as it begins, and more.
const THREAD: usize = 256 << 10;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn check_size(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Keeps every asynchronous signal of the host away from the calling thread, for good.
pub(crate) fn block_signals() {
    let _ = mask_signals();
}

/// Blocks the asynchronous signals in the calling thread and gives back the mask that held before.
fn mask_signals() -> libc::sigset_t {
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    let mut block = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both sets are live, writable and of the right type; sigfillset makes `block` a valid
    // set before it is used, and an all-zero `before` is a valid (empty) set should pthread_sigmask
    // fail.
    unsafe {
        libc::sigfillset(block.as_mut_ptr());
        for signal in SYNCHRONOUS {
            libc::sigdelset(block.as_mut_ptr(), signal);
        }
        if cfg!(without = "signals") {
            libc::sigemptyset(block.as_mut_ptr());
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, block.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    }
}

/// While it lives, the calling thread, and every thread it creates, has the asynchronous signals
/// blocked.
pub(crate) struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    pub(crate) fn new() -> Self {
        Self(mask_signals())
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set came from pthread_sigmask; a null third argument asks for nothing back.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut());
        }
    }
}

/// Starts a thread that never runs a signal handler of the host: the mask is set before the thread
/// exists, because a signal could arrive ahead of the first line of its body.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    // Rust would end the process over what it notes of a thread, the C library over the thread's own variables.
    if memory::check(THREAD, "a thread").is_err() {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let _blocked = SignalsBlocked::new();
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(body)
}

/// What to be told about a descriptor, besides errors.
#[derive(Clone, Copy)]
pub(crate) struct Interest(u32);

impl Interest {
    pub(crate) const NOTHING: Self = Self(0);
    pub(crate) const READ_LEVEL: Self = Self(libc::EPOLLIN as u32);
    pub(crate) const WRITE_LEVEL: Self = Self(libc::EPOLLOUT as u32);
    /// That the other side will send no more, told once.
    pub(crate) const END: Self = Self(libc::EPOLLRDHUP as u32 | libc::EPOLLET as u32);
}

/// One report of epoll.
#[derive(Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) token: u64,
    flags: u32,
}

impl Ready {
    fn has(self, flags: libc::c_int) -> bool {
        self.flags & flags as u32 != 0
    }

    /// The other side will send no more.
    pub(crate) fn ended(self) -> bool {
        self.has(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR)
    }

    /// Neither direction works any more.
    pub(crate) fn broken(self) -> bool {
        self.has(libc::EPOLLHUP | libc::EPOLLERR)
    }
}

/// Room for the reports of one wait.
pub(crate) struct Events {
    slots: Vec<libc::epoll_event>,
    filled: usize,
}

impl Events {
    pub(crate) fn with_capacity(slots: usize) -> Self {
        Self {
            slots: vec![libc::epoll_event { events: 0, u64: 0 }; slots.max(1)],
            filled: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.filled
    }

    pub(crate) fn get(&self, index: usize) -> Option<Ready> {
        let slot = self.slots[..self.filled].get(index)?;
        Some(Ready {
            token: slot.u64,
            flags: slot.events,
        })
    }
}

/// An epoll instance.
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn control(&self, operation: libc::c_int, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest.0,
            u64: token,
        };
        // SAFETY: both descriptors are open, being borrowed; the kernel copies `event` before
        // returning.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd.as_fd().as_raw_fd(), &raw mut event) })
            .map(drop)
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Changing an interest also reports anew what is ready already, so no edge is lost by it.
    pub(crate) fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Waits for reports, at most for `timeout`; none within it is not an error.
    pub(crate) fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.filled = 0;
        let slots = libc::c_int::try_from(events.slots.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the pointer leads to `slots` writable entries that outlive the call.
        let count = check(unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.slots.as_mut_ptr(),
                slots,
                milliseconds(timeout),
            )
        });
        match count {
            Ok(count) => events.filled = usize::try_from(count).unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Rounded up, so that a wait never ends just before the moment it is for and spins.
fn milliseconds(timeout: Option<Duration>) -> libc::c_int {
    timeout.map_or(-1, |timeout| {
        let whole = timeout.as_nanos().div_ceil(1_000_000);
        libc::c_int::try_from(whole).unwrap_or(libc::c_int::MAX)
    })
}

/// A counter that another thread can raise to end an epoll wait.
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// A failure can only be a full counter, and then the reader is awake already.
    pub(crate) fn signal(&self) {
        let one = 1_u64;
        // SAFETY: eight readable bytes, the size that an eventfd takes.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }

    /// Back to zero; a counter that is zero already is fine.
    pub(crate) fn clear(&self) {
        let mut count = 0_u64;
        // SAFETY: eight writable bytes, the size that an eventfd fills.
        let _ = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until `fd` takes bytes again (or has failed, which the next send tells); false at the
/// deadline.
pub(crate) fn wait_writable(fd: impl AsFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut entry = libc::pollfd {
            fd: fd.as_fd().as_raw_fd(),
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: one writable entry, and the count says one.
        match check(unsafe { libc::poll(&raw mut entry, 1, milliseconds(Some(left))) }) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) => {}
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a byte is there to be read, or the stream has ended; None while there is neither.
pub(crate) fn speaks(fd: impl AsFd) -> Option<bool> {
    let mut byte = 0_u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the buffer is one live byte, and the descriptor is open while it is borrowed.
    let result = unsafe { libc::recv(fd.as_fd().as_raw_fd(), (&raw mut byte).cast(), 1, flags) };
    match check_size(result) {
        Ok(count) => Some(count > 0),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
        Err(_) => Some(false),
    }
}

/// Sends what fits now, never raising SIGPIPE (the standard library's Unix streams may, in a host
/// that did not switch the signal off).
pub(crate) fn send_now(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    retry(|| {
        // SAFETY: `bytes` is readable for its length.
        check_size(unsafe {
            libc::send(
                fd.as_fd().as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            )
        })
    })
}

/// Receives into `buffer`. `wait` = false never blocks; true blocks as long as the socket's own
/// timeout says, and a signal ends it early with `Interrupted`, so that the caller can look at its
/// deadline.
pub(crate) fn receive(fd: impl AsFd, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
    let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: `buffer` is writable for its length.
    check_size(unsafe { libc::recv(fd.as_fd().as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) })
}

/// Appends what has arrived to `buffer`, at most `most` bytes, without blocking and without growing it: spare capacity is
/// a limit, too.
pub(crate) fn receive_more(fd: impl AsFd, buffer: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    let received = retry(|| {
        let spare = buffer.spare_capacity_mut();
        // SAFETY: the spare capacity is writable for its length, initialised or not.
        check_size(unsafe {
            libc::recv(
                fd.as_fd().as_raw_fd(),
                spare.as_mut_ptr().cast(),
                spare.len().min(most),
                libc::MSG_DONTWAIT,
            )
        })
    })?;
    // SAFETY: the kernel wrote `received` bytes at the start of the spare capacity, and never more
    // than fit.
    unsafe { buffer.set_len(buffer.len() + received) };
    Ok(received)
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Whose process listens at the other end of a Unix socket.
pub(crate) fn peer_user(fd: impl AsFd) -> Option<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of_val(&peer) as libc::socklen_t;
    // SAFETY: `peer` is writable for the `size` bytes that are told.
    let asked = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut size,
        )
    };
    check(asked).ok().map(|_| peer.uid)
}

/// Whose process this is.
pub(crate) fn user() -> u32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// How many descriptors this process may hold.
pub(crate) fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is writable and of the right type.
    match check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }) {
        Ok(_) => limit.rlim_cur,
        Err(_) => 1024,
    }
}
