"""A leader that others have replaced must not answer with what was true before."""

import sys
import threading
import time

from harness import OK, PORT, ROOT, run, wait_until

sys.path.append(str(ROOT / "tests/python"))
import wire  # noqa: E402

BACK = 30.0
READERS = 10
QUERY = wire.message(wire.QUERY_SQL, wire.word(0) + wire.text("SELECT a FROM t"))


class Reader(wire.Wire):
    """A client on another host."""

    def __init__(self, net, source, target):
        self.socket = net.dial(source, target)
        self.send(wire.VERSION)
        self.open()


def begin(cluster):
    """Three nodes; who leads, and the others."""
    three = cluster(3).start()
    leader = three.settled_leader().open_db()
    leader.exec("CREATE TABLE t(a)")
    leader.exec("INSERT INTO t VALUES('old')")
    return three, leader, [node.open_db() for node in three.nodes if node is not leader]


def pause_reset_and_read(three, leader, followers, what):
    """The followers have lost it and would elect another one at once, but it knows nothing of that before it goes on; and what
    came before the end of its links it handles before."""
    old, new = f"{what} old", f"{what} new"
    readers = [Reader(three.net, three.observer_host, leader.number) for _ in range(READERS)]
    leader.exec(f"UPDATE t SET a = '{old}'")
    # From then on the loop answers such a query as soon as it is there.
    for reader in readers:
        for _ in range(20):
            reader.query("SELECT a FROM t")
    leader.worker.pause()
    for reader in readers:
        reader.send(QUERY[:8])
    three.net.reset(*[node.number for node in followers])
    wait_until(lambda: followers[0].worker.call("exec", sql=f"UPDATE t SET a = '{new}'").code == OK, BACK, "another leader")
    for reader in readers:
        reader.send(QUERY[8:])
    leader.worker.resume()
    for reader in readers:
        kind, _, body = reader.response()
        assert kind == wire.FAILURE or (new.encode() in body and old.encode() not in body), what
        reader.close()


def test_a_paused_leader_whose_connections_are_reset_reads_nothing_old(cluster):
    three, leader, followers = begin(cluster)
    for number in range(5):
        pause_reset_and_read(three, leader, followers, f"{number}")
        leader = three.settled_leader().open_db()
        followers = [node.open_db() for node in three.nodes if node is not leader]


def test_nor_if_its_followers_took_it_for_lost_before(cluster):
    """The end of a link that did no harm counts for nothing at the next."""
    three, leader, followers = begin(cluster)
    three.net.reset(*[node.number for node in followers], to=leader.number)
    # Longer than they wait for a leader that they have lost; nothing shows when that is over.
    threading.Event().wait(2.0)
    pause_reset_and_read(three, leader, followers, "later")


def test_a_leader_whose_address_alone_is_dead_reads_nothing_old(cluster):
    """Its followers' links to it end, and new ones are refused; but it has its own to them. They wait until it notices that
    nobody answers."""
    three, leader, followers = begin(cluster)
    reader = Reader(three.net, three.observer_host, leader.number)
    for follower in followers:
        three.net.refuse(follower.number, leader.number)
    three.net.reset(*[node.number for node in followers], to=leader.number)
    write = followers[0].worker.send("exec", sql="UPDATE t SET a = 'new'")
    until, last = time.monotonic() + BACK, None
    while time.monotonic() < until:
        written = write.arrived.is_set()
        if written and not last:
            # It was another leader's, and the lease of this one is no longer than that.
            until = last = time.monotonic() + 2.0
        reader.send(QUERY)
        kind, _, body = reader.response()
        assert not written or kind == wire.FAILURE or b"new" in body, "an old row"
    write.ok()
    reader.close()
    # Its links look alive to it. It notices within two election timeouts, and says so to the others.
    assert write.seconds < 8, str(write)


def test_a_leader_that_nobody_can_answer_is_replaced(cluster):
    """The same where it sees the end of its followers' links: it does not wait for the timers, which take 9 s here."""
    three = cluster(3, options={"network_latency_ms": 600}).start()
    leader = three.settled_leader().open_db()
    leader.exec("CREATE TABLE t(a)")
    followers = [node.open_db() for node in three.nodes if node is not leader]
    for follower in followers:
        three.net.refuse(follower.number, leader.number)
    run(*three.net.enter(leader.number), "ss", "--kill", "--tcp", "state", "established", "sport", "=", f":{PORT}")
    began = time.monotonic()
    insert = "INSERT INTO t VALUES('new')"
    wait_until(lambda: followers[0].worker.call("exec", sql=insert).code == OK, BACK, "another leader")
    assert time.monotonic() - began < 8
