"""Several threads that write through one handle: their statements are committed together, and nobody can tell, except by
the clock. Each one succeeds or fails by itself."""

import threading

import pytest
from dqlitepy._ffi import ffi, get_library

import support

THREADS = 8
EACH = 60


def execute(node, sql):
    """node.exec without dqlitepy's own lock around it, so that calls meet in the library."""
    last, changed = ffi.new("int64_t *"), ffi.new("int64_t *")
    if get_library().dqlitepy_node_exec(node._handle, sql.encode(), last, changed) != 0:
        raise RuntimeError(support.last_error())
    return last[0], changed[0]


def in_threads(work):
    """work(number) in all threads at once; what they raised."""
    errors = []
    start = threading.Barrier(THREADS)

    def run(number):
        start.wait()
        try:
            work(number)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_each_insert_has_its_own_numbers(node):
    node.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, thread INTEGER, n INTEGER)")
    found = {}

    def work(number):
        for n in range(EACH):
            last, changed = execute(node, f"INSERT INTO t(thread, n) VALUES ({number}, {n})")
            assert changed == 1
            found[last] = (number, n)

    assert in_threads(work) == []
    rows = node.query("SELECT id, thread, n FROM t")
    assert {row["id"]: (row["thread"], row["n"]) for row in rows} == found
    assert len(rows) == THREADS * EACH


def test_one_that_fails_takes_no_other_with_it(node):
    node.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, thread INTEGER)")
    kept = [0] * THREADS

    def work(number):
        for n in range(EACH):
            try:
                execute(node, f"INSERT INTO t VALUES ({n}, {number})")
                kept[number] += 1
            except Exception as error:  # noqa: BLE001
                assert "UNIQUE constraint failed: t.id" in str(error)

    assert in_threads(work) == []
    owners = node.query("SELECT thread, count(*) AS c FROM t GROUP BY thread")
    assert {row["thread"]: row["c"] for row in owners} == {n: c for n, c in enumerate(kept) if c}
    assert sum(kept) == EACH


def test_one_that_ends_the_transaction(node):
    """RAISE(ROLLBACK) takes back the whole transaction: the others' statements must be done again, once."""
    node.exec("CREATE TABLE t (thread INTEGER, n INTEGER)")
    node.exec("CREATE TRIGGER no BEFORE INSERT ON t WHEN new.n % 5 = 3 BEGIN SELECT RAISE(ROLLBACK, 'not three'); END")
    refused = []

    def work(number):
        for n in range(EACH):
            try:
                execute(node, f"INSERT INTO t VALUES ({number}, {n})")
                assert n % 5 != 3
            except Exception as error:  # noqa: BLE001
                assert "not three" in str(error) and n % 5 == 3
                refused.append(n)

    assert in_threads(work) == []
    assert node.query("SELECT count(*) AS c FROM t") == [{"c": THREADS * EACH * 4 // 5}]
    assert node.query("SELECT count(*) AS c FROM (SELECT DISTINCT thread, n FROM t)") == [{"c": THREADS * EACH * 4 // 5}]
    assert len(refused) == THREADS * EACH // 5


def test_checks_at_the_commit_are_those_of_each_statement(node):
    node.exec("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    node.exec("CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
    failed = []

    def work(number):
        for n in range(EACH):
            try:
                execute(node, f"INSERT INTO child VALUES ({number * EACH + n})")
            except Exception as error:  # noqa: BLE001
                assert "FOREIGN KEY constraint failed" in str(error)
                failed.append(n)
            execute(node, "DELETE FROM child")

    assert in_threads(work) == []
    assert len(failed) == THREADS * EACH
    assert node.query("SELECT count(*) AS c FROM child") == [{"c": 0}]


def test_statements_of_all_threads_belong_to_an_open_transaction(node):
    node.exec("CREATE TABLE t (n INTEGER)")
    node.exec("BEGIN")
    assert in_threads(lambda number: [execute(node, f"INSERT INTO t VALUES ({number})") for _ in range(EACH)]) == []
    assert node.query("SELECT count(*) AS c FROM t") == [{"c": THREADS * EACH}]
    node.exec("ROLLBACK")
    assert node.query("SELECT count(*) AS c FROM t") == [{"c": 0}]


def test_a_stop_wakes_all_who_wait(tmp_path, address):
    node = support.running_node(address, tmp_path / "node")
    node.exec("CREATE TABLE t (n INTEGER)")
    running = threading.Event()
    done = [0] * THREADS

    def work(number):
        with pytest.raises(Exception, match="stopped|shut|closed|ended|destroyed|not running"):
            while True:
                execute(node, "INSERT INTO t VALUES (1)")
                done[number] += 1
                if sum(done) > 50:
                    running.set()

    stopper = threading.Thread(target=lambda: (running.wait(30), node.stop()))
    stopper.start()
    assert in_threads(work) == []
    stopper.join()
    node.start()
    node.open_db("test.db")
    assert node.query("SELECT count(*) AS c FROM t")[0]["c"] >= sum(done)
    support.end(node)


def test_more_writers_than_one_transaction_takes(node):
    """A hundred threads, or statements of a quarter of a megabyte each: they are committed in several groups."""
    node.exec("CREATE TABLE t (n INTEGER, a TEXT)")
    errors = []

    def work(number):
        try:
            for turn in range(5):
                execute(node, f"INSERT INTO t VALUES ({number * 5 + turn}, '{'x' * (300_000 if number % 10 == 0 else 1)}')")
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert node.query("SELECT count(*) AS c, count(DISTINCT n) AS d, sum(length(a)) AS s FROM t") == [
        {"c": 500, "d": 500, "s": 50 * 300_000 + 450}
    ]
