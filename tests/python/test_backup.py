"""Databases out and in: dumps that SQLite itself reads, SQLite files and scripts that are loaded."""

import math
import os
import random
import sqlite3
import subprocess
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
    address = support.free_address()
    node = db.Node(1, address, str(tmp_path_factory.mktemp("node")))
    node.address = address
    yield node
    node.close()


names = iter(f"backup{n}.db" for n in range(10000))


@pytest.fixture
def fresh(server):
    """Connections to databases that nobody else uses, and each a new one."""
    opened = []

    def connect(database=None, **options):
        database = database or next(names)
        connection = db.connect(node=server, database=database, autocommit=True, **options)
        connection.database = database
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture
def empty(fresh):
    return fresh()


def sqlite(path):
    """What the file says of itself when SQLite opens it."""
    file = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return file


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def content(connection):
    """Everything in a database that an application can see; hex because of NULs, but versions differ in hex of a real."""
    found = {"schema": sorted(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall(), key=str)}
    for pragma in "user_version", "application_id":
        found[pragma] = connection.execute(f"PRAGMA {pragma}").fetchall()
    for kind, name, _, sql in found["schema"]:
        if kind == "table" and not name.startswith("sqlite_stat"):
            table = quoted(name)
            columns = [quoted(row[1]) for row in connection.execute(f"PRAGMA table_xinfo({table})").fetchall()]
            values = ", ".join(f"typeof({c}), CASE typeof({c}) WHEN 'real' THEN {c} ELSE hex({c}) END" for c in columns)
            key = "" if "WITHOUT ROWID" in sql else "rowid, "
            rows = connection.execute(f"SELECT {key}{values} FROM {table} ORDER BY 1, 2, 3").fetchall()
            found[name] = [tuple(map(repr, row)) for row in rows]
    return found


ODD = """
CREATE TABLE plain (a, b, c);
CREATE TABLE "odd ""name" ("a b" TEXT, rowid REAL, "select" BLOB, CHECK ("a b" <> 'never'));
CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, v DATETIME, w BOOLEAN);
CREATE TABLE keyed (k TEXT, n INTEGER, v, PRIMARY KEY (n, k)) WITHOUT ROWID;
CREATE TABLE strict (a INTEGER NOT NULL, b ANY, c TEXT DEFAULT 'x') STRICT;
CREATE TABLE computed (a INTEGER, twice INTEGER AS (a * 2) STORED, thrice AS (a * 3));
CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent(id));
CREATE TABLE parent (id INTEGER PRIMARY KEY, child REFERENCES child(id));
CREATE TABLE log (what);
CREATE UNIQUE INDEX plain_a ON plain (a) WHERE a > 5;
CREATE INDEX lower_k ON keyed (lower(k) DESC);
CREATE VIEW both AS SELECT a, n FROM plain, keyed;
CREATE TRIGGER noted AFTER INSERT ON plain BEGIN INSERT INTO log VALUES ('it''s; ' || new.a); END;
CREATE TRIGGER instead INSTEAD OF INSERT ON both BEGIN INSERT INTO log VALUES (new.a); END;
"""

VALUES = [
    None, 0, 1, -1, 2**63 - 1, -(2**63), 2**53 + 1, 0.0, -0.0, 0.1, 5e-324, 1.7976931348623157e308, math.inf, -math.inf,
    "", "a", "'\"\\\n", "äöü€😀", "12", "1e3", b"", b"\0", b"a\0b", b"\xff\xfe", bytes(range(256)), "x" * 70000, b"\1" * 70000,
]  # fmt: skip


def make_source(path, rows=200):
    """A SQLite file with a bit of everything."""
    file = sqlite3.connect(path)
    file.executescript(ODD)
    for n, value in enumerate(VALUES):
        file.execute("INSERT INTO plain VALUES (?, ?, ?)", (n - 100, value, VALUES[-n]))
        file.execute("INSERT INTO keyed VALUES (?, ?, ?)", (f"K{n}", n, value))
        file.execute("INSERT INTO strict VALUES (?, ?, ?)", (n, value, str(value)[:9]))
    file.execute("INSERT INTO plain VALUES (1, CAST(x'610062' AS TEXT), CAST(x'00' AS TEXT))")
    file.execute("INSERT INTO plain (rowid, a) VALUES (-7, 77), (?, 78)", (2**62,))
    file.execute("""INSERT INTO "odd ""name" VALUES ('x', 1.5, x'00ff'), (NULL, -0.0, 'text')""")
    file.executemany("INSERT INTO counted (v, w) VALUES (?, ?)", [("2024-01-02", 1), (5, "odd"), (b"\0", None)])
    file.execute("DELETE FROM counted WHERE id = 3")
    file.executemany("INSERT INTO computed (a) VALUES (?)", [(n,) for n in range(rows)])
    file.execute("INSERT INTO child VALUES (1, 1)")
    file.execute("INSERT INTO parent VALUES (1, 1)")
    file.execute("ANALYZE")
    file.execute("PRAGMA user_version = 42")
    file.execute("PRAGMA application_id = -5")
    file.commit()
    file.close()


