"""The ways to a cluster that dqlitepy's README and guides show, with its own Node and Client; and what stands in their way."""

import pytest
from dqlitepy import Client, ClientError, ErrorCode, Node

import support


@pytest.fixture
def make(tmp_path):
    """Makes nodes that lie beside one another; they are really stopped afterwards."""
    made = []

    def make(**options):
        made.append(Node(support.free_address(), tmp_path / str(len(made)), **options))
        return made[-1]

    yield make
    for node in made:
        support.end(node)


def members(client):
    return [(member.id, member.address, member.role_name) for member in client.cluster()]


def all_of(nodes):
    return [(node.id, node.address, "Voter") for node in nodes]


def test_the_readme(make):
    """Two nodes alike, whose ids are generated. The second is started and added while the client is there."""
    node1 = make()
    node1.start()
    with Client([node1.address]) as client:
        node2 = make()
        node2.start()
        client.add(node2.id, node2.address)
        assert client.leader() == node1.address
        assert members(client) == all_of([node1, node2])
    node1.open_db("app.db")
    node1.exec("CREATE TABLE t(a); INSERT INTO t VALUES (1)")
    node2.open_db("app.db")
    node2.exec("INSERT INTO t VALUES (2)")
    assert node1.query("SELECT a FROM t") == [{"a": 1}, {"a": 2}]


def test_the_guide_that_adds(make):
    """The first has data, two more are started and added; then everything is there without the first."""
    nodes = [make(node_id=number) for number in (1, 2, 3)]
    nodes[0].start()
    nodes[0].open_db("app.db")
    nodes[0].exec("CREATE TABLE t(a); INSERT INTO t VALUES (1)")
    for node in nodes[1:]:
        node.start()
    with Client([nodes[0].address]) as client:
        for node in nodes[1:]:
            client.add(node.id, node.address)
        assert members(client) == all_of(nodes)
    nodes[0].stop()
    for node in nodes[1:]:
        node.open_db("app.db")
        assert node.query("SELECT a FROM t") == [{"a": 1}]


def test_a_node_whose_database_is_open_is_not_added(make):
    """It has written nothing, but whoever opened it there would find himself elsewhere."""
    first, second = make(node_id=1), make(node_id=2)
    first.start()
    second.start()
    second.open_db("app.db")
    with Client([first.address]) as client:
        with pytest.raises(ClientError, match="a cluster of its own") as caught:
            client.add(2, second.address)
        assert caught.value.error_code is ErrorCode.MISUSE
        assert members(client) == all_of([first])
        second.exec("CREATE TABLE t(a)")
        assert second.query("SELECT count(*) AS n FROM t") == [{"n": 0}]
