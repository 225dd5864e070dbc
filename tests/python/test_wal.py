"""A write-ahead log that grows because rows are half read: whoever comes then reads through an index of several parts."""

import sys
from pathlib import Path

import support

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples/python"))
import dqlitepy_ctypes as db  # noqa: E402


def test_a_log_of_many_megabytes_behind_rows_that_are_half_read(tmp_path):
    node = db.Node(7, support.free_address(), str(tmp_path / "node"))
    try:
        reader = db.connect(node=node, database="a.db", autocommit=True)
        idle = db.connect(node=node, database="a.db", autocommit=True)
        reader.execute("CREATE TABLE t (a BLOB)")
        reader.execute("INSERT INTO t VALUES (zeroblob(2000000))")
        assert idle.execute("SELECT count(*) FROM t").fetchone() == (1,)
        rows = reader.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT i, hex(i), (SELECT length(a) FROM t) FROM n"
        )
        assert rows.fetchone()[0] == 1
        writer = db.connect(node=node, database="a.db", autocommit=True)
        for _ in range(40):
            writer.execute("INSERT INTO t VALUES (zeroblob(1000000))")
        late = db.connect(node=node, database="a.db", autocommit=True)
        assert late.execute("SELECT count(*), sum(length(a)) FROM t").fetchone() == (41, 42000000)
        assert idle.execute("SELECT count(*) FROM t").fetchone() == (41,)
        assert rows.fetchone()[0] == 2
        rows.close()
        writer.execute("INSERT INTO t VALUES (x'00')")
        assert late.execute("SELECT count(*) FROM t").fetchone() == (42,)
        for connection in reader, idle, writer, late:
            connection.close()
    finally:
        node.close()


def test_a_large_transaction_that_is_taken_back_leaves_the_log_as_it_was(tmp_path):
    """Its entries stay in the further parts of the index, which all share, and must mislead nobody."""
    node = db.Node(7, support.free_address(), str(tmp_path / "node"))
    try:
        writer = db.connect(node=node, database="a.db", autocommit=True)
        reader = db.connect(node=node, database="a.db", autocommit=True)
        writer.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, a BLOB)")
        rows = "INSERT INTO t SELECT value, randomblob(2000) FROM n"
        first = "WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 12000) "
        more = "WITH RECURSIVE n(value) AS (SELECT 20001 UNION ALL SELECT value + 1 FROM n WHERE value < 32000) "
        writer.execute(first + rows)
        digest = "SELECT count(*), sum(n), group_concat(hex(substr(a, 1, 2)), '') FROM (SELECT * FROM t ORDER BY n)"
        before = reader.execute(digest).fetchone()
        # Rows that are half read keep the WAL from being emptied: the next transactions grow into further parts.
        half = db.connect(node=node, database="a.db", autocommit=True)
        unread = half.execute("SELECT n, hex(a) FROM t")
        assert unread.fetchone()[0] == 1
        for attempt in range(3):
            writer.execute("BEGIN")
            writer.execute(more + rows)
            writer.execute("UPDATE t SET a = randomblob(1500) WHERE n % 3 = 0")
            assert reader.execute(digest).fetchone() == before, "seen before its end"
            writer.execute("ROLLBACK")
            assert reader.execute(digest).fetchone() == before
            late = db.connect(node=node, database="a.db", autocommit=True)
            assert late.execute(digest).fetchone() == before
            late.close()
            writer.execute("INSERT INTO t VALUES (?, zeroblob(10))", (100000 + attempt,))
            now = reader.execute(digest).fetchone()
            assert now[:2] == (before[0] + 1, before[1] + 100000 + attempt) and now[2] == before[2] + "0000"
            before = now
        unread.close()
        writer.execute(more + rows)
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (24003,)
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for connection in writer, reader, half:
            connection.close()
    finally:
        node.close()


def test_a_commit_behind_a_savepoint_that_was_taken_back(tmp_path):
    """What had left SQLite's cache of 2 MB before it was taken back stood behind the end of the transaction."""
    address = support.free_address()
    node = db.Node(7, address, str(tmp_path / "node"))
    try:
        writer = db.connect(node=node, database="a.db", autocommit=True)
        reader = db.connect(node=node, database="a.db", autocommit=True)
        writer.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, a BLOB)")
        much = (
            "WITH RECURSIVE n(v) AS (SELECT 1000 UNION ALL SELECT v + 1 FROM n WHERE v < 11000) "
            "INSERT INTO t SELECT v, randomblob(2000) FROM n"
        )
        for attempt in range(1, 4):
            writer.execute("BEGIN")
            writer.execute("INSERT INTO t VALUES (?, 'kept')", (attempt,))
            writer.execute("SAVEPOINT s")
            writer.execute(much)
            writer.execute("ROLLBACK TO s")
            writer.execute("COMMIT")
            for connection in reader, writer:
                assert connection.execute("SELECT count(*), max(n) FROM t").fetchone() == (attempt, attempt)
        # The same by a statement that fails after it wrote much, in a transaction that goes on.
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (4, 'kept')")
        try:
            writer.execute(much.replace("SELECT v,", "SELECT CASE v WHEN 10999 THEN 4 ELSE v END,"))
            raise AssertionError("a doubled key was taken")
        except db.IntegrityError:
            pass
        writer.execute("COMMIT")
        assert reader.execute("SELECT count(*), max(n) FROM t").fetchone() == (4, 4)
        # Nothing at all is left of a transaction, and that is no transaction.
        writer.execute("BEGIN")
        writer.execute("SAVEPOINT s")
        writer.execute(much)
        writer.execute("ROLLBACK TO s")
        writer.execute("COMMIT")
        writer.execute("INSERT INTO t VALUES (5, 'after')")
        assert reader.execute("SELECT count(*), max(n) FROM t").fetchone() == (5, 5)
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        writer.close(), reader.close()
        node.close()
        node = db.Node(7, address, str(tmp_path / "node"))
        again = db.connect(node=node, database="a.db", autocommit=True)
        assert again.execute("SELECT count(*), max(n) FROM t").fetchone() == (5, 5)
        again.close()
    finally:
        node.close()
