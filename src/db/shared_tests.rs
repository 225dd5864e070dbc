//! Sessions, statements and rows on a real node of this process.

use std::net::TcpListener;
use std::path::PathBuf;

use super::*;
use crate::db::stream::Next;
use crate::metrics::Count;
use crate::node::Node;
use crate::wire::Value;

pub(crate) struct Fixture {
    pub(crate) node: Node,
    pub(crate) address: String,
    pub(crate) dir: PathBuf,
}

impl Fixture {
    pub(crate) fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("dqlitepy-db-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let node = Node::new(7, &address, dir.to_str().unwrap(), Vec::new()).unwrap();
        node.start().unwrap();
        Self { node, address, dir }
    }

    pub(crate) fn session(&self) -> Arc<SharedSession> {
        Arc::new(self.node.open_session("test.db", Arc::default()).unwrap())
    }

    /// A session that comes through the door, like one from another process.
    pub(crate) fn remote(&self) -> Arc<SharedSession> {
        let addresses = crate::net::parse_csv(&self.address).unwrap();
        let connector = Arc::new(Connector::new(None, addresses));
        Arc::new(
            SharedSession::open(
                "test.db",
                connector,
                Arc::default(),
                limits::Timeout::new(&limits::NODE_CALL),
            )
            .unwrap(),
        )
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.node.destroy();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub(crate) const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
pub(crate) const MANY: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i, 'row ' || i FROM n";

pub(crate) fn integer(rows: &ResultRows) -> i64 {
    assert_eq!(rows.step().unwrap(), Next::Row);
    rows.look(|part| match ResultRows::value(part, 0)? {
        Value::Integer(number) => Ok(number),
        other => panic!("{other:?}"),
    })
    .unwrap()
}

pub(crate) fn one(session: &Arc<SharedSession>, sql: &str) -> i64 {
    let rows = session.query(sql).unwrap();
    let found = integer(&rows);
    assert_eq!(rows.step().unwrap(), Next::Done);
    found
}

pub(crate) fn prepare(session: &Arc<SharedSession>, sql: &str) -> PreparedStatement {
    session.prepare(sql).unwrap().0.unwrap()
}

/// Bytes that were sent on this session, and on others of its node.
fn sent(session: &SharedSession) -> u64 {
    session.metrics().count(Count::BytesSent)
}

/// Waits until so many bytes more were sent than before.
fn until_sent(session: &SharedSession, before: u64, more: usize) {
    let until = Instant::now() + Duration::from_secs(20);
    while sent(session) < before + more as u64 {
        assert!(Instant::now() < until, "{} bytes were sent", sent(session) - before);
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn transactions_of_two_sessions_and_two_databases_are_their_own() {
    let fixture = Fixture::new("own");
    let (one_session, other) = (fixture.session(), fixture.session());
    let elsewhere = Arc::new(fixture.node.open_session("else.db", Arc::default()).unwrap());
    one_session.exec("CREATE TABLE t(a)").unwrap();
    elsewhere.exec("CREATE TABLE t(a)").unwrap();
    one_session.begin(Mode::Immediate).unwrap();
    elsewhere.begin(Mode::Exclusive).unwrap();
    one_session.exec("INSERT INTO t VALUES (1)").unwrap();
    elsewhere.exec("INSERT INTO t VALUES (2), (3)").unwrap();
    assert!(one_session.in_transaction().unwrap() && !other.in_transaction().unwrap());
    assert_eq!(one(&other, "SELECT count(*) FROM t"), 0);
    one_session.savepoint("it's \"a\"").unwrap();
    one_session.exec("DELETE FROM t").unwrap();
    one_session.rollback_to("it's \"a\"").unwrap();
    one_session.release("it's \"a\"").unwrap();
    one_session.commit().unwrap();
    elsewhere.rollback().unwrap();
    assert_eq!(one(&other, "SELECT count(*) FROM t"), 1);
    assert_eq!(one(&elsewhere, "SELECT count(*) FROM t"), 0);
    assert_eq!(one_session.commit().unwrap_err().sqlite_code(), 1);
    assert_eq!(one_session.rollback().unwrap_err().sqlite_code(), 1);
}

#[test]
fn an_interrupt_ends_the_call_and_not_the_session() {
    let fixture = Fixture::new("interrupt");
    let session = fixture.session();
    session.exec("CREATE TABLE t(a)").unwrap();
    session.interrupt().unwrap();
    assert_eq!(one(&session, "SELECT 1"), 1);
    let interrupted = |sql: &str| interrupted(&session, sql.len(), || session.query(sql)).kind();
    assert_eq!(interrupted(ENDLESS), Kind::Interrupted);
    assert_eq!(one(&session, "SELECT 1"), 1);
    assert_eq!(interrupted(&format!("INSERT INTO t {ENDLESS}")), Kind::Unknown);
    assert_eq!(one(&session, "SELECT count(*) FROM t"), 0);
    session.begin(Mode::Deferred).unwrap();
    session.exec("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(interrupted(ENDLESS), Kind::TransactionLost);
    assert_eq!(
        session.exec("INSERT INTO t VALUES (2)").unwrap_err().kind(),
        Kind::TransactionLost
    );
    assert!(session.in_transaction().unwrap());
    session.rollback().unwrap();
    assert_eq!(one(&session, "SELECT count(*) FROM t"), 0);
}

#[test]
fn closing_a_session_ends_its_calls_and_its_transaction() {
    let fixture = Fixture::new("close");
    let (session, other) = (fixture.session(), fixture.session());
    session
        .exec("CREATE TABLE t(a); BEGIN IMMEDIATE; INSERT INTO t VALUES (1)")
        .unwrap();
    let statement = prepare(&session, "SELECT 1");
    let sent = sent(&session);
    std::thread::scope(|scope| {
        let endless = scope.spawn(|| session.query(ENDLESS).err().unwrap());
        until_sent(&session, sent, ENDLESS.len());
        session.close();
        assert_eq!(endless.join().unwrap().kind(), Kind::Shutdown);
    });
    assert_eq!(statement.exec().unwrap_err().kind(), Kind::Misuse);
    assert_eq!(session.exec("SELECT 1").unwrap_err().kind(), Kind::Misuse);
    // The lock is free, and nothing was kept.
    other.exec("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(one(&other, "SELECT count(*) FROM t"), 1);
}

#[test]
fn the_end_of_the_node_is_the_end_of_its_sessions() {
    let fixture = Fixture::new("end");
    let session = fixture.session();
    let rows = session.query(MANY).unwrap();
    let idle = fixture.session();
    let sent = sent(&idle);
    std::thread::scope(|scope| {
        let endless = scope.spawn(|| idle.query(ENDLESS).err().unwrap());
        until_sent(&idle, sent, ENDLESS.len());
        fixture.node.stop().unwrap();
        assert_eq!(endless.join().unwrap().kind(), Kind::Shutdown);
    });
    assert_eq!(idle.exec("SELECT 1").unwrap_err().kind(), Kind::Shutdown);
    let mut error = None;
    for _ in 0..20_001 {
        match rows.step() {
            Ok(next) => assert_eq!(next, Next::Row),
            Err(failure) => {
                error = Some(failure);
                break;
            }
        }
    }
    assert_eq!(error.unwrap().kind(), Kind::Shutdown);
    fixture.node.start().unwrap();
    assert_eq!(one(&fixture.session(), "SELECT 1"), 1);
    assert_eq!(idle.exec("SELECT 1").unwrap_err().kind(), Kind::Shutdown);
}

#[test]
fn writers_wait_for_each_other_instead_of_failing() {
    let fixture = Fixture::new("busy");
    let (one_session, other) = (fixture.session(), fixture.session());
    one_session
        .exec("CREATE TABLE t(a); BEGIN IMMEDIATE; INSERT INTO t VALUES (1)")
        .unwrap();
    other.set_busy_timeout(Duration::ZERO).unwrap();
    other.set_timeout(20_000).unwrap();
    let (sent, insert) = (sent(&other), "INSERT INTO t VALUES (2)");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| other.exec(insert));
        until_sent(&other, sent, insert.len());
        one_session.commit().unwrap();
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(one(&other, "SELECT count(*) FROM t"), 2);
}

/// Runs `body` in another thread and ends its call once that many bytes went out, so that what has no end is under way.
fn interrupted<T: Send>(session: &Arc<SharedSession>, bytes: usize, body: impl FnOnce() -> Result<T> + Send) -> Error {
    let sent = sent(session);
    std::thread::scope(|scope| {
        let call = scope.spawn(body);
        until_sent(session, sent, bytes);
        session.interrupt().unwrap();
        call.join().unwrap().err().unwrap()
    })
}

#[test]
fn an_interrupted_batch_says_so_and_is_kept_nowhere() {
    let fixture = Fixture::new("batchend");
    let session = fixture.session();
    session.exec("CREATE TABLE t(a)").unwrap();
    let insert = prepare(&session, &format!("INSERT INTO t SELECT ({ENDLESS}) WHERE ? > 1"));
    for value in [1, 2, 3] {
        insert.bind(1, Value::Integer(value)).unwrap();
        insert.add_batch().unwrap();
    }
    // The question whether conditions are heeded, and BEGIN; what is endless comes behind them.
    let before = 48 + 40;
    let error = interrupted(&session, before + 1, || insert.exec_batch());
    assert_eq!(error.kind(), Kind::Interrupted, "{error}");
    assert!(!session.in_transaction().unwrap());
    assert_eq!(one(&session, "SELECT count(*) FROM t"), 0);
}

#[test]
fn settings_that_went_with_the_connection_are_told_once() {
    let fixture = Fixture::new("settings");
    let session = fixture.session();
    let lose = || {
        assert_eq!(
            interrupted(&session, ENDLESS.len(), || session.query(ENDLESS)).kind(),
            Kind::Interrupted
        );
    };
    session
        .exec("CREATE TABLE t(a); PRAGMA table_info(t); PRAGMA user_version = 3")
        .unwrap();
    lose();
    assert_eq!(one(&session, "PRAGMA user_version"), 3);
    for sql in ["PRAGMA recursive_triggers = 1", "CREATE TEMP TABLE x(a)"] {
        session.exec(sql).unwrap();
        lose();
        let error = session.exec("INSERT INTO t VALUES (1)").unwrap_err();
        assert_eq!(error.kind(), Kind::SettingsLost, "{error}");
        session.exec("INSERT INTO t VALUES (2)").unwrap();
    }
    assert_eq!(one(&session, "PRAGMA recursive_triggers"), 0);
    assert_eq!(one(&session, "SELECT sum(a) FROM t"), 4);
    // A transaction is lost first.
    session.exec("PRAGMA recursive_triggers = 1; BEGIN").unwrap();
    assert_eq!(
        interrupted(&session, ENDLESS.len(), || session.query(ENDLESS)).kind(),
        Kind::TransactionLost
    );
    session.rollback().unwrap();
    assert_eq!(session.begin(Mode::Immediate).unwrap_err().kind(), Kind::SettingsLost);
    assert_eq!(one(&session, "SELECT 5"), 5);
}

#[test]
fn nothing_of_a_batch_is_kept_when_one_of_it_ends_the_transaction() {
    let fixture = Fixture::new("batchrollback");
    let (session, remote) = (fixture.session(), fixture.remote());
    session
        .exec(
            "CREATE TABLE plain(a UNIQUE); CREATE TABLE strict(a UNIQUE ON CONFLICT ROLLBACK); CREATE TABLE watched(a);
             CREATE TRIGGER watch BEFORE INSERT ON watched WHEN NEW.a = 5 BEGIN SELECT RAISE(ROLLBACK, 'no five'); END;
             INSERT INTO plain VALUES (5); INSERT INTO strict VALUES (5); INSERT INTO watched VALUES (6)",
        )
        .unwrap();
    let cases = [
        ("plain", "INSERT OR ROLLBACK INTO plain VALUES (?)", 2067),
        ("strict", "INSERT INTO strict VALUES (?)", 2067),
        ("watched", "INSERT INTO watched VALUES (?)", 1811),
    ];
    // The last pair as if the leader were another program's.
    for (session, foreign) in [(&session, false), (&remote, false), (&session, true), (&remote, true)] {
        for (table, sql, code) in cases {
            for inside in [false, true] {
                if foreign {
                    session.core.lock().conditional = Some(false);
                }
                let insert = prepare(session, sql);
                for value in std::iter::once(1).chain([5]).chain(7..400) {
                    insert.bind(1, Value::Integer(value)).unwrap();
                    insert.add_batch().unwrap();
                }
                if inside {
                    session.begin(Mode::Immediate).unwrap();
                    session.exec(&format!("DELETE FROM {table} WHERE a > 5")).unwrap();
                }
                assert_eq!(insert.exec_batch().unwrap_err().sqlite_code(), code, "{sql}");
                assert!(!session.in_transaction().unwrap());
                assert_eq!(one(session, &format!("SELECT count(*) FROM {table}")), 1, "{sql}");
                assert_eq!(session.core.lock().conditional, Some(!foreign));
            }
        }
    }
}

/// One of 2 GiB would have hung the engine's loop. The bytes are never written, and so take no memory.
#[test]
fn a_statement_that_is_too_long_is_refused_here() {
    let fixture = Fixture::new("long");
    let session = fixture.session();
    let mut bytes = vec![0; (2 << 30) + 100];
    bytes[..8].copy_from_slice(b"SELECT '");
    bytes[(2 << 30) + 99] = b'\'';
    let text = String::from_utf8(bytes).unwrap();
    let statement = statements(&text).next().unwrap();
    let error = session
        .call(|core, deadline| core.exec(&statement, deadline))
        .unwrap_err();
    assert_eq!((error.kind(), error.sqlite_code()), (Kind::Sql, 18), "{error}");
    assert_eq!(one(&session, "SELECT 1"), 1);
}
