use super::{Kind, Name, Statement, statements};

fn split(sql: &str) -> Vec<&str> {
    statements(sql).map(|s| s.text).collect()
}

fn only(sql: &str) -> Statement<'_> {
    let mut all = statements(sql);
    let first = all.next().unwrap_or_else(|| panic!("no statement in {sql:?}"));
    assert!(all.next().is_none(), "more than one statement in {sql:?}");
    first
}

#[test]
fn one_statement_per_piece() {
    let cases: &[(&str, &[&str])] = &[
        ("", &[]),
        (" \t\r\n\x0c", &[]),
        (";;; ;", &[]),
        ("-- nothing", &[]),
        ("/* nothing", &[]),
        ("/**/;--\n;/* ; */", &[]),
        ("\u{feff}", &[]),
        ("SELECT 1", &["SELECT 1"]),
        (" SELECT 1 ; ", &["SELECT 1"]),
        ("\u{feff}SELECT 1", &["SELECT 1"]),
        ("-- a\nSELECT 1 -- b", &["SELECT 1"]),
        ("--\rSELECT 1", &[]),
        ("/* a */ SELECT /* ; */ 1 /* b", &["SELECT /* ; */ 1"]),
        ("SELECT 1;SELECT 2", &["SELECT 1", "SELECT 2"]),
        ("a;;b;", &["a", "b"]),
        ("SELECT '--'; x", &["SELECT '--'", "x"]),
        ("SELECT '/*'; x", &["SELECT '/*'", "x"]),
        ("SELECT ';'; x", &["SELECT ';'", "x"]),
        ("SELECT 'it''s; so'; x", &["SELECT 'it''s; so'", "x"]),
        ("SELECT 'a\\'; x", &["SELECT 'a\\'", "x"]),
        ("SELECT \"a;\"\"b;\"; x", &["SELECT \"a;\"\"b;\"", "x"]),
        ("SELECT `a;``b;`; x", &["SELECT `a;``b;`", "x"]),
        ("SELECT [a;'b]; x", &["SELECT [a;'b]", "x"]),
        ("SELECT [a]]; x", &["SELECT [a]]", "x"]),
        ("SELECT x';'; x", &["SELECT x';'", "x"]),
        ("SELECT x'00'';'; x", &["SELECT x'00'';'", "x"]),
        ("SELECT 'open; x", &["SELECT 'open; x"]),
        ("SELECT \"open; x", &["SELECT \"open; x"]),
        ("SELECT [open; x", &["SELECT [open; x"]),
        ("SELECT X'open; x", &["SELECT X'open; x"]),
        ("SELECT /* open; x", &["SELECT"]),
        // Too short to be a comment for SQLite.
        ("SELECT 1 /*", &["SELECT 1 /*"]),
        ("SELECT 1 /*/;x", &["SELECT 1"]),
        ("SELECT 1 - -1 -> 2 ->> 3; x", &["SELECT 1 - -1 -> 2 ->> 3", "x"]),
        ("SELECT 1--;\n;x", &["SELECT 1", "x"]),
        ("SELECT a-- ';'\n'b;'; x", &["SELECT a-- ';'\n'b;'", "x"]),
        ("SELECT 1e5;x", &["SELECT 1e5", "x"]),
        ("SELECT .5e-5;x", &["SELECT .5e-5", "x"]),
        ("SELECT 1e+;x", &["SELECT 1e+", "x"]),
        ("SELECT 0x1F;x", &["SELECT 0x1F", "x"]),
        ("SELECT 1x';'", &["SELECT 1x';'"]),
        ("SELECT 1.$a(;)", &["SELECT 1.$a(", ")"]),
        ("SELECT 1..$a(;)", &["SELECT 1..$a(;)"]),
        ("SELECT ?1;x", &["SELECT ?1", "x"]),
        ("SELECT ?, :a, @a, #a, $a;x", &["SELECT ?, :a, @a, #a, $a", "x"]),
        ("SELECT $a::b(;);x", &["SELECT $a::b(;)", "x"]),
        ("SELECT $a(b ;x", &["SELECT $a(b", "x"]),
        ("SELECT $(;x", &["SELECT $(", "x"]),
        ("SELECT $a:(;)", &["SELECT $a:(", ")"]),
        ("SELECT :::a(');x", &["SELECT :::a(')", "x"]),
        ("SELECT größe, 日本 FROM ü;x", &["SELECT größe, 日本 FROM ü", "x"]),
        ("SELECT a\u{feff};x", &["SELECT a\u{feff}", "x"]),
        ("SELECT 1 \x0b;x", &["SELECT 1", "x"]),
        ("\x0b;x", &["\x0b", "x"]),
        ("SELECT '\0;'; x", &["SELECT '\0;'", "x"]),
    ];
    for (sql, expected) in cases {
        assert_eq!(&split(sql), expected, "{sql:?}");
    }
}

