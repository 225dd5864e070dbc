"""When another one leads after the leader: at once where its connections end, by the timers where it only falls silent."""

import os
import signal
import time

import pytest

import support
import wire
from test_lease import leader_and_other, three  # noqa: F401  (the fixture)
from wire import Wire, word


@pytest.mark.parametrize("three", [600], indirect=True)
def test_a_killed_leader_is_not_waited_for(three):
    """A follower's timer is 9 s at least."""
    nodes, addresses = three
    leader, other = leader_and_other(nodes, addresses)
    leader.process.kill()
    # What met it while it died may be of unknown outcome.
    with support.Within(4):
        support.wait_until(lambda: other.exec("UPDATE t SET a = 'after'") == [0, 1], 4, "a write")


@pytest.fixture
def heirs(three):  # noqa: F811
    """Connections to two followers, and their addresses; the leader is paused."""
    nodes, addresses = three
    leader, _ = leader_and_other(nodes, addresses)
    others = [node for node in nodes if node is not leader]
    connections = [Wire(node.address) for node in others]
    os.kill(leader.process.pid, signal.SIGSTOP)
    yield connections, [node.address.encode() for node in others]
    for connection in connections:
        connection.close()


def one_leads(heirs):
    connections, addresses = heirs
    answers = [connection.call(wire.LEADER, word(0), wire.NODE) for connection in connections]
    return any(address in answer for address in addresses for answer in answers)


@pytest.mark.parametrize("three", [10], indirect=True)
def test_short_timers(heirs):
    """150 to 300 ms. Without the option nobody would look before 2.5 s."""
    support.wait_until(lambda: one_leads(heirs), 2.2, "another leader")


@pytest.mark.parametrize("three", [500], indirect=True)
def test_long_timers(heirs):
    """7.5 s at least, of which a heartbeat may be over. Without the option another one leads after 6 s at most."""
    until = time.monotonic() + 6.2
    while time.monotonic() < until:
        assert not one_leads(heirs)
        time.sleep(0.05)
