"""A leader that was paused must not answer with what was true before, while the others went on without it."""

import json
import os
import signal
import threading

import pytest
from dqlitepy import Client

import support
import wire

NODE = """
import json, sys
from dqlitepy import Node
from dqlitepy._ffi import get_library
import support
address, directory, number, *cluster = sys.argv[1:]
latency, *cluster = cluster
node = Node(address, directory, node_id=int(number), cluster=cluster, network_latency_ms=int(latency) or None)
node.start()
node.open_db("test.db")
print("ready", flush=True)
for line in sys.stdin:
    try:
        print(json.dumps(node.exec(json.loads(line))), flush=True)
    except Exception as error:
        print(json.dumps(str(error)), flush=True)
"""
READS, ROUNDS, EACH, BEFORE_QUICK = 40, 5, 8, 5
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
NOT_LEADER, LEADERSHIP_LOST = 10250, 10506


class Remote:
    def __init__(self, address, directory, number, latency, cluster):
        self.address = address
        self.process = support.python(NODE, address, directory, number, latency, *cluster)

    def ready(self):
        line = self.process.stdout.readline()
        assert line == "ready\n", self.process.stderr.read()

    def exec(self, sql):
        self.process.stdin.write(json.dumps(sql) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def end(self):
        os.kill(self.process.pid, signal.SIGCONT)
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def three(tmp_path, request):
    latency = getattr(request, "param", 20)
    addresses = [support.free_address() for _ in range(3)]
    nodes = [
        Remote(address, tmp_path / str(number), number, latency, addresses) for number, address in enumerate(addresses, 1)
    ]
    try:
        for node in nodes:
            node.ready()
        nodes[0].exec("CREATE TABLE t (a); INSERT INTO t VALUES ('')")
        with Client(addresses) as client:
            # Until then one that is paused may be needed for a majority.
            support.wait_until(lambda: [member.role_name for member in client.cluster()] == ["Voter"] * 3, 20)
        yield nodes, addresses
    finally:
        for node in nodes:
            node.end()


def test_a_paused_leader_does_not_read_what_is_old(three):
    nodes, addresses = three
    for number in range(ROUNDS):
        pause_and_read(nodes, addresses, f"{number} old", f"{number} new")


# What each answered before the others went on, and what is so since. A leader that does not lead any more may say neither.
# The number is the round's.
STATEMENTS = {
    "a constraint": (wire.EXEC_SQL, "INSERT INTO keys{0} VALUES (1)"),
    "a constraint with rows": (wire.QUERY_SQL, "INSERT INTO keys{0} VALUES (1) RETURNING k"),
    "a table that is not there": (wire.QUERY_SQL, "SELECT * FROM later{0}"),
    "a table that is not there, to write": (wire.EXEC_SQL, "INSERT INTO later{0} VALUES (1)"),
    "a table that is not there, prepared": (wire.PREPARE, "SELECT * FROM later{0}"),
    "a value that is wrong": (wire.QUERY_SQL, "SELECT json(j) FROM documents{0}"),
    "a table that is there already": (wire.EXEC_SQL, "CREATE TABLE IF NOT EXISTS dropped{0} (a)"),
    "a table that is not there, to drop": (wire.EXEC_SQL, "DROP TABLE IF EXISTS later{0}"),
    "nothing to change": (wire.EXEC_SQL, "UPDATE documents{0} SET j = '[]' WHERE j = '{{}}'"),
}
BEFORE = (
    "CREATE TABLE IF NOT EXISTS keys{0} (k PRIMARY KEY); INSERT OR REPLACE INTO keys{0} VALUES (1); "
    "CREATE TABLE IF NOT EXISTS documents{0} (k PRIMARY KEY, j); INSERT OR REPLACE INTO documents{0} VALUES (1, '{{'); "
    "CREATE TABLE IF NOT EXISTS dropped{0} (a)"
)
SINCE = (
    "DELETE FROM keys{0}; CREATE TABLE IF NOT EXISTS later{0} (a); DROP TABLE IF EXISTS dropped{0}; "
    "UPDATE documents{0} SET j = '{{}}'"
)


def test_a_paused_leader_does_not_fail_for_what_is_old(three):
    """Nor does it find nothing to change."""
    nodes, addresses = three
    for number in range(ROUNDS):
        pause_and_fail(nodes, addresses, number)


def pause_and_fail(nodes, addresses, number):
    make_so(nodes[0], BEFORE.format(number))
    leader, other = leader_and_other(nodes, addresses)
    asked = [(what, wire.Wire(leader.address).open()) for _ in range(EACH) for what in STATEMENTS]
    # The loop runs at once what proved quick.
    for what, connection in asked:
        for _ in range(BEFORE_QUICK):
            connection.send(request(what, number))
            connection.response()
    os.kill(leader.process.pid, signal.SIGSTOP)
    for what, connection in asked:
        connection.send(request(what, number)[:8])
    with support.Within(10):
        make_so(other, SINCE.format(number))
    for what, connection in asked:
        connection.send(request(what, number)[8:])
    os.kill(leader.process.pid, signal.SIGCONT)
    old = {}
    for what, connection in asked:
        kind, _, body = connection.response()
        if kind != wire.FAILURE or wire.Failure(body).code != NOT_LEADER:
            old[what] = kind, body
        connection.close()
    assert not old, f"round {number}: {sorted(old)}"


@pytest.mark.parametrize("three", [0], indirect=True, ids=["usual timers"])
def test_a_leader_that_was_not_asked_for_long_still_says_why_it_fails(three):
    nodes, addresses = three
    make_so(nodes[0], BEFORE.format(0))
    leader, _ = leader_and_other(nodes, addresses)
    with wire.Wire(leader.address).open() as connection:
        for _ in range(2):
            with pytest.raises(wire.Failure, match="UNIQUE"):
                connection.execute("INSERT INTO keys0 VALUES (1)")
            with pytest.raises(wire.Failure, match="no such table: later0"):
                connection.query("SELECT * FROM later0")
            with pytest.raises(wire.Failure, match="malformed JSON"):
                connection.query("SELECT json(j) FROM documents0")
            assert connection.execute("UPDATE documents0 SET j = '[]' WHERE j = '{}'")[1] == 0
            assert not threading.Event().wait(2)  # more than what is covered


def test_a_write_that_is_not_replicated_returns_no_rows(three):
    nodes, addresses = three
    leader, _ = leader_and_other(nodes, addresses)
    others = [node for node in nodes if node is not leader]
    with wire.Wire(leader.address).open() as connection:
        for node in others:
            os.kill(node.process.pid, signal.SIGSTOP)
        connection.send(wire.message(wire.QUERY_SQL, wire.word(0) + wire.text("INSERT INTO t VALUES ('x') RETURNING a")))
        # Without the others it gives the lead up.
        kind, _, body = connection.response()
        for node in others:
            os.kill(node.process.pid, signal.SIGCONT)
    assert kind == wire.FAILURE
    failure = wire.Failure(body)
    assert (failure.code, failure.text) == (LEADERSHIP_LOST, "leadership lost")


@pytest.mark.parametrize("three", [0], indirect=True, ids=["usual timers"])
@pytest.mark.parametrize("kind", [wire.EXEC_SQL, wire.QUERY_SQL], ids=["exec", "query"])
def test_a_statement_that_the_loss_of_the_lead_stops(three, kind):
    nodes, addresses = three
    leader, _ = leader_and_other(nodes, addresses)
    heir = next(number for number, node in enumerate(nodes, 1) if node is not leader)
    with wire.Wire(leader.address).open() as connection, wire.Wire(leader.address) as other:
        connection.send(wire.message(kind, wire.word(0) + wire.text(f"INSERT INTO t {ENDLESS}")))
        other.call(wire.TRANSFER, wire.word(heir), wire.EMPTY)
        answer, _, body = connection.response()
    assert answer == wire.FAILURE
    assert (wire.Failure(body).code, wire.Failure(body).text) == (NOT_LEADER, "not leader")


def request(what, number):
    kind, sql = STATEMENTS[what]
    return wire.message(kind, wire.word(0) + wire.text(sql.format(number)))


def make_so(node, sql):
    """As soon as somebody leads; to do it twice is the same as once."""
    support.wait_until(lambda: node.exec(sql)[1:] == [1])


def leader_and_other(nodes, addresses):
    with Client(addresses) as client:
        address = client.leader()
    return next(node for node in nodes if node.address == address), next(node for node in nodes if node.address != address)


def pause_and_read(nodes, addresses, old, new):
    leader, other = leader_and_other(nodes, addresses)
    write(leader, old)
    readers = [wire.Wire(leader.address).open() for _ in range(READS)]
    query = wire.message(wire.QUERY_SQL, wire.word(0) + wire.text("SELECT a FROM t"))
    os.kill(leader.process.pid, signal.SIGSTOP)
    # What is complete only after the write still stands first in line, before the news of the other leader.
    for reader in readers:
        reader.send(query[:8])
    with support.Within(10):
        # One try may be on its way to the paused leader; it ends when another leads.
        assert write(other, new) < 3
    for reader in readers:
        reader.send(query[8:])
    os.kill(leader.process.pid, signal.SIGCONT)
    for reader in readers:
        kind, _, body = reader.response()
        if kind == wire.ROWS:
            assert new.encode() in body and old.encode() not in body
        else:
            assert wire.Failure(body).code == NOT_LEADER
        reader.close()


def write(node, text):
    """How many tries it took."""
    answers = []
    support.wait_until(lambda: answers.append(node.exec(f"UPDATE t SET a = '{text}'")) or answers[-1] == [0, 1])
    return len(answers)
