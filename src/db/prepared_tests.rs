//! Prepared statements, their parameters and batches, on a real node of this process.

use super::*;
use crate::db::shared::Mode;
use crate::db::shared::tests::*;
use crate::db::stream::Next;
use crate::error::Kind;
use crate::wire::Value;

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
