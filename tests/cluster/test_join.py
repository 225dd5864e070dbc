"""How nodes in separate processes become one cluster, and stay one: the rules of docs/design.md 4, issue 3 point 1."""

import itertools
import random
import threading
import time

import harness
import pytest
from harness import INVALID, MISUSE, NOLEADER, NOTFOUND, OK, PORT, RETRY, SHUTDOWN, SLACK, SQL, STOPPED, TIMEOUT, UNKNOWN, wait_until

VOTER, SPARE = 0, 2
BOOTSTRAP_ID = 0x2DC171858C3155BE
START = 30.0  # what a start may take, as the header says
quick = pytest.mark.quick


def expect_members(cluster, nodes, addresses=None, seconds=20.0):
    """Exactly these nodes, each once, under its own id and address."""
    expected = {node.id: node.address for node in nodes}
    members = {}

    def agreed():
        members.clear()
        members.update(cluster.members(addresses))
        return {id: address for id, (address, _) in members.items()} == expected

    wait_until(agreed, seconds, lambda: f"members {members}, expected {expected}")
    return members


def expect_a_write(node, seconds=20.0, unknown=False):
    """Sooner or later. `unknown`: what was sent to a leader that is out of reach may have an unknown outcome."""
    replies = []

    def done():
        replies.append(node.worker.call("exec", sql="INSERT INTO seen VALUES(0)"))
        assert unknown or replies[-1].code != UNKNOWN, str(replies[-1])
        return replies[-1].code == OK

    wait_until(done, seconds, lambda: replies[-1])


def expect_voters(cluster, count, seconds=20.0):
    """So many, sooner or later."""
    members = {}

    def voting():
        members.update(cluster.members())
        return sum(role == VOTER for _, role in members.values()) == count

    wait_until(voting, seconds, lambda: f"members {members}, expected {count} voters")


def expect_one_cluster(cluster, nodes=None):
    """One leader, the members as named, and a write through each node is seen through each other."""
    nodes = nodes or cluster.nodes
    leaders = {}

    def agreed():
        leaders.clear()
        expect_members(cluster, nodes)
        replies = [cluster.watch("leader", node.address) for node in nodes]
        leaders.update({node.id: reply.value or reply.error for node, reply in zip(nodes, replies)})
        return len(set(leaders.values())) == 1 and all(reply.code == OK for reply in replies)

    wait_until(agreed, 20, lambda: f"who leads, by node: {leaders}")
    nodes[0].open_db().exec("CREATE TABLE IF NOT EXISTS seen(a)")
    before = nodes[0].query("SELECT count(*) AS n FROM seen")[0]["n"]
    for node in nodes:
        node.open_db().exec(f"INSERT INTO seen VALUES({node.number})")
    for node in nodes:
        assert node.query("SELECT count(*) AS n FROM seen")[0]["n"] == before + len(nodes), node


# ---- starting ----


@pytest.mark.parametrize("ids", [(1, 2, 3), (33, 22, 11), pytest.param((BOOTSTRAP_ID, 1, 2**64 - 1), marks=quick)])
def test_all_at_once(cluster, ids):
    three = cluster(3)
    for node, id in zip(three.nodes, ids):
        node.id = id
    three.start()
    expect_voters(three, 3)
    expect_one_cluster(three)


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))), ids=str)
def test_in_any_order(cluster, order):
    """Each process starts when the one before it is up; who comes before the first of the list waits for it."""
    three = cluster(3)
    replies = []
    for number in order:
        replies.append(three[number].begin())
        wait_until(lambda: replies[-1].arrived.is_set() or three.is_up(three[number]), 10, f"{number} is up")
    for reply in replies:
        reply.ok(START)
    expect_one_cluster(three)


def test_start_returns_when_the_join_is_confirmed(cluster):
    """Right after start a node is a member and can be used, and it was not quick by luck: three rounds. Two of two are
    no more than one, so the second one votes only when there is a third."""
    for _ in range(3):
        three = cluster(3)
        for node in three.nodes:
            node.start(START)
            assert three.members()[node.id][0] == node.address
            node.open_db().exec("CREATE TABLE IF NOT EXISTS t(a)")
        expect_voters(three, 3)
        three.finish()


def test_the_list_may_hold_blanks_doubles_and_members_that_do_not_exist(cluster):
    three = cluster(3)
    nowhere, refusing = f"{three.net.host(99)}:{PORT}", f"{three.net.host(1)}:9999"
    for node in three.nodes:
        node.list = f" {three.net.address(1)} ,, {three.net.address(1)},{three.list}, {nowhere},{refusing}, "
    three.start()
    expect_one_cluster(three)


