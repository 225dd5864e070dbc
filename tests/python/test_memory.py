"""A node whose process has no memory left for an answer: the statement fails, and the database goes on."""

import resource
from pathlib import Path

import pytest

import support
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
