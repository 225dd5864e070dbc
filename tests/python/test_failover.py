"""Sessions whose leader's process is killed: what goes on, what breaks and says so, and what writes were told."""

import sys
import threading
from pathlib import Path

import pytest
from dqlitepy import Client

import support

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples/python"))
import dqlitepy_ctypes as db  # noqa: E402

NODE = """
import sys
sys.path.insert(0, sys.argv[1])
import dqlitepy_ctypes as db
with db.Node(int(sys.argv[2]), sys.argv[3], sys.argv[4], cluster=sys.argv[5]):
    print("ready", flush=True)
    sys.stdin.read()
"""
EXAMPLES = Path(db.__file__).parent


class Cluster:
    def __init__(self, directory):
        addresses = [support.free_address() for _ in range(3)]
        self.list = ",".join(addresses)
        self.processes = {
            address: support.python(NODE, EXAMPLES, number, address, directory / str(number), self.list)
            for number, address in enumerate(addresses, 1)
        }
        for process in self.processes.values():
            assert process.stdout.readline() == "ready\n", process.stderr.read()
        # One of two voters must not be the one that dies.
        with Client(addresses) as client:
            support.wait_until(lambda: [member.role for member in client.cluster()] == [0, 0, 0], 20)

    def connect(self, **options):
        return db.connect(addresses=self.list, timeout=20, **options)

    def kill(self, address):
        process = self.processes.pop(address)
        process.kill()
        process.communicate()

    def close(self):
        for address in list(self.processes):
            self.kill(address)


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


def test_a_killed_leader(cluster):
    plain, inner, reader = cluster.connect(autocommit=True), cluster.connect(), cluster.connect(autocommit=True)
    plain.execute("CREATE TABLE t (a, b)")
    insert = "INSERT INTO t VALUES (?, zeroblob(1000))"
    plain.executemany(insert, [(0,)] * 10000)
    inner.execute(insert, (1,))
    assert inner.in_transaction
    rows = reader.execute("SELECT b FROM t")
    assert rows.fetchone() == (bytes(1000),)
    complete = plain.execute("SELECT count(*) FROM t")
    gone = plain.leader
    cluster.kill(gone)
    assert complete.fetchall() == [(10000,)]
    with pytest.raises(db.RetryError):
        rows.fetchall()
    rows.close()
    for _ in range(2):
        with pytest.raises(db.TransactionLostError):
            inner.execute(insert, (2,))
        with pytest.raises(db.TransactionLostError):
            inner.commit()
        assert inner.in_transaction
    inner.rollback()
    inner.execute(insert, (3,))
    inner.commit()
    plain.execute(insert, (4,))
    assert reader.execute("SELECT sum(a) FROM t").fetchone() == (7,)
    assert reader.leader != gone
    for connection in (plain, inner, reader):
        connection.close()


def test_writes_amid_the_kill_are_told_the_truth(cluster):
    """Alone, in a transaction and in a batch: what was acknowledged is there once, what failed is not there."""
    setup = cluster.connect(autocommit=True)
    setup.execute("CREATE TABLE t (writer, n)")
    insert, told, failures = "INSERT INTO t VALUES (?, ?)", {}, []
    enough, lock = threading.Event(), threading.Lock()

    def write(connection, writer, number):
        if writer == "alone":
            connection.execute(insert, (writer, number))
        elif writer == "batch":
            connection.executemany(insert, [(writer, number)] * 300)
        else:
            connection.begin("IMMEDIATE")
            connection.execute(insert, (writer, number))
            connection.execute(insert, (writer, number))
            connection.commit()

    def write_all(writer):
        connection, number = cluster.connect(autocommit=True), 0
        try:
            while not enough.is_set():
                try:
                    write(connection, writer, number)
                    outcome = "applied"
                except db.OutcomeUnknownError:
                    outcome = "unknown"
                except (db.RetryError, db.TransactionLostError):
                    outcome = "not applied"
                connection.rollback()
                with lock:
                    told[writer, number] = outcome
                number += 1
        except BaseException as error:  # noqa: BLE001
            failures.append(error)
        finally:
            connection.close()

    sizes = {"alone": 1, "transaction": 2, "batch": 300}
    threads = [threading.Thread(target=write_all, args=[writer]) for writer in sizes]
    for thread in threads:
        thread.start()

    def applied(writer):
        with lock:
            return sum(outcome == "applied" for (own, _), outcome in told.items() if own == writer)

    def each_wrote(more, before):
        support.wait_until(lambda: failures or all(applied(writer) >= before[writer] + more for writer in sizes), 20)

    try:
        each_wrote(10, dict.fromkeys(sizes, 0))
        cluster.kill(setup.leader)
        each_wrote(10, {writer: applied(writer) for writer in sizes})
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    assert not failures
    found = {(writer, n): count for writer, n, count in setup.execute("SELECT writer, n, count(*) FROM t GROUP BY 1, 2")}
    assert set(found) <= set(told)
    for (writer, number), outcome in told.items():
        allowed = {"applied": (sizes[writer],), "not applied": (0,), "unknown": (0, sizes[writer])}[outcome]
        assert found.get((writer, number), 0) in allowed, (writer, number, outcome)
    setup.close()
