"""examples/python/dqlitepy_ctypes.py: a DB-API 2.0 compliance suite, and every value there and back."""

import datetime
import math
import random
import struct
import sys
import threading
import time
from pathlib import Path

import pytest

import support

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples/python"))
import dqlitepy_ctypes as db  # noqa: E402


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    node = db.Node(1, support.free_address(), str(tmp_path_factory.mktemp("node")))
    yield node
    node.close()


names = iter(f"test{n}.db" for n in range(10000))


@pytest.fixture
def connection(server):
    connection = db.connect(node=server, database=next(names))
    yield connection
    connection.close()


@pytest.fixture
def filled(connection):
    connection.execute("CREATE TABLE booze (id INTEGER PRIMARY KEY, name TEXT)")
    connection.executemany("INSERT INTO booze (name) VALUES (?)", [(name,) for name in ("Bitter", "Lager", "Stout", "Pils")])
    connection.commit()
    return connection


# ---- the standard, section by section


def test_module():
    assert db.apilevel == "2.0"
    assert db.threadsafety in (0, 1, 2, 3)
    assert db.paramstyle in ("qmark", "numeric", "named", "format", "pyformat")
    assert "dqlite" in db.engine_version() and "SQLite" in db.engine_version()


def test_exceptions(connection):
    assert issubclass(db.Warning, Exception) and issubclass(db.Error, Exception)
    for name in ("InterfaceError", "DatabaseError"):
        assert issubclass(getattr(db, name), db.Error)
    names = ("DataError", "OperationalError", "IntegrityError", "InternalError", "ProgrammingError", "NotSupportedError")
    for name in names:
        assert issubclass(getattr(db, name), db.DatabaseError)
        assert getattr(connection, name) is getattr(db, name)


def test_constructors_and_types():
    assert db.Date(2002, 12, 25) and db.Time(13, 45, 30) and db.Timestamp(2002, 12, 25, 13, 45, 30)
    ticks = time.mktime((2002, 12, 25, 13, 45, 30, 0, 0, 0))
    assert db.DateFromTicks(ticks) == datetime.date(2002, 12, 25)
    assert db.TimeFromTicks(ticks) == datetime.time(13, 45, 30)
    assert db.TimestampFromTicks(ticks) == datetime.datetime(2002, 12, 25, 13, 45, 30)
    assert db.Binary(b"x") == b"x"
    for name in ("STRING", "BINARY", "NUMBER", "DATETIME", "ROWID"):
        assert hasattr(db, name)


def test_a_client_of_the_same_host_comes_by_the_socket_beside_the_port(tmp_path):
    address = support.free_address()

    def connected():
        with open("/proc/net/unix") as table:
            # The last two fields before the name: connected, and its inode.
            return sum(line.split()[5:] == ["03", line.split()[6], f"@dqlitepy/{address}"] for line in table)

    node = db.Node(1, address, str(tmp_path))
    try:
        with db.connect(addresses=address, database="app.db") as connection:
            assert connection.execute("SELECT 1").fetchall() == [(1,)]
            assert connected() >= 1
        connection.close()
    finally:
        node.close()
    assert connected() == 0


def test_commit_and_rollback(connection, server):
    connection.commit()
    connection.rollback()  # nothing to do is no error
    connection.execute("CREATE TABLE t (a)")
    connection.execute("INSERT INTO t VALUES (1)")
    assert connection.in_transaction
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    connection.execute("INSERT INTO t VALUES (2)")
    connection.commit()
    connection.rollback()
    assert connection.execute("SELECT a FROM t").fetchall() == [(2,)]


def test_with_commits_or_rolls_back(filled):
    with filled:
        filled.execute("DELETE FROM booze WHERE id = 1")
    with pytest.raises(ZeroDivisionError), filled:
        filled.execute("DELETE FROM booze")
        1 / 0
    assert filled.execute("SELECT count(*) FROM booze").fetchone() == (3,)


def test_close(server):
    connection = db.connect(node=server, database="closed.db")
    cursor = connection.cursor()
    connection.close()
    connection.close()
    for call in (connection.commit, connection.rollback, connection.cursor, cursor.fetchone, lambda: cursor.execute("SELECT 1")):
        with pytest.raises(db.ProgrammingError):
            call()


