"""When snapshots are written, unless it was set: the log is weighed against what a snapshot would hold."""

import sys
from pathlib import Path

import support

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples/python"))
import dqlitepy_ctypes as db  # noqa: E402

MEGABYTE = 1_000_000


def taken(folder):
    """The indexes of the snapshots that are whole; the engine keeps the last two."""
    return sorted(int(path.name.split("-")[2]) for path in folder.glob("snapshot-*.meta") if path.with_suffix("").exists())


def memory():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def test_a_snapshot_of_much_is_not_written_for_little(tmp_path):
    folder = tmp_path / "node"
    node = db.Node(7, support.free_address(), str(folder))
    try:
        connection = db.connect(node=node, database="a.db", autocommit=True)
        connection.execute("CREATE TABLE t (a BLOB)")
        # Few entries, but much: 1024 of them would be a gigabyte of log.
        for _ in range(68):
            connection.execute("INSERT INTO t VALUES (randomblob(?))", (MEGABYTE,))
        support.wait_until(lambda: taken(folder), 30)
        first = taken(folder)[0]
        assert first < 100
        # More entries than the engine's threshold, but little.
        for _ in range(1100):
            connection.execute("INSERT INTO t VALUES (1)")
        # And enough for the next one; if there had been one between them, the first would be gone.
        for _ in range(30):
            connection.execute("INSERT INTO t VALUES (randomblob(?))", (MEGABYTE,))
        support.wait_until(lambda: len(taken(folder)) == 2, 30)
        assert taken(folder)[0] == first and taken(folder)[1] > 1100
        connection.close()
    finally:
        node.close()


def test_memory_does_not_grow_with_what_was_overwritten(tmp_path):
    node = db.Node(7, support.free_address(), str(tmp_path / "node"))
    try:
        connection = db.connect(node=node, database="a.db", autocommit=True)
        connection.execute("CREATE TABLE t (a BLOB)")
        connection.execute("INSERT INTO t VALUES (randomblob(?))", (MEGABYTE,))
        before = memory()
        for _ in range(500):
            connection.execute("UPDATE t SET a = randomblob(?)", (MEGABYTE,))
        # At most twice 64 MB of log, what a snapshot that is being written needs, and what malloc has kept.
        assert memory() - before < 300
        connection.close()
    finally:
        node.close()
