"""A leader that was paused must not answer with what was true before, while the others went on without it."""

import json
import os
import signal

from dqlitepy import Client

import support
import wire

NODE = """
import json, sys
from dqlitepy import Node
from dqlitepy._ffi import get_library
import support
address, directory, number, *cluster = sys.argv[1:]
node = Node(address, directory, node_id=int(number), cluster=cluster, network_latency_ms=20)
node.start()
node.open_db("test.db")
print("ready", flush=True)
for line in sys.stdin:
    try:
        print(json.dumps(node.exec(json.loads(line))), flush=True)
    except Exception as error:
        print(json.dumps(str(error)), flush=True)
"""
READS, ROUNDS = 40, 5


class Remote:
    def __init__(self, address, directory, number, cluster):
        self.address = address
        self.process = support.python(NODE, address, directory, number, *cluster)

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


def test_a_paused_leader_does_not_read_what_is_old(tmp_path):
    addresses = [support.free_address() for _ in range(3)]
    nodes = [Remote(address, tmp_path / str(number), number, addresses) for number, address in enumerate(addresses, 1)]
    try:
        for node in nodes:
            node.ready()
        nodes[0].exec("CREATE TABLE t (a); INSERT INTO t VALUES ('')")
        for number in range(ROUNDS):
            pause_and_read(nodes, addresses, f"{number} old", f"{number} new")
    finally:
        for node in nodes:
            node.end()


def pause_and_read(nodes, addresses, old, new):
    with Client(addresses) as client:
        leader = next(node for node in nodes if node.address == client.leader())
    write(leader, old)
    readers = [wire.Wire(leader.address).open() for _ in range(READS)]
    query = wire.message(wire.QUERY_SQL, wire.word(0) + wire.text("SELECT a FROM t"))
    os.kill(leader.process.pid, signal.SIGSTOP)
    # What is complete only after the write still stands first in line, before the news of the other leader.
    for reader in readers:
        reader.send(query[:8])
    with support.Within(10):
        # One try may be on its way to the paused leader; it ends when another leads.
        assert write(next(node for node in nodes if node is not leader), new) < 3
    for reader in readers:
        reader.send(query[8:])
    os.kill(leader.process.pid, signal.SIGCONT)
    for reader in readers:
        kind, _, body = reader.response()
        if kind == wire.ROWS:
            assert new.encode() in body and old.encode() not in body
        else:
            assert wire.Failure(body).code == 10250
        reader.close()


def write(node, text):
    """How many tries it took."""
    answers = []
    support.wait_until(lambda: answers.append(node.exec(f"UPDATE t SET a = '{text}'")) or answers[-1] == [0, 1])
    return len(answers)
