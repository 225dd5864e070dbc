use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::*;
use crate::net::{Address, Stream};

const BACKLOG: i32 = 1;

/// A port of its own, held by a listener that nobody accepts from.
fn port() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

fn dial(at: SocketAddr) -> Stream {
    let address = Address::parse_peer(&at.to_string(), "address").unwrap();
    Stream::connect(&address, Instant::now() + Duration::from_secs(10)).unwrap()
}

#[test]
fn a_client_takes_the_way_of_neighbours() {
    let (port, at) = port();
    port.set_nonblocking(true).unwrap();
    let neighbours = listen(at, BACKLOG).unwrap();
    let stream = dial(at);
    let (mut other, _) = neighbours.accept().unwrap();
    stream
        .write_all(b"x", Instant::now() + Duration::from_secs(10))
        .unwrap();
    other.read_exact(&mut [0]).unwrap();
    other.write_all(b"y").unwrap();
    assert_eq!(
        stream
            .read_some(&mut [0; 8], Instant::now() + Duration::from_secs(10))
            .unwrap(),
        1
    );
    assert!(port.accept().is_err(), "it came by the port");
}

#[test]
fn the_port_does_where_nobody_listens_beside_it_or_the_queue_is_full() {
    let (port, at) = port();
    let _stream = dial(at);
    port.accept().unwrap();
    let _neighbours = listen(at, 0).unwrap();
    let waiting: Vec<_> = (0..64).map_while(|_| connect(at)).collect();
    assert!(waiting.len() < 64, "a queue without an end");
    let _stream = dial(at);
    port.accept().unwrap();
}

#[test]
fn a_name_is_for_one_and_for_loopback_only() {
    let (_port, at) = port();
    let first = listen(at, BACKLOG).unwrap();
    assert!(listen(at, BACKLOG).is_none());
    drop(first);
    assert!(connect(at).is_none());
    listen(at, BACKLOG).unwrap();
    for elsewhere in ["10.0.0.1:9001", "0.0.0.0:9001", "[::]:9001", "[fe80::1]:9001"] {
        assert!(listen(elsewhere.parse().unwrap(), BACKLOG).is_none(), "{elsewhere}");
    }
    assert!(listen("[::1]:1".parse().unwrap(), BACKLOG).is_some());
}
