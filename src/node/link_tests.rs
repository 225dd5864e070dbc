//! What whoever speaks for a member may send to the others: none of it costs a node, or a row.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::failover_tests::Cluster;
use super::tests::{instance, wait_until};
use super::*;
use crate::wire::Request;
use crate::wire::link::tests::{self as link, *};

/// A candidate's request that deposes the leader.
const DISRUPT: u64 = 1;

/// Each is sent on a link of its own. `term` and `last` are the receiver's.
fn forged(peer: u64, term: u64, last: u64, leads: bool) -> Vec<(&'static str, Vec<u8>)> {
    let next = term + 1;
    let mut all = link::torn(term, last);
    if leads {
        // Whoever follows in this term would have to believe it.
        let good = database(4096, 0, 4096);
        all.push((
            "a leader's snapshot of the same term",
            snapshot(term, (last + 50, term), (1, &members()), &good),
        ));
    }
    all.extend([
        ("a leader of the same term", entries(term, (last, term), &[])),
        ("another past", entries(term, (1, term + 9), &[])),
        (
            "another first entry",
            entries(next, (0, 0), &[(next, CHANGE, members())]),
        ),
        (
            "another's vote",
            message(REQUEST_VOTE, &words(&[next, peer + 7, last + 9, next, DISRUPT])),
        ),
        (
            "nobody's vote",
            message(REQUEST_VOTE, &words(&[next, 0, last + 9, next, DISRUPT])),
        ),
        (
            "the last term",
            message(REQUEST_VOTE, &words(&[u64::MAX, peer, last, term, DISRUPT])),
        ),
        ("the last term of a leader", entries(u64::MAX, (last, term), &[])),
        (
            "the last term of a follower",
            message(APPEND_ENTRIES_RESULT, &words(&[u64::MAX, 0, last, 0])),
        ),
        ("a promise", message(REQUEST_VOTE_RESULT, &words(&[term + 5, 1, 1]))),
        (
            "a rejection of everything",
            message(APPEND_ENTRIES_RESULT, &words(&[term, u64::MAX, u64::MAX, u64::MAX])),
        ),
        ("the lead, in no time", message(TIMEOUT_NOW, &words(&[0, 0, 0]))),
        ("entries of gigabytes", {
            let lengths = [next, COMMAND | 0xffff_fff8 << 32].repeat(8);
            message(
                APPEND_ENTRIES,
                &[words(&[next, last, term, last, 8]), words(&lengths)].concat(),
            )
        }),
        ("a header without end", words(&[APPEND_ENTRIES, u64::MAX])),
        ("a header of megabytes", words(&[APPEND_ENTRIES, 5 << 20])),
        ("no type", message(0, &[0; 40])),
        ("an unknown type", message(12, &[0; 40])),
        ("a type of 64 bits", message(u64::MAX, &[0; 40])),
    ]);
    all
}

/// As a client that knows the members' ids and addresses opens it.
fn send(node: &Node, id: u64, address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(&instance(node).me().address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut hello = 1_u64.to_le_bytes().to_vec();
    Request::Connect {
        id,
        address: address.as_bytes(),
    }
    .encode(&mut hello);
    // It may be closed already for what came first.
    let _ = stream.write_all(&hello).and_then(|()| stream.write_all(bytes));
    match stream.read(&mut [0; 8]) {
        Ok(0) => {}
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset) => {}
        other => panic!("a link answers: {other:?}"),
    }
}

fn write_until(session: &SharedSession, stop: &AtomicBool) -> u64 {
    let mut kept = 0;
    while !stop.load(Ordering::Relaxed) {
        // Who knows whether one that failed was applied; none of these is counted.
        kept += u64::from(session.exec("INSERT INTO t VALUES (1)").is_ok());
    }
    kept
}

#[test]
fn what_speaks_for_a_member_costs_no_node_and_no_row() {
    let cluster = Cluster::with("forged", |config| config.options.network_latency_ms = Some(20));
    let session = cluster.nodes[0].1.open_session("test.db", Arc::default()).unwrap();
    session.exec("CREATE TABLE t(a)").unwrap();
    let stop = AtomicBool::new(false);
    let kept = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_until(&session, &stop));
        for (at, (_, node)) in cluster.nodes.iter().enumerate() {
            let peer = (at + 1) % cluster.nodes.len();
            let (id, address) = (peer as u64 + 1, &cluster.nodes[peer].0);
            let mut next = 0;
            loop {
                let now = instance(node).status().unwrap();
                let Some((what, bytes)) = forged(id, now.term, now.last_index, now.leads).into_iter().nth(next) else {
                    break;
                };
                next += 1;
                send(node, id, address, &bytes);
                if let Err(error) = instance(node).watch().check() {
                    stop.store(true, Ordering::Relaxed);
                    panic!("{what}: {error}");
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    assert!(kept > 0);
    for (_, node) in &cluster.nodes {
        instance(node).watch().check().unwrap();
        node.open_db("test.db").unwrap();
        wait_until("a leader", || node.exec("INSERT INTO t VALUES (2)").is_ok());
        let held = super::tests::rows(node, "SELECT count(*) AS n FROM t WHERE a = 1");
        let held: u64 = held.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        assert!(held >= kept, "{held} of {kept} rows");
    }
}
