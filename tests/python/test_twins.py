"""Two processes that are given the same id or the same address, and start at the same moment."""

import json
import socket

import pytest
from dqlitepy import Client

import support

OK, INVALID = 0, 2

NODE = """
import json, logging, sys
logging.getLogger("dqlitepy").setLevel(100)
from dqlitepy import Node
address, bind, directory, number, *cluster = sys.argv[1:]
node = Node(address, directory, node_id=int(number), bind_address=bind, cluster=cluster)
print("ready", flush=True)
for line in sys.stdin:
    try:
        node.start()
        print(json.dumps([0, ""]), flush=True)
    except Exception as error:
        print(json.dumps([error.error_code.value, str(error)]), flush=True)
"""


class Remote:
    def __init__(self, directory, founder, number, address, bind):
        self.process = support.python(NODE, address, bind, directory, number, founder, address)

    def ready(self):
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()

    def begin(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def outcome(self):
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def end(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def founder(tmp_path, address):
    node = support.running_node(address, tmp_path / "founder", node_id=1)
    node.exec("CREATE TABLE t(a)")
    yield node
    support.end(node)


@pytest.fixture
def start(tmp_path, founder):
    """Starts both: the code and the message of each, and the members then."""
    twins = []

    def start(*nodes, meanwhile=lambda: True):
        twins[:] = [Remote(tmp_path / str(number), founder.address, *node) for number, node in enumerate(nodes)]
        for twin in twins:
            twin.ready()
        twins[0].begin()
        support.wait_until(meanwhile)
        twins[1].begin()
        outcomes = [twin.outcome() for twin in twins]
        with Client([founder.address]) as client:
            return outcomes, [(member.id, member.address) for member in client.cluster() if member.id != 1]

    yield start
    founder.exec("INSERT INTO t VALUES (1)")
    for twin in twins:
        twin.end()


def refusal(outcomes):
    """What one of them was told, while the other one is in."""
    assert sorted(code for code, _ in outcomes) == [OK, INVALID], outcomes
    return next(text for code, text in outcomes if code == INVALID)


@pytest.mark.parametrize("again", range(3))
def test_one_id(start, again):
    addresses = [support.free_address() for _ in range(2)]
    outcomes, members = start(*[(2, address, address) for address in addresses])
    text = refusal(outcomes)
    assert members == [(2, addresses[0] if outcomes[0][0] == OK else addresses[1])]
    assert all(address in text for address in addresses) and "is a member already" in text


@pytest.mark.parametrize("again", range(3))
@pytest.mark.parametrize("ids", [(2, 3), (2, 2)])
def test_one_address(start, ids, again):
    """The second one listens elsewhere. It begins as soon as the first one is there, who joins meanwhile."""
    address, other = support.free_address(), support.free_address()

    def is_there():
        with socket.socket() as connection:
            return connection.connect_ex(support.host_and_port(address)) == 0

    outcomes, members = start((ids[0], address, address), (ids[1], address, other), meanwhile=is_there)
    text = refusal(outcomes)
    assert outcomes[0][0] == OK and members == [(ids[0], address)]
    assert address in text and ("is a member already" in text or f"listens at {other}" in text)
