//! A client's socket: reading and writing without blocking, and what epoll is to tell of it.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;

use socket2::Socket;

use crate::net::sys::{self, Epoll, Interest};

/// A non-blocking socket, registered once.
pub(super) struct End {
    socket: Socket,
    token: u64,
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
    pub(super) fn new(socket: Socket, token: u64, epoll: &Epoll) -> io::Result<Self> {
        epoll.add(&socket, token, Interest::READ_LEVEL)?;
        Ok(Self { socket, token })
    }

    pub(super) fn watch(&self, interest: Interest, epoll: &Epoll) -> io::Result<()> {
        epoll.modify(&self.socket, self.token, interest)
    }

    /// Another descriptor of the same socket, for the engine.
    pub(super) fn copy(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone().map(OwnedFd::from)
    }

    /// Appends at most `most` bytes, no more than fit into the spare capacity. Neither may be zero.
    pub(super) fn read(&self, buffer: &mut Vec<u8>, most: usize) -> Read {
        match sys::receive_more(&self.socket, buffer, most) {
            Ok(0) => Read::End,
            Ok(_) => Read::Some,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Nothing,
            Err(_) => Read::End,
        }
    }

    /// Writes what the socket takes now; how much that was.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match sys::send_now(&self.socket, bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    /// Tells the peer that no more will come; what it sends is still read.
    pub(super) fn end_writes(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // The engine and a forked child may hold copies of the descriptor, and then closing ours alone would not end the
        // connection.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
