"""Statements whose like has proved quick run on the engine's own loop. What matters is that nobody can tell, except by the
clock: also when one of them turns out to be long in the middle, and is taken back and begun anew elsewhere."""

import os
import threading
import time
from pathlib import Path

import pytest

import support
from test_bounded import by_pool

MANY = 300_000
TIMES = 6
NUMBERS = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {})"


def make_quick(run):
    """Until no thread of the pool has a part in it. False on a machine that is too slow for that: all of it goes by the pool."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if by_pool(lambda: [run() for _ in range(3)]) == 0:
            return True
    return False


TOO_SLOW = "nothing ran on the loop within five seconds: this machine is too slow just now for what is tested"


def count(node, n):
    return node.query(f"{NUMBERS.format(n)} SELECT count(*) AS c, sum(n) AS s FROM s")[0]


def test_a_read_that_turns_out_to_be_long(node):
    for n in [3] * TIMES + [MANY, 3, MANY, 3, 3]:
        assert count(node, n) == {"c": n, "s": n * (n + 1) // 2}


def test_a_read_whose_first_rows_come_quickly(node):
    """Some rows are there when the budget ends: they must not come twice."""
    for n in [3] * TIMES + [20_000, 3]:
        rows = node.query(f"{NUMBERS.format(n)} SELECT n, 'a text of some length' AS t FROM s")
        assert [row["n"] for row in rows] == list(range(1, n + 1))


def test_a_write_that_turns_out_to_be_long_happens_once(node):
    node.exec("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, n INTEGER)")
    node.exec("CREATE TABLE log (n INTEGER)")
    node.exec("CREATE TRIGGER tt AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.n); END")
    rows = 0
    for n in [2] * TIMES + [5_000, 2, 20_000, 2]:
        last, changed = node.exec(f"INSERT INTO t(n) {NUMBERS.format(n)} SELECT n FROM s")
        rows += n
        assert (last, changed) == (rows, n)
        assert node.query("SELECT (SELECT count(*) FROM t) AS t, (SELECT count(*) FROM log) AS l") == [{"t": rows, "l": rows}]


def test_a_transaction_survives_long_statements(node):
    node.exec("CREATE TABLE t (n INTEGER)")
    insert = "INSERT INTO t {} SELECT n FROM s"
    for n in [2] * TIMES:
        node.exec(insert.format(NUMBERS.format(n)))
        count(node, n)
    node.exec("DELETE FROM t")
    node.exec("BEGIN")
    node.exec(insert.format(NUMBERS.format(2)))
    assert count(node, MANY)["c"] == MANY
    node.exec(insert.format(NUMBERS.format(20_000)))
    assert node.query("SELECT count(*) AS c FROM t") == [{"c": 20_002}]
    node.exec("COMMIT")
    assert node.query("SELECT count(*) AS c FROM t") == [{"c": 20_002}]


def test_large_values(node):
    node.exec("CREATE TABLE t (b BLOB)")
    for size in [10] * TIMES + [3_000_000, 10]:
        assert node.query(f"SELECT length(hex(zeroblob({size}))) AS n") == [{"n": 2 * size}]
        node.exec(f"INSERT INTO t VALUES (zeroblob({size}))")
        assert node.query("SELECT length(b) AS n FROM t ORDER BY rowid DESC LIMIT 1") == [{"n": size}]
    assert node.query("SELECT count(*) AS c, max(length(b)) AS n FROM t") == [{"c": TIMES + 2, "n": 3_000_000}]


def test_errors_are_the_same_each_time(node):
    node.exec("CREATE TABLE t (a INTEGER PRIMARY KEY CHECK (a < 100))")
    node.exec("INSERT INTO t VALUES (1)")
    for sql, message in [("INSERT INTO t VALUES (1)", "UNIQUE constraint failed: t.a"),
                         ("INSERT INTO t VALUES (200)", "CHECK constraint failed"),
                         ("SELECT abs(-9223372036854775807 - 1)", "integer overflow")]:
        for _ in range(TIMES):
            with pytest.raises(Exception, match=message):
                (node.query if sql.startswith("SELECT") else node.exec)(sql)
    assert node.query("SELECT count(*) AS c FROM t") == [{"c": 1}]


def test_the_loop_does_not_stand_still(node, tmp_path):
    """While a statement of a kind that was quick runs for long, other connections are served as before."""
    for n in [3] * TIMES:
        count(node, n)
    other = support.running_node(node.address, node.data_dir)
    other.query("SELECT 1")
    running = threading.Thread(target=count, args=(node, 10_000_000))
    began = time.monotonic()
    running.start()
    slowest, asked = 0, 0
    while running.is_alive():
        before = time.monotonic()
        assert other.query("SELECT 2 AS two") == [{"two": 2}]
        slowest, asked = max(slowest, time.monotonic() - before), asked + 1
    took = time.monotonic() - began
    running.join()
    support.end(other)
    assert took > 0.5 and asked > 5 and slowest < took / 2, (took, asked, slowest)


def test_a_text_that_is_kept_follows_the_schema(node):
    node.exec("CREATE TABLE t (a INTEGER)")
    node.exec("INSERT INTO t VALUES (1)")
    everything = "SELECT * FROM t"
    for _ in range(TIMES):
        assert node.query(everything) == [{"a": 1}]
    node.exec("ALTER TABLE t ADD COLUMN b TEXT DEFAULT 'new'")
    for _ in range(TIMES):
        assert node.query(everything) == [{"a": 1, "b": "new"}]
    node.exec("DROP TABLE t")
    for _ in range(TIMES):
        with pytest.raises(Exception, match="no such table: t"):
            node.query(everything)
    node.exec("CREATE TABLE t (c INTEGER)")
    assert node.query(everything) == []
    node.exec("INSERT INTO t VALUES (2)")
    node.exec("CREATE TEMP TABLE t (d INTEGER)")
    node.exec("INSERT INTO temp.t VALUES (3)")
    for _ in range(TIMES):
        assert node.query(everything) == [{"d": 3}]


def test_what_happens_while_compiling_happens_each_time(node):
    node.exec("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    node.exec("CREATE TABLE child (id INTEGER REFERENCES parent)")
    for _ in range(TIMES):
        for wanted in (0, 1):
            node.exec(f"PRAGMA foreign_keys = {wanted}")
            assert node.query("PRAGMA foreign_keys") == [{"foreign_keys": wanted}]
    with pytest.raises(Exception, match="FOREIGN KEY constraint failed"):
        node.exec("INSERT INTO child VALUES (1)")


def test_a_write_whose_time_is_up_as_it_ends(node):
    """SQLite asks whether to go on once more when the transaction is committed. It does so if more steps without a jump lie
    before the end than one more row takes, and the budget ends among them, as it does for some number of rows."""
    node.exec("CREATE TABLE ends (n INTEGER)")
    written = quick = 0
    for end in range(40, 50):  # each its own kind, in case the machine is busy just when it counts
        def insert(n):
            nonlocal written
            node.exec(f"INSERT INTO ends {NUMBERS.format(n)} SELECT n {'+ n * 0' * end} FROM (SELECT max(n) AS n FROM s)")
            written += 1

        quick += make_quick(lambda: insert(1))
        for n in range(770, 870):
            insert(n)
    assert node.query("SELECT count(*) AS c FROM ends") == [{"c": written}]
    if not quick:
        pytest.skip(TOO_SLOW)


def cpu(name):
    """Seconds that this process's threads of that name have used of a processor."""
    ticks = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            if (task / "comm").read_text() == f"{name}\n":
                fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
                ticks += int(fields[11]) + int(fields[12])
        except (FileNotFoundError, ProcessLookupError):  # it was idle for long
            pass
    return ticks / os.sysconf("SC_CLK_TCK")


def test_a_copy_of_large_rows_does_not_keep_the_loop(node):
    """An instruction of SQLite copies a row of any size: what was quick without rows is given up by the clock."""
    for table in ("a", "b"):
        node.exec(f"CREATE TABLE {table} (x)")
    if not make_quick(lambda: node.exec("INSERT INTO a SELECT * FROM b")):
        pytest.skip(TOO_SLOW)
    for _ in range(15):
        node.exec(f"{NUMBERS.format(50)} INSERT INTO b SELECT zeroblob(100000) FROM s")
    # Not by how long others wait for an answer, which on a busy machine says nothing.
    before = cpu("dqlite-sql")
    node.exec("INSERT INTO a SELECT * FROM b")
    assert cpu("dqlite-sql") - before > 0.01
