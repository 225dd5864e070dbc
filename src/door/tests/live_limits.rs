//! What the engine's loop holds strangers to: time and memory.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::harness::*;
use super::live::*;
use crate::door::Limits;
use crate::wire::{Params, Request};

const SHORT: Duration = Duration::from_millis(150);

fn closed_after(client: &mut TcpStream) -> Duration {
    let start = Instant::now();
    assert_eq!(read_to_end(client), b"");
    start.elapsed()
}

/// What the process has, and had at most, in memory, in bytes.
fn memory(key: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn a_started_request_has_a_deadline_and_an_idle_client_has_none() {
    let limits = Limits {
        handshake: SHORT,
        pause: SHORT * 3,
        ..Limits::default()
    };
    let live = Live::new(limits);
    let part = frames(&[query("SELECT 1")]);
    let mut idle = live.opened();
    // In its header, behind it, and in its body.
    for (number, count) in [5, 8, 20].into_iter().enumerate() {
        let mut halting = live.opened();
        halting.write_all(&part[..count]).unwrap();
        let taken = closed_after(&mut halting);
        assert!(taken > SHORT && taken < SHORT * 20, "{taken:?}");
        assert_eq!(live.refused(), number as u64 + 1);
    }
    assert_eq!(ask(&mut idle, query("SELECT 1")), ROWS);
    // Slow, but never for so long.
    for byte in part {
        idle.write_all(&[byte]).unwrap();
        std::thread::sleep(SHORT / 8);
    }
    assert_eq!(answer(&mut idle).0, ROWS);
}

#[test]
fn memory_for_arriving_requests_has_a_limit_and_is_given_back() {
    let limits = Limits {
        arriving: 3 << 20,
        ..Limits::default()
    };
    let live = Live::new(limits);
    let part = [raw(1 << 18, 4, 0, &[]), vec![1; 1 << 20]].concat();
    for _ in 0..3 {
        let mut clients: Vec<_> = (0..4).map(|_| live.opened()).collect();
        let before = live.refused();
        for client in &mut clients {
            let _ = client.write_all(&part);
        }
        wait_until("one is refused", || live.refused() > before);
        let refused = clients.iter_mut().filter_map(|client| {
            client.set_read_timeout(Some(SHORT * 2)).unwrap();
            let mut header = [0; 16];
            client.read_exact(&mut header).ok().map(|()| header)
        });
        let codes: Vec<u64> = refused
            .map(|head| u64::from_le_bytes(*head.last_chunk().unwrap()))
            .collect();
        assert!(!codes.is_empty() && codes.len() < 4, "{codes:?}");
        assert!(codes.iter().all(|code| *code == 7), "{codes:?}");
        drop(clients);
        wait_until("all are gone", || live.door.stats().open == 0);
    }
    // Whole requests do not add up.
    let mut client = live.opened();
    for _ in 0..8 {
        assert_eq!(
            ask(&mut client, query(&format!("SELECT length('{}')", "x".repeat(1 << 20)))),
            ROWS
        );
    }
}

/// The engine rolls back before it closes, and the client goes on sending meanwhile.
#[test]
fn a_flood_inside_a_transaction_is_refused_once() {
    let limits = Limits {
        arriving: 1 << 20,
        ..Limits::default()
    };
    let live = Live::new(limits);
    let exec = |sql: &'static str| Request::ExecSql {
        db: 0,
        sql: sql.as_bytes(),
        params: Params::NONE,
    };
    assert_eq!(ask(&mut live.opened(), exec("CREATE TABLE t(a)")), RESULT);
    for number in 1..=5 {
        let mut client = live.opened();
        assert_eq!(ask(&mut client, exec("BEGIN IMMEDIATE")), RESULT);
        assert_eq!(ask(&mut client, exec("INSERT INTO t VALUES (1)")), RESULT);
        let _ = client.write_all(&[raw(1 << 19, 4, 0, &[]), vec![1; 4 << 20]].concat());
        assert_eq!(failure(&read_to_end(&mut client)).0, 7);
        assert_eq!(live.refused(), number);
    }
    assert_eq!(ask(&mut live.opened(), exec("INSERT INTO t VALUES (2)")), RESULT);
}

#[test]
fn an_announced_gigabyte_costs_nothing() {
    alone("tests::live_limits::an_announced_gigabyte_costs_nothing", || {
        let live = Live::new(Limits::default());
        let mut clients: Vec<_> = (0..20).map(|_| live.opened()).collect();
        let before = memory("VmRSS");
        for part in [raw((1 << 27) - 1, 4, 0, &[1; 100_000]), vec![1; 10]] {
            for client in &mut clients {
                client.write_all(&part).unwrap();
            }
            assert_eq!(ask(&mut live.opened(), query("SELECT 1")), ROWS);
        }
        assert_eq!(live.refused(), 0);
        let grown = memory("VmRSS").saturating_sub(before);
        assert!(grown < 20 << 20, "{grown}");
    });
}

#[test]
#[cfg_attr(sanitized, ignore = "the sanitizer holds back freed memory")]
fn a_slow_reader_gets_everything_and_holds_little() {
    alone(
        "tests::live_limits::a_slow_reader_gets_everything_and_holds_little",
        || {
            let live = Live::new(Limits::default());
            let (mut slow, mut other) = (live.opened(), live.opened());
            let before = memory("VmRSS");
            slow.write_all(&frames(&[query(&kilobytes(96 << 10))])).unwrap();
            slow.peek(&mut [0]).unwrap();
            for _ in 0..100 {
                assert_eq!(ask(&mut other, query("SELECT 1")), ROWS);
            }
            assert!(read_rows(&mut slow) > 96 << 20);
            let grown = memory("VmHWM").saturating_sub(before);
            assert!(grown < 32 << 20, "{grown}");
            assert_eq!(ask(&mut slow, query("SELECT 1")), ROWS);
        },
    );
}

#[test]
#[cfg_attr(sanitized, ignore = "the sanitizer holds back freed memory")]
fn a_large_request_passes_whole_and_its_memory_is_given_back() {
    alone(
        "tests::live_limits::a_large_request_passes_whole_and_its_memory_is_given_back",
        || {
            let live = Live::new(Limits::default());
            let mut client = live.opened();
            let before = memory("VmRSS");
            let large = frames(&[query(&format!("SELECT length('{}') AS n", "x".repeat(100 << 20)))]);
            client.write_all(&large).unwrap();
            drop(large);
            let (kind, body) = answer(&mut client);
            assert_eq!(kind, ROWS);
            let length = (100_u64 << 20).to_le_bytes();
            assert!(body.windows(8).any(|word| word == length));
            assert_eq!(ask(&mut client, query("SELECT 1")), ROWS);
            let grown = memory("VmRSS").saturating_sub(before);
            assert!(grown < 64 << 20, "{grown}");
        },
    );
}