def test_a_name_that_does_not_resolve(cluster):
    """It is one more member that does not answer, wherever it stands in the list, also as the first one who could found."""
    two = cluster(2)
    missing = f"no-such-host.invalid:{PORT}"
    for node in two.nodes:
        node.list = f"{two.list},{missing}"
    two.start()
    expect_one_cluster(two)
    third = two.add_node(list=f"{missing},{two.list}")
    third.start(START)
    expect_one_cluster(two)
    # With nobody else in the list it is named, after a first attempt of 5 s.
    fourth = two.add_node(list=missing, options={"start_timeout": 7000})
    reply = fourth.begin().wait(START)
    assert reply.code == NOLEADER and "no-such-host.invalid" in reply.error, str(reply)
    two.nodes.remove(fourth)


def test_a_node_whose_cluster_is_not_there_waits_and_joins_when_it_comes(cluster):
    three = cluster(3, options={"timeout": 2000})
    second = three[2]
    began = time.monotonic()
    reply = second.begin().wait(START + SLACK)
    assert reply.code == NOLEADER, str(reply)
    assert "not joined yet" in reply.error
    assert time.monotonic() - began < START + SLACK
    # It says so in its calls too, and goes on trying.
    reply = second.worker.call("open_db")
    assert reply.code == NOLEADER, str(reply)
    three[1].start(START)
    second.worker.ok("start")
    three[3].start(START)
    expect_one_cluster(three)


def test_stop_ends_a_start_that_waits(cluster):
    three = cluster(3)
    waiting = three[2].begin()
    wait_until(lambda: three.is_up(three[2]), 10, "the second node is up")
    began = time.monotonic()
    three[2].worker.ok("stop")
    reply = waiting.wait(10)
    assert reply.code in (SHUTDOWN, STOPPED), str(reply)
    assert time.monotonic() - began < 3
    # And nothing of it stands in the way of the next start.
    replies = [three[1].begin(), three[3].begin(), three[2].worker.send("start")]
    for reply in replies:
        reply.ok(START)
    expect_one_cluster(three)


def test_destroy_ends_a_start_that_waits(cluster):
    three = cluster(3)
    waiting = three[2].begin()
    wait_until(lambda: three.is_up(three[2]), 10, "the second node is up")
    began = time.monotonic()
    three[2].worker.ok("destroy")
    reply = waiting.wait(10)
    assert reply.code in (SHUTDOWN, STOPPED, NOTFOUND), str(reply)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("size", [2, 5, 9])
def test_other_sizes(cluster, size):
    many = cluster(size)
    many.start(START)
    expect_members(many, many.nodes)
    expect_one_cluster(many)
    if size > 2:
        expect_voters(many, 3)


def test_a_member_that_is_in_nobodys_list_joins_through_its_own(cluster):
    three = cluster(3).start()
    fourth = three.add_node(id=44, list=three.net.address(2))
    fourth.start(START)
    expect_one_cluster(three)


@pytest.mark.parametrize(
    "how,who",
    [("unplugged", "follower"), ("unplugged", "leader"), ("paused", "follower"), pytest.param("paused", "leader", marks=quick)],
)
def test_joining_while_a_member_is_unreachable(cluster, how, who):
    """It is the first one that is asked. A leader is given up first, and whoever follows it takes the fourth in."""
    three = cluster(3).start()
    expect_one_cluster(three)
    leader = three.leader()
    away = leader if who == "leader" else three.followers()[0]
    rest = [node for node in three.nodes if node is not away]
    fourth = three.add_node(id=4, list=",".join(node.address for node in (away, *rest)))
    # Whether somebody answers there, and says nothing, or nobody.
    three.net.unplug(away.number) if how == "unplugged" else away.worker.pause()
    fourth.start(START)
    there = [*rest, fourth]
    expect_members(three, three.nodes, ",".join(node.address for node in there))
    assert (three.leader(addresses=rest[0].address) is leader) == (who == "follower")
    fourth.open_db().exec("INSERT INTO seen VALUES(4)")
    for node in there:
        # What was sent to the leader of before may have to be asked again.
        worker = node.open_db().worker
        wait_until(lambda: worker.call("query", sql="SELECT count(*) AS n FROM seen").value == [{"n": 4}], 10, f"the rows by {node}")
    three.net.plug(away.number) if how == "unplugged" else away.worker.resume()
    expect_one_cluster(three)