def without_statistics(found):
    found["schema"] = [row for row in found["schema"] if not row[1].startswith("sqlite_stat")]
    return found


def test_everything_in_a_file_survives_the_way_in_and_out(empty, fresh, tmp_path):
    make_source(tmp_path / "source")
    seen = []
    empty.load_file(tmp_path / "source", lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 0) and seen[-1][0] == seen[-1][1] > 200
    with sqlite3.connect(tmp_path / "source") as source:
        before = without_statistics(content(source))
    assert content(empty) == before
    empty.dump(tmp_path / "copy")
    with sqlite(tmp_path / "copy") as copy:
        assert content(copy) == before
    again = fresh()
    again.load_file(tmp_path / "copy")
    assert content(again) == before
    # What was loaded is alive: counters go on, triggers fire, constraints hold.
    again.execute("INSERT INTO counted (v) VALUES (1)")
    assert again.execute("SELECT max(id) FROM counted").fetchone() == (4,)
    again.execute("INSERT INTO plain VALUES (900, 1, 1)")
    assert ("it's; 900",) in again.execute("SELECT what FROM log").fetchall()
    with pytest.raises(db.IntegrityError):
        again.execute("INSERT INTO child VALUES (9, 9)")


def test_a_dump_is_one_file_that_only_its_owner_reads(empty, tmp_path):
    empty.execute("CREATE TABLE t (a)")
    target = tmp_path / "copy"
    target.write_text("something else")
    seen = []
    empty.dump(target, lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 4096 and seen == sorted(seen)
    assert os.listdir(tmp_path) == ["copy"]
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.read_bytes()[18:20] == b"\1\1", "not in WAL mode"
    with sqlite(target) as copy:
        assert copy.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_dump_of_nothing(empty, tmp_path):
    empty.dump(tmp_path / "copy")
    with sqlite(tmp_path / "copy") as copy:
        assert copy.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)


def test_dumps_under_concurrent_writes_are_consistent(empty, fresh, tmp_path):
    accounts = 50
    empty.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, pad)")
    empty.executemany("INSERT INTO account VALUES (?, 100, ?)", [(n, "p" * 500) for n in range(accounts)])
    empty.execute("CREATE INDEX balance ON account (balance, pad)")
    stop, transfers, failures = threading.Event(), [], []

    def move(connection, chance):
        try:
            while not stop.is_set():
                a, b = chance.sample(range(accounts), 2)
                connection.begin("IMMEDIATE")
                connection.execute("UPDATE account SET balance = balance - 7 WHERE id = ?", (a,))
                connection.execute("UPDATE account SET balance = balance + 7, pad = ? WHERE id = ?", (str(chance.random()), b))
                connection.commit()
                transfers.append(1)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    writers = [fresh(empty.database) for _ in range(2)]
    threads = [threading.Thread(target=move, args=(w, random.Random(n))) for n, w in enumerate(writers)]
    for thread in threads:
        thread.start()
    try:
        moved = 0
        for n in range(8):
            support.wait_until(lambda: failures or len(transfers) > moved)
            moved = len(transfers)
            empty.dump(tmp_path / f"copy{n}")
            with sqlite(tmp_path / f"copy{n}") as copy:
                assert copy.execute("SELECT sum(balance), count(*) FROM account").fetchone() == (100 * accounts, accounts)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_a_dump_holds_what_was_committed_and_nothing_else(empty, fresh, tmp_path):
    empty.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    empty.begin("IMMEDIATE")
    empty.execute("INSERT INTO t VALUES (2)")
    empty.dump(tmp_path / "copy")
    with sqlite(tmp_path / "copy") as copy:
        assert copy.execute("SELECT a FROM t").fetchall() == [(1,)]
    assert empty.in_transaction
    empty.commit()
    fresh(empty.database).dump(tmp_path / "copy")
    with sqlite(tmp_path / "copy") as copy:
        assert copy.execute("SELECT a FROM t").fetchall() == [(1,), (2,)]


