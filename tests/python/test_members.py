"""What a client does with the members of a real cluster: roles, the lead, weights, and the leader's removal."""

import cffi
import pytest
from dqlitepy import Client, Node

import support
from conftest import LIBRARY
from test_header import BEGIN, END, HEADER

OK, INVALID, NOTFOUND, MISUSE, RETRY = 0, 2, 3, 4, 102
VOTER, STANDBY, SPARE = 0, 1, 2


@pytest.fixture(scope="module")
def ours():
    ffi = cffi.FFI()
    ffi.cdef(HEADER.read_text().split(BEGIN)[1].split(END)[0])
    return ffi, ffi.dlopen(str(LIBRARY))


@pytest.fixture
def cluster(tmp_path):
    """Three nodes in this process, started one after another, and a client."""
    addresses = [support.free_address() for _ in range(3)]
    nodes = [
        Node(address, tmp_path / str(number), node_id=number, cluster=addresses)
        for number, address in enumerate(addresses, 1)
    ]
    for node in nodes:
        node.start()
    with Client(addresses) as client:
        yield nodes, client
    for node in nodes:
        support.end(node)


def roles(client):
    return {member.id: member.role for member in client.cluster()}


def test_roles_and_lead(ours, cluster):
    ffi, lib = ours
    nodes, client = cluster
    handle = client._handle
    for number in (1, 2, 3):
        assert lib.dqlitepy_client_assign(handle, number, VOTER) == OK, support.last_error()
    assert roles(client) == {1: VOTER, 2: VOTER, 3: VOTER}
    assert client.leader() == nodes[0].address

    for number in (2, 2, 3, 1):
        with support.Within(5):
            assert lib.dqlitepy_client_transfer(handle, number) == OK, support.last_error()
        assert client.leader() == nodes[number - 1].address
    assert lib.dqlitepy_client_transfer(handle, 0) == OK
    assert client.leader() != nodes[0].address
    assert lib.dqlitepy_client_transfer(handle, 9) == NOTFOUND

    assert lib.dqlitepy_client_assign(handle, 1, STANDBY) == OK
    assert lib.dqlitepy_client_transfer(handle, 1) == MISUSE and "stand-by" in support.last_error()
    assert roles(client)[1] == STANDBY
    for bad in (-1, 3, 2**31 - 1):
        assert lib.dqlitepy_client_assign(handle, 1, bad) == INVALID
    assert lib.dqlitepy_client_assign(handle, 9, VOTER) == NOTFOUND


def test_leader_without_its_vote_and_without_its_place(ours, cluster):
    ffi, lib = ours
    nodes, client = cluster
    handle = client._handle
    for number in (1, 2, 3):
        assert lib.dqlitepy_client_assign(handle, number, VOTER) == OK
    nodes[0].open_db("test.db")
    nodes[0].exec("CREATE TABLE t (a)")
    assert lib.dqlitepy_client_assign(handle, 1, SPARE) == OK, support.last_error()
    assert client.leader() != nodes[0].address
    (leader,) = [node for node in nodes if node.address == client.leader()]
    client.remove(leader.id)
    assert leader.id not in roles(client) and client.leader() != leader.address
    (left,) = [node for node in nodes[1:] if node is not leader]
    left.open_db("test.db")
    left.exec("INSERT INTO t VALUES (1)")
    assert left.query("SELECT a FROM t") == [{"a": 1}]


def test_voters_that_are_needed_stay(ours, cluster):
    ffi, lib = ours
    nodes, client = cluster
    for number in (1, 2, 3):
        assert lib.dqlitepy_client_assign(client._handle, number, VOTER) == OK
    support.end(nodes[2])
    assert lib.dqlitepy_client_remove(client._handle, 2) == MISUSE and nodes[2].address in support.last_error()
    client.remove(3)
    assert roles(client).keys() == {1, 2}


def test_a_vote_for_nobody(ours, node):
    ffi, lib = ours
    with support.Within(10), Client([node.address]) as client:
        client.add(77, support.free_address())
        assert lib.dqlitepy_client_assign(client._handle, 77, VOTER) == RETRY
        assert lib.dqlitepy_client_assign(client._handle, 77, STANDBY) == OK
        assert lib.dqlitepy_client_assign(client._handle, node.id, SPARE) == MISUSE
        assert lib.dqlitepy_client_transfer(client._handle, 0) == RETRY
        assert roles(client) == {node.id: VOTER, 77: STANDBY}


def test_weight(ours, node):
    ffi, lib = ours
    domain, weight = ffi.new("unsigned long long *", 5), ffi.new("unsigned long long *", 5)
    with Client([node.address]) as client:
        address = node.address.encode()
        for value in (0, 7, 2**64 - 1):
            assert lib.dqlitepy_client_set_weight(client._handle, address, value) == OK
            assert lib.dqlitepy_client_describe(client._handle, address, domain, weight) == OK
            assert (domain[0], weight[0]) == (0, value)
        assert lib.dqlitepy_client_describe(client._handle, address, ffi.NULL, ffi.NULL) == OK
        nobody = support.free_address().encode()
        assert lib.dqlitepy_client_describe(client._handle, nobody, domain, weight) == RETRY
        assert (domain[0], weight[0]) == (0, 0)
        assert lib.dqlitepy_client_set_weight(client._handle, nobody, 1) == RETRY
        assert lib.dqlitepy_client_describe(client._handle, ffi.NULL, domain, weight) == INVALID
        assert lib.dqlitepy_client_set_weight(99, address, 1) == NOTFOUND