def known_as(made, kind):
    """The nodes of a cluster that does not run yet, and the observer, under addresses of another kind."""
    for number in range(1, made.net.size + 1):
        made.net.inside(number, f"addr add fd77::{number}/64 dev eth0 nodad")
    for node in made.nodes:
        node.address = f"[fd77::{node.number}]:{PORT}"
        if kind == "names":
            node.address = f"node{node.number}.test:{PORT}"
        if kind == "ipv6, all interfaces":
            node.options["bind_address"] = f"[::]:{PORT}"
    made.list = ",".join(node.address for node in made.nodes[:3])
    for node in made.nodes:
        node.list = made.list


def with_hosts(net, file):
    """What runs in its namespaces from now on reads that file for /etc/hosts."""
    file.write_text("".join(f"fd77::{number} node{number}.test\n" for number in range(1, 10)))
    enter = net.enter
    hosts = ["unshare", "--mount", "sh", "-c", f"mount --bind '{file}' /etc/hosts && exec \"$@\"", "sh"]
    net.enter = lambda number: [*hosts, *enter(number)]


@pytest.mark.parametrize("kind", ["ipv6", pytest.param("ipv6, all interfaces", marks=pytest.mark.quick), "names"])
def test_other_addresses_between_hosts(cluster, tmp_path, kind):
    """Three voters and a spare, which after a restart knows of the others from cluster.yaml alone."""
    made = cluster(3, options={"standbys": 0})
    spare = made.add_node(options={"standbys": 0})
    known_as(made, kind)
    if kind == "names":
        with_hosts(made.net, tmp_path / "hosts")
        made.observer = harness.Worker(made.net, made.observer_host, made.work, "observer of names")
        made.workers.append(made.observer)
    for reply in [node.begin() for node in made.nodes[:3]]:
        reply.ok(START)
    expect_voters(made, 3)
    spare.start(START)
    expect_one_cluster(made)
    wait_until(lambda: all(node.address in spare.dir.joinpath("cluster.yaml").read_text() for node in made.nodes), 20, "the file")
    for node in made.nodes:
        node.kill()
        node.list = None
    made.start(START)
    assert made.members()[spare.id] == (spare.address, SPARE)
    expect_one_cluster(made)


# ---- restarts and crashes ----


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_restart_of_all(cluster, end):
    three = cluster(3).start()
    expect_one_cluster(three)
    for order in [(1, 2, 3), (3, 2, 1), (2, 3, 1)]:
        for number in order:
            if end == "stop":
                three[number].worker.ok("stop")
                three[number].worker.quit()
            else:
                three[number].kill()
        three.nodes = [three[number] for number in order]
        three.start(START)
        three.nodes.sort(key=lambda node: node.number)
        expect_one_cluster(three)
    assert three[1].query("SELECT count(*) AS n FROM seen") == [{"n": 12}]


def test_restart_of_one_after_another(cluster):
    three = cluster(3).start()
    expect_one_cluster(three)
    for number in (1, 2, 3):
        three[number].kill()
        others = [node for node in three.nodes if node.number != number]
        expect_a_write(others[0])
        three[number].start(START)
        expect_one_cluster(three)


def test_stop_and_start_in_the_same_process(cluster):
    three = cluster(3).start()
    for number in (2, 1, 3, 1):
        three[number].worker.ok("stop")
        three[number].worker.ok("start")
        expect_one_cluster(three)


@pytest.mark.parametrize("victim", [1, 2])
def test_killed_during_the_first_start(cluster, victim):
    """At whatever moment; starting again is the cure, in a directory as the crash left it."""
    delays = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8]
    pause = threading.Event()
    for delay in delays:
        three = cluster(3)
        others = [node.begin() for node in three.nodes if node.number != victim]
        node = three[victim]
        node.begin()
        pause.wait(delay)
        node.kill()
        node.start(START)
        for reply in others:
            reply.ok(START)
        expect_one_cluster(three)
        three.finish()


@pytest.mark.parametrize("file", ["dqlite-lock", "cluster.yaml", "info.yaml", "metadata1"])
def test_killed_while_it_founds_a_cluster(cluster, file):
    """As soon as the file is there; the next start founds it all the same."""
    one = cluster(1, options={"timeout": 5000})
    node = one[1]
    for _ in range(5):
        node.begin()
        ends = time.monotonic() + 20
        while not (node.dir / file).exists() and time.monotonic() < ends:
            pass  # the window is a few milliseconds
        node.kill()
        node.start(START).open_db().exec("CREATE TABLE t(a)")
        node.kill()
        node.wipe()


