"""Python as the host process: exit, fork, spawn, threads, kill -9."""

import multiprocessing
import resource
import signal
import sqlite3
import subprocess
import threading

import pytest
from dqlitepy import ErrorCode, Node, NodeError
from dqlitepy._ffi import get_library

import support

START = """
import os, sys, threading
from support import running_node
node = running_node(sys.argv[1], sys.argv[2])
node.exec("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, a)")
"""
LONG = "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000000000) SELECT count(*) FROM s"


@pytest.mark.parametrize(
    "end",
    [
        "",
        "node.begin(); node.exec('INSERT INTO t (a) VALUES (1)')",
        "node.close()",
        "node.stop()",
        "del node",
        "sys.exit(0)",
        "import gc; node = None; gc.collect()",
        "other = running_node(sys.argv[1], sys.argv[2])",
        "threading.Thread(target=node.query, args=(LONG,), daemon=True).start()",
        "import atexit; atexit.register(node.exec, 'INSERT INTO t (a) VALUES (2)')",
        "import atexit; atexit.register(node.stop)",
        "import atexit; atexit.register(node.close)",
    ],
)
def test_interpreter_exit(tmp_path, address, end):
    """With a node that runs: exit code 0, at once, and not a word."""
    with support.Within(10):
        result = support.run_python(f"{START}\nLONG = {LONG!r}\n{end}", address, tmp_path / "n")
    assert result == (0, "", "")
    node = support.running_node(address, tmp_path / "n")  # and the directory is fine
    node.exec("INSERT INTO t (a) VALUES (3)")
    support.end(node)


def test_uncaught_exception(tmp_path, address):
    code, out, err = support.run_python(START + "raise KeyError('mine')", address, tmp_path / "n")
    assert (code, out) == (1, "") and err.endswith("KeyError: 'mine'\n")


def test_keyboard_interrupt(tmp_path, address):
    """Ctrl-C reaches Python's handler, not the engine's threads."""
    process = support.python(
        START
        # Whoever runs the tests in the background has told their processes to ignore it.
        + "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        + "try:\n    print('ready', flush=True)\n    sys.stdin.read()\nexcept KeyboardInterrupt:\n    node.stop(); print('stopped')",
        address,
        tmp_path / "n",
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "stopped\n", "")


def test_killed(tmp_path, address):
    """What was acknowledged is there after kill -9, three times in a row."""
    insert = "while True:\n    print(node.exec(\"INSERT INTO t (a) VALUES ('x')\")[0], flush=True)"
    for killed_after in (20, 77, 150):
        process = support.python(START + insert, address, tmp_path / "n")
        acknowledged = [int(process.stdout.readline()) for _ in range(killed_after)]
        process.kill()
        # Not communicate(), which does not know of lines that readline() has taken out of the pipe already.
        rest, err = process.stdout.read(), process.stderr.read()
        process.wait(20)
        acknowledged += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        assert err == ""
        node = support.running_node(address, tmp_path / "n")
        ids = [row["id"] for row in node.query("SELECT id FROM t ORDER BY id")]
        assert set(acknowledged) <= set(ids)
        assert ids == list(range(1, len(ids) + 1)) and len(ids) - acknowledged[-1] in (0, 1)
        support.end(node)


def test_subprocess_while_running(node):
    """fork and exec: the child inherits nothing of ours."""
    node.exec("CREATE TABLE t (a)")
    listing = subprocess.run(
        ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, timeout=20, check=True, close_fds=False
    ).stdout
    assert "socket:" not in listing and "dqlite" not in listing and str(node.data_dir) not in listing
    node.exec("INSERT INTO t VALUES (1)")


def child_of_a_fork(node, answers):
    def code_of(call, *arguments):
        try:
            call(*arguments)
        except NodeError as e:
            return e.error_code.name

    with support.Within(2):
        answers.put([code_of(node.exec, "INSERT INTO t VALUES (2)"), code_of(node.query, "SELECT 1"), code_of(node.open_db)])


def test_multiprocessing_fork(node):
    """The child is told at once that it must not; the parent goes on."""
    node.exec("CREATE TABLE t (a)")
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    for n in range(3):
        process = context.Process(target=child_of_a_fork, args=(node, answers))
        process.start()
        process.join(20)
        assert process.exitcode == 0
        assert answers.get() == ["MISUSE"] * 3
        node.exec(f"INSERT INTO t VALUES ({n})")
    assert node.query("SELECT count(*) AS n FROM t") == [{"n": 3}]


def run_own_node(address, data_dir, answers):
    node = support.running_node(address, data_dir)
    node.exec("CREATE TABLE t (a)")
    node.exec("INSERT INTO t VALUES (5)")
    answers.put(node.query("SELECT a FROM t"))


