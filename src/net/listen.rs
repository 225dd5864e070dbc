//! Listening on a node's address, with reasons a person can act on when it fails.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::ops::Deref;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{Error, Kind, Result};
use crate::net::{Address, neighbour};

/// Connections that may wait to be accepted: enough for every client of a restarted node to return
/// at once.
const BACKLOG: i32 = 512;

/// How long the name service may take for an address with a host name.
const RESOLVE: Duration = Duration::from_secs(10);

/// Where connections to one address arrive.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The port first, then what is beside it.
    sockets: Vec<Listening>,
}

impl Listener {
    pub(crate) fn sockets(&self) -> &[Listening] {
        &self.sockets
    }

    pub(crate) fn into_sockets(self) -> Vec<Listening> {
        self.sockets
    }
}

/// A socket that listens until this is dropped. A forked child that holds a copy of the descriptor would otherwise keep the
/// port listening, with nobody there.
#[derive(Debug)]
pub(crate) struct Listening(Socket);

impl From<Socket> for Listening {
    fn from(socket: Socket) -> Self {
        Self(socket)
    }
}

impl Deref for Listening {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        &self.0
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Listens on `address`. The second result is where, which matters for port 0 and for host names.
pub(crate) fn listen(address: &Address) -> Result<(Listener, SocketAddr)> {
    let mut failure = None;
    for candidate in address.resolve(Instant::now() + RESOLVE)? {
        match bind(candidate) {
            Ok(listening) => return Ok(listening),
            Err(error) => failure = failure.or(Some(explain(address, candidate, &error))),
        }
    }
    Err(failure.unwrap_or_else(|| Error::internal(format!("nothing to listen on for {address}"))))
}

fn bind(at: SocketAddr) -> io::Result<(Listener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    // Without it a restarted node would wait a minute for its old connections to be forgotten.
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        // [::] means every interface and both families; a real IPv6 address means only itself.
        socket.set_only_v6(!at.ip().is_unspecified())?;
    }
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    let unknown = || io::Error::other("the system does not say where it listens");
    let local = socket.local_addr()?.as_socket().ok_or_else(unknown)?;
    let sockets = [Some(socket), neighbour::listen(local, BACKLOG)]
        .into_iter()
        .flatten()
        .map(Listening)
        .collect();
    Ok((Listener { sockets }, local))
}

fn explain(address: &Address, at: SocketAddr, error: &io::Error) -> Error {
    let (ip, port) = (at.ip(), at.port());
    let (kind, reason) = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => (
            Kind::Internal,
            format!(
                "port {port} on {ip} is in use by another socket \
                 (choose another address, or stop what listens there)"
            ),
        ),
        Some(libc::EADDRNOTAVAIL) => (
            Kind::Invalid,
            format!("{ip} is not an address of this host (see `ip address` for those that are)"),
        ),
        Some(libc::EACCES) => (
            Kind::Internal,
            format!(
                "this process may not listen on port {port} of {ip} \
                 (ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one)"
            ),
        ),
        Some(libc::EAFNOSUPPORT) => (Kind::Invalid, format!("this host does not speak the protocol of {ip}")),
        _ => (Kind::Internal, error.to_string()),
    };
    Error::new(kind, reason).at(format_args!("cannot listen on {address}"))
}

#[cfg(test)]
#[path = "listen_tests.rs"]
mod tests;
