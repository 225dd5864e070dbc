"""A node whose process has no memory left for an answer: the statement fails, and the database goes on."""

import resource
from pathlib import Path

import pytest

import support
import test_snapshots
import wire
from wire import Wire

NODE = """
import sys
import support
node = support.running_node(sys.argv[1], sys.argv[2])
node.exec("CREATE TABLE t (b)")
print("ready", flush=True)
sys.stdin.read()
support.end(node)
"""

SIZE = 20_000_000


def address_space(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize")) << 10


def insert_with_little_memory(client, pid, room):
    """Whether it was done. The limit is such that sometimes SQLite has the memory for a row and the answer to it has not."""
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (address_space(pid) + room, before[1]))
    try:
        client.query(f"INSERT INTO t VALUES (zeroblob({SIZE})) RETURNING hex(b)")
        return True
    except wire.Failure:
        return False
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, before)


def commit(client):
    """What failed may have ended the transaction, as a want of memory does."""
    try:
        client.execute("COMMIT")
    except wire.Failure as failure:
        assert "no transaction is active" in failure.text


@pytest.mark.parametrize("in_transaction", [False, True])
def test_an_answer_without_memory(tmp_path, address, in_transaction):
    process = support.python(NODE, address, tmp_path / "node")
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    done = []
    for room in range(SIZE, 12 * SIZE, SIZE // 2):
        with Wire(address) as client:
            client.open()
            if in_transaction:
                client.execute("BEGIN")
            done.append(insert_with_little_memory(client, process.pid, room))
            if in_transaction:
                commit(client)
            client.execute("DELETE FROM t") if done[-1] else client.execute("INSERT INTO t VALUES (1)")
            client.execute("DELETE FROM t WHERE b = 1")
            assert client.query("SELECT b FROM t") < SIZE, "what was called failed is there"
    assert True in done and False in done, done
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0, (out, err)


def create_with_little_memory(client, pid, room, name):
    """A change of the schema that is in the database and finds no memory to be sent. Says whether it was done."""
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (address_space(pid) + room, before[1]))
    try:
        client.execute(f"CREATE TABLE {name} AS SELECT zeroblob({SIZE}) AS b")
        return True
    except wire.Failure:
        return False
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, before)


def test_a_schema_that_was_taken_back(tmp_path, address):
    """The connection must not believe that it knows the next one, which another one makes; and keeps its settings."""
    process = support.python(NODE, address, tmp_path / "node")
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    done = []
    with Wire(address) as first, Wire(address) as other:
        for client in (first, other):
            client.open()
        first.execute("PRAGMA writable_schema = ON")
        for number, room in enumerate(range(SIZE, 12 * SIZE, SIZE // 4)):
            done.append(create_with_little_memory(first, process.pid, room, f"large_{number}"))
            if done[-1]:
                first.execute(f"DROP TABLE large_{number}")
                continue
            other.execute(f"CREATE TABLE small_{number} (x)")
            first.query(f"SELECT x FROM small_{number}")
            first.execute(f"UPDATE sqlite_schema SET sql = sql WHERE name = 'small_{number}'")
    assert True in done and False in done, done
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0, (out, err)


OFTEN = """
import sys
import test_growth
node = test_growth.node_with(sys.argv[1], sys.argv[2], 8, 8)
print("ready", flush=True)
sys.stdin.read()
node.close()
"""


def test_a_snapshot_without_memory(tmp_path, address, monkeypatch):
    """There is memory for the rows, and none for the list of the database's pages."""
    # What is given back is no memory any more, so that what is large finds none.
    for name, value in [("ARENA_MAX", 1), ("MMAP_THRESHOLD_", 65536), ("TRIM_THRESHOLD_", 65536)]:
        monkeypatch.setenv(f"MALLOC_{name}", str(value))
    process = support.python(OFTEN, address, tmp_path / "node")
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    taken = test_snapshots.taken
    with Wire(address) as writer, Wire(address) as reader:
        for client in (writer, reader):
            client.open()
        writer.execute("CREATE TABLE t (b)")
        for _ in range(10):
            writer.execute("INSERT INTO t VALUES (zeroblob(10000000))")
        # Behind a reader the log stays as it is, and the list is made anew for each snapshot.
        reader.execute("BEGIN")
        reader.query("SELECT count(*) FROM t")
        writer.execute("INSERT INTO t VALUES (1)")
        before = resource.prlimit(process.pid, resource.RLIMIT_AS)
        resource.prlimit(process.pid, resource.RLIMIT_AS, (address_space(process.pid) + 65536, before[1]))
        for _ in range(40):
            writer.execute("INSERT INTO t VALUES (2)")
        known = taken(tmp_path / "node")
        resource.prlimit(process.pid, resource.RLIMIT_AS, before)
        assert writer.query("SELECT b FROM t WHERE b = 2") > 0
        for _ in range(20):
            writer.execute("INSERT INTO t VALUES (3)")
        support.wait_until(lambda: max(taken(tmp_path / "node")) > max(known, default=0))
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, (out, err)


HOST = """
import os, resource, sys
import support
from test_memory import address_space
node = support.running_node(sys.argv[1], sys.argv[2])
node.exec("CREATE TABLE t (b); INSERT INTO t VALUES (zeroblob(30000000))")
node.exec("CREATE TABLE many (b)")
node.exec("WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 4000) INSERT INTO many SELECT hex(zeroblob(4000)) FROM s")
outcomes = set()
for room in range(20, 500, 20):
    for sql in ("SELECT hex(b) AS b FROM t", "SELECT b FROM many"):
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (address_space(os.getpid()) + (room << 20), before[1]))
        try:
            node.query(sql)
            outcomes.add("done")
        except MemoryError:
            pass  # Python's own copy of the text
        except Exception as error:
            outcomes.add("refused" if "memory" in str(error) else str(error))
        resource.setrlimit(resource.RLIMIT_AS, before)
        node.exec("INSERT INTO many VALUES (1)")
assert outcomes == {"done", "refused"}, outcomes
support.end(node)
"""


def test_a_result_without_memory_ends_its_call_and_not_the_process(tmp_path, address):
    code, out, err = support.run_python(HOST, address, tmp_path / "node", seconds=70)
    assert code == 0, (out, err[-2000:])
