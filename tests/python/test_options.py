"""The options act. (The Go shim under dqlitepy ignored three of them.)"""

import ctypes
import sys
import threading
import time
from pathlib import Path

import pytest
from dqlitepy import Node, NodeError, NodeStartError

import support
import wire
from wire import Wire, message, text, word

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples/python"))
import dqlitepy_ctypes as db  # noqa: E402

LZ4_MAGIC = b"\x04\x22\x4d\x18"
LONG = "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000000000) SELECT count(*) FROM s"


def blocked_write(node):
    """How long a write waits, and how it fails, while another connection holds the write lock."""
    node.exec("CREATE TABLE IF NOT EXISTS t (a)")
    with Wire(node.address) as w:
        w.open().execute("BEGIN IMMEDIATE")
        start = time.monotonic()
        with pytest.raises(NodeError, match="database is locked") as caught:
            node.exec("INSERT INTO t VALUES (1)")
        taken = time.monotonic() - start
        assert caught.value.code == 1005
        w.execute("ROLLBACK")
    node.exec("INSERT INTO t VALUES (2)")
    return taken


@pytest.mark.parametrize("milliseconds, least, most", [(0, 0, 0.5), (300, 0.29, 1.5), (None, 4.9, 7)])
def test_busy_timeout(tmp_path, address, milliseconds, least, most):
    """Unless set it is five seconds, as in Python's sqlite3."""
    node = support.running_node(address, tmp_path / "n", busy_timeout_ms=milliseconds)
    assert least <= blocked_write(node) <= most
    support.end(node)


def test_write_waits_for_the_lock(node):
    """Within the busy timeout the write simply happens."""
    node.exec("CREATE TABLE t (a)")
    with Wire(node.address) as w:
        w.open().execute("BEGIN IMMEDIATE")
        w.execute("INSERT INTO t VALUES (1)")
        commit = threading.Timer(0.3, w.execute, ("COMMIT",))
        commit.start()
        with support.Within(3):
            node.exec("INSERT INTO t VALUES (2)")
        commit.join()
    assert node.query("SELECT a FROM t ORDER BY a") == [{"a": 1}, {"a": 2}]


def snapshots(directory):
    return [p for p in directory.glob("snapshot-*-*-*") if p.suffix != ".meta"]


@pytest.mark.parametrize("compressed", [True, False, None])
def test_snapshot_compression(tmp_path, address, compressed):
    """More than 1024 entries make a snapshot; unless switched off it is compressed."""
    node = support.running_node(address, tmp_path / "n", snapshot_compression=compressed)
    node.exec("CREATE TABLE t (a TEXT)")
    node.exec("INSERT INTO t VALUES (printf('%.*c', 300000, 'x'))")
    for n in range(11):
        node.exec("INSERT INTO t VALUES (1);" * 100)
    (snapshot, *_) = support.wait_until(lambda: snapshots(tmp_path / "n"), 10, "a snapshot")
    support.end(node)
    data = snapshot.read_bytes()
    assert (data[:4] == LZ4_MAGIC) == (compressed is not False)
    assert (len(data) > 300000) == (compressed is False)
    for again in (compressed, compressed is False):  # it can be read, also by a node that would write it otherwise
        node = support.running_node(address, tmp_path / "n", snapshot_compression=again)
        assert node.query("SELECT count(*) AS n, max(length(a)) AS m FROM t") == [{"n": 1101, "m": 300000}]
        support.end(node)


def damage_last_segment(directory):
    """Flip bytes in the middle of the newest closed segment that holds data."""
    segment = max(p for p in directory.iterdir() if len(p.name) == 33 and p.name[16] == "-")
    data = bytearray(segment.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(b ^ 0xFF for b in data[middle : middle + 8])
    segment.write_bytes(data)
    return segment


def node_with_closed_segment(address, directory):
    node = support.running_node(address, directory)
    node.exec("CREATE TABLE t (a TEXT)")
    for n in range(20):
        node.exec(f"INSERT INTO t VALUES ('{n} {'x' * 1000}')")
    node.stop()
    support.end(node)


def test_auto_recovery_off(tmp_path, address):
    """A damaged segment: the start fails, names the file, and leaves everything as it is."""
    directory = tmp_path / "n"
    node_with_closed_segment(address, directory)
    segment = damage_last_segment(directory)
    before = {p.name: p.read_bytes() for p in directory.iterdir()}
    node = Node(address, directory, auto_recovery=False)
    for _ in range(2):
        with pytest.raises(NodeStartError, match=segment.name):
            node.start()
    assert {p.name: p.read_bytes() for p in directory.iterdir()} == before
    support.end(node)


def test_auto_recovery_on(tmp_path, address):
    """The node starts without the damaged part, which is set aside and not deleted."""
    directory = tmp_path / "n"
    node_with_closed_segment(address, directory)
    segment = damage_last_segment(directory)
    damaged = segment.read_bytes()
    logged = []
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    told = callback(lambda _, level, line: logged.append((level, line.decode())))
    db._lib.dqlitepy_set_log_callback(told, None)
    try:
        node = support.running_node(address, directory, auto_recovery=True)
        (aside,) = (p for p in directory.iterdir() if p.is_file() and p.read_bytes() == damaged)
        assert support.last_error().startswith("warning: ") and aside.name in support.last_error()
        support.wait_until(lambda: any(level == 3 and aside.name in line for level, line in logged), what=logged)
    finally:
        db._lib.dqlitepy_set_log_callback(None, None)
    node.exec("CREATE TABLE IF NOT EXISTS u (a)")
    support.end(node)


def test_one_node_does_not_starve_another(tmp_path):
    """Long statements on one node of the process: statements on another one go on."""
    busy = support.running_node(support.free_address(), tmp_path / "busy")
    other = support.running_node(support.free_address(), tmp_path / "other")
    other.exec("CREATE TABLE t (a)")
    connections = [Wire(busy.address) for _ in range(6)]
    for w in connections:
        w.open().send(message(wire.QUERY_SQL, word(0) + text(LONG)))
    with support.Within(3):
        for n in range(20):
            other.exec(f"INSERT INTO t VALUES ({n})")
    assert other.query("SELECT count(*) AS n FROM t") == [{"n": 20}]
    for w in connections:
        w.close()
    with support.Within(10):
        support.end(busy)
    other.exec("INSERT INTO t VALUES (1)")
    support.end(other)


def test_network_latency(tmp_path):
    """On one node the timers show only in that extreme values neither fail nor slow it down: alone it leads at once."""
    for milliseconds in (1, 3600000):
        node = Node(support.free_address(), tmp_path / str(milliseconds), network_latency_ms=milliseconds)
        with support.Within(2):
            node.start()
            node.open_db("test.db")
            node.exec("CREATE TABLE t (a)")
        support.end(node)
    with pytest.raises(NodeError, match="3600001"):
        Node(support.free_address(), tmp_path / "bad", network_latency_ms=3600001)
