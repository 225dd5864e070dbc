"""A leader that stops gives its lead away first, in processes of their own."""

import sys
from pathlib import Path

import pytest
import support
from dqlitepy import Client

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cluster"))
import harness  # noqa: E402


class Loopback:
    """Instead of a network of its own; see harness.Net."""

    def enter(self, number):
        return []


@pytest.fixture
def three(tmp_path):
    """Voters in processes, by their addresses."""
    addresses = [support.free_address() for _ in range(3)]
    workers = {address: harness.Worker(Loopback(), 0, tmp_path, f"node{n}") for n, address in enumerate(addresses, 1)}
    for number, (address, worker) in enumerate(workers.items(), 1):
        worker.ok("create", id=number, address=address, dir=str(tmp_path / str(number)), cluster=",".join(addresses))
        worker.ok("start")
    with Client(addresses) as client:
        support.wait_until(lambda: [member.role for member in client.cluster()] == [0, 0, 0], 20)
    yield workers
    for worker in workers.values():
        worker.process.kill()
        worker.process.wait(30)


def term(worker):
    return worker.ok("metrics")["dqlitepy_node_term"]["samples"][0]["value"]


def leader(address):
    with Client([address]) as client:
        return client.leader()


def test_stop_gives_the_lead_away(three):
    """With the third paused, the other one can be elected as long as the leader is there to vote for it, and not afterwards."""
    first = leader(next(iter(three)))
    heir, paused = (address for address in three if address != first)
    three[paused].pause()
    # The heir has what the paused one lacks.
    three[first].ok("open_db")
    three[first].ok("exec", sql="CREATE TABLE t(a)")
    before = term(three[heir])
    three[first].ok("stop")
    assert term(three[heir]) == before + 1
    three[paused].resume()
    assert leader(paused) == heir
    three[heir].ok("open_db")
    three[heir].ok("exec", sql="INSERT INTO t VALUES (1)")
