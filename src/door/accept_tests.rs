use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::door::tests::alone;
use crate::net::sys::Events;

fn acceptor() -> (Acceptor, Epoll, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let epoll = Epoll::new().unwrap();
    let listening = Socket::from(listener).into();
    (Acceptor::new(listening, 3, &epoll).unwrap(), epoll, at)
}

fn reports(epoll: &Epoll, wait: Duration) -> usize {
    let mut events = Events::with_capacity(4);
    epoll.wait(&mut events, Some(wait)).unwrap();
    events.len()
}

#[test]
fn with_nothing_left_to_give_up_it_pauses() {
    alone("accept::tests::with_nothing_left_to_give_up_it_pauses", || {
        let (mut acceptor, epoll, at) = acceptor();
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        acceptor.reserve = None;
        let mut hoard = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            hoard.push(file);
        }
        client.connect(&at.into()).unwrap();
        assert_eq!(reports(&epoll, Duration::from_secs(10)), 1);
        let now = Instant::now();
        assert!(matches!(acceptor.accept(now, &epoll), Arrival::Nothing));
        assert_eq!(acceptor.paused_until(), Some(now + PAUSE));
        assert_eq!(reports(&epoll, Duration::ZERO), 0, "no waking while it pauses");
        acceptor.resume(now + PAUSE / 2, &epoll);
        assert_eq!(reports(&epoll, Duration::ZERO), 0);
        drop(hoard);
        acceptor.resume(now + PAUSE, &epoll);
        assert!(acceptor.paused_until().is_none() && acceptor.reserve.is_some());
        assert_eq!(reports(&epoll, Duration::from_secs(10)), 1);
        assert!(matches!(acceptor.accept(now, &epoll), Arrival::Connection(_)));
        assert!(matches!(acceptor.accept(now, &epoll), Arrival::Nothing));
    });
}

#[test]
fn the_port_is_free_although_a_copy_of_the_listener_is_open() {
    let (acceptor, _epoll, at) = acceptor();
    let copy = acceptor.listener.try_clone().unwrap();
    let mut waiting = TcpStream::connect(at).unwrap();
    drop(acceptor);
    let ended = waiting.read(&mut [0]);
    assert!(matches!(&ended, Ok(0) | Err(_)), "{ended:?}");
    assert_eq!(TcpStream::connect(at).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let address = crate::net::Address::parse_listen(&at.to_string(), "address").unwrap();
    crate::net::listen(&address).unwrap();
    drop(copy);
}
