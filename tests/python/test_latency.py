"""Nodes far from one another: what one sends the others takes its time, longer than a leader's reads are covered for."""

import asyncio
import threading

import pytest
from dqlitepy import Client

import support
import test_lease
import wire
from test_lease import leader_and_other
from wire import Wire, word

NODE = test_lease.NODE.replace(
    "address, directory, number, *cluster = sys.argv[1:]", "address, bind, directory, number, *cluster = sys.argv[1:]"
).replace("Node(address, directory,", "Node(address, directory, bind_address=bind,")


class Remote(test_lease.Remote):
    def __init__(self, address, directory, number, latency, cluster):
        self.address, self.bind = address, support.free_address()
        self.process = support.python(NODE, address, self.bind, directory, number, latency, *cluster)


class Distance:
    """Stands between the nodes: what comes in for an address goes out to where its node listens, `seconds` later."""

    def __init__(self):
        self.seconds = 0.0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def lies_before(self, node):
        async def arrived(reader, writer):
            try:
                there, to = await asyncio.open_connection(*support.host_and_port(node.bind))
            except OSError:
                writer.close()
                return
            await asyncio.gather(self.carry(reader, to), self.carry(there, writer))

        serving = asyncio.start_server(arrived, *support.host_and_port(node.address))
        return asyncio.run_coroutine_threadsafe(serving, self.loop).result(10)

    async def carry(self, reader, writer):
        while True:
            try:
                data = await reader.read(1 << 16)
            except OSError:
                data = b""
            self.loop.call_later(self.seconds, self.deliver, writer, data)
            if not data:
                return

    @staticmethod
    def deliver(writer, data):
        if data and not writer.is_closing():
            writer.write(data)
        else:
            writer.close()

    def end(self):
        async def everything():
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(everything(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


@pytest.fixture
def far(tmp_path, request):
    addresses = [support.free_address() for _ in range(3)]
    nodes = [Remote(address, tmp_path / str(n), n, request.param, addresses) for n, address in enumerate(addresses, 1)]
    distance = Distance()
    try:
        for node in nodes:
            distance.lies_before(node)
        for node in nodes:
            node.ready()
        nodes[0].exec("CREATE TABLE t (a)")
        with Client(addresses) as client:
            support.wait_until(lambda: [member.role_name for member in client.cluster()] == ["Voter"] * 3, 20)
        yield nodes, addresses, distance
    finally:
        for node in nodes:
            node.end()
        distance.end()


@pytest.mark.parametrize("far", [30], indirect=True)
def test_what_takes_longer_than_the_proof_lasts(far):
    """225 ms, and a commit takes 260. What needs a proof waits for one, and not for one after the other."""
    nodes, addresses, distance = far
    leader, _ = leader_and_other(nodes, addresses)
    with Wire(leader.bind).open() as one, Wire(leader.bind).open() as other:
        distance.seconds = 0.13
        for _ in range(2):
            with support.Within(5):
                one.execute("INSERT INTO t VALUES (2)")
                assert one.execute("UPDATE t SET a = 1 WHERE 0")[1] == 0
                with pytest.raises(wire.Failure, match="no such table: missing"):
                    other.query("SELECT * FROM missing")
                assert other.query("SELECT * FROM t") > 0
        distance.seconds = 0


@pytest.mark.parametrize("far", [150], indirect=True)
def test_votes_that_take_longer_than_a_try(far):
    nodes, addresses, distance = far
    leader, _ = leader_and_other(nodes, addresses)
    others = [node for node in nodes if node is not leader]
    connections = [Wire(node.bind) for node in others]
    distance.seconds = 0.13
    leader.process.kill()

    def elected():
        answers = [connection.call(wire.LEADER, word(0), wire.NODE) for connection in connections]
        return any(node.address.encode() in answer for node in others for answer in answers)

    # The engine's own timers would take 2.25 to 4.5 s, or twice that.
    support.wait_until(elected, 9, "a new leader")
    for connection in connections:
        connection.close()
