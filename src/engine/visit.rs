//! Connections that the engine takes in: from whom, and what it asks about those of strangers.

use std::ffi::{c_uint, c_void};
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use super::{Engine, Raw, sys};
use crate::error::{Error, Kind, Result};

/// What strangers may do behind their first request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of requests that are arriving, on all connections together.
    pub(crate) arriving: u64,
    /// The longest pause inside a request.
    pub(crate) pause: Duration,
    /// How long a client may leave its answer unread.
    pub(crate) unread: Duration,
    /// How long what was sent may stay unacknowledged otherwise.
    pub(crate) unacknowledged: Duration,
}

/// What the engine comes upon in a stranger's connection.
#[derive(Debug)]
pub(crate) enum Moment<'a> {
    /// A request begins; its body is not there yet.
    Header(&'a [u8; 8]),
    /// The body that belongs to the last header.
    Body(&'a [u8]),
    /// It stopped in the middle of a request.
    Paused,
    /// Too much is arriving on all connections together.
    Flooded,
}

/// Asked on the engine's own thread, so it must be quick; false ends the connection. It is dropped when the engine has
/// nothing to do with the connection any more.
pub(crate) type Check = Box<dyn FnMut(Moment<'_>) -> bool + Send>;

impl Engine {
    /// Has the engine serve a connection of a stranger. `first` is what was read of it: up to a whole first request,
    /// which is in order.
    pub(crate) fn take(&self, socket: OwnedFd, first: &[u8], check: Check) -> Result<()> {
        let data = Box::into_raw(Box::new(check));
        self.hand_over(socket, first, data.cast(), ptr::null_mut())
            .inspect_err(|_| {
                // SAFETY: just made from a box, and the glue did not take it.
                drop(unsafe { Box::from_raw(data) });
            })
    }

    /// A connection of this process, in blocking mode, and the path that leads past its socket.
    pub(crate) fn dial(self: &Arc<Self>) -> Result<(UnixStream, Path)> {
        let failed = |error: io::Error| Error::internal(format!("connecting to the node's own engine: {error}"));
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let path = Path::new(self).ok_or_else(|| failed(io::ErrorKind::OutOfMemory.into()))?;
        self.hand_over(theirs.into(), &[], ptr::null_mut(), path.raw.as_ptr())?;
        Ok((ours, path))
    }

    fn hand_over(&self, socket: OwnedFd, first: &[u8], data: *mut c_void, path: *mut sys::glue_path) -> Result<()> {
        let node = self.node.read();
        // Whoever asks had it at hand just now, so it is being stopped; a search for the leader ends there.
        let Raw(raw) = node.ok_or_else(|| Error::new(Kind::Shutdown, "the engine is stopped"))?;
        let fd = socket.into_raw_fd();
        let visit = sys::glue_visit {
            fd,
            first: first.as_ptr(),
            first_size: first.len(),
            data,
            path,
        };
        // SAFETY: the lock keeps the node from being stopped; what the visit points to is copied.
        let code = unsafe { sys::glue_node_take(raw.as_ptr(), &visit) };
        if code != 0 {
            // SAFETY: the descriptor was ours and the glue did not take it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            let reason = io::Error::from_raw_os_error(code);
            return Err(Error::new(
                if code == libc::ESHUTDOWN {
                    Kind::Shutdown
                } else {
                    Kind::Internal
                },
                format!("the engine takes no connection: {reason}"),
            ));
        }
        Ok(())
    }
}

/// Leads to one of the engine's connections for as long as that lasts. Requests that go this way begin on the caller's
/// own thread.
pub(crate) struct Path {
    engine: Arc<Engine>,
    raw: NonNull<sys::glue_path>,
}

// SAFETY: the glue counts the path's owners, and takes it from any thread.
unsafe impl Send for Path {}
// SAFETY: as above.
unsafe impl Sync for Path {}

impl Path {
    fn new(engine: &Arc<Engine>) -> Option<Self> {
        // SAFETY: it only allocates.
        let raw = unsafe { sys::glue_path_new() };
        Some(Self {
            engine: Arc::clone(engine),
            raw: NonNull::new(raw)?,
        })
    }

    /// Has the engine begin with one whole request, while nothing else is under way on the connection. None: it did not,
    /// and the socket is the way. Otherwise so many bytes of the answer are there; what they lack comes by the socket.
    pub(crate) fn ask(&self, request: &[u8], answer: &mut [u8]) -> Option<usize> {
        let node = self.engine.node.read();
        let Raw(raw) = (*node)?;
        let mut room = answer.len();
        // SAFETY: the lock keeps the node from being stopped, and the path is ours until it is dropped; the request is
        // readable, and the answer writable for `room` bytes.
        let asked = unsafe {
            sys::glue_node_ask(
                raw.as_ptr(),
                self.raw.as_ptr(),
                request.as_ptr(),
                request.len(),
                answer.as_mut_ptr(),
                &raw mut room,
            )
        };
        asked.then_some(room)
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        // SAFETY: this was our share, and it is not used again.
        unsafe { sys::glue_path_release(self.raw.as_ptr()) };
    }
}

/// For C, whose numbers are shorter.
pub(super) fn millis(duration: Duration) -> c_uint {
    c_uint::try_from(duration.as_millis()).unwrap_or(c_uint::MAX)
}

/// # Safety
/// `data` came from `take` and was not left yet; the glue asks on one thread at a time. `bytes` are `size` readable bytes.
pub(super) unsafe extern "C" fn check(
    data: *mut c_void,
    moment: sys::glue_moment,
    bytes: *const u8,
    size: usize,
) -> bool {
    // SAFETY: as above.
    let check = unsafe { &mut *data.cast::<Check>() };
    let bytes = if bytes.is_null() {
        &[]
    } else {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts(bytes, size) }
    };
    let moment = match moment {
        sys::GLUE_HEADER => match bytes.first_chunk() {
            Some(header) => Moment::Header(header),
            None => return false,
        },
        sys::GLUE_REQUEST => Moment::Body(bytes),
        sys::GLUE_PAUSED => Moment::Paused,
        _ => Moment::Flooded,
    };
    catch_unwind(AssertUnwindSafe(|| check(moment))).unwrap_or(false)
}

/// # Safety
/// `data` came from `take`, and this is the last that is heard of it.
pub(super) unsafe extern "C" fn left(data: *mut c_void) {
    // SAFETY: as above.
    let check = unsafe { Box::from_raw(data.cast::<Check>()) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(check)));
}
