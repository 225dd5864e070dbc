//! Ways by which requests arrive at the engine: in pieces, several at once, by the socket beside the port.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::harness::*;
use super::live::*;
use crate::door::Limits;
use crate::wire::{Params, Request};

const SHORT: Duration = Duration::from_millis(150);

fn exec(sql: &str) -> Request<'_> {
    Request::ExecSql {
        db: 0,
        sql: sql.as_bytes(),
        params: Params::NONE,
    }
}

/// Writes, whose answers take their time, and reads, shorter and longer than what is read ahead.
fn texts() -> Vec<String> {
    let lengths = [0, 1, 400, 470, 480, 490, 500, 2000, 9000, 3];
    lengths
        .iter()
        .flat_map(|length| {
            let padding = "x".repeat(*length);
            [
                format!("INSERT INTO t VALUES ('{padding}')"),
                format!("SELECT '{padding}', count(*) FROM t"),
            ]
        })
        .collect()
}

fn all_are_answered(client: &mut TcpStream, texts: &[String], before: i64) {
    for (number, text) in texts.iter().enumerate() {
        let (kind, body) = answer(client);
        assert_eq!(kind, if text.starts_with("INSERT") { RESULT } else { ROWS }, "{number}");
        if kind == ROWS {
            let count = before + i64::try_from(number).unwrap() / 2 + 1;
            let found = body.windows(8).any(|word| word == count.to_le_bytes());
            assert!(found, "{count} is not in the answer to {text:.60}");
        }
    }
}

#[test]
fn requests_arrive_in_any_pieces() {
    let live = Live::new(Limits::default());
    let texts = texts();
    let mut bytes = Vec::new();
    for text in &texts {
        let request = if text.starts_with("INSERT") {
            exec(text)
        } else {
            query(text)
        };
        bytes.extend(frames(&[request]));
    }
    assert_eq!(ask(&mut live.opened(), exec("CREATE TABLE t(a)")), RESULT);
    let mut rows = 0;
    for neighbour in [false, true] {
        for piece in [1, 7, 8, 9, 24, 511, 512, 513, 520, 4096, bytes.len()] {
            let mut client = if neighbour { live.neighbour() } else { live.opened() };
            for piece in bytes.chunks(piece) {
                client.write_all(piece).unwrap();
            }
            all_are_answered(&mut client, &texts, rows);
            rows += i64::try_from(texts.len()).unwrap() / 2;
        }
    }
}

#[test]
fn a_neighbour_is_checked_like_everybody() {
    let live = Live::new(Limits::default());
    let mut neighbour = live.neighbour();
    assert_eq!(ask(&mut neighbour, query("SELECT 1")), ROWS);
    // One request at once with the first half of another, which is none.
    let bad = raw(1, 77, 0, &[0; 8]);
    neighbour
        .write_all(&[frames(&[query("SELECT 1")]), bad].concat())
        .unwrap();
    assert_eq!(answer(&mut neighbour).0, ROWS);
    failure(&read_to_end(&mut neighbour));
    assert_eq!(live.refused(), 1);
}

#[test]
fn a_neighbour_that_takes_no_answer_does_not_stay() {
    let limits = Limits {
        pause: SHORT,
        unread: SHORT * 3,
        ..Limits::default()
    };
    let live = Live::new(limits);
    let (mut lazy, mut slow) = (live.neighbour(), live.neighbour());
    lazy.write_all(&frames(&[query(&kilobytes(16 << 10))])).unwrap();
    slow.write_all(&frames(&[query(&kilobytes(16 << 10))])).unwrap();
    let began = Instant::now();
    // Slow, but never for so long.
    while live.refused() == 0 || began.elapsed() < SHORT * 8 {
        assert_eq!(answer(&mut slow).0, ROWS);
        thread::sleep(SHORT / 8);
        assert!(began.elapsed() < PATIENCE);
    }
    assert!(read_rows(&mut slow) > 0);
    assert_eq!(live.refused(), 1);
}
