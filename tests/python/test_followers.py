"""What followers do with what their leader sends: no more work than the leader has with it, and deleted is deleted."""

import os

import support
import wire
from dqlitepy import Client, Node
from test_members import cluster, ours  # noqa: F401  (fixtures)

WRITES = 2000
WRITER = """
import sys
from dqlitepy import Node
address, directory, number, *cluster = sys.argv[1:]
node = Node(address, directory, node_id=int(number), cluster=cluster)
node.start()
node.open_db("test.db")
print("ready", flush=True)
for line in sys.stdin:
    for number in range(int(line)):
        node.exec(f"INSERT INTO t VALUES ({number})")
    print("done", flush=True)
"""


def cpu(process):
    """Seconds of CPU that the process has used."""
    with open(f"/proc/{process.pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_follower_works_no_harder_than_its_leader(tmp_path):
    """The engine opened a connection for each write and read the whole WAL; now the followers of 2,000 writes, which neither
    parse nor run them, use half of what the leader uses, and not three times as much."""
    addresses = [support.free_address() for _ in range(3)]
    processes = {}
    try:
        for number, address in enumerate(addresses, 1):
            processes[address] = support.python(WRITER, address, tmp_path / str(number), number, *addresses)
            assert processes[address].stdout.readline() == "ready\n"
        with Client(addresses) as client:
            leader = processes.pop(client.leader())
            support.wait_until(lambda: all(member.role == 0 for member in client.cluster()), 20, "three voters")
        followers = list(processes.values())
        before = [cpu(process) for process in [leader, *followers]]
        leader.stdin.write("0\n")
        execute(addresses, "CREATE TABLE t (a)")
        leader.stdin.write(f"{WRITES}\n")
        leader.stdin.flush()
        assert [leader.stdout.readline() for _ in range(2)] == ["done\n"] * 2
        used = [cpu(process) - past for process, past in zip([leader, *followers], before)]
        assert max(used[1:]) < used[0], f"the leader used {used[0]:.2f} s of CPU, the followers {used[1:]}"
    finally:
        for process in [leader, *processes.values()]:
            process.kill()
            process.communicate()


def execute(addresses, *statements, db="test.db"):
    with Client(addresses) as client, wire.Wire(client.leader()) as connection:
        connection.open(db)
        for sql in statements:
            connection.execute(sql)


def test_a_deleted_database_begins_anew_on_every_node(cluster):  # noqa: F811
    nodes, client = cluster
    support.wait_until(lambda: all(member.role == 0 for member in client.cluster()), 20, "three voters")
    for node in nodes:
        node.open_db("gone.db")
    for turn in range(3):
        nodes[0].exec(f"CREATE TABLE t{turn} (a)")
        for row in range(20):
            nodes[turn].exec(f"INSERT INTO t{turn} VALUES ({row})")
        nodes[0].exec("BEGIN IMMEDIATE")
        nodes[0].exec("PRAGMA delete_database")
        nodes[0].exec("COMMIT")
        leader = next(node for node in nodes if node.address == client.leader())
        leader.handover()
        support.wait_until(lambda: client.leader() != leader.address, 10, "another one leads")
        assert nodes[0].query("SELECT count(*) AS n FROM sqlite_schema") == [{"n": 0}]


def test_a_database_that_was_deleted_while_a_member_was_away(ours, tmp_path):  # noqa: F811
    """It catches up by a snapshot without it. When it led it had the rows of before, and took writes that nobody else could."""
    members = [support.free_address() for _ in range(3)]
    nodes = {}

    def start(number):
        nodes[number] = Node(members[number - 1], tmp_path / str(number), node_id=number, cluster=members)
        assert ours[1].dqlitepy_node_set_snapshot_params(nodes[number]._handle, 16, 16, 0) == 0
        nodes[number].start()

    def write(times):
        for _ in range(times):
            nodes[1].exec("INSERT INTO kept VALUES (1)")

    try:
        for number in (1, 2, 3):
            start(number)
        with Client(members) as client:
            support.wait_until(lambda: all(member.role == 0 for member in client.cluster()), 20, "three voters")
        nodes[1].open_db("kept.db")
        nodes[1].exec("CREATE TABLE kept (a)")
        execute(members, "CREATE TABLE gone (a)", db="gone.db")
        # What only the log holds it does not have before it hears a leader; a snapshot it has at once.
        support.wait_until(lambda: write(20) or list((tmp_path / "3").glob("snapshot-*")), 20, "a snapshot")
        support.end(nodes[3])
        execute(members, "BEGIN IMMEDIATE", "PRAGMA delete_database", "COMMIT", db="gone.db")
        write(100)
        start(3)
        support.wait_until(lambda: stored(members[2], "kept.db") == stored(members[0], "kept.db"), 20, "all is there")
        assert [stored(address, "gone.db") for address in members] == [None] * 3
    finally:
        for node in nodes.values():
            support.end(node)


def stored(address, name):
    """The node's database of that name; None if it has none."""
    with wire.Wire(address) as connection:
        kind, _, body = connection.request(wire.DUMP, wire.text(name))
    return body if kind == wire.FILES else None