def test_killed_again_and_again_during_the_first_start(cluster):
    three = cluster(3)
    three[1].start()
    rng = random.Random(7)
    pause = threading.Event()
    for _ in range(8):
        three[2].begin()
        pause.wait(rng.random() * 0.5)
        three[2].kill()
    three[2].start(START)
    three[3].start(START)
    expect_one_cluster(three)


@pytest.mark.parametrize("number,id", [(2, 2), pytest.param(1, 1, marks=quick), (1, BOOTSTRAP_ID), (3, 1)])
def test_a_wiped_node_joins_anew_under_its_old_id(cluster, number, id):
    three = cluster(3)
    for node in three.nodes:
        node.id = id if node.number == number else node.id + 10
    three.start()
    expect_one_cluster(three)
    node = three[number]
    node.kill()
    node.wipe()
    node.start(START)
    expect_voters(three, 3)
    expect_one_cluster(three)
    # It has everything again: with another one gone, nothing goes on without it.
    other = next(one for one in three.nodes if one is not node)
    other.kill()
    survivors = [one for one in three.nodes if one is not other]
    expect_a_write(survivors[0])
    for one in survivors:
        assert one.query("SELECT count(*) AS n FROM seen") == [{"n": 7}]
    other.start(START)
    expect_one_cluster(three)


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1, 0.3])
def test_a_wiped_node_killed_while_it_joins_anew(cluster, delay):
    three = cluster(3).start()
    expect_one_cluster(three)
    three[2].kill()
    three[2].wipe()
    three[2].begin()
    threading.Event().wait(delay)
    three[2].kill()
    three[2].start(START)
    expect_one_cluster(three)


@pytest.mark.parametrize("delay", [None, 1.0])
def test_a_wiped_node_does_not_vote_away_what_it_acknowledged(cluster, delay):
    """Rows that 1 and 3 acknowledged while 2 was away. 3 is wiped and starts again, with 1 there for `delay` seconds or
    not at all. Then 1 is gone and 2 returns: 2 and 3 have forgotten the rows together, so they must not go on alone."""
    three = cluster(3, options={"timeout": 2000}).start()
    expect_one_cluster(three)
    first, second, third = three.nodes
    wait_until(lambda: move_lead(three, first), 30, "node 1 leads")
    three.net.unplug(2)
    first.exec("CREATE TABLE kept(a, b)")
    for number in range(50):
        first.exec(f"INSERT INTO kept VALUES({number}, zeroblob(40000))")
    third.kill()
    third.wipe()
    # It takes longer to send them again than node 1 has.
    three.net.limit(3, "1mbit")
    if delay is None:
        first.kill()
    third.begin()
    if delay is not None:
        threading.Event().wait(delay)
        first.kill()
    three.net.limit(3, None)
    three.net.plug(2)
    # The majority of two would need one that knows the rows.
    pause, ends = threading.Event(), time.monotonic() + 12
    while time.monotonic() < ends:
        reply = second.worker.call("query", sql="SELECT count(*) AS n FROM kept")
        assert reply.code != OK or reply.value == [{"n": 50}], "node 2 and the wiped node go on without the rows"
        assert "no such table" not in (reply.error or ""), f"node 2 and the wiped node go on without the rows: {reply}"
        pause.wait(0.2)
    first.start(START)
    wait_until(lambda: second.worker.call("query", sql="SELECT count(*) AS n FROM kept").value == [{"n": 50}], 20, "the rows")
    wait_until(lambda: third.worker.call("open_db").code == OK, 20, "node 3 is well")
    # With nobody there to ask it was not forgotten that what they know of it is from before.
    said = third.worker.log.read_text
    wait_until(lambda: delay is not None or "has lost its data" in said(), 20, said)
    expect_one_cluster(three)


def move_lead(cluster, node):
    """Whether it leads; if not, whoever does is made to stop for a moment."""
    leader = cluster.leader()
    if leader is not node:
        leader.worker.ok("stop")
        leader.worker.ok("start")
        expect_one_cluster(cluster)
    return leader is node


