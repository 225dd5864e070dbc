//! Sessions, statements and rows on a real node of this process.

use std::net::TcpListener;
use std::path::PathBuf;

use super::*;
use crate::db::stream::Next;
use crate::node::Node;
use crate::wire::Value;

struct Fixture {
    node: Node,
    address: String,
    dir: PathBuf,
}

impl Fixture {
    fn new(name: &str) -> Self {
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

    fn session(&self) -> Arc<SharedSession> {
        Arc::new(self.node.open_session("test.db", Arc::default()).unwrap())
    }

    /// A session that comes through the door, like one from another process.
    fn remote(&self) -> Arc<SharedSession> {
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

const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
const MANY: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i, 'row ' || i FROM n";

fn integer(rows: &ResultRows) -> i64 {
    assert_eq!(rows.step().unwrap(), Next::Row);
    rows.look(|part| match ResultRows::value(part, 0)? {
        Value::Integer(number) => Ok(number),
        other => panic!("{other:?}"),
    })
    .unwrap()
}

fn one(session: &Arc<SharedSession>, sql: &str) -> i64 {
    let rows = session.query(sql).unwrap();
    let found = integer(&rows);
    assert_eq!(rows.step().unwrap(), Next::Done);
    found
}

fn prepare(session: &Arc<SharedSession>, sql: &str) -> PreparedStatement {
    session.prepare(sql).unwrap().0.unwrap()
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
fn a_statement_runs_again_and_again_with_other_values() {
    let fixture = Fixture::new("statement");
    for session in [fixture.session(), fixture.remote()] {
        session
            .exec("DROP TABLE IF EXISTS t; CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
            .unwrap();
        let insert = prepare(&session, "INSERT INTO t(a) VALUES (?)");
        assert_eq!(insert.parameter_count(), 1);
        for round in 1..=100 {
            insert.bind(1, Value::Integer(round)).unwrap();
            let changes = insert.exec().unwrap();
            assert_eq!((changes.last_insert_id, changes.rows_affected), (round, 1));
        }
        let select = prepare(&session, "SELECT a FROM t WHERE id = :id OR a = :id");
        assert_eq!(select.parameter_name(1).unwrap(), Some(":id"));
        assert_eq!(select.parameter_index(":id").unwrap(), 1);
        for round in 1..=100 {
            select.bind(1, Value::Integer(round)).unwrap();
            assert_eq!(integer(&select.query().unwrap()), round);
        }
        let returning = prepare(&session, "INSERT INTO t(a) VALUES (?) RETURNING id");
        returning.bind(1, Value::Null).unwrap();
        assert_eq!(integer(&returning.query().unwrap()), 101);
        let changes = returning.exec().unwrap();
        assert_eq!((changes.last_insert_id, changes.rows_affected), (102, 1));
    }
}

#[test]
fn more_statements_than_are_kept_do_their_work() {
    let fixture = Fixture::new("cache");
    let session = fixture.session();
    let texts: Vec<String> = (0..60).map(|number| format!("SELECT {number} + ?")).collect();
    for _ in 0..3 {
        for (number, text) in texts.iter().enumerate() {
            let statement = prepare(&session, text);
            statement.bind(1, Value::Integer(1)).unwrap();
            assert_eq!(integer(&statement.query().unwrap()), number as i64 + 1);
        }
    }
    // All of them open at once, used in turn.
    let open: Vec<PreparedStatement> = texts.iter().map(|text| prepare(&session, text)).collect();
    for (number, statement) in open.iter().enumerate().chain(open.iter().enumerate()) {
        statement.bind(1, Value::Integer(2)).unwrap();
        assert_eq!(integer(&statement.query().unwrap()), number as i64 + 2);
    }
}

#[test]
fn a_script_is_prepared_statement_by_statement() {
    let fixture = Fixture::new("script");
    let session = fixture.session();
    let script = "/* first */ CREATE TABLE t(a) ; -- next\nINSERT INTO t VALUES (1);;\n SELECT a FROM t; -- end\n";
    let (mut at, mut texts) = (0, Vec::new());
    while let (Some(statement), tail) = session.prepare(&script[at..]).unwrap() {
        statement.exec().unwrap();
        texts.push(script[at..at + tail].to_owned());
        at += tail;
    }
    assert_eq!((texts.len(), at), (3, script.len()));
    for nothing in ["", " ", ";", "-- x", "/* x"] {
        let (statement, tail) = session.prepare(nothing).unwrap();
        assert!(statement.is_none() && tail == nothing.len());
    }
    assert_eq!(session.prepare("SELEC 1").err().unwrap().sqlite_code(), 1);
}

#[test]
fn mistakes_with_parameters_are_named() {
    let fixture = Fixture::new("mistakes");
    let session = fixture.session();
    let statement = prepare(&session, "SELECT ?, ?3, @b, ?");
    assert_eq!(statement.parameter_count(), 5);
    for index in [0, 6, -1, i64::MAX, i64::MIN] {
        assert_eq!(statement.bind(index, Value::Null).unwrap_err().kind(), Kind::Invalid);
    }
    let error = statement.bind(2, Value::Text(b"a\0b")).unwrap_err();
    assert!(error.message().contains("parameter 2"), "{error}");
    let values = |count| (0..count).map(|number| Ok(Value::Integer(number))).collect::<Vec<_>>();
    assert_eq!(
        statement.bind_all(values(4).into_iter()).unwrap_err().kind(),
        Kind::Invalid
    );
    statement.bind_all(values(5).into_iter()).unwrap();
    assert_eq!(statement.parameter_index(":none").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(statement.parameter_index("@b").unwrap(), 4);
    let rows = statement.query().unwrap();
    assert_eq!(
        rows.look(|part| ResultRows::value(part, 0).map(|_| ()))
            .unwrap_err()
            .kind(),
        Kind::Misuse
    );
    assert_eq!(rows.step().unwrap(), Next::Row);
    let seen: Vec<i64> = (0..4)
        .map(|column| {
            rows.look(|part| match ResultRows::value(part, column)? {
                Value::Integer(number) => Ok(number),
                other => panic!("{other:?}"),
            })
            .unwrap()
        })
        .collect();
    assert_eq!(seen, [0, 2, 3, 4]);
    assert_eq!(
        rows.look(|part| ResultRows::value(part, 4).map(|_| ()))
            .unwrap_err()
            .kind(),
        Kind::Invalid
    );
}

#[test]
fn many_parameters() {
    let fixture = Fixture::new("many");
    let session = fixture.session();
    for count in [255, 256, 1000, 32_766] {
        let sql = format!("SELECT max({})", vec!["?"; count.min(100)].join(", "));
        let marks = vec!["(?)"; count].join(", ");
        let statement = if count <= 100 {
            prepare(&session, &sql)
        } else {
            prepare(&session, &format!("SELECT sum(column1) FROM (VALUES {marks})"))
        };
        statement
            .bind_all(
                (0..count as i64)
                    .map(|number| Ok(Value::Integer(number)))
                    .collect::<Vec<_>>()
                    .into_iter(),
            )
            .unwrap();
        let count = count as i64;
        assert_eq!(integer(&statement.query().unwrap()), count * (count - 1) / 2);
    }
}

#[test]
fn rows_stream_and_keep_their_session_until_they_end() {
    let fixture = Fixture::new("stream");
    for session in [fixture.session(), fixture.remote()] {
        let other = fixture.session();
        let rows = session.query(MANY).unwrap();
        assert_eq!(session.exec("SELECT 1").unwrap_err().kind(), Kind::Misuse);
        assert_eq!(session.query("SELECT 1").err().unwrap().kind(), Kind::Misuse);
        assert_eq!(one(&other, "SELECT 5"), 5);
        for number in 1..=20_000 {
            assert_eq!(integer(&rows), number);
        }
        assert_eq!(rows.step().unwrap(), Next::Done);
        assert_eq!(rows.step().unwrap(), Next::Done);
        assert_eq!(one(&session, "SELECT 6"), 6);
        // Many rows at a time; also across the parts.
        let rows = session.query(MANY).unwrap();
        let (mut total, mut sum) = (0, 0);
        loop {
            let (found, _) = rows
                .fetch(100, &mut |_, _, value| {
                    if let Value::Integer(number) = value {
                        sum += number;
                    }
                })
                .unwrap();
            total += found;
            if found == 0 {
                break;
            }
        }
        assert_eq!((total, sum), (20_000, 20_000 * 20_001 / 2));
    }
}

#[test]
fn closing_rows_in_the_middle_frees_the_session() {
    let fixture = Fixture::new("middle");
    let session = fixture.session();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, hex(zeroblob(500)) FROM n";
    for _ in 0..5 {
        let rows = session.query(endless).unwrap();
        assert_eq!(integer(&rows), 1);
        rows.close().unwrap();
        assert_eq!(rows.step().unwrap_err().kind(), Kind::Misuse);
        assert_eq!(one(&session, "SELECT 6"), 6);
    }
    // In a transaction the connection must stay.
    session
        .exec("CREATE TABLE t(a); BEGIN; INSERT INTO t VALUES (1)")
        .unwrap();
    let rows = session.query(MANY).unwrap();
    rows.close().unwrap();
    assert!(session.in_transaction().unwrap());
    session.commit().unwrap();
    // A write with rows is carried through.
    let rows = session
        .query(&format!(
            "INSERT INTO t SELECT i FROM ({}) RETURNING a, hex(zeroblob(10))",
            MANY.replace(", 'row ' || i", "")
        ))
        .unwrap();
    drop(rows);
    assert_eq!(one(&session, "SELECT count(*) FROM t"), 20_001);
    // An endless one in a transaction ends at the deadline, and the transaction with it.
    session.begin(Mode::Deferred).unwrap();
    session.set_timeout(300).unwrap();
    let rows = session.query(endless).unwrap();
    let error = rows.close().unwrap_err();
    assert_eq!(error.kind(), Kind::TransactionLost, "{error}");
    session.rollback().unwrap();
    assert_eq!(one(&session, "SELECT 1"), 1);
}

#[test]
fn an_error_behind_the_first_rows_is_reported_once_they_are_read() {
    let fixture = Fixture::new("late");
    let session = fixture.session();
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) \
               SELECT CASE WHEN i < 40000 THEN i ELSE abs(-9223372036854775808) END FROM n";
    let rows = session.query(sql).unwrap();
    let mut read = 0;
    let error = loop {
        match rows.step() {
            Ok(Next::Row) => read += 1,
            Ok(next) => panic!("{next:?}"),
            Err(error) => break error,
        }
    };
    assert!(read > 1000 && read < 40000);
    assert_eq!((error.kind(), error.sqlite_code()), (Kind::Sql, 1));
    assert_eq!(rows.step().unwrap_err(), error);
    assert_eq!(one(&session, "SELECT 6"), 6);
}

#[test]
fn an_interrupt_ends_the_call_and_not_the_session() {
    let fixture = Fixture::new("interrupt");
    let session = fixture.session();
    session.exec("CREATE TABLE t(a)").unwrap();
    session.interrupt().unwrap();
    assert_eq!(one(&session, "SELECT 1"), 1);
    let interrupted = |sql: &str| {
        std::thread::scope(|scope| {
            let endless = scope.spawn(|| session.query(sql).err().unwrap());
            while !endless.is_finished() {
                std::thread::sleep(Duration::from_millis(20));
                session.interrupt().unwrap();
            }
            endless.join().unwrap().kind()
        })
    };
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
    std::thread::scope(|scope| {
        let endless = scope.spawn(|| session.query(ENDLESS).err().unwrap());
        std::thread::sleep(Duration::from_millis(100));
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
    std::thread::scope(|scope| {
        let endless = scope.spawn(|| idle.query(ENDLESS).err().unwrap());
        std::thread::sleep(Duration::from_millis(100));
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
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| other.exec("INSERT INTO t VALUES (2)"));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!waiting.is_finished());
        one_session.commit().unwrap();
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(one(&other, "SELECT count(*) FROM t"), 2);
}

#[test]
fn a_batch_is_kept_whole_or_not_at_all() {
    let fixture = Fixture::new("batch");
    for session in [fixture.session(), fixture.remote()] {
        session
            .exec("DROP TABLE IF EXISTS t; CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT)")
            .unwrap();
        let insert = prepare(&session, "INSERT INTO t VALUES (?, ?)");
        let fill = |ids: std::ops::Range<i64>| {
            for id in ids {
                insert.bind(1, Value::Integer(id)).unwrap();
                insert.bind(2, Value::Text(&vec![b'x'; (id % 3000) as usize])).unwrap();
                insert.add_batch().unwrap();
            }
        };
        assert_eq!(insert.exec_batch().unwrap(), 0);
        fill(0..5000);
        assert_eq!(insert.exec_batch().unwrap(), 5000);
        assert!(!session.in_transaction().unwrap());
        fill(5000..5100);
        fill(10..11);
        fill(5100..6000);
        assert_eq!(insert.exec_batch().unwrap_err().sqlite_code(), 1555);
        assert!(!session.in_transaction().unwrap());
        assert_eq!(one(&session, "SELECT count(*) FROM t"), 5000);
        // Inside a transaction it is taken back alone.
        session.begin(Mode::Immediate).unwrap();
        session.exec("DELETE FROM t WHERE id = 4").unwrap();
        fill(5000..5010);
        fill(10..11);
        assert_eq!(insert.exec_batch().unwrap_err().sqlite_code(), 1555);
        fill(5000..5010);
        assert_eq!(insert.exec_batch().unwrap(), 10);
        session.commit().unwrap();
        assert_eq!(one(&session, "SELECT count(*) FROM t"), 5009);
        let select = prepare(&session, "SELECT 1");
        select.add_batch().unwrap();
        assert_eq!(select.exec_batch().unwrap_err().kind(), Kind::Misuse);
    }
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

#[test]
fn large_values_pass_and_larger_ones_are_refused() {
    let fixture = Fixture::new("large");
    let session = fixture.session();
    let blob = vec![0xab; 16 << 20];
    let echo = prepare(&session, "SELECT ?, 7");
    echo.bind(1, Value::Blob(&blob)).unwrap();
    let rows = echo.query().unwrap();
    assert_eq!(rows.step().unwrap(), Next::Row);
    rows.look(|part| {
        assert_eq!(ResultRows::value(part, 0)?, Value::Blob(&blob));
        assert_eq!(ResultRows::value(part, 1)?, Value::Integer(7));
        Ok(())
    })
    .unwrap();
    assert_eq!(rows.step().unwrap(), Next::Done);
    assert_eq!(one(&session, "SELECT 1"), 1);
}

/// Runs `body` in another thread and ends its call once it is under way.
fn interrupted<T: Send>(session: &Arc<SharedSession>, body: impl FnOnce() -> Result<T> + Send) -> Error {
    std::thread::scope(|scope| {
        let call = scope.spawn(body);
        let until = Instant::now() + Duration::from_secs(20);
        while !session.wake().is_under_way() {
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(50));
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
    let error = interrupted(&session, || insert.exec_batch());
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
            interrupted(&session, || session.query(ENDLESS)).kind(),
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
        interrupted(&session, || session.query(ENDLESS)).kind(),
        Kind::TransactionLost
    );
    session.rollback().unwrap();
    assert_eq!(session.begin(Mode::Immediate).unwrap_err().kind(), Kind::SettingsLost);
    assert_eq!(one(&session, "SELECT 5"), 5);
}

#[test]
fn a_result_beyond_the_callers_limit_is_refused_and_the_session_goes_on() {
    let fixture = Fixture::new("most");
    let session = fixture.session();
    session.exec("CREATE TABLE t(a)").unwrap();
    session.set_max_result(200_000).unwrap();
    let read_all = |sql: &str| {
        let rows = session.query(sql)?;
        let mut seen = 0;
        while rows.step()? == Next::Row {
            seen += 1;
        }
        Ok(seen)
    };
    let too_big = |outcome: Result<u32>| {
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.sqlite_code()), (Kind::Sql, 18), "{error}");
        assert_eq!(one(&session, "SELECT 5"), 5);
    };
    too_big(read_all(MANY));
    too_big(read_all("SELECT zeroblob(300000)"));
    assert_eq!(read_all("SELECT zeroblob(100000)").unwrap(), 1);
    // A transaction goes on, and a change with rows is made.
    session.exec("BEGIN; INSERT INTO t VALUES (1)").unwrap();
    too_big(read_all(MANY));
    session.commit().unwrap();
    let insert = MANY.replace("SELECT i, 'row ' || i", "INSERT INTO t SELECT i");
    too_big(read_all(&format!("{insert} RETURNING a, 'some more text'")));
    assert_eq!(one(&session, "SELECT count(*) FROM t"), 20_001);
    session.set_max_result(0).unwrap();
    assert_eq!(read_all(MANY).unwrap(), 20_000);
    assert_eq!(read_all("SELECT zeroblob(300000)").unwrap(), 1);
}
