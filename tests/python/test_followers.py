"""What followers do with what their leader sends: no more work than the leader has with it, and deleted is deleted."""

import os

import support
from dqlitepy import Client
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


def execute(addresses, sql):
    import wire

    with Client(addresses) as client, wire.Wire(client.leader()) as connection:
        connection.open().execute(sql)


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
