"""How long nobody can write when the leader goes: measured by writers on the survivors, which never stop.

CLUSTER_ROUNDS=50 for the long form, which also holds the figures of issue 3 point 4; the short one only keeps watch that
failover happens at all, on a machine that may be busy with other things.
"""

import os
import random
import statistics
import sys
import threading
import time

import checkers
import pytest
from harness import OK, PORT, run, wait_until

ROUNDS = int(os.environ.get("CLUSTER_ROUNDS", "5"))
LONG = ROUNDS >= 50
LARGE_ROUNDS = int(os.environ.get("CLUSTER_LARGE_ROUNDS", "3"))
SNAPSHOT_MB = int(os.environ.get("CLUSTER_SNAPSHOT_MB", "100"))
SEED = int(os.environ.get("CLUSTER_SEED", "1"))  # when the leader goes amid a transaction
SOAK = float(os.environ.get("CLUSTER_SOAK", "20"))  # seconds
COUNT_TO_64 = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 64) SELECT i FROM n"
BACK = 30.0  # within this everything must be well again


def writing(cluster):
    """A cluster under write load on all nodes: {node: name of its writer}."""
    cluster.start()
    cluster[1].open_db().exec("CREATE TABLE rows(k TEXT)")
    return {node: start_writer(cluster, node) for node in cluster.nodes}


def start_writer(cluster, node):
    name = cluster.write(node, rate=200, options={"timeout": 10000})
    wait_for_write(cluster, name, time.monotonic())
    return name


def next_write(cluster, name, after):
    """When the first write that began after that moment was acknowledged, or None."""
    for operation in cluster.records(name):
        if operation.began > after and operation.outcome == checkers.DONE:
            return operation.ended
    return None


def wait_for_write(cluster, name, after):
    return wait_until(lambda: next_write(cluster, name, after), BACK, lambda: f"{name}: {trouble(cluster, name)}")


def trouble(cluster, name):
    return [str(operation) + str(operation.error) for operation in cluster.records(name)[-3:]]


def measure(cluster, writers, leader, fault):
    """Seconds from the fault to the next acknowledged write: anywhere, and through the slowest of the survivors."""
    began = time.monotonic()
    cluster.note(f"fault on {leader}")
    fault(leader)
    survivors = [name for node, name in writers.items() if node is not leader]
    ends = [wait_for_write(cluster, name, began) - began for name in survivors]
    return min(ends), max(ends)


def report(capsys, what, gaps):
    first, last = [gap[0] for gap in gaps], [gap[1] for gap in gaps]
    text = f"{what}, {len(gaps)} rounds: next write after median {statistics.median(first):.3f} s, max {max(first):.3f} s"
    text += f"; on all survivors median {statistics.median(last):.3f} s, max {max(last):.3f} s"
    slowest = sorted(((gap, round) for round, gap in enumerate(last)), reverse=True)[:5]
    text += "; slowest " + ", ".join(f"{gap:.2f} (round {round})" for gap, round in slowest)
    with capsys.disabled():
        print(f"\n{text}")
    return statistics.median(last), max(last)


def settle(cluster, writers, leader):
    """The one that was away is a member with a writer again, and everything it missed has arrived."""
    writers[leader] = start_writer(cluster, leader)
    wait_until(lambda: len(cluster.watch("cluster").value or []) == len(cluster.nodes), BACK, "all are members")


def check_rows(cluster):
    for node in cluster.nodes:
        if node.alive:
            node.worker.ok("stop_writers")
    rows = cluster.leader().open_db().query("SELECT k FROM rows")
    operations = cluster.all_records("rows")
    wrong = checkers.check_rows(operations, [row["k"] for row in rows])
    assert not wrong, wrong[:10]
    assert len(rows) > 30


def test_leader_killed(cluster, capsys):
    three = cluster(3)
    writers, gaps = writing(three), []
    for _ in range(ROUNDS):
        leader = three.leader()
        gaps.append(measure(three, writers, leader, lambda node: node.worker.process.kill()))
        leader.kill()
        leader.start(BACK)
        settle(three, writers, leader)
    median, worst = report(capsys, "kill -9 of the leader", gaps)
    check_rows(three)
    assert worst <= (0.5 if LONG else 5.0)
    assert not LONG or median <= 0.1


