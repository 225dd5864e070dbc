"""One cluster of our nodes and go-dqlite's: in both orders of joining, each leading in turn, under faults, and a cluster
that changes from one kind to the other under writes."""

import json
import threading
import time

import harness
import pytest
import support
from harness import MISUSE, SQL, wait_until
from mixed import SPARE, VOTER, Loopback

BUSY = 5

ORDERS = ["theirs ours ours", "ours theirs theirs", "theirs ours theirs", "ours theirs ours", "theirs theirs ours"]
# A round of go-dqlite's looking after roles, and a bit.
ROUND = 33.0


def start(place, order, **roles):
    nodes = [place.start(kind) for kind in order.split()]
    place.wait_for_roles(**(roles or {"voters": 3}))
    return nodes


# ---- joining and leading ----


@pytest.mark.parametrize("order", ORDERS)
def test_each_leads_in_turn(place, order):
    """What is written under each leader, through each node, each node reads."""
    nodes = start(place, order)
    written = {}
    for leader in nodes:
        place.lead(leader.address)
        for node in nodes:
            key = f"{place.number(node.address)}-under-{place.number(leader.address)}"
            written[key] = f"value {key}"
            assert node.put(key, written[key])
        for node in nodes:
            assert {key: node.get(key) for key in written} == written
    place.check_processes()


def test_ours_joins_theirs_by_client_add(place):
    """From the process in which it runs; from another one it is refused, with the way that works."""
    theirs = place.start("theirs")
    assert theirs.put("before", "theirs")
    worker = harness.Worker(Loopback(), 0, place.path, "added")
    place.workers.append(worker)
    address = support.free_address()
    worker.ok("create", id=7, address=address, dir=str(place.path / address))
    worker.ok("start")

    refused = place.client("add", id=7, address=address)
    assert refused.code == MISUSE and "dqlitepy_node_create_with_cluster" in refused.error
    worker.ok("client", addresses=theirs.address)
    worker.ok("add", id=7, address=address)
    assert place.members() == {theirs.address: VOTER, address: VOTER}
    worker.ok("open_db", db="demo")
    assert worker.ok("query", sql="SELECT value FROM model WHERE key = 'before'") == [{"value": "theirs"}]

    place.addresses.append(address)
    place.lead(address)
    assert theirs.put("after", "ours leads")
    assert worker.ok("query", sql="SELECT value FROM model WHERE key = 'after'") == [{"value": "ours leads"}]
    place.check_processes()


def test_writes_wait_for_a_lock_that_their_leader_does_not_wait_for(place):
    """go-dqlite's nodes refuse what finds the database locked; ours that follow them wait by themselves."""
    place.start("theirs")
    patient, hasty = place.start("ours"), place.start("ours", options={"busy_timeout": 0})
    place.lead(place.addresses[0])
    with place.connect() as connection:
        connection.begin("IMMEDIATE")
        connection.execute("INSERT INTO model VALUES ('a', 'locked')")
        waits = patient.worker.send("exec", sql="INSERT INTO model VALUES ('b', 'waited')")
        refused = hasty.worker.call("exec", sql="INSERT INTO model VALUES ('c', 'not')")
        assert refused.code == SQL + BUSY and not waits.arrived.is_set()
        connection.commit()
    waits.ok()
    assert dict(place.sql("SELECT key, value FROM model WHERE key < 'd'")) == {"a": "locked", "b": "waited"}


# ---- roles ----


def quiet(places, seconds):
    """Nothing changes: neither the leaders nor the roles."""
    shapes = [place.shape() for place in places]
    pause, until = threading.Event(), time.monotonic() + seconds
    while time.monotonic() < until:
        assert [place.shape() for place in places] == shapes
        pause.wait(0.2)


@pytest.mark.long
def test_two_managers_of_roles_agree(place, another_place):
    """Seven nodes, whoever leads, also after a voter is lost and comes back. Beside them two, which go-dqlite leaves with
    one voter and we with two."""
    nodes = start(place, "theirs ours theirs ours ours theirs ours", voters=3, standbys=3, spares=1)
    pair = [another_place.start("theirs"), another_place.start("ours")]
    another_place.wait_for_roles(voters=1, spares=1)
    for kind in ("theirs", "ours"):
        leader = next(node for node in nodes if node.kind == kind)
        # Whoever did not vote is one voter too many then, and the leader sees to that.
        place.client("assign", id=place.id(leader.address), role=VOTER).ok()
        place.lead(leader.address)
        place.wait_for_roles(voters=3, standbys=3, spares=1)
        lost = next(node for node in nodes if node is not leader and place.members()[node.address] == VOTER)
        lost.kill()
        wait_until(lambda: place.members()[lost.address] == SPARE, 2 * ROUND, lambda: str(place.members()))
        place.wait_for_roles(voters=3, standbys=3, spares=1)
        quiet([place, another_place], ROUND)
        nodes[nodes.index(lost)] = place.start(lost.kind, lost.address)
    quiet([place, another_place], ROUND)
    assert another_place.members() == {pair[0].address: VOTER, pair[1].address: SPARE}
    place.check_processes()


