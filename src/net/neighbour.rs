//! The shorter way between two processes of one host: beside its port on a loopback address a node listens on a Unix socket,
//! and the clients of this library try that first. TCP over loopback takes half as long again. (docs/adr/0010)
//!
//! The socket's name is made of the address, in the namespace that vanishes with its owner; it is nothing to clean up, and
//! only processes that share the loopback device see it.

use std::net::SocketAddr;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::net::sys;

/// The socket beside a port. None: nobody on another host could be taken for a neighbour, and so nobody is; or the name is in
/// use, or not allowed here. The port alone does as well.
pub(super) fn listen(at: SocketAddr, backlog: i32) -> Option<Socket> {
    let name = name(at)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).ok()?;
    socket.bind(&name).ok()?;
    socket.listen(backlog).ok()?;
    Some(socket)
}

/// Connects if a node of the same user, or of root, listens there. Anybody may take a name that is free.
pub(super) fn connect(to: SocketAddr) -> Option<Socket> {
    let name = name(to)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).ok()?;
    // With a full queue it would wait for as long as the node is busy.
    socket.set_nonblocking(true).ok()?;
    socket.connect(&name).ok()?;
    let owner = sys::peer_user(&socket)?;
    if owner != 0 && owner != sys::user() {
        return None;
    }
    socket.set_nonblocking(false).ok()?;
    Some(socket)
}

fn name(address: SocketAddr) -> Option<SockAddr> {
    let ip = address.ip().to_canonical();
    let text = format!("\0dqlitepy/{}", SocketAddr::new(ip, address.port()));
    ip.is_loopback().then(|| SockAddr::unix(text).ok()).flatten()
}

#[cfg(test)]
#[path = "neighbour_tests.rs"]
mod tests;