def test_a_cancelled_dump_leaves_nothing(empty, tmp_path):
    empty.execute("CREATE TABLE t (a)")
    empty.execute("INSERT INTO t VALUES (zeroblob(5000000))")
    (tmp_path / "copy").write_bytes(b"before")
    with pytest.raises(db.Error, match="progress callback.*as it was before") as caught:
        empty.dump(tmp_path / "copy", lambda done, total: total and done > total / 3)
    assert caught.value.code == db.INTERRUPTED
    with pytest.raises(ZeroDivisionError):
        empty.dump(tmp_path / "copy", lambda done, total: 1 / 0)
    assert os.listdir(tmp_path) == ["copy"] and (tmp_path / "copy").read_bytes() == b"before"
    # Another thread's interrupt ends it as well, and the session goes on.
    with pytest.raises(db.Error) as caught:
        empty.dump(tmp_path / "copy", lambda done, total: empty.interrupt())
    assert caught.value.code == db.INTERRUPTED
    assert empty.execute("SELECT count(*) FROM t").fetchone() == (1,)
    assert os.listdir(tmp_path) == ["copy"]


def test_targets_that_cannot_be(empty, tmp_path):
    empty.execute("CREATE TABLE t (a)")
    (tmp_path / "used-wal").write_bytes(b"frames")
    for target, message in [
        (tmp_path, "no name"),
        (tmp_path / "missing/copy", "No such file"),
        (tmp_path / "used", "belongs to another database"),
        (Path("/proc/self/copy"), "creating /proc/self"),
    ]:
        with pytest.raises(db.ProgrammingError, match=message):
            empty.dump(target)
    assert os.listdir(tmp_path) == ["used-wal"]


FULL_DISK = """
import os, resource, sys
import dqlitepy_ctypes as db
session = db.connect(addresses=sys.argv[1], database=sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    session.dump(sys.argv[3])
except db.InternalError as error:
    print(error)
print(os.listdir(os.path.dirname(sys.argv[3])))
"""