@quick
def test_the_first_of_the_list_wiped_while_the_others_are_down(cluster):
    """Never two clusters in silence: what was founded anew stops serving when it meets the old one, and says why."""
    three = cluster(3).start()
    expect_one_cluster(three)
    for node in three.nodes:
        node.kill()
    first = three[1]
    first.wipe()
    reply = first.begin().wait(START + SLACK)
    if reply.code == OK:
        first.worker.call("open_db")
    for number in (2, 3):
        three[number].start(START)
    others = ",".join(three[number].address for number in (2, 3))
    three[2].open_db()
    expect_a_write(three[2])
    assert three[2].query("SELECT count(*) AS n FROM seen") == [{"n": 4}]
    if reply.code == OK:
        # It had founded a cluster of its own.
        errors = []

        def stopped():
            errors[:] = [first.worker.call("exec", sql="CREATE TABLE IF NOT EXISTS mine(a)")]
            return errors[0].code != OK

        wait_until(stopped, 20, lambda: f"the new cluster goes on: {errors[0]}")
        assert three[2].address in errors[0].error or three[3].address in errors[0].error, errors[0].error
        # Nor does it serve again while the other one is there.
        first.kill()
        reply = first.begin().wait(START + SLACK)
        assert reply.code == MISUSE and "empty data directory" in reply.error, str(reply)
        first.kill()
        first.wipe()
        first.start(START)
        expect_one_cluster(three)
    else:
        assert reply.code == NOLEADER, str(reply)
    assert {id for id in three.members(others)} >= {2, 3}


@pytest.mark.parametrize("company", ["one", "two", "old"])
def test_the_wiped_first_has_got_company_when_the_others_return(cluster, company):
    """Its new cluster has more members than itself by then: a new one, two, which are a majority without it, or one that was
    wiped as well. All of them stop."""
    made = cluster(5, options={"network_latency_ms": 20, "timeout": 4000, "voters": 5 if company == "old" else 3})
    made.start()
    expect_voters(made, 5 if company == "old" else 3)
    made[1].open_db().exec("CREATE TABLE seen(a)")
    first, *others = made.nodes
    wait_until(lambda: first.dir.joinpath("cluster.yaml").read_text().count("ID") == 5, 20, "the list is kept")
    for node in made.nodes:
        node.kill()
    first.wipe()
    first.start(START)
    if company == "old":
        new = [others.pop(0)]
        new[0].wipe()
    else:
        new = [made.add_node(list=made.list, options=first.options) for _ in range(1 if company == "one" else 2)]
    for node in new:
        node.start(START)
    expect_members(made, [first, *new], first.address)
    first.open_db().exec("CREATE TABLE theirs(a)")
    for node in new:
        node.open_db().exec("INSERT INTO theirs VALUES(0)")
    for reply in [node.begin() for node in others]:
        reply.ok(START)
    others[0].open_db()
    expect_a_write(others[0])
    replies = {}

    def stopped():
        replies.update({node: node.worker.call("exec", sql="INSERT INTO theirs VALUES(1)") for node in [first, *new]})
        # Nor are they brought to the other cluster in silence, which has no such table.
        assert all(reply.code < SQL for reply in replies.values()), [str(reply) for reply in replies.values()]
        return all(reply.code == MISUSE for reply in replies.values())

    wait_until(stopped, 20, lambda: [str(reply) for reply in replies.values()])
    leader = made.leader(addresses=",".join(node.address for node in others))
    told = replies[first].error
    assert all(node.address in told for node in [first, *new, *others]) and f"{leader.address} leads" in told, told
    expect_a_write(others[0])
    # The way back that the message names.
    for node in [first, *new]:
        node.kill()
        node.wipe()
    for reply in [node.begin() for node in [first, *new] if node.number <= 5]:
        reply.ok(START)
    expect_one_cluster(made, made.nodes[:5])


# ---- minorities ----


def expect_refusal(node, seconds):
    """Each call ends within its deadline, and soon each says that there is no leader."""
    replies = []

    def refused():
        began = time.monotonic()
        reply = node.worker.call("exec", sql="INSERT INTO seen VALUES(-1)")
        replies.append(str(reply))
        assert time.monotonic() - began < seconds + SLACK, str(reply)
        # Unknown: it may have been sent before the node saw that it is alone.
        assert reply.code in (NOLEADER, UNKNOWN, TIMEOUT, RETRY), str(reply)
        return reply.code == NOLEADER

    wait_until(refused, 30, lambda: replies[-1])


def test_a_minority_refuses_and_recovers(cluster):
    three = cluster(3, options={"timeout": 3000}).start()
    expect_one_cluster(three)
    for killed in [(1, 2), (2, 3)]:
        for number in killed:
            three[number].kill()
        left = next(node for node in three.nodes if node.number not in killed)
        expect_refusal(left, 3.0)
        three[killed[0]].start(START)
        expect_a_write(left)
        three[killed[1]].start(START)
        expect_one_cluster(three)
    # Of the refused ones only those whose outcome was unknown may be there.


