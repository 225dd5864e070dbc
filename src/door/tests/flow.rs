//! From accept to the handing over, and from the engine's end to the last byte.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::SockRef;

use super::harness::*;
use crate::door::Limits;
use crate::error::{Error, Kind};
use crate::wire::Request;

fn pattern(position: usize) -> u8 {
    (position % 253) as u8
}

#[test]
fn a_client_that_leaves_between_requests_ends_the_engines_connection() {
    let setup = Setup::new(Limits::default(), echo);
    setup.round_trip();
    wait_until("the engine's connection ends", || setup.log.ended() == 1);
    wait_until("the door forgets it", || setup.door.stats().open == 0);
}

/// Answers and closes.
fn answer_and_close(stream: &mut Taken, _: &Log) {
    stream.read_exact(&mut [0; 24]).unwrap();
    let all: Vec<u8> = (0..1_000_000).map(pattern).collect();
    stream.write_all(&all).unwrap();
}

#[test]
fn when_the_engine_closes_the_client_gets_the_rest_and_the_end() {
    let setup = Setup::new(Limits::default(), answer_and_close);
    let mut client = setup.client();
    client
        .write_all(&hello(&[Request::Leader, Request::Leader, Request::Leader]))
        .unwrap();
    let all = read_to_end(&mut client);
    assert_eq!(all.len(), 1_000_000);
    assert!(all.iter().enumerate().all(|(at, byte)| *byte == pattern(at)));
    drop(client);
    wait_until("the door forgets it", || setup.door.stats().open == 0);
}

#[test]
fn without_an_engine_clients_are_closed() {
    let gone = Box::new(|_, _: &[u8], _| Err(Error::new(Kind::Stopped, "the engine is stopped")));
    let (door, at) = open(gone, Limits::default());
    let mut client = client(at);
    client.write_all(&hello(&[Request::Leader])).unwrap();
    assert_eq!(read_to_end(&mut client), b"");
    wait_until("the door forgets it", || door.stats().open == 0);
}

/// Reads the first request, and nothing after it until the test says so.
fn read_late(stream: &mut Taken, log: &Log) {
    stream.read_exact(&mut [0; 24]).unwrap();
    log.blocked.store(true, Ordering::SeqCst);
    wait_until("the test lets the engine read", || !log.blocked.load(Ordering::SeqCst));
    listen_only(stream, log);
}

#[test]
fn a_reset_is_noticed_while_the_engine_is_busy() {
    let setup = Setup::new(Limits::default(), read_late);
    let client = setup.client();
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    client.set_nonblocking(true).unwrap();
    let sql = "x".repeat(50_000);
    let requests = vec![
        Request::Prepare {
            db: 0,
            sql: sql.as_bytes()
        };
        200
    ];
    (&client).write_all(&hello(&[Request::Leader])).unwrap();
    let log = &setup.log;
    wait_until("the engine is busy", || log.blocked.load(Ordering::SeqCst));
    // Ten megabytes, of which the buffers on the way take what they can.
    while (&client).write(&frames(&requests)).is_ok() {}
    drop(client);
    wait_until("the door forgets it", || setup.door.stats().open == 0);
    log.blocked.store(false, Ordering::SeqCst);
    wait_until("the engine's connection ends", || log.ended() == 1);
}