#[test]
fn triggers_are_whole() {
    let bodies = [
        "TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END",
        "TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; INSERT INTO c VALUES(';'); /*;*/ END",
        "TRIGGER t BEGIN SELECT CASE WHEN 1 THEN 2 END; SELECT CASE 1 WHEN 1 THEN 2 END; END",
        "TRIGGER begin AFTER INSERT ON \"end\" BEGIN SELECT 1; -- END;\nSELECT 2; END",
        "TRIGGER t BEGIN SELECT 1 AS \"END\"; SELECT 2; \"END\"; end",
        "TRIGGER IF NOT EXISTS t BEGIN UPDATE a SET b = 1; EnD",
    ];
    for body in bodies {
        for start in [
            "CREATE ",
            "create temp ",
            "CREATE/**/TEMPORARY ",
            "EXPLAIN CREATE ",
            "EXPLAIN QUERY PLAN CREATE ",
        ] {
            let trigger = format!("{start}{body}");
            let script = format!("BEGIN; {trigger} ; COMMIT;");
            assert_eq!(split(&script), ["BEGIN", &trigger, "COMMIT"]);
            assert_eq!(split(&trigger), [&trigger]);
        }
    }
    // Where SQLite sees no trigger, there is none.
    assert_eq!(
        split("CREATE TABLE trigger(a); END; x"),
        ["CREATE TABLE trigger(a)", "END", "x"]
    );
    assert_eq!(split("CREATE \"TRIGGER\" a; END; x").len(), 3);
    // Without its END it runs to the end, as it does for SQLite.
    assert_eq!(split("CREATE TRIGGER t BEGIN SELECT 1; SELECT 2;").len(), 1);
}

#[test]
fn kinds_and_rows() {
    use Kind::{Begin, Change, Commit, Insert, Other, Pragma, Read, Rollback};
    let cases = [
        ("SELECT 1", Read, true),
        ("sElEcT 1", Read, true),
        ("VALUES (1)", Read, true),
        ("EXPLAIN DELETE FROM t", Read, true),
        ("EXPLAIN QUERY PLAN INSERT INTO t VALUES(1)", Read, true),
        ("WITH a AS (SELECT 1) SELECT * FROM a", Read, true),
        ("WITH a AS (VALUES(1)) VALUES(2)", Read, true),
        ("INSERT INTO t VALUES(1)", Insert, false),
        ("REPLACE INTO t VALUES(1)", Insert, false),
        ("INSERT INTO t SELECT * FROM u", Insert, false),
        ("INSERT INTO t VALUES(1) RETURNING id", Insert, true),
        ("INSERT INTO t VALUES(1) returning/**/*", Insert, true),
        ("UPDATE t SET a = ?1RETURNING a", Change, true),
        ("INSERT INTO t VALUES('RETURNING')", Insert, false),
        ("INSERT INTO \"returning\" VALUES(1) -- RETURNING", Insert, false),
        ("INSERT INTO t VALUES(1)RETURNING(a)", Insert, true),
        ("UPDATE t SET a = 1", Change, false),
        ("DELETE FROM t", Change, false),
        ("DELETE FROM t RETURNING *", Change, true),
        ("BEGIN", Begin, false),
        ("begin deferred transaction", Begin, false),
        ("BEGIN IMMEDIATE", Begin, false),
        ("BEGIN EXCLUSIVE TRANSACTION", Begin, false),
        ("COMMIT", Commit, false),
        ("END", Commit, false),
        ("end transaction", Commit, false),
        ("ROLLBACK", Rollback, false),
        ("ROLLBACK TRANSACTION", Rollback, false),
        ("PRAGMA foreign_keys", Pragma, true),
        ("PRAGMA foreign_keys = ON", Pragma, true),
        ("CREATE TABLE t(a)", Other, false),
        ("CREATE TABLE t AS SELECT 1", Other, false),
        ("CREATE TRIGGER t BEGIN DELETE FROM a RETURNING b; END", Other, false),
        ("DROP TABLE t", Other, false),
        ("ALTER TABLE t ADD COLUMN b", Other, false),
        ("VACUUM", Other, false),
        ("ANALYZE", Other, false),
        ("REINDEX", Other, false),
        ("ATTACH '' AS a", Other, false),
        ("DETACH a", Other, false),
        // SQLite says what is wrong with these when they are prepared.
        ("SELEKT 1", Other, true),
        ("'SELECT' 1", Other, true),
        ("\"BEGIN\"", Other, true),
        ("(SELECT 1)", Other, true),
        ("1", Other, true),
        ("SELECT1", Other, true),
    ];
    for (sql, kind, rows) in cases {
        let statement = only(sql);
        assert_eq!((statement.kind, statement.rows), (kind, rows), "{sql:?}");
    }
}