def test_a_disk_that_takes_no_more(server, empty, tmp_path):
    empty.execute("CREATE TABLE t (a)")
    empty.execute("INSERT INTO t VALUES (zeroblob(3000000))")
    path = str(Path(db.__file__).parent)
    out = subprocess.run(
        [sys.executable, "-c", FULL_DISK, server.address, empty.database, str(tmp_path / "copy")],
        env=dict(os.environ, PYTHONPATH=path), capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert "File too large" in out.stdout and "as it was before" in out.stdout and out.stdout.endswith("\n[]\n"), out


def test_what_is_there_is_not_overwritten(empty, tmp_path):
    make_source(tmp_path / "source")
    empty.executescript("CREATE TABLE Keyed (mine); INSERT INTO keyed VALUES (1); CREATE TABLE other (a)")
    before = content(empty)
    with pytest.raises(db.ProgrammingError, match="already has keyed.*nothing was loaded") as caught:
        empty.load_file(tmp_path / "source")
    assert caught.value.code == db.MISUSE
    empty.executescript("DROP TABLE keyed; PRAGMA user_version = 7")
    with pytest.raises(db.ProgrammingError, match="user_version 7 and the file 42"):
        empty.load_file(tmp_path / "source")
    assert [row[1] for row in content(empty)["schema"]] == ["other"], before
    empty.executescript("PRAGMA user_version = 42")
    empty.load_file(tmp_path / "source")
    assert len(content(empty)) > 8
    with pytest.raises(db.ProgrammingError, match="already has plain"):
        empty.load_file(tmp_path / "source")


def test_files_that_are_no_databases(empty, tmp_path):
    make_source(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "text").write_bytes(b"this is not a database at all, however long it may be. " * 100)
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2 // 4096 * 4096])
    (tmp_path / "torn").write_bytes(whole[:-1000])
    middle = len(whole) // 2 // 4096 * 4096
    (tmp_path / "damaged").write_bytes(whole[:middle] + b"\xa5" * 8192 + whole[middle + 8192 :])
    (tmp_path / "virtual").touch()
    with sqlite3.connect(tmp_path / "virtual") as file:
        file.execute("CREATE VIRTUAL TABLE words USING fts5(w)")
    for name, message in [
        ("missing", "No such file"),
        (".", "is not a file"),
        ("text", "not a database"),
        ("cut", "damaged|malformed"),
        ("torn", "damaged|malformed"),
        ("damaged", "damaged|malformed"),
        ("virtual", 'virtual table "words"'),
    ]:
        with pytest.raises(db.ProgrammingError, match=message) as caught:
            empty.load_file(tmp_path / name)
        assert caught.value.code == db.INVALID and (name == "." or name in str(caught.value))
    assert content(empty)["schema"] == []


def test_a_file_that_this_process_has_locked(empty, tmp_path):
    make_source(tmp_path / "source")
    holder = sqlite3.connect(tmp_path / "source", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(db.ProgrammingError, match="in use by another SQLite of this process"):
        empty.load_file(tmp_path / "source")
    # The lock is still there: another process meets it.
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute('BEGIN IMMEDIATE')"
    out = subprocess.run([sys.executable, "-c", code, tmp_path / "source"], capture_output=True, text=True)
    assert "database is locked" in out.stderr
    holder.execute("ROLLBACK")
    empty.load_file(tmp_path / "source")
    holder.close()


def test_a_file_in_wal_mode_with_its_wal(empty, tmp_path):
    code = "import os, sqlite3, sys; f = sqlite3.connect(sys.argv[1]); f.execute('PRAGMA journal_mode=WAL'); \
            f.execute('CREATE TABLE t (a)'); f.execute('INSERT INTO t VALUES (1)'); f.commit(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "source"], check=True)
    assert (tmp_path / "source-wal").stat().st_size > 0
    empty.load_file(tmp_path / "source")
    assert empty.execute("SELECT a FROM t").fetchall() == [(1,)]


def large_source(path, rows=3000, bad=None):
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE first (a)")
        file.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data, CHECK (typeof(data) <> 'null'))")
        if bad is not None:
            file.execute("PRAGMA ignore_check_constraints = ON")
        file.executemany(
            "INSERT INTO t VALUES (?, ?)", ((n, None if n == bad else random.randbytes(5000)) for n in range(rows))
        )
        file.execute("CREATE INDEX data ON t (substr(data, 1, 10))")


def test_a_load_that_fails_says_how_far_it_got(empty, fresh, tmp_path):
    large_source(tmp_path / "source", bad=2900)
    with pytest.raises(db.IntegrityError, match="t: CHECK constraint failed.*2 of 2 tables.*of 3000 rows, 0 of 1") as caught:
        empty.load_file(tmp_path / "source")
    kept = empty.execute("SELECT count(*) FROM t").fetchone()[0]
    assert f"{kept} of 3000 rows" in str(caught.value) and 1000 < kept < 2900
    # What fits one transaction is kept as a whole or not at all.
    small = fresh()
    large_source(tmp_path / "small", rows=100, bad=99)
    with pytest.raises(db.IntegrityError, match="nothing was loaded"):
        small.load_file(tmp_path / "small")
    assert content(small)["schema"] == []


def test_a_load_can_be_cancelled(empty, fresh, tmp_path):
    large_source(tmp_path / "source")
    with pytest.raises(db.Error, match="2 of 2 tables") as caught:
        empty.load_file(tmp_path / "source", lambda done, total: done > 2000)
    assert caught.value.code == db.INTERRUPTED
    assert f"{empty.execute('SELECT count(*) FROM t').fetchone()[0]} of 3000 rows" in str(caught.value)
    at_once = fresh()
    with pytest.raises(db.Error, match="nothing was loaded"):
        at_once.load_file(tmp_path / "source", lambda done, total: True)
    at_once.load_file(tmp_path / "source")
    assert at_once.execute("SELECT count(*), sum(length(data)) FROM t").fetchone() == (3000, 3000 * 5000)


def test_a_load_is_no_part_of_a_transaction(empty, tmp_path):
    make_source(tmp_path / "source")
    empty.begin()
    for load in lambda: empty.load_file(tmp_path / "source"), lambda: empty.load_script("CREATE TABLE t (a)"):
        with pytest.raises(db.ProgrammingError, match="inside a transaction"):
            load()
    empty.rollback()


def test_a_script_of_sqlite(empty, tmp_path):
    make_source(tmp_path / "source")
    with sqlite3.connect(tmp_path / "source") as source:
        source.executescript("PRAGMA writable_schema = ON; DROP TABLE IF EXISTS none")
        # .dump as Python has it cannot write a NUL, and knows of no computed columns.
        source.execute("DELETE FROM plain WHERE instr(b, char(0)) OR typeof(b) = 'real'")
        source.executescript('DROP TABLE "odd ""name"; DROP TABLE computed')
        for table in "keyed", "strict", "plain":
            source.execute(f"DELETE FROM {table} WHERE typeof({'c' if table == 'plain' else 'v' if table == 'keyed' else 'b'}) = 'real'")
        script = "\n".join(source.iterdump())
    assert "BEGIN TRANSACTION" in script
    seen = []
    empty.load_script("PRAGMA foreign_keys = OFF;\n" + script, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(script) + 27 + len(script.encode()) - len(script),) * 2
    assert empty.execute("SELECT count(*) FROM keyed").fetchone()[0] > 15
    # The setting ended with the script.
    assert empty.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_scripts_in_transactions_of_ours_and_theirs(empty):
    empty.load_script(
        """
        CREATE TABLE t (a); -- a comment; with a semicolon
        INSERT INTO t VALUES (1);
        SELECT * FROM t;
        BEGIN; INSERT INTO t VALUES (2); SAVEPOINT s; INSERT INTO t VALUES (3); ROLLBACK TO s; COMMIT;
        BEGIN; INSERT INTO t VALUES (4); ROLLBACK;
        CREATE TRIGGER twice AFTER INSERT ON t WHEN new.a < 100 BEGIN INSERT INTO t VALUES (new.a * 100); SELECT 1; END;
        INSERT INTO t VALUES (5) RETURNING a;
        VACUUM;
        CREATE TEMP TABLE mine (a);
        """
    )
    assert sorted(empty.execute("SELECT a FROM t").fetchall()) == [(1,), (2,), (5,), (500,)]
    with pytest.raises(db.OperationalError):
        empty.execute("SELECT * FROM mine")
    empty.load_script("")
    empty.load_script("-- nothing")


def test_a_script_with_an_error_in_the_middle(empty):
    with pytest.raises(db.IntegrityError, match=r'line 4 \(statement 4, "INSERT INTO t VALUES \(1\)"\).*nothing of the script'):
        empty.load_script("CREATE TABLE t (a UNIQUE);\nINSERT INTO t\nVALUES (1); INSERT INTO t VALUES (2);\nINSERT INTO t VALUES (1);")
    assert content(empty)["schema"] == []
    script = "CREATE TABLE t (a UNIQUE);\nBEGIN; INSERT INTO t VALUES (1); COMMIT;\nINSERT INTO t VALUES (2);\nNONSENSE;"
    with pytest.raises(db.OperationalError, match=r"line 4 \(statement 6.*syntax error.*first 4 statements were kept"):
        empty.load_script(script)
    assert empty.execute("SELECT a FROM t").fetchall() == [(1,)]
    with pytest.raises(db.ProgrammingError, match="ends inside a transaction.*first 1 statements were kept"):
        empty.load_script("INSERT INTO t VALUES (3); BEGIN; INSERT INTO t VALUES (4)")
    with pytest.raises(db.OperationalError, match="no transaction is active.*first 1 statements were kept"):
        empty.load_script("INSERT INTO t VALUES (5); COMMIT")
    assert empty.execute("SELECT a FROM t").fetchall() == [(1,), (3,), (5,)]


def test_a_long_script_goes_in_pieces_and_can_be_cancelled(empty):
    script = "CREATE TABLE t (a);\n" + "".join(f"INSERT INTO t VALUES (x'{n:0200000x}');\n" for n in range(60))

    def past_the_half(done, total):
        time.sleep(0.03)  # so often it is asked at most, and the whole script may take less than that
        return done > total * 0.5

    with pytest.raises(db.Error, match=r"first (\d+) statements were kept") as caught:
        empty.load_script(script, past_the_half)
    kept = empty.execute("SELECT count(*) FROM t").fetchone()[0]
    assert caught.value.code == db.INTERRUPTED and f"first {kept + 1} statements" in str(caught.value) and kept > 10


def test_a_blob_of_64_mb_goes_in_and_comes_out(empty, tmp_path):
    large = random.Random(5).randbytes(64 << 20)
    empty.execute("CREATE TABLE t (data BLOB)")
    empty.execute("INSERT INTO t VALUES (?)", (large,))
    assert empty.execute("SELECT data FROM t").fetchone()[0] == large
    empty.dump(tmp_path / "copy")
    with sqlite(tmp_path / "copy") as copy:
        assert copy.execute("SELECT data FROM t").fetchone()[0] == large
