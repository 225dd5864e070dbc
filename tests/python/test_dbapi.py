"""dqlitepy's DB-API module. What its own Python cannot do is not tested: no column names of an empty result, question
marks inside of literals, IntegrityError."""

import threading

import pytest
from dqlitepy import dbapi


@pytest.fixture
def connection(node):
    connection = dbapi.connect(node, "api.db")
    connection.cursor().execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, size REAL, data BLOB)")
    return connection


def test_rows_and_description(connection):
    cursor = connection.cursor()
    cursor.execute("INSERT INTO t (name, size) VALUES (?, ?)", ("it's", 1.5))
    assert (cursor.lastrowid, cursor.rowcount) == (1, 1)
    cursor.executemany("INSERT INTO t (name, size) VALUES (?, ?)", [("b", 2), ("c", None), ("größe", -0.5)])
    assert (cursor.lastrowid, cursor.rowcount) == (4, 3)
    cursor.execute("SELECT size, id, name FROM t ORDER BY id")
    assert [column[0] for column in cursor.description] == ["size", "id", "name"]
    assert cursor.rowcount == 4
    assert cursor.fetchone() == (1.5, 1, "it's")
    assert cursor.fetchmany(2) == [(2.0, 2, "b"), (None, 3, "c")]
    assert cursor.fetchall() == [(-0.5, 4, "größe")]
    assert cursor.fetchone() is None
    assert list(cursor.execute("SELECT name FROM t WHERE id < ? AND name <> ?", (3, "b"))) == [("it's",)]


def test_floats_stay_floats(connection):
    cursor = connection.cursor()
    cursor.execute("SELECT 1.0 AS a, 1 AS b, 1e300 AS c")
    row = cursor.fetchone()
    assert row == (1.0, 1, 1e300) and [type(v) for v in row] == [float, int, float]


@pytest.mark.parametrize(
    "sql",
    [
        "WITH x (a) AS (VALUES (1)) SELECT a FROM x",
        "VALUES (1), (2)",
        "EXPLAIN SELECT 1",
        "EXPLAIN QUERY PLAN SELECT * FROM t",
        "-- a comment\nSELECT 1",
        "/* a comment */ SELECT 1",
        "INSERT INTO t (name) VALUES ('x') RETURNING id",
        "ANALYZE",
        "REINDEX",
        "",
        "-- nothing",
    ],
)
def test_what_dbapi_sends_to_exec(connection, sql):
    connection.cursor().execute(sql)
    assert connection.cursor().execute("SELECT count(*) AS n FROM t").fetchall() == [(int("INSERT" in sql),)]


def test_pragma(connection):
    rows = connection.cursor().execute("PRAGMA table_info(t)").fetchall()
    assert [(r[0], r[1], r[2], r[5]) for r in rows] == [
        (0, "id", "INTEGER", 1),
        (1, "name", "TEXT", 0),
        (2, "size", "REAL", 0),
        (3, "data", "BLOB", 0),
    ]


def test_blob_in_and_out(connection):
    data = bytes(range(256)) * 3
    cursor = connection.cursor()
    cursor.execute("INSERT INTO t (data) VALUES (?)", (data,))
    ((text, n),) = cursor.execute("SELECT data, length(data) AS n FROM t").fetchall()
    assert n == len(data)
    assert text.encode("utf-8", "surrogateescape") == data


def test_transaction(connection):
    cursor = connection.cursor()
    connection.begin()
    cursor.execute("INSERT INTO t (name) VALUES ('a')")
    connection.rollback()
    assert cursor.execute("SELECT count(*) AS n FROM t").fetchall() == [(0,)]
    connection.begin()
    cursor.execute("INSERT INTO t (name) VALUES ('b')")
    with pytest.raises(dbapi.ProgrammingError):
        cursor.execute("INSERT INTO missing VALUES (1)")
    connection.commit()
    assert cursor.execute("SELECT name FROM t").fetchall() == [("b",)]
    connection.commit()  # nothing is open: dqlitepy makes nothing of it
    with pytest.raises(dbapi.OperationalError):
        connection.rollback()


def test_errors(node, connection):
    cursor = connection.cursor()
    with pytest.raises(dbapi.ProgrammingError, match="syntax error"):
        cursor.execute("SELEC 1")
    with pytest.raises(dbapi.ProgrammingError, match="no such column: nope"):
        cursor.execute("SELECT nope FROM t")
    with pytest.raises(dbapi.ProgrammingError, match="UNIQUE constraint failed: t.id"):
        cursor.execute("INSERT INTO t (id) VALUES (1), (1)")
    with pytest.raises(dbapi.OperationalError, match="name"):
        dbapi.connect(node, "no/such")
    cursor.close()
    connection.close()
    with pytest.raises(dbapi.InterfaceError):
        connection.cursor()


def test_with_statements(node):
    with dbapi.connect(node, "api.db") as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE w (a)")
        cursor.execute("INSERT INTO w VALUES (1)")
    assert node.query("SELECT a FROM w") == [{"a": 1}]


def test_the_last_connect_decides_the_database(node):
    one = dbapi.connect(node, "one.db")
    one.cursor().execute("CREATE TABLE only_in_one (a)")
    dbapi.connect(node, "two.db").cursor().execute("CREATE TABLE only_in_two (a)")
    assert node.query("SELECT name FROM sqlite_master") == [{"name": "only_in_two"}]
    dbapi.connect(node, "one.db")
    assert one.cursor().execute("SELECT name FROM sqlite_master").fetchall() == [("only_in_one",)]


def test_threads(node, connection):
    """A connection in each of eight threads; they share the node's handle."""
    failures = []

    def work(number):
        try:
            mine = dbapi.connect(node, "api.db")
            for n in range(25):
                mine.cursor().execute("INSERT INTO t (name) VALUES (?)", (f"{number}-{n}",))
                mine.cursor().execute("SELECT count(*) AS n FROM t").fetchone()
        except Exception as e:  # any failure is the test's failure
            failures.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert connection.cursor().execute("SELECT count(DISTINCT name) AS n FROM t").fetchall() == [(200,)]
