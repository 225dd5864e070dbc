"""dqlitepy's Client against a single node."""

import pytest
from dqlitepy import Client, ClientClosedError, ClientConnectionError, ClientError, ErrorCode, NodeInfo, NoLeaderError

import support


def test_leader_and_cluster(node):
    with Client([node.address]) as client:
        assert client.leader() == node.address
        (member,) = client.cluster()
        assert isinstance(member, NodeInfo)
        assert (member.id, member.address, member.role, member.role_name) == (node.id, node.address, 0, "Voter")
        assert client.cluster_addresses == [node.address]


def test_one_reachable_address_is_enough(node):
    with Client([support.free_address(), node.address, support.free_address()]) as client:
        assert client.leader() == node.address


def test_closed_client(node):
    client = Client([node.address])
    client.close()
    client.close()
    with pytest.raises(ClientClosedError):
        client.leader()


def test_nobody_there():
    nobody = support.free_address()
    with support.Within(15), pytest.raises(NoLeaderError) as caught:
        Client([nobody]).leader()
    assert caught.value.error_code is ErrorCode.NOLEADER
    assert nobody in str(caught.value) and "refused" in str(caught.value)


@pytest.mark.parametrize("addresses", [[], [""], ["nonsense"], ["127.0.0.1:99999"], ["127.0.0.1:9001", "bad"]])
def test_bad_addresses(addresses):
    with support.Within(2), pytest.raises(ClientConnectionError, match="address") as caught:
        Client(addresses)
    assert caught.value.error_code is ErrorCode.INVALID


def test_members_that_cannot_be(node):
    """Each is refused at once with a reason, and the cluster of one goes on."""
    with support.Within(3), Client([node.address]) as client:
        with pytest.raises(ClientError, match="last"):
            client.remove(node.id)
        with pytest.raises(ClientError) as caught:
            client.remove(node.id + 1)
        assert caught.value.error_code is ErrorCode.NOTFOUND
        with pytest.raises(ClientError, match="id") as caught:
            client.add(0, support.free_address())
        assert caught.value.error_code is ErrorCode.INVALID
        with pytest.raises(ClientError, match="address") as caught:
            client.add(5, "nonsense")
        assert caught.value.error_code is ErrorCode.INVALID
        with pytest.raises(ClientError):
            client.add(5, node.address)  # this address is another node's
        client.add(node.id, node.address)  # already so: fine
        assert [m.id for m in client.cluster()] == [node.id]
    node.exec("CREATE TABLE t (a)")


def test_node_that_does_not_answer(node):
    """An address that does not answer becomes a spare, which costs the cluster no vote, and can be removed again."""
    other = support.free_address()
    with support.Within(12), Client([node.address]) as client:
        for _ in range(2):
            client.add(77, other)
            assert {(m.id, m.address, m.role) for m in client.cluster()} == {(node.id, node.address, 0), (77, other, 2)}
        node.exec("CREATE TABLE t (a)")
        client.remove(77)
        assert [m.id for m in client.cluster()] == [node.id]


def test_node_goes_away(tmp_path, address):
    node = support.running_node(address, tmp_path / "n")
    client = Client([address])
    support.end(node)
    with support.Within(15), pytest.raises(ClientError):
        client.leader()
    node = support.running_node(address, tmp_path / "n")
    assert client.leader() == address  # the client finds it again
    client.close()
    support.end(node)
