use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::*;
use crate::net::sys::Events;

fn tcp(epoll: &Epoll) -> (End, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = listener.accept().unwrap().0;
    socket.set_nonblocking(true).unwrap();
    (End::new(socket.into(), 5, epoll).unwrap(), other)
}

fn reports(epoll: &Epoll, wait: u64) -> usize {
    let mut events = Events::with_capacity(4);
    epoll.wait(&mut events, Some(Duration::from_millis(wait))).unwrap();
    events.len()
}

#[test]
fn no_more_is_read_than_is_asked_for() {
    let epoll = Epoll::new().unwrap();
    let (end, mut other) = tcp(&epoll);
    let mut buffer = Vec::with_capacity(100);
    assert_eq!(end.read(&mut buffer, 10), Read::Nothing);
    other.write_all(&[7; 13]).unwrap();
    assert_eq!(reports(&epoll, 10_000), 1);
    assert_eq!((end.read(&mut buffer, 10), buffer.len()), (Read::Some, 10));
    assert_eq!((end.read(&mut buffer, 10), buffer.len()), (Read::Some, 13));
    drop(other);
    assert_eq!(reports(&epoll, 10_000), 1);
    assert_eq!(end.read(&mut buffer, 10), Read::End);
}

#[test]
fn requests_to_the_engine_do_not_wake_the_door_but_the_end_does() {
    let epoll = Epoll::new().unwrap();
    let (end, mut other) = tcp(&epoll);
    end.watch(Interest::END, &epoll).unwrap();
    other.write_all(&[7; 13]).unwrap();
    assert_eq!(reports(&epoll, 50), 0);
    drop(other);
    assert_eq!(reports(&epoll, 10_000), 1);
    assert_eq!(reports(&epoll, 0), 0, "told once");
}

#[test]
fn a_dropped_end_is_the_end_although_a_copy_is_open() {
    use std::io::Read as _;
    let epoll = Epoll::new().unwrap();
    let (end, mut other) = tcp(&epoll);
    let copy = end.copy().unwrap();
    drop(end);
    other.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(other.read(&mut [0]).unwrap(), 0);
    drop(copy);
}