#[test]
fn the_verb_behind_with() {
    use Kind::{Change, Insert, Other, Read};
    let cases = [
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", Insert, false),
        (
            "WITH a AS (SELECT 1) REPLACE INTO t SELECT * FROM a RETURNING b",
            Insert,
            true,
        ),
        (
            "WITH RECURSIVE a(n) AS (VALUES(1)), b AS (SELECT (2)) UPDATE t SET x = 1",
            Change,
            false,
        ),
        ("WITH a AS NOT MATERIALIZED (SELECT 1) DELETE FROM t", Change, false),
        (
            "WITH a AS MATERIALIZED(SELECT 1)DELETE FROM t RETURNING a",
            Change,
            true,
        ),
        ("WITH replace AS (SELECT 1) SELECT * FROM replace", Read, true),
        (
            "WITH insert(a) AS (SELECT 1), [delete] AS (SELECT ')') SELECT 2",
            Read,
            true,
        ),
        ("WITH a AS (SELECT ')' /* ) DELETE */) SELECT (1) UPDATE", Read, true),
        ("WITH a AS (WITH b AS (SELECT 1) SELECT 2) DELETE FROM t", Change, false),
        ("WITH a(b) AS (SELECT 1) INSERT INTO t(c) VALUES(1)", Insert, false),
        ("WITH", Other, true),
        ("WITH a AS (SELECT 1)", Other, true),
        ("WITH a AS (SELECT 1", Other, true),
        ("WITH a AS SELECT 1) INSERT", Other, true),
        ("WITH a AS (SELECT 1) DROP TABLE t", Other, true),
        ("WITH a AS (SELECT 1) WITH b AS (SELECT 1) DELETE FROM t", Other, true),
        ("WITH a AS (SELECT 1))) ((DELETE", Other, true),
    ];
    for (sql, kind, rows) in cases {
        let statement = only(sql);
        assert_eq!((statement.kind, statement.rows), (kind, rows), "{sql:?}");
    }
    // A statement that breaks off does not borrow the verb of the next one.
    let broken: Vec<_> = statements("WITH a AS (SELECT 1); DELETE FROM t")
        .map(|s| s.kind)
        .collect();
    assert_eq!(broken, [Other, Change]);
}

#[test]
fn savepoints() {
    let name = Name("a");
    let cases = [
        ("SAVEPOINT a", Kind::Savepoint(name)),
        ("savepoint \"A\"", Kind::Savepoint(name)),
        ("RELEASE a", Kind::Release(name)),
        ("RELEASE SAVEPOINT [a]", Kind::Release(name)),
        ("RELEASE savepoint", Kind::Release(Name(""))),
        ("RELEASE SAVEPOINT savepoint", Kind::Release(Name("SavePoint"))),
        ("ROLLBACK TO a", Kind::RollbackTo(name)),
        ("ROLLBACK TO SAVEPOINT `a`", Kind::RollbackTo(name)),
        ("ROLLBACK TRANSACTION TO 'a'", Kind::RollbackTo(name)),
        ("rollback transaction to savepoint A", Kind::RollbackTo(name)),
        ("ROLLBACK TRANSACTION nobody TO a", Kind::RollbackTo(name)),
        ("ROLLBACK TO", Kind::RollbackTo(Name(""))),
        ("SAVEPOINT", Kind::Savepoint(Name(""))),
    ];
    for (sql, kind) in cases {
        let statement = only(sql);
        assert_eq!(statement.kind, kind, "{sql:?}");
        assert!(!statement.rows && !statement.spare && !statement.taints_session());
    }
    let next: Vec<_> = statements("ROLLBACK; SAVEPOINT to").map(|s| s.kind).collect();
    assert_eq!(next, [Kind::Rollback, Kind::Savepoint(Name("to"))]);
}