def test_closed_cursor(connection):
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    cursor.close()
    for call in (cursor.fetchone, cursor.fetchall, lambda: cursor.execute("SELECT 1")):
        with pytest.raises(db.ProgrammingError):
            call()
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_description(filled):
    cursor = filled.cursor()
    assert cursor.description is None
    cursor.execute("INSERT INTO booze (name) VALUES ('x')")
    assert cursor.description is None
    cursor.execute("SELECT id, name AS n, 1 AS n FROM booze WHERE 0")
    assert [column[0] for column in cursor.description] == ["id", "n", "n"]
    assert all(len(column) == 7 for column in cursor.description)
    assert cursor.fetchone() is None and cursor.fetchall() == [] and cursor.fetchmany() == []


def test_rowcount_and_lastrowid(filled):
    cursor = filled.cursor()
    assert cursor.rowcount == -1
    cursor.execute("SELECT * FROM booze")
    assert cursor.rowcount in (-1, 4)
    cursor.execute("INSERT INTO booze (name) VALUES ('a'), ('b')")
    assert (cursor.rowcount, cursor.lastrowid) == (2, 6)
    cursor.execute("UPDATE booze SET name = 'c' WHERE id > 2")
    assert (cursor.rowcount, cursor.lastrowid) == (4, None)
    cursor.execute("DELETE FROM booze WHERE 0")
    assert cursor.rowcount == 0
    cursor.execute("CREATE TABLE other (a)")
    assert cursor.rowcount == -1


def test_parameters(filled):
    cursor = filled.cursor()
    cursor.execute("SELECT name FROM booze WHERE id = ? AND name = ?", (2, "Lager"))
    assert cursor.fetchall() == [("Lager",)]
    cursor.execute("SELECT name FROM booze WHERE id = :id OR id = :other OR id = :id", {"id": 1, "other": 3, "unused": 0})
    assert cursor.fetchall() == [("Bitter",), ("Stout",)]
    cursor.execute("SELECT ?2, ?1", ("one", "two"))
    assert cursor.fetchone() == ("two", "one")
    for sql, wrong in [("SELECT ?", ()), ("SELECT ?", (1, 2)), ("SELECT 1", (1,)), ("SELECT :a", {"b": 1}), ("SELECT ?", {"a": 1}), ("SELECT ?", "a"), ("SELECT ?", 5)]:
        with pytest.raises(db.ProgrammingError):
            cursor.execute(sql, wrong)
    with pytest.raises(db.InterfaceError):
        cursor.execute("SELECT ?", (object(),))
    with pytest.raises(OverflowError):
        cursor.execute("SELECT ?", (2**63,))
    with pytest.raises(db.ProgrammingError, match="CAST"):
        cursor.execute("SELECT ?", ("a\0b",))
    assert cursor.execute("SELECT CAST(? AS TEXT)", (b"a\0b",)).fetchone()[0] in ("a\0b", b"a\0b")


def test_executemany(filled):
    cursor = filled.cursor()
    cursor.executemany("INSERT INTO booze (name) VALUES (:name)", ({"name": f"n{i}"} for i in range(1000)))
    assert cursor.rowcount == 1000
    filled.commit()
    cursor.executemany("DELETE FROM booze WHERE id = ?", [])
    with pytest.raises(db.IntegrityError) as caught:
        cursor.executemany("INSERT INTO booze VALUES (?, ?)", [(5000, "a"), (5001, "b"), (1, "c")])
    assert caught.value.sqlite_code == 1555
    filled.commit()
    assert filled.execute("SELECT count(*) FROM booze").fetchone() == (1004,)
    with pytest.raises(db.ProgrammingError):
        cursor.executemany("SELECT ?", [(1,)])


@pytest.mark.parametrize(
    "schema, insert",
    [
        ("CREATE TABLE t (a UNIQUE)", "INSERT OR ROLLBACK INTO t VALUES (?)"),
        ("CREATE TABLE t (a UNIQUE ON CONFLICT ROLLBACK)", "INSERT INTO t VALUES (?)"),
        (
            "CREATE TABLE t (a); CREATE TRIGGER five BEFORE INSERT ON t WHEN NEW.a = 5 AND (SELECT count(*) FROM t) > 0 "
            "BEGIN SELECT RAISE(ROLLBACK, 'no second five'); END",
            "INSERT INTO t VALUES (?)",
        ),
    ],
)
def test_executemany_that_ends_its_transaction(connection, schema, insert):
    connection.executescript(f"DROP TABLE IF EXISTS t; {schema}; INSERT INTO t VALUES (5)")
    connection.commit()
    with pytest.raises(db.IntegrityError):
        connection.executemany(insert, [(1,), (5,), (2,), (3,)])
    connection.rollback()
    assert connection.execute("SELECT a FROM t").fetchall() == [(5,)]