@pytest.mark.parametrize("who", [pytest.param("leader", marks=quick), "follower"])
def test_a_partitioned_minority_refuses_and_recovers(cluster, who):
    three = cluster(3, options={"timeout": 3000}).start()
    expect_one_cluster(three)
    leader = three.leader()
    alone = leader if who == "leader" else next(node for node in three.nodes if node is not leader)
    rest = [node for node in three.nodes if node is not alone]
    three.net.partition([node.number for node in rest] + [three.net.size], [alone.number])
    expect_refusal(alone, 3.0)
    expect_a_write(rest[0], unknown=True)
    three.net.heal()
    expect_a_write(alone, unknown=True)
    expect_one_cluster(three)


# ---- what cannot be ----


def test_an_id_that_another_member_has(cluster):
    three = cluster(3).start()
    thief = three.add_node(id=2, list=three.list)
    reply = thief.begin().wait(START + SLACK)
    assert reply.code == INVALID, str(reply)
    assert three.net.address(2) in reply.error and thief.address in reply.error
    three.nodes.remove(thief)
    expect_one_cluster(three)


def test_an_address_that_another_member_has(cluster):
    """A wiped node that comes back under another id."""
    three = cluster(3).start()
    three[2].kill()
    three[2].wipe()
    three[2].id = 22
    reply = three[2].begin().wait(START + SLACK)
    assert reply.code == INVALID, str(reply)
    assert " 2 " in reply.error and " 22 " in reply.error and three[2].address in reply.error
    three[2].kill()
    rest = [three[1], three[3]]
    expect_members(three, [three[1], three[3], type("Gone", (), {"id": 2, "address": three[2].address})])
    rest[0].open_db().exec("CREATE TABLE IF NOT EXISTS seen(a)")


def test_two_processes_on_one_directory(cluster):
    two = cluster(2).start()
    twin = two.add_node(id=2, list=two.list, address=two.net.address(2))
    twin.dir = two[2].dir
    reply = twin.begin().wait(START)
    assert reply.code not in (OK, -1, -2), str(reply)
    two.nodes.remove(twin)
    expect_one_cluster(two)


# ---- clients ----


def test_client_calls_on_three_nodes(cluster):
    three = cluster(3).start()
    expect_one_cluster(three)
    # Any member will do, and those that do not answer are no obstacle.
    for addresses in [three.net.address(1), three.net.address(3), f"10.77.0.99:{PORT},{three.net.address(2)}"]:
        assert three.watch("leader", addresses).value == three.leader().address
        assert set(three.members(addresses)) == {1, 2, 3}
    # A member again is success, also under an address that is not the leader's.
    assert three.watch("add", id=2, address=three.net.address(2)).code == OK
    # Another one under its id or address is not.
    for id, address in [(2, three.net.address(3)), (9, three.net.address(3)), (2, f"10.77.0.99:{PORT}")]:
        reply = three.watch("add", id=id, address=address)
        assert reply.code == INVALID, str(reply)
    reply = three.watch("remove", id=99)
    assert reply.code == NOTFOUND and "99" in reply.error, str(reply)
    assert three.watch("add", id=0, address=f"10.77.0.99:{PORT}").code == INVALID
    assert three.watch("remove", id=0).code in (INVALID, NOTFOUND)
    expect_one_cluster(three)


def test_removing_down_to_the_last(cluster):
    three = cluster(3).start()
    expect_one_cluster(three)
    follower = three.followers()[0]
    reply = three.watch("remove", id=follower.id)
    assert reply.code == OK, str(reply)
    rest = [node for node in three.nodes if node is not follower]
    expect_members(three, rest, ",".join(node.address for node in rest))
    # The leader too: leadership moves first.
    leader = three.leader()
    reply = three.watch("remove", id=leader.id)
    assert reply.code == OK, str(reply)
    last = next(node for node in rest if node is not leader)
    expect_members(three, [last], last.address)
    reply = three.watch("remove", last.address, id=last.id)
    assert reply.code == MISUSE and "last" in reply.error, str(reply)
    last.open_db().exec("INSERT INTO seen VALUES(0)")
    assert last.query("SELECT count(*) AS n FROM seen") == [{"n": 4}]


