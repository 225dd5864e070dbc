"""What is not replicated yet must be nowhere but in the transaction: SQLite's own checkpoints would carry it into the database."""

import os
import signal

from dqlitepy import Client

import support
import wire
from test_lease import leader_and_other, make_so, three  # noqa: F401

# More than the thousand pages at which SQLite copies the log to the database, unless it is told not to; and more than two
# sockets hold, so that it cannot reach a node that is paused.
ROWS, SIZE = 2500, 12_000
NUMBERS = f"WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {ROWS})"
FILL = f"CREATE TABLE IF NOT EXISTS big (a INTEGER PRIMARY KEY, b); INSERT OR REPLACE INTO big {NUMBERS} SELECT n, zeroblob({SIZE}) FROM s"
CHANGE = f"UPDATE big SET b = randomblob({SIZE})"
STATE = f"SELECT count(*), sum(b != zeroblob({SIZE})), (SELECT group_concat(integrity_check) FROM pragma_integrity_check) FROM big"


def state(address):
    with wire.Wire(address).open() as client:
        client.send(wire.message(wire.QUERY_SQL, wire.word(0) + wire.text(STATE)))
        return client.parts()


def lead(address, number, addresses):
    """That node leads from now on."""
    with Client(addresses) as client:
        leader = client.leader()
    if leader != address:
        with wire.Wire(leader) as client:
            client.call(wire.TRANSFER, wire.word(number), wire.EMPTY)
    with wire.Wire(address) as client:
        support.wait_until(lambda: address.encode() in client.request(wire.LEADER, wire.word(0))[2], 20)


def test_a_large_write_that_came_to_nothing(three):  # noqa: F811
    nodes, addresses = three
    # All of it is in the database then: the engine copies its log when a transaction of a thousand pages is applied.
    support.wait_until(lambda: nodes[0].exec(FILL)[1:] == [ROWS])
    leader, other = leader_and_other(nodes, addresses)
    others = [node for node in nodes if node is not leader]
    for node in others:
        os.kill(node.process.pid, signal.SIGSTOP)
    with wire.Wire(leader.address).open() as client:
        client.send(wire.message(wire.EXEC_SQL, wire.word(0) + wire.text(CHANGE)))
        # It is given up with the lead, after an election timeout without the others.
        try:
            kind, _, body = client.response()
            assert kind == wire.FAILURE, (kind, body)
        except wire.Closed:
            pass
    # It must not lead again before the others do.
    os.kill(leader.process.pid, signal.SIGSTOP)
    for node in others:
        os.kill(node.process.pid, signal.SIGCONT)
    make_so(other, "INSERT OR REPLACE INTO t VALUES (1)")
    os.kill(leader.process.pid, signal.SIGCONT)
    make_so(other, "INSERT OR REPLACE INTO t VALUES (2)")
    seen = {}
    for number, node in enumerate(nodes, 1):
        lead(node.address, number, addresses)
        seen[node.address] = state(node.address)
    assert b"ok" in seen[other.address]
    assert len(set(seen.values())) == 1, "the nodes hold different databases"
