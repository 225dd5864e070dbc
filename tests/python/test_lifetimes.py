"""What becomes of a connection's objects when it ends, or the node does, in the middle of a request; and of a node that has no
thread to stop on."""

import json
import os
import tempfile
from pathlib import Path

import pytest

import support
import wire
from wire import Wire, message, text, word


@pytest.fixture
def node(tmp_path, address, monkeypatch):
    """A node whose process an assertion of the engine ends, and a table."""
    monkeypatch.setenv("DQLITEPY_ASSERT", "abort")
    node = support.RemoteNode(address, tmp_path / "node")
    node.exec("CREATE TABLE t (a)")
    yield node
    node.close()


# ---- changes of the members ----


def begin_promotion(w):
    """A change that goes on for a long time: nobody is there to be made a voter."""
    w.call(wire.ADD, word(2) + text(support.free_address()), wire.EMPTY)
    w.send(message(wire.ASSIGN, word(2) + word(0)))


def test_stop_amid_a_change_of_the_members(node):
    with Wire(node.address) as w:
        w.open().execute("BEGIN IMMEDIATE")
        begin_promotion(w)
        with support.Within(5):
            node.stop()


def test_a_client_that_vanishes_amid_a_change_of_the_members(node):
    with Wire(node.address) as w:
        w.open().execute("BEGIN IMMEDIATE")
        begin_promotion(w)
    with support.Within(3):
        node.exec("INSERT INTO t VALUES (1)")
    node.stop()


# ---- texts of several statements ----


def test_a_second_statement_that_reads_behind_a_writer(node):
    with Wire(node.address) as writer, Wire(node.address) as reader:
        writer.open().execute("BEGIN IMMEDIATE")
        with support.Within(3):
            reader.open().execute("SELECT 1; SELECT 2")


def test_a_second_statement_that_writes_waits_as_long_as_others(node):
    with Wire(node.address) as writer, Wire(node.address) as other:
        writer.open().execute("BEGIN IMMEDIATE")
        with support.Within(8), pytest.raises(wire.Failure, match="locked"):
            other.open().execute("SELECT 1; INSERT INTO t VALUES (1)")
        writer.execute("COMMIT")


def test_stop_behind_a_second_statement(node):
    long = "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s) INSERT INTO t SELECT n FROM s WHERE n < 0"
    with Wire(node.address) as writer, Wire(node.address) as other:
        writer.open().execute("BEGIN IMMEDIATE")
        other.open().send(message(wire.EXEC_SQL, word(0) + text("SELECT 1; SELECT 2; INSERT INTO t VALUES (1)")))
        writer.send(message(wire.EXEC_SQL, word(0) + text(long)))
        with pytest.raises(TimeoutError):
            other.socket.settimeout(1)
            other.response()
        with support.Within(5):
            node.stop()


# ---- without threads ----

SHORT = """
import json, logging, os, resource, sys
logging.getLogger("dqlitepy").setLevel(100)
from dqlitepy import Node

def limit(most):
    resource.setrlimit(resource.RLIMIT_NPROC, (most, resource.getrlimit(resource.RLIMIT_NPROC)[1]))

def threads():
    return [open(f"/proc/self/task/{id}/comm").read().strip() for id in os.listdir("/proc/self/task")]

node = Node(sys.argv[1], sys.argv[2], node_id=1)
os.chmod(sys.argv[2], 0o777)
if os.geteuid() == 0:
    os.setresuid(54321, 54321, 0)  # root has no limit
node.start()
node.open_db("a.db")
node.exec("CREATE TABLE t (a)")
limit(0)
node.stop()
print(json.dumps(threads()))
limit(resource.getrlimit(resource.RLIMIT_NPROC)[1])
node.start()
node.open_db("a.db")
node.exec("INSERT INTO t VALUES (1)")
node.stop()
"""


def test_a_stop_without_a_thread_to_do_it_on(address):
    # The folder has to be another user's as well.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        code, out, err = support.run_python(SHORT, address, Path(folder) / "node")
    assert (code, err) == (0, "")
    assert not [name for name in json.loads(out) if name.startswith("dqlite-")]