def test_multiprocessing_spawn(node, tmp_path):
    """A spawned child is a process of its own and runs a node of its own."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=run_own_node, args=(support.free_address(), str(tmp_path / "child"), answers))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert answers.get() == [{"a": 5}]
    node.exec("CREATE TABLE t (a)")


def test_fork_before_the_first_node(tmp_path, address):
    """Loading the library does not spoil a later fork (gunicorn --preload and the like)."""
    code = """
import os, sys
import dqlitepy, support
dqlitepy.get_version()
pid = os.fork()
node = support.running_node(sys.argv[1 if pid else 3], sys.argv[2 if pid else 4])
node.exec("CREATE TABLE t (a)")
if pid:
    assert os.waitpid(pid, 0)[1] == 0
"""
    result = support.run_python(code, address, tmp_path / "a", support.free_address(), tmp_path / "b")
    assert result == (0, "", "")


def test_threads_with_a_node_object_each(tmp_path, address):
    """Eight threads, each with its own Node on the same directory: sessions of their own on one node."""
    first = support.running_node(address, tmp_path / "n")
    first.exec("CREATE TABLE t (a)")
    failures = []

    def work(number):
        try:
            node = Node(address, tmp_path / "n")
            node.start()
            node.open_db("test.db")
            for n in range(20):
                node.exec(f"INSERT INTO t VALUES ({number * 100 + n})")
                assert node.query("SELECT count(*) AS n FROM t")[0]["n"] > n
        except Exception as e:  # any failure is the test's failure
            failures.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert first.query("SELECT count(DISTINCT a) AS n FROM t") == [{"n": 160}]
    support.end(first)


def test_python_goes_on_during_a_call(node):
    """A long statement holds up neither the interpreter nor, once the node stops, its own thread."""
    codes = []

    def query():
        try:
            node.query(LONG)
        except NodeError as e:
            codes.append(e.error_code)

    handle = node._handle
    thread = threading.Thread(target=query)
    with support.Within(10):
        thread.start()
        support.wait_until(thread.is_alive)
        # dqlitepy's lock is held by that thread: stop as another binding would.
        assert get_library().dqlitepy_node_stop(handle) == 0
        thread.join(10)
    assert codes in ([ErrorCode.SHUTDOWN], [ErrorCode.STOPPED])


def test_beside_sqlite3(node):
    """Python's own SQLite in the same process is another one."""
    mine = sqlite3.connect(":memory:")
    mine.execute("CREATE TABLE t (a)")
    node.exec("CREATE TABLE t (a)")
    node.exec("INSERT INTO t VALUES (1)")
    assert mine.execute("SELECT count(*) FROM t").fetchone() == (0,)
    mine.execute("PRAGMA journal_mode").fetchone()
    assert node.query("SELECT a FROM t") == [{"a": 1}]


BEFORE = """
import sqlite3, sys
path, address, directory = sys.argv[1:]
mine = sqlite3.connect(path, isolation_level=None)
mine.execute("PRAGMA journal_mode = WAL")
mine.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1); BEGIN; INSERT INTO t VALUES (2)")
cursor = mine.execute("SELECT a FROM t UNION ALL SELECT 3")
assert cursor.fetchone() == (1,)

import support  # the library is loaded here
for name in ("one.db", "two.db"):
    node = support.running_node(address, directory)
    node.open_db(name)
    node.exec("CREATE TABLE IF NOT EXISTS t (a)")
    node.exec("INSERT INTO t VALUES (1)")
    assert node.query("SELECT count(*) AS n FROM t") == [{"n": 1}]
    if name == "one.db":
        assert cursor.fetchall() == [(2,), (3,)]  # a statement that was running all the time
        mine.execute("INSERT INTO t VALUES (4)")
    support.end(node)
mine.execute("COMMIT")
assert mine.execute("SELECT sum(a) FROM t").fetchone() == (7,)
assert mine.execute("PRAGMA journal_mode").fetchone() == ("wal",)
other = sqlite3.connect(path)
assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
other.execute("INSERT INTO t VALUES (5)")
other.commit()
print(mine.execute("SELECT count(*) FROM t").fetchone()[0])
"""


def test_sqlite3_before_and_after(tmp_path, address):
    """Python's SQLite was there first, in the middle of things, and goes on while ours comes, works and ends."""
    result = support.run_python(BEFORE, tmp_path / "mine.db", address, tmp_path / "node")
    assert result == (0, "4\n", "")


LIKES = """
import sys
from support import running_node
node = running_node(sys.argv[1], sys.argv[2])
print(node.query("SELECT '" + "a" * 60_000 + "b' LIKE '" + "%a" * 24_999 + "' AS n"))
"""


def test_a_client_that_wants_much_stack(tmp_path, address):
    """SQLite calls itself for each wildcard; threads have what `ulimit -s` says, or 2 MB where it says unlimited."""

    def little():
        resource.setrlimit(resource.RLIMIT_STACK, (2 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    code, out, err = support.run_python(LIKES, address, tmp_path / "node", preexec_fn=little)
    assert (code, out) == (0, "[{'n': 0}]\n"), (code, out, err)
