//! Rows that stream, on a real node of this process.

use super::*;
use crate::db::shared::Mode;
use crate::db::shared::tests::*;
use crate::error::Kind;
use crate::wire::Value;

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

/// The limit of a query that failed is not that of the statements behind it.
#[test]
fn a_limit_ends_with_its_statement() {
    let fixture = Fixture::new("limit");
    let session = fixture.session();
    session.exec("CREATE TABLE t(a)").unwrap();
    session.set_max_result(64).unwrap();
    assert_eq!(session.query("SELECT").err().unwrap().sqlite_code(), 1);
    let changes = session
        .exec("INSERT INTO t VALUES (1), (2) RETURNING hex(zeroblob(100))")
        .unwrap();
    assert_eq!(changes.rows_affected, 2);
    assert_eq!(one(&session, "SELECT count(*) FROM t"), 2);
}
