//! A byte stream with deadlines, over TCP or a Unix socket, that another thread can end.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use crate::error::{Error, Kind, Result};
use crate::net::{Address, neighbour, sys};

/// A silent peer is probed after three idle seconds, and every three from then on. Where the kernel counts probes, the third
/// is the last one; with a limit on what is unacknowledged it counts the time, so that decides.
const KEEPALIVE: Duration = Duration::from_secs(3);
const PROBES: u32 = 3;

/// How long bytes, or a probe, may stay unacknowledged, and so how long a vanished host keeps what it holds (tests-c/locks.c).
/// The same as go-dqlite's, so that both ends give up together.
pub(crate) const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// A few milliseconds of a quick network; the kernel would take 4 MB.
const UNSENT: u32 = 256 << 10;

/// What a request takes from its writer to its reader, in ns: an end of the connection in that time is seen by nobody.
const JUST: u64 = 20_000;

/// A way past the socket, where the other end is in this process.
pub(crate) trait Shortcut: Send + Sync {
    /// Has the other end begin with one whole request. None: it did not, and the stream is the way. Otherwise so many bytes
    /// of the answer are there; what they lack comes by the stream.
    fn ask(&self, request: &[u8], answer: &mut [u8]) -> Option<usize>;
}

/// A connection. One thread reads or writes at a time; any thread may wake it.
pub(crate) struct Stream {
    shared: Arc<Shared>,
    tcp: bool,
    /// The receive timeout that the socket has, in ms; 0 = none set yet.
    receive_timeout: AtomicU32,
    /// Bytes came since the last write, so a further read continues an answer.
    continuing: AtomicBool,
    /// When bytes came last, in ns since `began`.
    heard: AtomicU64,
    began: Instant,
    shortcut: Option<Box<dyn Shortcut>>,
}

struct Shared {
    socket: OwnedFd,
    woken: AtomicBool,
}

/// Ends the calls on a stream from another thread. Does not keep the connection open.
#[derive(Clone)]
pub(crate) struct Waker(Weak<Shared>);

/// Why a read or write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The deadline passed.
    TimedOut,
    /// The other side closed or reset the connection, or its host is gone.
    Closed,
    /// Another thread ended it through a [`Waker`] or [`Stream::shutdown`].
    Woken,
    /// More was announced than the reader takes. No error of the operating system is this.
    TooLong,
    /// There is no memory for it. No error of the operating system is this.
    NoMemory,
    /// Something else of the operating system.
    Other,
}

impl Cause {
    pub(crate) fn of(error: &io::Error) -> Self {
        use io::ErrorKind as K;
        match error.kind() {
            // A keep-alive or user timeout is also ETIMEDOUT, but with a number: the peer is gone.
            K::TimedOut if error.raw_os_error().is_none() => Self::TimedOut,
            K::ConnectionAborted if error.raw_os_error().is_none() => Self::Woken,
            K::UnexpectedEof
            | K::TimedOut
            | K::ConnectionAborted
            | K::ConnectionReset
            | K::BrokenPipe
            | K::NotConnected
            | K::HostUnreachable
            | K::NetworkUnreachable => Self::Closed,
            _ => Self::Other,
        }
    }
}

/// The settings that every TCP connection of this library gets.
pub(crate) fn tune_tcp(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE)
        .with_retries(PROBES);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

/// For a link whose end others wait for: what the kernel has not sent yet it still sends when the process is gone, and the
/// end comes behind that.
pub(crate) fn keep_little_unsent(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_notsent_lowat(UNSENT)
}

/// When to try anew for a connection. A host that is just closing the port may let an attempt pass without a word, and the
/// kernel makes the next one after a second.
const AGAIN: Duration = Duration::from_millis(50);

/// Why no connection was made.
pub(crate) struct Undialled {
    /// Nobody listens at any of the address's hosts.
    pub(crate) refused: bool,
    error: Error,
}

/// Connects to the first of the address's hosts that answers before the deadline.
pub(crate) fn dial(address: &Address, deadline: Instant) -> std::result::Result<TcpStream, Undialled> {
    let candidates = address
        .resolve(deadline)
        .map_err(|error| Undialled { refused: false, error })?;
    dial_hosts(address, &candidates, deadline)
}

fn dial_hosts(
    address: &Address,
    candidates: &[SocketAddr],
    deadline: Instant,
) -> std::result::Result<TcpStream, Undialled> {
    let mut failure: Option<io::Error> = None;
    let mut refusals = 0;
    for (index, candidate) in candidates.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        // A host that swallows packets must not use up the time of the ones after it.
        let share = left / u32::try_from(candidates.len() - index).unwrap_or(1);
        if share.is_zero() {
            break;
        }
        match connect(candidate, share).and_then(settle) {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                refusals += usize::from(error.kind() == io::ErrorKind::ConnectionRefused);
                failure = Some(error);
            }
        }
    }
    Err(Undialled {
        refused: refusals > 0 && refusals == candidates.len(),
        error: explain(address, failure.as_ref()),
    })
}

fn connect(candidate: &SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    match TcpStream::connect_timeout(candidate, limit.min(AGAIN)) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut && limit > AGAIN => {
            TcpStream::connect_timeout(candidate, limit - AGAIN)
        }
        outcome => outcome,
    }
}

/// Makes a fresh connection ready for use.
fn settle(stream: TcpStream) -> io::Result<TcpStream> {
    // A port that nobody listens on can be drawn as our own end's port, and then we talk to
    // ourselves.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    tune_tcp(&stream)?;
    Ok(stream)
}

