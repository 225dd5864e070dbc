"""What a large database costs that is no time: log that is read in vain, memory that is taken twice or kept, a stop that waits."""

import ctypes
import json
import signal
import sys
import threading
from pathlib import Path

import support

EXAMPLES = str(Path(__file__).resolve().parents[2] / "examples/python")
sys.path.insert(0, EXAMPLES)
import dqlitepy_ctypes as db  # noqa: E402

MEGABYTE = 1_000_000


def taken(folder):
    """The indexes of the snapshots that are whole; the engine keeps the last two."""
    return sorted(int(path.name.split("-")[2]) for path in folder.glob("snapshot-*.meta") if path.with_suffix("").exists())


def log_megabytes(folder):
    return sum(path.stat().st_size for path in folder.iterdir() if path.name[0].isdigit()) / MEGABYTE


def bytes_read():
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def node_with(address, folder, threshold, trailing, compression=True):
    """A node that takes a snapshot after so many entries, and keeps so many behind it."""
    handle = db._HANDLE()
    db._check(db._lib.dqlitepy_node_create(7, address.encode(), str(folder).encode(), db.byref(handle)))
    node = db.Node.__new__(db.Node)
    node.handle = handle.value
    db._check(db._lib.dqlitepy_node_set_snapshot_params(handle, threshold, trailing, 0))
    db._check(db._lib.dqlitepy_node_set_snapshot_compression(handle, int(compression)))
    db._check(db._lib.dqlitepy_node_start(node.handle))
    return node


def overwrite(connection, times):
    connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, a BLOB)")
    for _ in range(times):
        connection.execute("INSERT OR REPLACE INTO t VALUES (1, randomblob(?))", (MEGABYTE,))


def test_the_log_behind_two_snapshots_goes_from_the_disk(tmp_path, address):
    folder = tmp_path / "node"
    node = db.Node(7, address, str(folder))
    try:
        connection = db.connect(node=node, database="a.db", autocommit=True)
        overwrite(connection, 400)
        # One for each 64 MB; of what leads to the one before the last nothing is needed.
        support.wait_until(lambda: len(taken(folder)) == 2 and log_megabytes(folder) < 250, 30, lambda: log_megabytes(folder))
        connection.close()
    finally:
        node.close()


def test_a_start_does_not_read_what_the_snapshot_holds(tmp_path, address):
    folder = tmp_path / "node"
    # All of the log stays on the disk, as the engine leaves it.
    node = node_with(address, folder, 250, 1000)
    try:
        connection = db.connect(node=node, database="a.db", autocommit=True)
        overwrite(connection, 300)
        support.wait_until(lambda: taken(folder), 30)
        connection.close()
    finally:
        node.close()
    assert log_megabytes(folder) > 280
    before = bytes_read()
    node = db.Node(7, address, str(folder))
    try:
        # 50 behind the snapshot, 64 before it, and a segment.
        assert bytes_read() - before < 150 * MEGABYTE
        connection = db.connect(node=node, database="a.db", autocommit=True)
        assert connection.execute("SELECT length(a) FROM t").fetchone() == (MEGABYTE,)
        connection.close()
    finally:
        node.close()


def fill(connection, megabytes):
    connection.execute("CREATE TABLE t (a BLOB)")
    for _ in range(megabytes):
        connection.execute("INSERT INTO t VALUES (randomblob(?))", (MEGABYTE,))


def small_until(connection, ready, what):
    """How many entries lie between two snapshots depends on how long the first takes."""
    support.wait_until(lambda: connection.execute("INSERT INTO t VALUES (1)") and ready(), 30, what)


RESTART = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import dqlitepy_ctypes as db

def megabytes(what):
    status = Path("/proc/self/status").read_text()
    return int(status.split(what + ":")[1].split()[0]) / 1024

before = megabytes("VmRSS")
node = db.Node(7, sys.argv[2], sys.argv[3])
print(megabytes("VmHWM") - before)
node.close()
print(megabytes("VmRSS") - before)
"""


def test_a_restored_database_is_in_memory_once_and_not_at_all_after_the_stop(tmp_path, address):
    folder = tmp_path / "node"
    node = node_with(address, folder, 20, 20)
    try:
        connection = db.connect(node=node, database="a.db", autocommit=True)
        fill(connection, 105)
        small_until(connection, lambda: taken(folder)[-1:] > [105], lambda: taken(folder))
        connection.close()
    finally:
        node.close()
    process = support.python(RESTART, EXAMPLES, address, folder)
    peak, after = map(float, process.communicate(timeout=60)[0].split())
    # The database, and of the log up to 20 entries behind the snapshot and 20 before it, in segments of 8.
    assert 100 < peak < 175
    assert after < 60


def test_a_stop_does_not_wait_for_a_snapshot(tmp_path, address):
    folder = tmp_path / "node"
    node = node_with(address, folder, 400, 400)
    try:
        connection = db.connect(node=node, database="a.db", autocommit=True)
        fill(connection, 396)
        while not list(folder.glob(".tmp-*")) and not list(folder.glob("tmp-*")):
            connection.execute("INSERT INTO t VALUES (1)")
        assert not taken(folder)
        connection.close()
    finally:
        node.close()
    assert not taken(folder)
    node = db.Node(7, address, str(folder))
    try:
        connection = db.connect(node=node, database="a.db", autocommit=True)
        assert connection.execute("SELECT count(*) FROM t WHERE length(a) = ?", (MEGABYTE,)).fetchone() == (396,)
        connection.close()
    finally:
        node.close()


MEMBER = """
import sys
sys.path.insert(0, sys.argv[1])
import dqlitepy_ctypes as db
node = db.Node(8, sys.argv[2], sys.argv[3], cluster=sys.argv[4])
sys.stdin.read()
node.close()
"""


def voters(address):
    client, text = db._HANDLE(), ctypes.c_void_p()
    db._check(db._lib.dqlitepy_client_create(address.encode(), ctypes.byref(client)))
    try:
        db._check(db._lib.dqlitepy_client_cluster(client, ctypes.byref(text)))
        members = json.loads(ctypes.string_at(text.value))
        db._lib.dqlitepy_free(text)
        return [member["id"] for member in members if member["role"] == 0]
    finally:
        db._lib.dqlitepy_client_close(client)


def test_a_member_that_vanishes_amid_a_large_snapshot_gets_another(tmp_path, address):
    """The parts that are queued behind the broken one fail as well, and the message is sent anew."""
    sending = threading.Event()
    told = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)(
        lambda _, __, message: sending.set() if b" of a snapshot are sent" in message else None
    )
    theirs = support.free_address()
    arguments = (EXAMPLES, theirs, tmp_path / "member", f"{address},{theirs}")
    node = node_with(address, tmp_path / "node", 100, 100)
    db._lib.dqlitepy_set_log_callback(told, None)
    try:
        connection = db.connect(node=node, database="a.db", autocommit=True)
        fill(connection, 300)
        small_until(connection, lambda: taken(tmp_path / "node")[-1:] > [290], lambda: taken(tmp_path / "node"))
        connection.close()
        member = support.python(MEMBER, *arguments)
        assert sending.wait(30)
        member.send_signal(signal.SIGSTOP)
        member.kill()
        member.wait()
        member = support.python(MEMBER, *arguments)
        support.wait_until(lambda: voters(address) == [7, 8], 40, lambda: voters(address))
        member.communicate("", timeout=30)
    finally:
        db._lib.dqlitepy_set_log_callback(None, None)
        node.close()
