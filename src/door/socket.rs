//! One end of a connection: what epoll said of it, and reading and writing without blocking.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::SockRef;

use crate::net::UNACKNOWLEDGED;
use crate::net::sys::{self, Epoll, Interest, Ready};

/// A non-blocking socket, registered once and edge-triggered: epoll tells of a change, and what it
/// told is remembered here until a read or write finds it used up.
pub(super) struct End {
    socket: OwnedFd,
    token: u64,
    readable: bool,
    writable: bool,
    /// The peer will send no more; what it sent may still be there to read.
    ending: bool,
    /// The last write was refused for lack of room, and `kind` has been seen to.
    held_up: bool,
    kind: Kind,
}

/// How long a client may leave its answer unread. As long as it reads, a host that is gone is
/// noticed sooner; but to the kernel's timer a program that pauses between two rows looks the same
/// as a dead host.
const UNREAD: Duration = Duration::from_secs(600);

/// What has to be done when writes start, or cease, to be held up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The kernel's timer for unacknowledged bytes changes. Room is watched for all the time: TCP
    /// reports it only after a write was refused for lack of it.
    Tcp,
    /// Watching for room changes: a Unix socket reports it whenever its peer has read something,
    /// which would wake us once per request.
    Unix,
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Some,
    Nothing,
    /// No more will come: an orderly end, or an error.
    End,
}

impl End {
    pub(super) fn tcp(socket: OwnedFd, token: u64, epoll: &Epoll) -> io::Result<Self> {
        epoll.add(&socket, token, Interest::READ_WRITE)?;
        Ok(Self::new(socket, token, Kind::Tcp))
    }

    pub(super) fn unix(socket: OwnedFd, token: u64, epoll: &Epoll) -> io::Result<Self> {
        epoll.add(&socket, token, Interest::READ)?;
        Ok(Self::new(socket, token, Kind::Unix))
    }

    fn new(socket: OwnedFd, token: u64, kind: Kind) -> Self {
        Self {
            socket,
            token,
            readable: false,
            writable: true,
            ending: false,
            held_up: false,
            kind,
        }
    }

    pub(super) fn note(&mut self, ready: Ready) {
        self.readable |= ready.readable();
        self.writable |= ready.writable();
        self.ending |= ready.ended();
    }

    pub(super) fn readable(&self) -> bool {
        self.readable
    }

    pub(super) fn writable(&self) -> bool {
        self.writable
    }

    /// Appends to `buffer` what fits into its spare capacity, which must not be zero.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>) -> Read {
        let spare = buffer.capacity() - buffer.len();
        match sys::receive_more(&self.socket, buffer) {
            Ok(0) => Read::End,
            Ok(count) => {
                // Less than asked for means empty, and more makes a new edge: this saves the read
                // that would fail.
                self.readable = count == spare || self.ending;
                Read::Some
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Read::Nothing
            }
            Err(_) => Read::End,
        }
    }

    /// Writes until all is gone or the socket is full; how much went.
    pub(super) fn write(&mut self, bytes: &[u8], epoll: &Epoll) -> io::Result<usize> {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match sys::send_now(&self.socket, rest) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    self.hold_up(true, epoll)?;
                    return Ok(written);
                }
                Err(error) => return Err(error),
            }
        }
        self.hold_up(false, epoll)?;
        Ok(written)
    }

    fn hold_up(&mut self, held_up: bool, epoll: &Epoll) -> io::Result<()> {
        if self.held_up == held_up {
            return Ok(());
        }
        self.held_up = held_up;
        match self.kind {
            Kind::Tcp => {
                let timeout = if held_up { UNREAD } else { UNACKNOWLEDGED };
                SockRef::from(&self.socket).set_tcp_user_timeout(Some(timeout))
            }
            Kind::Unix => {
                let interest = if held_up { Interest::READ_WRITE } else { Interest::READ };
                epoll.modify(&self.socket, self.token, interest)
            }
        }
    }

    /// Tells the peer that no more will come; what it sends is still read.
    pub(super) fn end_writes(&self) {
        let _ = SockRef::from(&self.socket).shutdown(Shutdown::Write);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // A forked child may hold a copy of the descriptor, and then closing ours alone would not
        // end the connection.
        let _ = SockRef::from(&self.socket).shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