def test_a_removed_node_is_added_again(cluster):
    """While it runs, and after a restart; it gets what it missed."""
    three = cluster(3).start()
    expect_one_cluster(three)
    node = three.followers()[0]
    rest = [one for one in three.nodes if one is not node]
    addresses = ",".join(one.address for one in rest)
    assert three.watch("remove", addresses, id=node.id).code == OK
    expect_members(three, rest, addresses)
    rest[0].exec("INSERT INTO seen VALUES(0)")
    reply = three.watch("add", addresses, id=node.id, address=node.address)
    assert reply.code == OK, str(reply)
    expect_one_cluster(three)


# ---- who knows only some of them, or those of long ago ----


def with_a_spare(cluster):
    """Three voters, and a fourth member that is sent no data. Only the first of the list may found the cluster."""
    made = cluster(3, options={"standbys": 0})
    made.start()
    expect_voters(made, 3)
    spare = made.add_node(list=made.list, options={"standbys": 0}).start()
    assert made.members()[spare.id][1] == SPARE
    return made, spare


def test_a_client_that_knows_only_a_spare(cluster):
    made, spare = with_a_spare(cluster)
    leader = made.leader()
    assert made.find_leader(spare.address) is leader
    expect_members(made, made.nodes, spare.address)
    leader.kill()
    assert made.leader(addresses=spare.address) is not leader
    # Restarted, and nobody there who could tell it: it still knows whom to name.
    spare.worker.quit()
    for node in made.nodes[:3]:
        if node.alive:
            node.kill()
    spare.start()
    replies = []

    def all_named():
        replies[:] = [made.watch("leader", spare.address)]
        return all(f"{node.address}: " in replies[0].error for node in made.nodes)

    wait_until(all_named, 20, lambda: str(replies[0]))
    assert replies[0].code == NOLEADER and "0 of 3 voters answered; 2 needed" in replies[0].error, str(replies[0])


def test_a_client_whose_list_is_old(cluster):
    """All that it knows have left. One of them still runs, and its list is old too, but names one that is there."""
    made = cluster(3)
    made.start()
    expect_voters(made, 3)
    for _ in range(2):
        made.add_node(list=made.list).start()
    gone, away, *left = made.nodes
    assert made.watch("remove", left[0].address, id=away.id).code == OK
    away.kill()
    assert made.watch("remove", left[0].address, id=gone.id).code == OK
    expect_members(made, left, left[0].address)
    assert made.leader(addresses=f"{gone.address},{away.address}") in left


def test_a_list_that_leads_into_another_cluster(cluster):
    """Two of three voters are gone, and at the address of one of them another cluster was founded, by hand and without a
    list. Who knows only the spare must not be brought there in silence: what he writes would be missing in his own."""
    made, spare = with_a_spare(cluster)
    first, *others = made.nodes[:3]
    for node in made.nodes[:3]:
        node.kill()
    first.wipe()
    first.list = None
    first.start()
    assert made.find_leader(first.address) is first
    reply = made.watch("leader", spare.address)
    assert reply.code == NOLEADER and f"{first.address}: belongs to another cluster" in reply.error, str(reply)
    others[0].begin()
    others[1].begin()
    assert made.leader(addresses=spare.address) in others


def test_a_node_alone_is_added_from_another_process(cluster):
    """Without a list it leads a cluster of its own, in another process than the client's: refused, with what to do."""
    two = cluster(2, listed=False)
    two.start()
    reply = two.watch("add", two.net.address(1), id=2, address=two.net.address(2))
    assert reply.code == MISUSE, str(reply)
    assert "dqlitepy_node_create_with_cluster" in reply.error
    for node in two.nodes:
        expect_members(two, [node], node.address)
        node.open_db().exec("CREATE TABLE t(a)")


def test_add_of_an_address_that_does_not_answer(cluster):
    """It becomes a spare, which nobody counts on."""
    one = cluster(1)
    one.start()
    began = time.monotonic()
    reply = one.watch("add", id=9, address=f"10.77.0.99:{PORT}")
    assert time.monotonic() - began < 10 + SLACK
    assert reply.code == OK or "nothing was changed" in reply.error, str(reply)
    one[1].open_db().exec("CREATE TABLE t(a)")
    assert one.members().get(9, (None, SPARE))[1] == SPARE


def test_a_client_without_a_cluster(cluster):
    one = cluster(1)
    refusing, nowhere = one.net.address(1), f"10.77.0.99:{PORT}"
    began = time.monotonic()
    reply = one.watch("leader", f"{refusing},{nowhere}")
    assert reply.code == NOLEADER and refusing in reply.error and nowhere in reply.error, str(reply)
    assert time.monotonic() - began < 10 + SLACK


