//! What passes, and what does not.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::harness::*;
use crate::door::Limits;
use crate::wire::{self, Request};

fn setup() -> Setup {
    Setup::new(Limits::default(), echo)
}

/// Sends `bytes` and expects a FAILURE with `code`, the end, and that the engine never heard of it.
fn refused(bytes: &[u8], code: u64, says: &str) {
    let setup = setup();
    let mut client = setup.client();
    client.write_all(bytes).unwrap();
    let start = Instant::now();
    let (got, message) = failure(&read_to_end(&mut client));
    assert!(start.elapsed() < Limits::default().linger / 2, "the end comes at once");
    assert_eq!(got, code, "{message}");
    assert!(message.contains(says), "{message}");
    assert_eq!(setup.log.connections(), 0);
    assert_eq!(setup.door.stats().refused, 1);
}

fn after_version(frame: &[u8]) -> Vec<u8> {
    [&wire::VERSION.to_le_bytes()[..], frame].concat()
}

#[test]
fn a_request_and_its_answer_pass_byte_for_byte() {
    let setup = setup();
    for version in [wire::VERSION, wire::VERSION_LEGACY] {
        let mut client = setup.client();
        let mut sent = version.to_le_bytes().to_vec();
        sent.extend(frames(&[Request::Leader]));
        client.write_all(&sent).unwrap();
        let mut got = vec![0; sent.len()];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, sent);
        let next = frames(&[Request::Prepare {
            db: 0,
            sql: b"SELECT 1",
        }]);
        client.write_all(&next).unwrap();
        let mut got = vec![0; next.len()];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, next);
        let mut all = setup.log.received.lock();
        assert_eq!(*all, [sent, next].concat());
        all.clear();
    }
    assert_eq!(setup.door.stats().refused, 0);
}

#[test]
fn the_engine_hears_of_a_dribbled_request_only_when_it_is_whole() {
    let setup = setup();
    let mut client = setup.client();
    let sent = hello(&[
        Request::Prepare {
            db: 0,
            sql: b"CREATE TABLE t (a, b, c)",
        },
        Request::Leader,
    ]);
    let (first, last) = sent.split_at(sent.len() - frames(&[Request::Leader]).len() - 1);
    for byte in first {
        client.write_all(&[*byte]).unwrap();
    }
    setup.round_trip();
    assert_eq!(setup.log.connections(), 1, "that of the round trip");
    setup.log.received.lock().clear();
    for byte in last {
        client.write_all(&[*byte]).unwrap();
    }
    let mut got = vec![0; sent.len()];
    client.read_exact(&mut got).unwrap();
    assert_eq!(got, sent);
    assert_eq!(*setup.log.received.lock(), sent);
}

#[test]
fn pipelined_requests_pass_in_order() {
    let setup = setup();
    let mut client = setup.client();
    let texts: Vec<String> = (0..500).map(|n| format!("SELECT {n}, '{}'", "x".repeat(n))).collect();
    let requests: Vec<_> = texts
        .iter()
        .map(|text| Request::Prepare {
            db: 0,
            sql: text.as_bytes(),
        })
        .collect();
    let sent = hello(&requests);
    let mut writer = client.try_clone().unwrap();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&copy).unwrap());
    let mut got = vec![0; sent.len()];
    client.read_exact(&mut got).unwrap();
    writing.join().unwrap();
    assert!(got == sent);
}

#[test]
fn a_request_of_no_words_is_refused() {
    refused(&after_version(&raw(0, 0, 0, &[])), 1005, "LEADER");
}

#[test]
fn an_unknown_request_is_refused() {
    refused(
        &after_version(&raw(1, 77, 0, &[0; 8])),
        1005,
        "unrecognized request type",
    );
}

#[test]
fn a_request_that_would_abort_the_engine_is_refused() {
    refused(&after_version(&raw(1, 18, 0, &9_u64.to_le_bytes())), 15, "DESCRIBE");
}

#[test]
fn a_header_of_two_gib_or_more_is_refused_at_once() {
    refused(&after_version(&raw(1 << 28, 4, 0, &[])), 1005, "PREPARE");
    refused(&after_version(&raw(u32::MAX, 4, 0, &[])), 1005, "PREPARE");
}

#[test]
fn a_first_request_longer_than_a_name_is_refused_at_once() {
    refused(&after_version(&raw(1 << 14, 4, 0, &[])), 18, "at most 65536");
}

#[test]
fn a_stranger_is_closed_without_a_word() {
    let setup = setup();
    for word in [0_u64, 2, u64::from_le_bytes(*b"GET / HT")] {
        let mut client = setup.client();
        client.write_all(&word.to_le_bytes()).unwrap();
        assert_eq!(read_to_end(&mut client), b"");
    }
    assert_eq!(setup.log.connections(), 0);
    assert_eq!(setup.door.stats().refused, 3);
}

#[test]
fn a_link_passes_only_if_the_node_expects_it() {
    let setup = setup();
    for (id, address) in [(8, "10.0.0.7:9001"), (7, "10.0.0.8:9001")] {
        let mut client = setup.client();
        client.write_all(&hello(&[connect(id, address)])).unwrap();
        assert_eq!(read_to_end(&mut client), b"");
    }
    assert_eq!((setup.log.connections(), setup.door.stats().refused), (0, 2));

    let mut peer = setup.client();
    let sent = hello(&[connect(7, "10.0.0.7:9001")]);
    peer.write_all(&sent).unwrap();
    let mut got = vec![0; sent.len()];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(got, sent);
    // From here on bytes are bytes: not one of these would pass as a request.
    let raft: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut writer = peer.try_clone().unwrap();
    let copy = raft.clone();
    let writing = std::thread::spawn(move || writer.write_all(&copy).unwrap());
    let mut got = vec![0; raft.len()];
    peer.read_exact(&mut got).unwrap();
    writing.join().unwrap();
    assert!(got == raft);
    assert_eq!(setup.door.stats().refused, 2);
}

/// Answers only once `blocked` is cleared, and notes the end of the requests, but only after the
/// answer.
fn late(stream: &mut Taken, log: &Log) {
    let mut first = [0; 24];
    stream.read_exact(&mut first).unwrap();
    log.blocked.store(true, Ordering::SeqCst);
    wait_until("the test lets the engine answer", || {
        !log.blocked.load(Ordering::SeqCst)
    });
    let _ = stream.write_all(&first);
    let _ = stream.read_to_end(&mut log.received.lock());
}

#[test]
fn a_client_that_sends_no_more_still_gets_its_answer() {
    let setup = Setup::new(Limits::default(), late);
    let mut client = setup.client();
    let sent = hello(&[Request::Leader]);
    client.write_all(&sent).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    wait_until("the request is there", || setup.log.blocked.load(Ordering::SeqCst));
    setup.log.blocked.store(false, Ordering::SeqCst);
    assert_eq!(read_to_end(&mut client), sent);
    wait_until("all is closed", || {
        setup.door.stats().open == 0 && setup.log.ended() == 1
    });
}

#[test]
fn the_failure_arrives_although_the_client_goes_on_sending() {
    let setup = setup();
    let mut client = setup.client();
    client.write_all(&after_version(&raw(u32::MAX, 8, 0, &[]))).unwrap();
    let _ = client.write_all(&vec![7; 2_000_000]);
    assert_eq!(failure(&read_to_end(&mut client)).0, 1005);
}
