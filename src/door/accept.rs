//! Taking connections in, also when the process has no descriptors left.

use std::io;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::net::Listening;
use crate::net::sys::{Epoll, EventFd, Interest};

/// How long to leave the queue of waiting connections alone when nothing can be done about it.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening socket, and a descriptor kept for bad times.
pub(super) struct Acceptor {
    listener: Listening,
    token: u64,
    /// Given up to accept, and so to turn away, a connection when the process has no descriptor
    /// left. Otherwise the waiting connection would wake us again and again.
    reserve: Option<EventFd>,
    paused_until: Option<Instant>,
}

/// What one attempt to accept gave.
pub(super) enum Arrival {
    Connection(Socket),
    /// Accepted and closed for want of a descriptor.
    TurnedAway,
    /// Gone before it was accepted.
    Vanished,
    Nothing,
}

impl Acceptor {
    pub(super) fn new(listener: Listening, token: u64, epoll: &Epoll) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        epoll.add(&*listener, token, Interest::READ_LEVEL)?;
        Ok(Self {
            listener,
            token,
            reserve: Some(EventFd::new()?),
            paused_until: None,
        })
    }

    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }

    pub(super) fn accept(&mut self, now: Instant, epoll: &Epoll) -> Arrival {
        match self.listener.accept() {
            Ok((stream, _)) => match stream.set_nonblocking(true) {
                Ok(()) => Arrival::Connection(stream),
                Err(_) => Arrival::Vanished,
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Arrival::Nothing,
            Err(error) => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE) => self.turn_away(now, epoll),
                // Errors of the network of the one connection, which accept(2) passes on, and a
                // peer that gave up.
                Some(
                    libc::ECONNABORTED
                    | libc::EINTR
                    | libc::EPROTO
                    | libc::EPERM
                    | libc::ENETDOWN
                    | libc::ENOPROTOOPT
                    | libc::EHOSTDOWN
                    | libc::ENONET
                    | libc::EHOSTUNREACH
                    | libc::ENETUNREACH
                    | libc::EOPNOTSUPP,
                ) => Arrival::Vanished,
                _ => self.pause(now, epoll),
            },
        }
    }

    fn turn_away(&mut self, now: Instant, epoll: &Epoll) -> Arrival {
        if self.reserve.take().is_some() {
            let accepted = self.listener.accept();
            let turned_away = accepted.is_ok();
            drop(accepted);
            self.reserve = EventFd::new().ok();
            if turned_away {
                return Arrival::TurnedAway;
            }
        }
        self.pause(now, epoll)
    }

    fn pause(&mut self, now: Instant, epoll: &Epoll) -> Arrival {
        if epoll.modify(&*self.listener, self.token, Interest::NOTHING).is_ok() {
            self.paused_until = Some(now + PAUSE);
        }
        Arrival::Nothing
    }

    /// Goes on after a pause that is over.
    pub(super) fn resume(&mut self, now: Instant, epoll: &Epoll) {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            self.reserve = self.reserve.take().or_else(|| EventFd::new().ok());
            if epoll.modify(&*self.listener, self.token, Interest::READ_LEVEL).is_err() {
                self.paused_until = Some(now + PAUSE);
            }
        }
    }
}

#[cfg(test)]
#[path = "accept_tests.rs"]
mod tests;
