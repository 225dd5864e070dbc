//! What a session makes of answers that come late, in the middle, doubled or not at all: leaders that say what a test wants.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::*;
use crate::client::fake_tests::{failure, message, number, text};
use crate::db::shared::tests::one;
use crate::limits::Timeout;
use crate::net::parse_csv;
use crate::wire::{Header, Request};

pub(super) const COMPLETE: u64 = u64::MAX;
pub(super) const MORE: u64 = 0xeeee_eeee_eeee_eeee;

pub(super) const NUMBERS: &str = "SELECT last_insert_rowid(), changes()";
pub(super) const QUESTION: &str = "RELEASE dqlitepy_nowhere";

/// What a leader answers to a request of its connection 0, 1, ... under a condition (`When`); without an answer it closes that.
type Script = dyn Fn(usize, &Request<'_>, u8) -> Option<Vec<u8>> + Send + Sync;

/// A leader that looks at no condition.
fn leader(script: impl Fn(usize, &Request<'_>) -> Option<Vec<u8>> + Send + Sync + 'static) -> String {
    leader_when(move |connection, request, _| script(connection, request))
}

/// A leader at an address of its own, for as long as the test runs.
pub(super) fn leader_when(
    script: impl Fn(usize, &Request<'_>, u8) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (script, own): (Arc<Script>, _) = (Arc::new(script), address.clone());
    thread::spawn(move || {
        // Who only asks for the leader is not counted.
        let sessions = Arc::new(Mutex::new(0));
        for stream in listener.incoming() {
            let (script, own, sessions) = (Arc::clone(&script), own.clone(), Arc::clone(&sessions));
            thread::spawn(move || serve(stream.unwrap(), &own, &sessions, &*script));
        }
    });
    address
}

fn serve(mut stream: TcpStream, address: &str, sessions: &Mutex<usize>, script: &Script) {
    let mut word = [0; 8];
    let mut number_of_session = 0;
    let _ = stream.read_exact(&mut word);
    while stream.read_exact(&mut word).is_ok() {
        let header = Header::parse(&word);
        let mut body = vec![0; header.body_len() as usize];
        stream.read_exact(&mut body).unwrap();
        let answer = match Request::decode(header, &body).unwrap() {
            Request::Leader => Some(message(1, |out| {
                number(1, out);
                text(address, out);
            })),
            Request::Open { .. } => {
                let mut sessions = sessions.lock();
                number_of_session = *sessions;
                *sessions += 1;
                Some(message(4, |out| number(0, out)))
            }
            request => script(number_of_session, &request, word[6]),
        };
        let Some(answer) = answer else { return };
        let _ = stream.write_all(&answer);
    }
}

pub(super) fn session(address: &str, timeout_ms: u32) -> Arc<SharedSession> {
    let connector = Arc::new(Connector::new(None, parse_csv(address).unwrap()));
    let timeout = Timeout::new(&limits::NODE_CALL);
    timeout.set(timeout_ms);
    Arc::new(SharedSession::open("test.db", connector, Arc::default(), timeout).unwrap())
}

pub(super) fn sql<'a>(request: &Request<'a>) -> &'a str {
    match *request {
        Request::ExecSql { sql, .. } | Request::QuerySql { sql, .. } | Request::Prepare { sql, .. } => {
            std::str::from_utf8(sql).unwrap()
        }
        _ => "",
    }
}

pub(super) fn result(rows_affected: u64) -> Vec<u8> {
    message(6, |out| {
        number(7, out);
        number(rows_affected, out);
    })
}

/// A part of rows with columns `a`, `b`, ... of integers.
pub(super) fn rows(columns: usize, values: &[u64], end: u64) -> Vec<u8> {
    message(7, |out| {
        number(columns as u64, out);
        for name in ["a", "b", "c"].iter().take(columns) {
            text(name, out);
        }
        for row in values.chunks(columns) {
            number((0..columns).map(|column| 1 << (4 * column)).sum(), out);
            row.iter().for_each(|value| number(*value, out));
        }
        number(end, out);
    })
}

fn prepared() -> Vec<u8> {
    statement(0, 0)
}

/// A statement that was prepared, with so many parameters.
pub(super) fn statement(id: u64, parameters: u64) -> Vec<u8> {
    message(5, |out| {
        number(id << 32, out);
        number(parameters, out);
    })
}

/// Holds a script up until the test lets it go on.
fn gate() -> (Sender<()>, impl Fn()) {
    let (open, opened) = channel();
    let opened = Mutex::new(opened);
    (open, move || opened.lock().recv().unwrap_or_default())
}

#[test]
fn numbers_that_come_late_are_no_answer_to_the_next_statement() {
    for inside in [false, true] {
        let (open, wait) = gate();
        let address = leader(move |_, request| match (request, sql(request)) {
            (Request::Prepare { .. }, _) => Some(prepared()),
            (Request::Query { .. }, _) => Some(rows(1, &[5], COMPLETE)),
            (_, NUMBERS) => {
                wait();
                Some(rows(2, &[111, 222], COMPLETE))
            }
            (Request::QuerySql { .. }, _) => Some(rows(1, &[42], COMPLETE)),
            _ => Some(result(0)),
        });
        let session = session(&address, 300);
        if inside {
            session.exec("BEGIN").unwrap();
        }
        // It is done, whatever becomes of its numbers.
        session.exec("INSERT INTO t VALUES (5) RETURNING a").unwrap();
        open.send(()).unwrap();
        if inside {
            assert_eq!(session.commit().unwrap_err().kind(), Kind::TransactionLost);
            session.rollback().unwrap();
        }
        assert_eq!(one(&session, "SELECT 42"), 42);
    }
}

#[test]
fn rows_of_an_attempt_that_failed_are_not_among_those_of_the_next() {
    let again = |code: u64| {
        let address = leader(move |connection, request| match request {
            Request::Prepare { .. } => Some(prepared()),
            _ if connection == 0 => {
                let mut answer = rows(1, &[1, 2], MORE);
                answer.extend(failure(code, "not now"));
                Some(answer)
            }
            _ => Some(rows(1, &[1, 2, 3], COMPLETE)),
        });
        let connector = Arc::new(Connector::new(None, parse_csv(&address).unwrap()));
        let deadline = Instant::now() + Duration::from_secs(2);
        let busy = Duration::from_secs(1);
        Database::open("test.db", connector, Arc::default(), busy, deadline).unwrap()
    };
    let deadline = || Instant::now() + Duration::from_secs(2);
    let whole = r#"[{"a":1},{"a":2},{"a":3}]"#;
    for code in [10250, 12, 5] {
        let database = again(code);
        let kind = |sql| database.query(sql, deadline()).map_err(|error| error.kind());
        let expected = if code == 5 { Kind::Sql } else { Kind::Retry };
        assert_eq!(kind("SELECT a FROM t"), Err(expected), "{code}");
        assert_eq!(kind("SELECT a FROM t"), Ok(whole.into()), "{code}");
        let error = again(code)
            .query("INSERT INTO t SELECT a FROM t RETURNING a", deadline())
            .unwrap_err();
        let expected = if code == 5 { Kind::Sql } else { Kind::Unknown };
        assert_eq!(error.kind(), expected, "{error}");
    }
}

/// What a leader of another make keeps, who looks at no condition.
#[derive(Default)]
struct Foreign {
    inside: bool,
    locked: bool,
    open: Vec<String>,
    kept: Vec<String>,
}

impl Foreign {
    fn answer(&mut self, sql: &str) -> Vec<u8> {
        match sql {
            QUESTION => failure(1, "no such savepoint: dqlitepy_nowhere"),
            "BEGIN IMMEDIATE" if self.locked => {
                self.locked = false;
                failure(5, "database is locked")
            }
            "BEGIN" | "BEGIN IMMEDIATE" if self.inside => failure(1, "cannot start a transaction within a transaction"),
            "BEGIN" | "BEGIN IMMEDIATE" => {
                self.inside = true;
                result(0)
            }
            "ROLLBACK" | "COMMIT" if !self.inside => failure(1, "no transaction is active"),
            "ROLLBACK" | "COMMIT" => {
                let open = std::mem::take(&mut self.open);
                self.kept.extend(open.into_iter().filter(|_| sql == "COMMIT"));
                self.inside = false;
                result(0)
            }
            _ if sql.starts_with("SELECT") => rows(1, &[0], COMPLETE),
            _ => {
                let into = if self.inside { &mut self.open } else { &mut self.kept };
                into.push(sql.to_owned());
                result(1)
            }
        }
    }
}

#[test]
fn a_group_that_meets_another_leader_asks_it_again_whether_it_heeds_conditions() {
    let foreign = Arc::new(Mutex::new(Foreign {
        locked: true,
        ..Foreign::default()
    }));
    let other = Arc::clone(&foreign);
    let address = leader(move |connection, request| {
        Some(match (connection, sql(request)) {
            (0, QUESTION) => failure(12, "not wanted in this state of the transaction"),
            (0, _) => failure(10250, "not leader"),
            (_, sql) => other.lock().answer(sql),
        })
    });
    let connector = Arc::new(Connector::new(None, parse_csv(&address).unwrap()));
    let mut session = Session::new(connector, "test.db".to_owned(), Arc::default());
    session.set_busy(Duration::from_secs(2));
    let inserts = ["INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)"];
    let done = group::run(&mut session, &inserts, Instant::now() + Duration::from_secs(5));
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    assert_eq!(foreign.lock().kept, inserts);
}

#[test]
fn a_transaction_of_which_it_cannot_be_told_whether_it_is_open_is_lost() {
    let foreign = Arc::new(Mutex::new(Foreign::default()));
    let other = Arc::clone(&foreign);
    let address = leader(move |_, request| {
        let mut state = other.lock();
        Some(match sql(request) {
            // As ON CONFLICT ROLLBACK has it.
            "INSERT INTO t VALUES (1)" => {
                state.inside = false;
                failure(2067, "UNIQUE constraint failed: t.a")
            }
            "BEGIN" => failure(5, "checkpoint in progress"),
            sql => state.answer(sql),
        })
    });
    let session = session(&address, 2000);
    session.exec("BEGIN IMMEDIATE").unwrap();
    assert_eq!(
        session.exec("INSERT INTO t VALUES (1)").unwrap_err().sqlite_code(),
        2067
    );
    let error = session.exec("INSERT INTO t VALUES (2)").map(|_| ());
    assert_eq!(error.map_err(|error| error.kind()), Err(Kind::TransactionLost));
    session.rollback().unwrap();
    assert_eq!(foreign.lock().kept, [""; 0]);
}

#[test]
fn an_answer_that_makes_no_sense_leaves_open_whether_a_write_was_made() {
    let garbled = || {
        message(7, |out| {
            number(1, out);
            text("a", out);
            // No value has this type.
            number(6, out);
            number(COMPLETE, out);
        })
    };
    let address = leader(move |_, request| {
        Some(match request {
            Request::Prepare { .. } => prepared(),
            Request::Query { .. } | Request::QuerySql { .. } => garbled(),
            _ => message(8, |out| number(0, out)),
        })
    });
    let session = session(&address, 2000);
    let kind = |sql: &str| session.exec(sql).map(|_| ()).map_err(|error| error.kind());
    assert_eq!(kind("INSERT INTO t VALUES (1)"), Err(Kind::Unknown));
    assert_eq!(kind("INSERT INTO t VALUES (1) RETURNING a"), Err(Kind::Unknown));
    assert_eq!(kind("SELECT a FROM t"), Err(Kind::Internal));
    let step = |sql: &str| session.query(sql).unwrap().step().unwrap_err().kind();
    assert_eq!(step("INSERT INTO t VALUES (1) RETURNING a"), Kind::Unknown);
    assert_eq!(step("SELECT a FROM t"), Kind::Internal);
}

#[test]
fn what_nobody_asked_for_is_no_answer() {
    let address = leader(move |connection, request| match (connection, sql(request)) {
        (0, "SELECT 1") => {
            let mut answer = rows(1, &[1], COMPLETE);
            answer.extend(rows(1, &[666], COMPLETE));
            Some(answer)
        }
        _ => Some(rows(1, &[42], COMPLETE)),
    });
    let session = session(&address, 2000);
    assert_eq!(one(&session, "SELECT 1"), 1);
    assert_eq!(one(&session, "SELECT 2"), 42);
}

#[test]
fn who_closes_rows_of_a_write_that_another_thread_waits_for_hears_what_became_of_it() {
    let (open, wait) = gate();
    let address = leader(move |_, request| match request {
        Request::Prepare { .. } => Some(prepared()),
        Request::Query { .. } => Some(rows(1, &[1], MORE)),
        _ => {
            wait();
            None
        }
    });
    let session = session(&address, 20_000);
    for (sql, closed) in [
        ("INSERT INTO t VALUES (1) RETURNING a", Err(Kind::Unknown)),
        ("PRAGMA table_info(t)", Err(Kind::Unknown)),
    ] {
        let rows = session.query(sql).unwrap();
        assert_eq!(rows.step().unwrap(), Next::Row);
        thread::scope(|scope| {
            let step = scope.spawn(|| rows.step().unwrap_err().kind());
            // From then on it waits: nobody else has the rows.
            while rows.look(|_| Ok(())).is_ok() {
                thread::yield_now();
            }
            assert_eq!(rows.close().map_err(|error| error.kind()), closed);
            assert_eq!(step.join().unwrap(), Kind::Unknown);
        });
    }
    drop(open);
}

/// Others may be asked meanwhile whether the leader still is one, and need not answer.
#[test]
fn neither_an_answer_nor_an_interrupt_waits_for_those_who_are_silent() {
    let silent: Vec<TcpListener> = (0..12).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let listed = silent.iter().map(|it| it.local_addr().unwrap().to_string());
    let slow = leader(move |_, request| match sql(request) {
        "SELECT 1" => {
            thread::sleep(limits::LEADER_LOOK + limits::QUICK / 2);
            Some(rows(1, &[1], COMPLETE))
        }
        _ => {
            thread::sleep(Duration::from_secs(20));
            None
        }
    });
    let list: Vec<String> = std::iter::once(slow).chain(listed).collect();
    let session = session(&list.join(","), 20_000);
    let few = limits::QUICK * 5;
    let began = Instant::now();
    assert_eq!(one(&session, "SELECT 1"), 1);
    assert!(began.elapsed() < few, "{:?}", began.elapsed());
    thread::scope(|scope| {
        let endless = scope.spawn(|| session.exec("SELECT 2").unwrap_err().kind());
        while !session.wake().is_under_way() {
            thread::yield_now();
        }
        thread::sleep(limits::LEADER_LOOK + limits::QUICK / 2);
        let began = Instant::now();
        session.interrupt().unwrap();
        assert_eq!(endless.join().unwrap(), Kind::Interrupted);
        assert!(began.elapsed() < few, "{:?}", began.elapsed());
    });
}