# ---- the flows of dqlitepy's documentation, in one process ----


def several(cluster, count, csv=None):
    """Nodes 1 to `count` in one process and namespace, on ports of their own."""
    one = cluster(1)
    worker = one[1].spawn()
    host = one.net.host(1)
    addresses = [f"{host}:{9101 + number}" for number in range(count)]
    for number, address in enumerate(addresses, 1):
        settings = {"cluster": ",".join(addresses)} if csv else {}
        worker.ok("create", id=number, address=address, dir=str(one.work / f"n{number}"), name=f"n{number}", **settings)
    return one, worker, addresses


def ids(worker, name="client"):
    return {member["id"]: member["role"] for member in worker.ok("cluster", name=name)}


def test_flow_of_the_readme(cluster):
    """Two nodes alike, without a list; started; the second is added."""
    one, worker, addresses = several(cluster, 2)
    worker.ok("start", name="n1")
    worker.ok("start", name="n2")
    worker.ok("client", addresses=addresses[0])
    worker.ok("add", id=2, address=addresses[1])
    assert ids(worker) == {1: VOTER, 2: VOTER}
    worker.ok("open_db", name="n1")
    worker.ok("exec", name="n1", sql="CREATE TABLE t(a); INSERT INTO t VALUES(1)")
    worker.ok("open_db", name="n2")
    assert worker.ok("query", name="n2", sql="SELECT a FROM t") == [{"a": 1}]


def test_flow_of_the_guide_with_a_list(cluster):
    one, worker, addresses = several(cluster, 3, csv=True)
    for number in (1, 2, 3):
        worker.ok("start", name=f"n{number}")
    worker.ok("client", addresses=addresses[2])
    assert ids(worker) == {1: VOTER, 2: VOTER, 3: VOTER}


def test_flow_of_the_guide_with_adding(cluster):
    one, worker, addresses = several(cluster, 3)
    worker.ok("start", name="n1")
    worker.ok("open_db", name="n1")
    worker.ok("exec", name="n1", sql="CREATE TABLE t(a); INSERT INTO t VALUES(1)")
    worker.ok("start", name="n2")
    worker.ok("start", name="n3")
    worker.ok("client", addresses=addresses[0])
    for number in (2, 3):
        worker.ok("add", id=number, address=addresses[number - 1])
    assert ids(worker) == {1: VOTER, 2: VOTER, 3: VOTER}
    for number in (2, 3):
        worker.ok("open_db", name=f"n{number}")
        assert worker.ok("query", name=f"n{number}", sql="SELECT a FROM t") == [{"a": 1}]


def test_a_node_with_data_of_its_own_is_never_added(cluster):
    one, worker, addresses = several(cluster, 2)
    for name in ("n1", "n2"):
        worker.ok("start", name=name)
        worker.ok("open_db", name=name)
        worker.ok("exec", name=name, sql="CREATE TABLE t(a)")
    worker.ok("client", addresses=addresses[0])
    reply = worker.call("add", id=2, address=addresses[1])
    assert reply.code == MISUSE, str(reply)
    for name in ("n1", "n2"):
        worker.ok("exec", name=name, sql="INSERT INTO t VALUES(1)")
    assert ids(worker) == {1: VOTER}


@pytest.mark.parametrize("delay", [0.0, 0.004, 0.007, 0.01, 0.014, 0.03, 0.06, 0.1, 0.2])
def test_a_crash_while_a_blank_node_is_added(cluster, delay):
    """At any step of the reset; starting both again gives one cluster of two, or two whole ones that can be joined."""
    one, worker, addresses = several(cluster, 2)
    worker.ok("start", name="n1")
    worker.ok("start", name="n2")
    worker.ok("client", addresses=addresses[0])
    worker.send("add", id=2, address=addresses[1])
    threading.Event().wait(delay)
    worker.kill()
    worker = one[1].spawn()
    for number, address in enumerate(addresses, 1):
        worker.ok("create", id=number, address=address, dir=str(one.work / f"n{number}"), name=f"n{number}")
        worker.ok("start", name=f"n{number}")
    worker.ok("client", addresses=addresses[0])
    worker.ok("add", id=2, address=addresses[1])
    assert ids(worker) == {1: VOTER, 2: VOTER}
    worker.ok("open_db", name="n2")
    worker.ok("exec", name="n2", sql="CREATE TABLE t(a)")