def test_leader_stopped(cluster, capsys):
    three = cluster(3)
    writers, gaps = writing(three), []
    for number in range(ROUNDS):
        leader = three.leader()
        stopped = []
        gaps.append(measure(three, writers, leader, lambda node: stopped.append(node.worker.send("stop"))))
        stopped[0].ok(BACK)
        if number % 2:
            leader.worker.quit()
            leader.start(BACK)
        else:
            leader.worker.ok("stop_writers")
            leader.worker.ok("start")
        settle(three, writers, leader)
    median, worst = report(capsys, "stop of the leader", gaps)
    check_rows(three)
    assert worst <= (0.2 if LONG else 5.0)


def test_link_of_the_leader_down(cluster, capsys):
    """A host that vanishes says nothing: only the timers notice. Two election timeouts of at most 6 s."""
    three = cluster(3)
    writers, gaps = writing(three), []
    for _ in range(max(2, ROUNDS // 5)):
        leader = three.settled_leader()
        gaps.append(measure(three, writers, leader, lambda node: three.net.unplug(node.number)))
        plugged = time.monotonic()
        three.net.plug(leader.number)
        wait_for_write(three, writers[leader], plugged)
    report(capsys, "link of the leader down", gaps)
    check_rows(three)
    assert max(gap[1] for gap in gaps) <= 12.0


def test_a_follower_killed_is_not_noticed(cluster, capsys):
    three = cluster(3)
    writers, gaps = writing(three), []
    for _ in range(ROUNDS):
        leader = three.leader()
        follower = next(node for node in three.nodes if node is not leader)
        gaps.append(measure(three, writers, follower, lambda node: node.worker.process.kill()))
        assert three.leader() is leader
        follower.kill()
        follower.start(BACK)
        settle(three, writers, follower)
    _, worst = report(capsys, "kill -9 of a follower", gaps)
    check_rows(three)
    assert worst <= (0.5 if LONG else 5.0)


COUNT_FOR_TWO_SECONDS = """
import socket, sys, time
listener, until, count = socket.create_server((sys.argv[1], int(sys.argv[2]))), time.monotonic() + 2, 0
while (left := until - time.monotonic()) > 0:
    listener.settimeout(left)
    try:
        link = listener.accept()[0]
        count += 1
        link.settimeout(0.1)
        link.recv(1 << 16)
        link.close()
    except OSError:
        pass
print(count)
"""


def test_a_forwarder_of_a_dead_member_is_dialled_with_pauses(cluster):
    """It takes every connection, and ends it as nobody is behind it."""
    three = cluster(3)
    writing(three)
    dead = three.followers()[0]
    dead.kill()
    count = [sys.executable, "-c", COUNT_FOR_TWO_SECONDS, three.net.host(dead.number), str(PORT)]
    dialled = int(run(*three.net.enter(dead.number), *count).stdout)
    assert dialled < 200


def test_a_paused_leader_is_replaced_and_comes_back(cluster, capsys):
    """SIGSTOP: its links stay open, so only the timers notice; afterwards it follows."""
    three = cluster(3)
    writers, gaps = writing(three), []
    for _ in range(2):
        leader = three.leader()
        gaps.append(measure(three, writers, leader, lambda node: node.worker.pause()))
        resumed = time.monotonic()
        leader.worker.resume()
        wait_for_write(three, writers[leader], resumed)
    report(capsys, "leader paused", gaps)
    check_rows(three)
    assert max(gap[1] for gap in gaps) <= 15.0


def term_of(node):
    return node.worker.ok("metrics")["dqlitepy_node_term"]["samples"][0]["value"]


def test_links_that_drop_and_return_do_no_harm(cluster, capsys):
    """Shorter than an election timeout: the same leader goes on."""
    three = cluster(3)
    writers = writing(three)
    pause = threading.Event()
    for number in (1, 2, 3):
        three.net.unplug(number)
        pause.wait(0.5)
        plugged = time.monotonic()
        three.net.plug(number)
        for name in writers.values():
            wait_for_write(three, name, plugged)
    check_rows(three)


def test_links_that_flap(cluster, capsys):
    """Down and up, again and again, for half of the time and under load: nothing is lost, and a leader is replaced only
    where it was out of reach for an election timeout. TCP sends again ever later, so several outages may be one to it."""
    three = cluster(3)
    writers, rng, pause = writing(three), random.Random(7), threading.Event()
    term, down = term_of(three.settled_leader()), 0.0
    for number in range(4 * ROUNDS):
        node = rng.choice(three.nodes)
        length = rng.uniform(0.05, 0.8)
        down += length
        three.net.unplug(node.number)
        pause.wait(length)
        three.net.plug(node.number)
        pause.wait(length)
    plugged = time.monotonic()
    for name in writers.values():
        wait_for_write(three, name, plugged)
    elections = term_of(three.settled_leader()) - term
    with capsys.disabled():
        print(f"\n{4 * ROUNDS} outages of {down:.1f} s in all: {elections} terms")
    check_rows(three)
    assert elections <= down / 3.0


def resets(cluster, choose):
    """Connections end, again and again; the leader's process lives, and so it leads on. choose(leader, followers, round)"""
    three = cluster(3)
    writers = writing(three)
    leader = three.settled_leader()
    term, followers = term_of(leader), three.followers()
    for number in range(8 * ROUNDS):
        three.net.reset(*[node.number for node in choose(leader, followers, number)])
        done = time.monotonic()
        for name in writers.values():
            wait_for_write(three, name, done)
        assert term_of(leader) == term and three.settled_leader() is leader, f"reset {number}"
    check_rows(three)


def test_a_follower_whose_connections_are_reset_deposes_nobody(cluster):
    """It takes the end of its links for the leader's end; the others know better."""
    resets(cluster, lambda _, followers, number: [followers[number % 2]])


def test_followers_whose_connections_are_reset_at_once_depose_nobody(cluster):
    """Neither of them has a leader for a while, and each would vote for the other."""
    resets(cluster, lambda _, followers, number: followers)


def test_a_leader_whose_connections_are_reset_stays(cluster):
    resets(cluster, lambda leader, *_: [leader])


def one_has_not_heard_of_its_promotion(cluster):
    """The leader has made it a voter and cannot tell it: the leader, the other voter, and that one."""
    made = cluster(3, options={"voters": 2})
    made.start()
    made[1].open_db().exec("CREATE TABLE t(a)")
    leader = made.settled_leader()
    wait_until(lambda: sum(role == 0 for _, role in made.members().values()) == 2, 20, lambda: str(made.members()))
    third = next(node for node in made.nodes if made.members()[node.id][1] != 0)
    other = next(node for node in made.nodes if node not in (leader, third))
    made.net.cut(leader.number, third.number)
    made.watch("assign", id=third.id, role=0).ok()
    return leader, other, third


def test_a_member_that_has_not_heard_of_its_promotion_votes(cluster):
    """If the leader goes the other two are a majority, and find a leader."""
    leader, other, third = one_has_not_heard_of_its_promotion(cluster)
    leader.kill()
    wait_until(lambda: other.worker.call("open_db").code == OK, 2 * BACK, "there is a leader")
    other.exec("INSERT INTO t VALUES (1)")
    assert other.cluster.members()[third.id][1] == 0


def test_it_votes_when_the_leader_s_host_vanishes(cluster):
    """It has no timer, and until TCP notices, after half a minute, its link looks alive."""
    leader, other, _ = one_has_not_heard_of_its_promotion(cluster)
    began = time.monotonic()
    leader.cluster.net.unplug(leader.number)
    wait_until(lambda: other.worker.call("open_db").code == OK, 2 * BACK, "there is a leader")
    assert time.monotonic() - began < 11


def test_no_election_without_a_fault(cluster, capsys):
    """Full write load from all nodes: the machine has no core left, and still the leader stays. CLUSTER_SOAK=3600 for long."""
    three = cluster(3)
    writers = writing(three)
    for node in three.nodes:
        for _ in range(3):
            three.write(node, rate=100000, options={"timeout": 10000})
    term = term_of(three.leader())
    began = time.monotonic()
    done = threading.Event()
    while not done.wait(1.0) and time.monotonic() - began < SOAK:
        now = [term_of(node) for node in three.nodes]
        assert set(now) == {term}, f"an election after {time.monotonic() - began:.0f} s: terms {now}, before {term}"
    for name in writers.values():
        wait_for_write(three, name, began)
    for node in three.nodes:
        node.worker.ok("stop_writers")
    count = sum(operation.outcome == checkers.DONE for operation in three.all_records("rows"))
    with capsys.disabled():
        print(f"\n{SOAK:.0f} s of full load: {count} acknowledged writes, no election")
    check_rows(three)


def test_large_transactions_on_a_slow_link_depose_nobody(cluster):
    """64 MB over 1 Gbit/s: nobody stands for election, not even to be refused."""
    three = slow_links(cluster)
    leader = three.settled_leader()
    term = term_of(leader)
    for _ in range(3):
        sql = f"INSERT INTO large SELECT zeroblob(1000000) FROM ({COUNT_TO_64})"
        assert leader.open_db().worker.call("exec", sql=sql).code == OK
        assert three.settled_leader() is leader
        assert {term_of(node) for node in three.nodes} == {term}


def slow_links(cluster, **settings):
    three = cluster(3, **settings).start()
    for node in three.nodes:
        three.net.limit(node.number, "1gbit")
    three[1].open_db().exec("CREATE TABLE large(a); CREATE TABLE rows(k TEXT)")
    return three


def amid_large_transactions(cluster, capsys, what, fault, back):
    """The leader goes while a transaction of 64 MB is somewhere between its first row and its last acknowledgement."""
    # The log in memory and on disk must not grow by 64 MB a round.
    three = slow_links(cluster, options={"snapshot_params": [512, 512, 0]})
    three[1].exec(f"INSERT INTO large SELECT zeroblob(1000000) FROM ({COUNT_TO_64})")
    writers, gaps, rng = {node: start_writer(three, node) for node in three.nodes}, [], random.Random(SEED)
    for number in range(LARGE_ROUNDS):
        leader = three.settled_leader()
        survivor = next(node for node in three.nodes if node is not leader)
        # Always another letter: SQLite does not write what is the same already.
        letter = "abcdefghijklmnopqrstuvwxyz"[number % 26]
        large = survivor.open_db().worker.send("exec", sql=f"UPDATE large SET a = printf('%.*c', 1000000, '{letter}')")
        threading.Event().wait(rng.uniform(0.0, 2.0))
        gaps.append(measure(three, writers, leader, fault))
        large.wait()
        back(leader)
        settle(three, writers, leader)
    median, worst = report(capsys, what, gaps)
    check_rows(three)
    # See docs/reliability.md for what was measured where nothing else ran.
    assert median <= (0.5 if LONG else 2.5) and worst <= (2.5 if LONG else 6.0)


def test_leader_killed_amid_large_transactions(cluster, capsys):
    def back(leader):
        leader.kill()
        leader.start(BACK)

    amid_large_transactions(cluster, capsys, "kill -9 amid 64 MB", lambda node: node.worker.process.kill(), back)


def test_leader_stopped_amid_large_transactions(cluster, capsys):
    stops = []

    def back(leader):
        stops.pop().ok(BACK)
        leader.worker.quit()
        leader.start(BACK)

    amid_large_transactions(cluster, capsys, "stop amid 64 MB", lambda node: stops.append(node.worker.send("stop")), back)


def applied(node):
    return node.worker.ok("metrics")["dqlitepy_node_applied_index"]["samples"][0]["value"]


def test_leader_killed_amid_snapshots(cluster, capsys):
    """Both survivors are writing one of their own, which has nothing to do with the leader."""
    three = cluster(3, options={"snapshot_params": [64, 64, 0]}).start()
    three[1].open_db().exec("CREATE TABLE large(a); CREATE TABLE rows(k TEXT)")
    for _ in range(SNAPSHOT_MB):
        three[1].exec("INSERT INTO large VALUES (randomblob(1000000))")
    writers, gaps = {node: start_writer(three, node) for node in three.nodes}, []
    for _ in range(LARGE_ROUNDS):
        leader, followers = three.settled_leader(), three.followers()
        wait_until(lambda: all(any(node.dir.glob("tmp-*")) for node in followers), BACK, "both write a snapshot")
        gaps.append(measure(three, writers, leader, lambda node: node.worker.process.kill()))
        leader.kill()
        leader.start(BACK)
        settle(three, writers, leader)
        # Else the next round would wait until it has been sent a snapshot.
        wait_until(lambda: applied(leader) + 8 > applied(three.leader()), BACK,
                   lambda: f"it has caught up: {applied(leader)} of {applied(three.leader())}")
    report(capsys, f"kill -9 amid snapshots of {SNAPSHOT_MB} MB", gaps)
    check_rows(three)
    assert max(gap[1] for gap in gaps) <= 5.0