def test_fetching(filled):
    cursor = filled.cursor()
    with pytest.raises(db.ProgrammingError):
        cursor.fetchone()
    sql = "SELECT name FROM booze ORDER BY id"
    cursor.execute(sql)
    assert cursor.fetchone() == ("Bitter",)
    assert cursor.arraysize == 1
    assert cursor.fetchmany() == [("Lager",)]
    assert cursor.fetchmany(10) == [("Stout",), ("Pils",)]
    assert cursor.fetchmany(10) == [] and cursor.fetchone() is None and cursor.fetchall() == []
    cursor.arraysize = 3
    assert len(cursor.execute(sql).fetchmany()) == 3
    assert len(cursor.execute(sql).fetchall()) == 4
    assert [row for row in cursor.execute(sql)] == cursor.execute(sql).fetchall()
    cursor.setinputsizes((25,))
    cursor.setoutputsize(1000)
    cursor.setoutputsize(2000, 0)


def test_returning(filled):
    rows = filled.execute("INSERT INTO booze (name) VALUES ('r1'), ('r2') RETURNING id, name").fetchall()
    assert rows == [(5, "r1"), (6, "r2")]
    filled.rollback()
    assert filled.execute("SELECT count(*) FROM booze").fetchone() == (4,)


def test_errors(filled):
    with pytest.raises(db.OperationalError, match="syntax"):
        filled.execute("SELEC 1")
    with pytest.raises(db.OperationalError, match="no such table"):
        filled.execute("SELECT * FROM none")
    with pytest.raises(db.IntegrityError) as caught:
        filled.execute("INSERT INTO booze VALUES (1, 'x')")
    assert (caught.value.code, caught.value.sqlite_code) == (1019, 1555)
    with pytest.raises(db.ProgrammingError):
        filled.execute("SELECT 1; SELECT 2")
    assert filled.execute("SELECT 1;").fetchone() == (1,)
    assert filled.execute("-- nothing").description is None


def test_script(connection):
    connection.executescript("CREATE TABLE t (a); INSERT INTO t VALUES ('x;y'); -- end\nINSERT INTO t VALUES (2);")
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (2,)


# ---- beyond it


def test_cursors_take_turns(connection):
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i FROM n"
    one, other = connection.execute(numbers), connection.cursor()
    assert one.fetchone() == (1,)
    assert other.execute("SELECT 7").fetchone() == (7,)
    assert one.fetchmany(3) == [(2,), (3,), (4,)]
    other.execute(numbers)
    assert other.fetchone() == (1,)
    assert len(one.fetchall()) == 20000 - 4
    assert len(other.fetchall()) == 20000 - 1
    one.execute(numbers).fetchone()
    one.close()
    assert other.execute("SELECT 8").fetchone() == (8,)


def same(got, want):
    if isinstance(want, float) and math.isnan(want):
        return got is None
    return type(got) is type(want) and got == want


def values(seed):
    r = random.Random(seed)
    yield from [None, 0, 1, -1, 2**63 - 1, -(2**63), 2**53 + 1, 0.0, 1.5, math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308]
    yield from ["", "a", "ä€😀", "\u2028", "\ufeff", "'\"\\", "x" * 100_000, b"", b"\0", b"a\0b", b"\xff" * 9, bytes(100_000)]
    for _ in range(500):
        yield r.randrange(-(2**63), 2**63)
        yield struct.unpack("<d", struct.pack("<Q", r.getrandbits(64)))[0]
        yield "".join(chr(r.choice([r.randrange(1, 127), r.randrange(160, 0xD800), r.randrange(0xE000, 0x110000)])) for _ in range(r.randrange(40)))
        yield r.randbytes(r.randrange(40))


def test_every_value_comes_back(connection):
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    all_values = list(values("driver"))
    connection.executemany("INSERT INTO t VALUES (?, ?)", list(enumerate(all_values)))
    rows = connection.execute("SELECT id, v FROM t ORDER BY id").fetchall()
    assert len(rows) == len(all_values)
    for (number, got), want in zip(rows, all_values):
        assert same(got, want), f"value {number}: {got!r} instead of {want!r}"
    # As a parameter and a result without a table in between; there SQLite keeps the sign of a zero.
    for want in all_values[:40] + [-0.0]:
        got = connection.execute("SELECT ?", (want,)).fetchone()[0]
        assert same(got, want), f"{got!r} instead of {want!r}"
        if isinstance(want, float) and want == 0:
            assert math.copysign(1, got) == math.copysign(1, want)


