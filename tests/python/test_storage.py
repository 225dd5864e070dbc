"""Where raft's disk fails, or its process ends in the middle (vendor/glue/storage.c, lease.c; tests-c/raft.c has the rest)."""

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import support
from dqlitepy import DqliteError
from test_members import cluster  # noqa: F401

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples/python"))
import dqlitepy_ctypes as db  # noqa: E402

CLOSED = re.compile(r"(\d{16})-(\d{16})$")


def batches(segment):
    """Where each of its batches ends: checksums, a count, a header for each entry, the entries."""
    place = 8
    while place < len(segment):
        (count,) = struct.unpack_from("<Q", segment, place + 8)
        lengths = [struct.unpack_from("<L", segment, place + 16 + 16 * n + 12)[0] for n in range(count)]
        place += 16 + 16 * count + sum(-(-length // 8) * 8 for length in lengths)
        yield place, count


def test_a_truncation_that_a_crash_cut_off(tmp_path):
    address = support.free_address()
    node = db.Node(1, address, str(tmp_path))
    with db.connect(node=node, database="a.db", autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a)")
        for number in range(5):
            connection.execute("INSERT INTO t VALUES (?)", (number,))
    connection.close()
    node.close()
    segment = max(path for path in tmp_path.iterdir() if CLOSED.match(path.name))
    first, last = map(int, CLOSED.match(segment.name).groups())
    *_, (end, _), (_, cut) = batches(segment.read_bytes())
    half = tmp_path / f"{first:016}-{last - cut:016}"
    half.write_bytes(segment.read_bytes()[:end])
    node = db.Node(1, address, str(tmp_path))
    try:
        assert not half.exists()
        with db.connect(node=node, database="a.db") as connection:
            assert connection.execute("SELECT count(*), sum(a) FROM t").fetchall() == [(5, 10)]
        connection.close()
    finally:
        node.close()


REFUSED = """
import ctypes, json, re, resource, signal, sys, threading
sys.path[:0] = sys.argv[3:5]
import support, dqlitepy_ctypes as db

address, folder = sys.argv[1:3]
node = db.Node(1, address, folder)
sessions = [db.connect(node=node, database="a.db", autocommit=True) for _ in range(5)]
sessions[0].executescript("CREATE TABLE t (a BLOB); CREATE TABLE u (a)")
outcomes = {}

def write(session, sql, number):
    try:
        session.execute(sql, (number,))
        outcomes[number] = 0
    except db.Error as error:
        outcomes[number] = error.code

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (9 << 20, before[1]))
# The first is too large for any file; the others wait behind it.
threads = [threading.Thread(target=write, args=(sessions[0], "INSERT INTO t VALUES (zeroblob(16000000 + ?))", 0))]
threads += [threading.Thread(target=write, args=(session, "INSERT INTO u VALUES (?)", n)) for n, session in enumerate(sessions[1:], 1)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
resource.setrlimit(resource.RLIMIT_FSIZE, before)
for number in range(5, 8):
    write(sessions[0], "INSERT INTO u VALUES (?)", number)
text = ctypes.c_void_p()
assert db._lib.dqlitepy_metrics(0, ctypes.byref(text)) == 0
figures = json.loads(ctypes.string_at(text))
last_index = next(family for name, family in figures.items() if name.endswith("last_index"))["samples"][0]["value"]
print(json.dumps([outcomes, last_index]), flush=True)
for session in sessions:
    session.close()
node.close()
"""


def test_a_write_that_the_disk_refuses_and_those_behind_it(tmp_path):
    address = support.free_address()
    paths = [str(Path(__file__).parent), str(Path(db.__file__).parent)]
    child = subprocess.run([sys.executable, "-c", REFUSED, address, tmp_path, *paths], stdout=subprocess.PIPE, timeout=60)
    assert child.returncode == 0
    outcomes, last_index = json.loads(child.stdout)
    closed = filter(None, (CLOSED.match(path.name) for path in tmp_path.iterdir()))
    assert max(int(match[2]) for match in closed) == last_index
    node = db.Node(1, address, str(tmp_path))
    try:
        with db.connect(node=node, database="a.db") as connection:
            assert connection.execute("SELECT count(*) FROM t").fetchall() == [(0,)]
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            written = {row[0] for row in connection.execute("SELECT a FROM u")}
        connection.close()
    finally:
        node.close()
    for number, code in outcomes.items():
        assert number == "0" or code == 101 or (code == 0) == (int(number) in written), (number, code)


def test_a_member_that_cannot_store_its_term_says_so(cluster, tmp_path):  # noqa: F811
    nodes, client = cluster
    support.wait_until(lambda: all(member.role == 0 for member in client.cluster()), 20, "three voters")
    leader = next(node for node in nodes if node.address == client.leader())
    member = next(node for node in nodes if node is not leader)
    for number in (1, 2):
        file = Path(member.data_dir) / f"metadata{number}"
        file.unlink(missing_ok=True)
        file.mkdir()
    leader.handover()

    def error():
        try:
            member.query("SELECT 1")
        except DqliteError as error:
            return str(error)
        return ""

    support.wait_until(lambda: "raft could go on" in error() and "metadata" in error(), 20, error)
