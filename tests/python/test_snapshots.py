"""When snapshots are written, unless it was set: the log is weighed against what a snapshot would hold."""

import struct
import sys
from pathlib import Path

import pytest

import support

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples/python"))
import dqlitepy_ctypes as db  # noqa: E402
import test_growth  # noqa: E402

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


START = """
import sys
import support
try:
    support.running_node(sys.argv[1], sys.argv[2], node_id=7)
    print("started")
except Exception as error:
    print("refused", error)
"""


def with_log_beside(snapshot, pages):
    """The snapshot as dqlite before 1.17 wrote it: one page of the database, these and more in its WAL."""
    name = snapshot.index(b"\0", 16) // 8 * 8 + 8
    size, = struct.unpack("<Q", snapshot[name:name + 8])
    content = snapshot[name + 16:]
    assert len(content) == size and size // PAGE >= max(pages)
    frame = b"".join(struct.pack(">II16x", page, max(pages) if page == pages[-1] else 0)
                     + content[(page - 1) * PAGE:page * PAGE] for page in pages)
    return snapshot[:name] + struct.pack("<QQ", PAGE, 32 + len(frame)) + content[:PAGE] + bytes(32) + frame


PAGE = 4096


@pytest.mark.parametrize("missing", [None, 100])
def test_a_snapshot_of_before_1_17(tmp_path, address, missing, monkeypatch):
    folder = tmp_path / "node"
    node = test_growth.node_with(address, folder, 8, 8, compression=False)
    connection = db.connect(node=node, database="test.db", autocommit=True)
    connection.execute("CREATE TABLE t (a BLOB)")
    connection.execute("INSERT INTO t VALUES (zeroblob(1000000))")
    for _ in range(20):
        connection.execute("INSERT INTO t VALUES (1)")
    support.wait_until(lambda: len(taken(folder)) == 2)
    connection.close()
    node.close()
    for meta in folder.glob("snapshot-*.meta"):
        data = meta.with_suffix("")
        plain = data.read_bytes()
        count = struct.unpack("<Q", plain[plain.index(b"\0", 16) // 8 * 8 + 8:][:8])[0] // PAGE
        data.write_bytes(with_log_beside(plain, [page for page in range(1, count + 1) if page != missing]))
    # What was never set is no address.
    monkeypatch.setenv("MALLOC_PERTURB_", "165")
    code, out, err = support.run_python(START, address, folder)
    assert code == 0, (out, err[-2000:])
    assert out.startswith("started" if missing is None else "refused"), out