# ---- the shell ----


def test_the_shell_on_a_mixed_cluster(place, go):
    """Through any voter, whoever leads; stand-bys of either kind name no leader."""
    nodes = start(place, "ours theirs ours theirs", voters=3, standbys=1)
    everyone = ",".join(place.addresses)
    for leader in nodes[:2]:
        place.lead(leader.address)
        members = place.client("cluster").ok()
        for servers in [node.address for node in nodes[:3]] + [everyone]:
            assert go.ask(servers, ".leader") == leader.address
            listed = json.loads(go.ask(servers, ".cluster", "-f", "json"))
            assert [(one["ID"], one["Address"], one["Role"]) for one in listed] == [
                (one["id"], one["address"], one["role"]) for one in members
            ]
        for number, node in enumerate(nodes):
            assert go.ask(everyone, f".weight {node.address} {number + 5}") == ""
            assert go.ask(everyone, f".describe {node.address}") == f"{node.address}|0|{number + 5}"
        assert go.ask(everyone, f"INSERT OR REPLACE INTO model VALUES ('shell', '{leader.kind}')") == ""
        assert [node.get("shell") for node in nodes] == [leader.kind] * 4
    for leader, removed in ((nodes[0], nodes[3]), (nodes[1], nodes[2])):
        place.lead(leader.address)
        assert go.ask(everyone, f".remove {removed.address}") == ""
        assert removed.address not in place.members()
        removed.kill()
    assert nodes[0].put("two", "are left") and nodes[1].get("two") == "are left"
    place.check_processes()


# ---- faults and changes under writes ----


def all_rows(place):
    return sorted(row[0] for row in place.sql("SELECT k FROM log"))


def check_everywhere(place):
    """What each node holds shows while it leads."""
    held = []
    for address in place.addresses:
        wait_until(lambda: place.members().get(address) == VOTER, 60, lambda: str(place.members()))
        place.lead(address)
        held.append(all_rows(place))
    assert held[0] and all(rows == held[0] for rows in held)


@pytest.mark.long
@pytest.mark.parametrize("order", ["theirs ours ours", "ours theirs theirs"])
def test_leader_killed(place, order, capsys):
    nodes = start(place, order)
    writers = [place.write(f"writer{number}") for number in range(3)]
    for number in (0, 1):
        leader = nodes[number]
        place.lead(leader.address)
        for writer in writers:
            writer.wait_for_writes(25)
        leader.kill()
        silence = max(writer.wait_for_write() for writer in writers)
        with capsys.disabled():
            print(f"\n{order}: leader ({leader.kind}) killed, next write on all after {silence:.2f} s")
        nodes[number] = place.start(leader.kind, leader.address)
        place.wait_for_roles(voters=3)
    for writer in writers:
        writer.wait_for_write()
        assert writer.finish() >= 50
    check_everywhere(place)
    place.check_processes()


def test_ours_was_away_under_a_leader_of_theirs(place):
    """go-dqlite sends all that a member lacks in one message, more than ours would put into one."""
    nodes = start(place, "theirs theirs ours")
    place.lead(nodes[0].address)
    place.sql("CREATE TABLE log (k TEXT, large BLOB)")
    nodes[2].kill()
    for number in range(20):
        place.sql(f"INSERT INTO log VALUES ({number}, zeroblob(900000))")
    nodes[2] = place.start("ours", nodes[2].address)
    assert nodes[2].put("after", "it came back")
    place.lead(nodes[2].address)
    assert nodes[2].get("after") == "it came back"
    place.sql("INSERT INTO log VALUES ('last', zeroblob(900000))")
    check_everywhere(place)
    place.check_processes()


@pytest.mark.parametrize("end", ["stop", pytest.param("kill", marks=pytest.mark.long)])
def test_upgrade_in_place_and_back(place, end, capsys):
    """Node by node from theirs to ours, and one back again, on the same directories and under writes."""
    nodes = start(place, "theirs theirs theirs")
    ids = [place.id(address) for address in place.addresses]
    writers = [place.write(f"writer{number}") for number in range(3)]
    http = place.put_through(nodes)
    for number, kind in [(0, "ours"), (1, "ours"), (2, "ours"), (1, "theirs")]:
        for writer in writers:
            writer.wait_for_writes(25)
        node, began = nodes[number], time.monotonic()
        getattr(node, end)()
        nodes[number] = place.start(kind, node.address)
        took = time.monotonic() - began
        assert nodes[number].put("changed", str(number)) and nodes[number].get("changed") == str(number)
        for writer in writers:
            writer.wait_for_write()
        silence = max(writer.longest_silence(began) for writer in writers)
        with capsys.disabled():
            print(f"\n{end}, node {number + 1} is {kind} after {took:.2f} s; longest time without a write {silence:.2f} s")
    for writer in writers:
        assert writer.finish() >= 100
    http.finish()
    assert [place.id(address) for address in place.addresses] == ids
    check_everywhere(place)
    place.check_processes()
