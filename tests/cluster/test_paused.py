"""A leader that was paused must not answer with what was true before, while the others went on without it."""

import sys

from harness import ROOT, wait_until

sys.path.append(str(ROOT / "tests/python"))
import wire  # noqa: E402

BACK = 30.0
READERS = 10


class Reader(wire.Wire):
    """A client on another host."""

    def __init__(self, net, source, target):
        self.socket = net.dial(source, target)
        self.send(wire.VERSION)
        self.open()


def test_a_paused_leader_whose_connections_are_reset_reads_nothing_old(cluster):
    """The followers have lost it and would elect another one at once, but it knows nothing of that before it goes on; and what
    came before the end of its links it handles before."""
    three = cluster(3).start()
    leader = three.settled_leader().open_db()
    follower = three.followers()[0].open_db()
    leader.exec("CREATE TABLE t(a)")
    leader.exec("INSERT INTO t VALUES('old')")
    query = wire.message(wire.QUERY_SQL, wire.word(0) + wire.text("SELECT a FROM t"))
    for number in range(5):
        old, new = f"{number} old", f"{number} new"
        readers = [Reader(three.net, three.observer_host, leader.number) for _ in range(READERS)]
        leader.exec(f"UPDATE t SET a = '{old}'")
        # From then on the loop answers such a query as soon as it is there.
        for reader in readers:
            for _ in range(20):
                reader.query("SELECT a FROM t")
        leader.worker.pause()
        for reader in readers:
            reader.send(query[:8])
        three.net.reset(*[node.number for node in three.nodes if node is not leader])
        wait_until(lambda: follower.worker.call("exec", sql=f"UPDATE t SET a = '{new}'").code == 0, BACK, "another leader")
        for reader in readers:
            reader.send(query[8:])
        leader.worker.resume()
        for reader in readers:
            kind, _, body = reader.response()
            assert kind == wire.FAILURE or (new.encode() in body and old.encode() not in body), f"round {number}"
            reader.close()
        leader = three.settled_leader().open_db()
        follower = three.followers()[0].open_db()
