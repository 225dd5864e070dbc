use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use super::*;
use crate::net::sys::Events;

fn tcp(epoll: &Epoll) -> (End, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = listener.accept().unwrap().0;
    socket.set_nonblocking(true).unwrap();
    (End::tcp(socket.into(), 5, epoll).unwrap(), other)
}

/// The next report for `end`; none within `wait` gives false.
fn noted(end: &mut End, epoll: &Epoll, wait: u64) -> bool {
    let mut events = Events::with_capacity(4);
    epoll.wait(&mut events, Some(Duration::from_millis(wait))).unwrap();
    if let Some(ready) = events.get(0) {
        end.note(ready);
    }
    events.len() > 0
}

/// Writes until the socket is full.
fn fill(end: &mut End, epoll: &Epoll) -> usize {
    let mut total = 0;
    while end.writable() {
        total += end.write(&vec![1; 1 << 20], epoll).unwrap();
    }
    total
}

#[test]
fn a_slow_reader_has_more_time_than_a_dead_host() {
    let epoll = Epoll::new().unwrap();
    let (mut end, mut other) = tcp(&epoll);
    let timeout = |end: &End| SockRef::from(&end.socket).tcp_user_timeout().unwrap();
    let total = fill(&mut end, &epoll);
    assert_eq!(timeout(&end), Some(UNREAD));
    other.read_exact(&mut vec![0; total]).unwrap();
    while !end.writable() {
        assert!(noted(&mut end, &epoll, 10_000));
    }
    assert_eq!(end.write(&[2], &epoll).unwrap(), 1);
    assert_eq!(timeout(&end), Some(UNACKNOWLEDGED));
}

#[test]
fn a_unix_peer_that_reads_does_not_wake_us_unless_we_wait_for_room() {
    let epoll = Epoll::new().unwrap();
    let (socket, mut other) = UnixStream::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut end = End::unix(socket.into(), 5, &epoll).unwrap();
    for _ in 0..3 {
        end.write(&[1; 100], &epoll).unwrap();
        other.read_exact(&mut [0; 100]).unwrap();
        assert!(!noted(&mut end, &epoll, 0));
    }
    let total = fill(&mut end, &epoll);
    assert!(!noted(&mut end, &epoll, 0));
    other.read_exact(&mut vec![0; total]).unwrap();
    assert!(noted(&mut end, &epoll, 10_000) && end.writable());
    end.write(&[1; 100], &epoll).unwrap();
    while noted(&mut end, &epoll, 0) {}
    other.read_exact(&mut [0; 100]).unwrap();
    assert!(!noted(&mut end, &epoll, 0));
}

#[test]
fn a_short_read_is_the_last_one_until_more_comes() {
    let epoll = Epoll::new().unwrap();
    let (mut end, other) = tcp(&epoll);
    let mut buffer = Vec::with_capacity(100);
    while noted(&mut end, &epoll, 0) {}
    assert!(!end.readable());
    SockRef::from(&other).send(&[7; 130]).unwrap();
    assert!(noted(&mut end, &epoll, 10_000) && end.readable());
    assert_eq!(
        (end.read(&mut buffer), buffer.len(), end.readable()),
        (Read::Some, 100, true)
    );
    buffer.clear();
    assert_eq!(
        (end.read(&mut buffer), buffer.len(), end.readable()),
        (Read::Some, 30, false)
    );
    // With the end already announced, a short read must not hide it.
    SockRef::from(&other).send(&[7; 30]).unwrap();
    drop(other);
    while !end.ending {
        assert!(noted(&mut end, &epoll, 10_000));
    }
    buffer.clear();
    assert_eq!((end.read(&mut buffer), end.readable()), (Read::Some, true));
    assert_eq!(end.read(&mut buffer), Read::End);
}

#[test]
fn a_dropped_end_is_the_end_although_a_copy_is_open() {
    let epoll = Epoll::new().unwrap();
    let (end, mut other) = tcp(&epoll);
    let copy = end.socket.try_clone().unwrap();
    drop(end);
    other.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(other.read(&mut [0]).unwrap(), 0);
    drop(copy);
}