impl Stream {
    /// Connects by the shortest way.
    pub(crate) fn connect(address: &Address, deadline: Instant) -> Result<Self> {
        let hosts = address.resolve(deadline)?;
        if let Some(socket) = hosts.first().and_then(|host| neighbour::connect(*host)) {
            return Ok(Self::new(socket.into(), false));
        }
        let tcp = dial_hosts(address, &hosts, deadline).map_err(|failed| failed.error)?;
        Ok(Self::new(tcp.into(), true))
    }

    /// Takes over a connection in blocking mode, as the engine gives it.
    pub(crate) fn from_unix(stream: UnixStream) -> Self {
        Self::new(stream.into(), false)
    }

    /// The same with a way past it.
    pub(crate) fn with_shortcut(stream: UnixStream, shortcut: Box<dyn Shortcut>) -> Self {
        let mut stream = Self::from_unix(stream);
        stream.shortcut = Some(shortcut);
        stream
    }

    fn new(socket: OwnedFd, tcp: bool) -> Self {
        Self {
            shared: Arc::new(Shared {
                socket,
                woken: AtomicBool::new(false),
            }),
            tcp,
            receive_timeout: AtomicU32::new(0),
            continuing: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            began: Instant::now(),
            shortcut: None,
        }
    }

    pub(crate) fn has_shortcut(&self) -> bool {
        self.shortcut.is_some()
    }

    /// A whole request by the shortcut, if there is one and it is open; see [`Shortcut::ask`]. Nothing that was sent before
    /// may be unanswered.
    pub(crate) fn ask(&self, request: &[u8], answer: &mut [u8]) -> Option<usize> {
        let shortcut = self.shortcut.as_ref()?;
        if self.shared.woken.load(Ordering::Acquire) {
            return None;
        }
        shortcut.ask(request, answer)
    }

    /// At least one byte into `buffer`, or an error of one of the causes that [`Cause`] tells
    /// apart.
    pub(crate) fn read_some(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        if self.tcp && self.continuing.load(Ordering::Relaxed) {
            // A sender with Nagle's algorithm keeps the tail of a long answer back until the head
            // is acknowledged, and a receiver delays that for 40 ms. Only the reads after the first
            // pay for this call.
            let _ = SockRef::from(&self.shared.socket).set_tcp_quickack(true);
        }
        loop {
            let wait = self.prepare_wait(deadline)?;
            match sys::receive(&self.shared.socket, buffer, wait) {
                Ok(0) if !buffer.is_empty() => {
                    return Err(self.ended(io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(count) => {
                    self.continuing.store(true, Ordering::Relaxed);
                    self.heard.store(self.age(), Ordering::Relaxed);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !wait {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    // The timeout that was set ran out; the next one fits what is left.
                    self.receive_timeout.store(0, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.ended(error)),
            }
        }
    }

    /// All of `bytes`. After an error it is unknown how many went out.
    pub(crate) fn write_all(&self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        self.continuing.store(false, Ordering::Relaxed);
        while !bytes.is_empty() {
            match sys::send_now(&self.shared.socket, bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !sys::wait_writable(&self.shared.socket, deadline)? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(self.ended(error)),
            }
        }
        Ok(())
    }

    /// Bytes came so short a time ago that its end would as likely come behind a look for it.
    pub(crate) fn was_just_heard(&self) -> bool {
        let heard = self.heard.load(Ordering::Relaxed);
        heard > 0 && self.age() - heard < JUST
    }

    /// In ns.
    fn age(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether the other side has sent more than was read, or has closed or reset the connection; None if neither.
    pub(crate) fn speaks(&self) -> Option<bool> {
        sys::speaks(&self.shared.socket)
    }

    /// Ends every call on this stream, now and later.
    #[cfg(test)]
    pub(crate) fn shutdown(&self) {
        self.shared.wake();
    }

    pub(crate) fn waker(&self) -> Waker {
        Waker(Arc::downgrade(&self.shared))
    }

    /// Sees to it that the socket's receive timeout is not longer than what is left; false = do not
    /// wait at all.
    ///
    /// Setting it costs a system call, so it is set to a power of two and kept while it fits: a
    /// timeout that ends early only makes the read look at the clock and wait again.
    fn prepare_wait(&self, deadline: Instant) -> io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let left = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
        let set = self.receive_timeout.load(Ordering::Relaxed);
        if set == 0 || set > left {
            let fitting = 1 << left.ilog2();
            SockRef::from(&self.shared.socket).set_read_timeout(Some(Duration::from_millis(u64::from(fitting))))?;
            self.receive_timeout.store(fitting, Ordering::Relaxed);
        }
        Ok(true)
    }

    fn ended(&self, error: io::Error) -> io::Error {
        if self.shared.woken.load(Ordering::Acquire) {
            io::ErrorKind::ConnectionAborted.into()
        } else {
            error
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A forked child holds a copy of the descriptor; closing ours alone would leave the peer
        // waiting.
        let _ = SockRef::from(&self.shared.socket).shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        let _ = SockRef::from(&self.socket).shutdown(Shutdown::Both);
    }
}

impl Waker {
    pub(crate) fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Ends every call on the stream; nothing happens if the stream is gone.
    pub(crate) fn wake(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.wake();
        }
    }
}

fn explain(address: &impl std::fmt::Display, error: Option<&io::Error>) -> Error {
    let kind = match error.map(io::Error::kind) {
        None | Some(io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => Kind::Timeout,
        _ => Kind::Retry,
    };
    let reason = match error {
        Some(error) if kind == Kind::Retry => error.to_string(),
        _ => "no answer before the deadline".to_owned(),
    };
    Error::new(kind, format!("connecting to {address}: {reason}"))
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