#[test]
fn names_are_what_sqlite_compares() {
    for same in ["a\"b", "[A\"b]", "`a\"B`", "\"a\"\"b\"", "'a\"b'"] {
        assert_eq!(Name(same), Name("a\"b"), "{same}");
        assert_eq!(Name(same).key(), "a\"b", "{same}");
    }
    assert_eq!(Name("'it''s'").key(), "it's");
    assert_eq!(Name("\"\"\"\"").key(), "\"");
    assert_eq!(Name("'É'").key(), "É");
    assert_ne!(Name("é"), Name("É"));
    assert_ne!(Name("a"), Name("ab"));
    assert_ne!(Name("\"a\"\"\""), Name("a"));
    for odd in ["", "'", "[", "\"ü"] {
        assert_eq!(Name(odd), Name(odd));
    }
}

#[test]
fn what_another_connection_may_read() {
    let cases = [
        ("SELECT * FROM t", true),
        ("VALUES(1)", true),
        ("WITH a AS (SELECT 1) SELECT * FROM a", true),
        ("SELECT temperature, 'changed' FROM t -- temp.x", true),
        ("EXPLAIN SELECT 1", false),
        ("PRAGMA user_version", false),
        ("INSERT INTO t VALUES(1) RETURNING a", false),
        ("SELEKT 1", false),
        ("SELECT last_insert_rowid()", false),
        ("SELECT a FROM t WHERE b = Changes ()", false),
        ("SELECT \"total_changes\"()", false),
        ("SELECT * FROM temp.t", false),
        ("SELECT * FROM \"TEMP\".t", false),
        ("SELECT * FROM [temp].t, `temp`.u, 'temp'.v", false),
        ("SELECT * FROM temporary.t", false),
        ("SELECT * FROM sqlite_temp_master", false),
        ("SELECT * FROM sqlite_temp_schema", false),
        ("SELECT * FROM pragma_foreign_keys", false),
        ("WITH a AS (SELECT changes()) SELECT * FROM a", false),
    ];
    for (sql, spare) in cases {
        assert_eq!(only(sql).spare, spare, "{sql:?}");
    }
}

#[test]
fn what_makes_a_connection_special() {
    let cases = [
        ("CREATE TEMP TABLE t(a)", true),
        ("create temporary view v AS SELECT 1", true),
        ("CREATE/**/TEMP TRIGGER t BEGIN SELECT 1; END", true),
        ("CREATE TABLE temp.t(a)", true),
        ("CREATE TABLE \"Temp\" . t(a)", true),
        ("CREATE INDEX [temp].i ON t(a)", true),
        ("CREATE TRIGGER temp.t BEGIN SELECT 1; END", true),
        ("CREATE VIRTUAL TABLE 'temp'.v USING x", true),
        ("PRAGMA case_sensitive_like = 1", true),
        ("PRAGMA main.foreign_keys=ON", true),
        ("PRAGMA \"cache_size\"(-2000)", true),
        ("PRAGMA temp.table_info = t", false),
        ("PRAGMA main.\"Table_Info\"('t')", false),
        ("PRAGMA user_version = 3", false),
        ("PRAGMA foreign_keys", false),
        ("ATTACH '' AS a", true),
        ("DETACH a", true),
        ("CREATE TABLE t(temp)", false),
        ("CREATE TABLE temp(a DEFAULT 'temp')", false),
        ("CREATE TABLE t.temp(a)", false),
        ("INSERT INTO t VALUES('temp')", false),
        ("SELECT temp.x FROM temp", false),
        ("EXPLAIN CREATE TEMP TABLE t(a)", false),
        ("DROP TABLE temp.t", false),
    ];
    for (sql, taints) in cases {
        assert_eq!(only(sql).taints_session(), taints, "{sql:?}");
    }
}

#[test]
fn names_of_parameters() {
    let names = |sql| {
        let found = super::parameters(sql);
        found
            .into_iter()
            .map(|name| name.unwrap_or_default())
            .collect::<Vec<_>>()
            .join(",")
    };
    assert_eq!(names("SELECT 1"), "");
    assert_eq!(names("SELECT ?, ?"), ",");
    assert_eq!(names("SELECT :a, @a, $a, :a"), ":a,@a,$a");
    assert_eq!(names("SELECT ?3, :a, ?, ?2"), ",,,:a,");
    assert_eq!(
        names("SELECT ':a', \":b\", [:c], `:d`, x':e', :f -- :g\n /* :h */"),
        ":f"
    );
    assert_eq!(names("SELECT $a::b(c d), $a::b(c)"), "$a::b(c,$a::b(c)");
    assert_eq!(names("SELECT a:b"), ":b");
}
