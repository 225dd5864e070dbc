//! Bytes in both directions: large, slow, and cut short.

use std::io::{ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use super::harness::*;
use crate::door::Limits;
use crate::net::local_address;
use crate::wire::{Params, Request};

const LARGE: usize = 96 << 20;

fn pattern(position: usize) -> u8 {
    (position % 253) as u8
}

/// Writes `LARGE` bytes as the answer, and notes when nobody takes them.
fn answer_large(stream: &mut UnixStream, log: &Log) {
    stream.read_exact(&mut [0; 24]).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut at = 0;
    while at < LARGE {
        let chunk: Vec<u8> = (at..LARGE.min(at + 50_000)).map(pattern).collect();
        match stream.write(&chunk) {
            Ok(count) => {
                at += count;
                log.written.store(at, Ordering::SeqCst);
                log.blocked.store(false, Ordering::SeqCst);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                log.blocked.store(true, Ordering::SeqCst);
            }
            Err(_) => return,
        }
    }
    let _ = stream.read(&mut [0]);
}

#[test]
fn a_slow_reader_gets_everything_and_holds_little() {
    let setup = Setup::new(Limits::default(), answer_large);
    let mut client = setup.client();
    client.write_all(&hello(&[Request::Leader])).unwrap();
    let log = &setup.engine.log;
    wait_until("the engine is held back", || log.blocked.load(Ordering::SeqCst));
    // The kernel's buffers may take some megabytes, the door only its limit.
    assert!(log.written.load(Ordering::SeqCst) < LARGE / 3);
    let mut buffer = vec![0; 1 << 16];
    let mut at = 0;
    while at < LARGE {
        let count = client.read(&mut buffer).unwrap();
        assert!(count > 0, "ended after {at} bytes");
        for (offset, byte) in buffer[..count].iter().enumerate() {
            assert!(*byte == pattern(at + offset), "wrong byte at {}", at + offset);
        }
        at += count;
    }
    assert_eq!(at, LARGE);
}

#[test]
fn a_client_that_vanishes_in_an_answer_ends_the_engines_connection() {
    let setup = Setup::new(Limits::default(), answer_large);
    let mut client = setup.client();
    client.write_all(&hello(&[Request::Leader])).unwrap();
    client.read_exact(&mut [0; 1000]).unwrap();
    drop(client);
    wait_until("the engine's connection ends", || setup.engine.log.ended() == 1);
    assert!(setup.engine.log.written.load(Ordering::SeqCst) < LARGE);
    wait_until("the door forgets it", || setup.door.stats().open == 0);
}

#[test]
fn a_client_that_leaves_between_requests_ends_the_engines_connection() {
    let setup = Setup::new(Limits::default(), echo);
    setup.round_trip();
    wait_until("the engine's connection ends", || setup.engine.log.ended() == 1);
    wait_until("the door forgets it", || setup.door.stats().open == 0);
}

#[test]
fn a_large_request_passes_whole() {
    let setup = Setup::new(Limits::default(), listen_only);
    let mut client = setup.client();
    let sql = "x".repeat(40 << 20);
    let mut sent = hello(&[Request::Leader]);
    sent.extend(frames(&[Request::ExecSql {
        db: 0,
        sql: sql.as_bytes(),
        params: Params::NONE,
    }]));
    sent.extend(frames(&[Request::Leader]));
    client.write_all(&sent).unwrap();
    wait_until("it is there", || setup.engine.log.received.lock().len() >= sent.len());
    assert!(*setup.engine.log.received.lock() == sent);
    // Again and again on the same connection: nothing of it stays.
    drop(client);
    wait_until("the door forgets it", || setup.door.stats().open == 0);
}

/// Answers and closes.
fn answer_and_close(stream: &mut UnixStream, _: &Log) {
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
    let (listener, name) = unused_name();
    drop(listener);
    let (door, at) = open(&name, Limits::default());
    let mut client = client(at);
    client.write_all(&hello(&[Request::Leader])).unwrap();
    assert_eq!(read_to_end(&mut client), b"");
    wait_until("the door forgets it", || door.stats().open == 0);
}

#[test]
fn a_full_backlog_of_the_engine_delays_and_does_not_fail() {
    let (listener, name) = unused_name();
    drop(listener);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&local_address(&name).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let listener = UnixListener::from(socket);
    let address = SocketAddr::from_abstract_name(&name[1..]).unwrap();
    let filler = UnixStream::connect_addr(&address).unwrap();
    let (door, at) = open(&name, Limits::default());
    let mut clients: Vec<_> = (0..5).map(|_| client(at)).collect();
    for client in &mut clients {
        client.write_all(&hello(&[Request::Leader])).unwrap();
    }
    wait_until("they came in", || door.stats().accepted == 5);
    let patient = std::thread::scope(|scope| {
        let dialling = scope.spawn(|| door.dial(Instant::now() + PATIENCE));
        listener.accept().unwrap();
        drop(filler);
        for _ in 0..6 {
            let (mut stream, _) = listener.accept().unwrap();
            std::thread::spawn(move || echo(&mut stream, &Log::default()));
        }
        dialling.join().unwrap()
    });
    assert!(patient.is_ok(), "{patient:?}");
    for client in &mut clients {
        client.read_exact(&mut [0; 24]).unwrap();
    }
}

#[test]
fn what_the_client_sends_too_much_does_not_cost_it_the_answer() {
    let setup = Setup::new(Limits::default(), answer_large);
    let mut client = setup.client();
    let bad = raw(1, 77, 0, &[0; 100_000]);
    client.write_all(&[hello(&[Request::Leader]), bad].concat()).unwrap();
    wait_until("the second one is refused", || setup.door.stats().refused == 1);
    // Bytes that nobody reads: closing over them would throw away what is on its way.
    client.write_all(&[0; 200_000]).unwrap();
    let mut answer = vec![0; LARGE];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(failure(&read_to_end(&mut client)).0, 1005);
}

/// Answers with more than one turn of a door with small buffers moves, in one go.
fn answer_at_once(stream: &mut UnixStream, log: &Log) {
    stream.read_exact(&mut [0; 24]).unwrap();
    stream.write_all(&[3; 100_000]).unwrap();
    listen_only(stream, log);
}

#[test]
fn what_is_left_of_a_turn_is_not_forgotten() {
    let limits = Limits {
        buffer: 512,
        ..Limits::default()
    };
    let setup = Setup::new(limits, answer_at_once);
    let mut client = setup.client();
    let sent = hello(&[connect(7, "10.0.0.7:9001")]);
    client.write_all(&[&sent[..], &[9; 100_000]].concat()).unwrap();
    client.read_exact(&mut vec![0; 100_000]).unwrap();
    let total = sent.len() - 24 + 100_000;
    wait_until("all is there", || setup.engine.log.received.lock().len() == total);
}

/// Reads the first request, and nothing after it until the test says so.
fn read_late(stream: &mut UnixStream, log: &Log) {
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
    let log = &setup.engine.log;
    wait_until("the engine is busy", || log.blocked.load(Ordering::SeqCst));
    // Ten megabytes, of which the buffers on the way take what they can.
    while (&client).write(&frames(&requests)).is_ok() {}
    drop(client);
    wait_until("the door forgets it", || setup.door.stats().open == 0);
    log.blocked.store(false, Ordering::SeqCst);
    wait_until("the engine's connection ends", || log.ended() == 1);
}