def test_declared_types(connection):
    connection.execute("CREATE TABLE t (b BOOLEAN, d DATETIME, u TIMESTAMP, n DATE)")
    moment = datetime.datetime(2024, 1, 2, 3, 4, 5, 678901, datetime.timezone.utc)
    naive = datetime.datetime(2024, 1, 2, 3, 4, 5)
    connection.execute("INSERT INTO t VALUES (?, ?, ?, ?)", (True, moment, 86400, naive))
    connection.execute("INSERT INTO t VALUES (?, ?, ?, ?)", (False, "never", None, None))
    rows = connection.execute("SELECT * FROM t").fetchall()
    day = datetime.datetime(1970, 1, 2, tzinfo=datetime.timezone.utc)
    assert rows == [(True, moment, day, naive), (False, "never", None, None)]
    assert rows[0][0] is True


def test_text_with_nul_and_bytes_that_are_no_text(connection):
    assert connection.execute("SELECT 'a' || char(0) || 'b'").fetchone()[0] == b"a\0b"
    assert connection.execute("SELECT CAST(x'61ff62' AS TEXT)").fetchone()[0] == "a\udcffb"


def test_pure_client_and_two_databases(server, connection):
    leader = connection.leader
    with db.connect(addresses=leader, database=next(names)) as other:
        other.execute("CREATE TABLE t (a)")
        other.execute("INSERT INTO t VALUES (1)")
        connection.execute("CREATE TABLE t (b)")
        connection.execute("INSERT INTO t VALUES (2)")
        other.commit()
        connection.rollback()
        assert other.execute("SELECT * FROM t").fetchall() == [(1,)]
        assert connection.execute("SELECT * FROM t").fetchall() == []
    other.close()


def test_interrupt(connection):
    timer = threading.Timer(0.3, connection.interrupt)
    timer.start()
    with support.Within(5), pytest.raises(db.OperationalError, match="interrupted"):
        connection.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")
    timer.join()
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_threads_share_a_connection(connection):
    connection.autocommit = True
    connection.execute("CREATE TABLE t (a)")

    def work(number):
        cursor = connection.cursor()
        for i in range(50):
            cursor.execute("INSERT INTO t VALUES (?)", (number * 100 + i,))
            assert cursor.execute("SELECT count(*) FROM t WHERE a = ?", (number * 100 + i,)).fetchone() == (1,)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert connection.execute("SELECT count(DISTINCT a) FROM t").fetchone() == (300,)


def test_failover_in_the_middle(tmp_path):
    """Three nodes, of which the leader goes away while a session works: what it said was kept is kept, once."""
    addresses = [support.free_address() for _ in range(3)]
    nodes = {}
    starts = []
    for number, address in enumerate(addresses, 1):
        def start(number=number, address=address):
            nodes[address] = db.Node(number, address, str(tmp_path / str(number)), ",".join(addresses))
        starts.append(threading.Thread(target=start))
    for thread in starts:
        thread.start()
    for thread in starts:
        thread.join()
    connection = db.connect(addresses=",".join(addresses), database="a.db", autocommit=True)
    connection.execute("CREATE TABLE t (a INTEGER)")
    kept, unknown = [], []
    insert = connection.cursor()
    stopper = None
    deadline = time.monotonic() + 45
    number = 0
    while number < 400 and time.monotonic() < deadline:
        if number == 100:
            stopper = threading.Thread(target=nodes[connection.leader].close)
            stopper.start()
        try:
            insert.execute("INSERT INTO t VALUES (?)", (number,))
            kept.append(number)
        except db.OutcomeUnknownError:
            unknown.append(number)
        except (db.RetryError, db.OperationalError):
            continue  # the same number again: nothing was changed
        number += 1
    stopper.join()
    found = [a for (a,) in connection.execute("SELECT a FROM t ORDER BY a")]
    assert len(found) == len(set(found)) and set(kept) <= set(found) <= set(kept) | set(unknown)
    assert len(kept) > 390 and len(unknown) < 5
    connection.close()
    for node in nodes.values():
        node.close()
