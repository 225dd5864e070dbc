"""Data directories and programs of go-dqlite with ours: what one wrote the other reads and continues, and go-dqlite's
shell talks to our node. Runs with the distribution's version; tests/interop/peer-test runs it with another one's."""

import json
import re
import signal

import pytest
from dqlitepy import Client, Node, NodeError

import godqlite
import support


@pytest.fixture(scope="module")
def go():
    try:
        programs = godqlite.GoDqlite()
    except godqlite.Missing as reason:
        pytest.skip(str(reason))
    print(f"go-dqlite on {programs.version()}")
    return programs


ENDS = {"stopped": signal.SIGTERM, "killed": signal.SIGKILL}


def ours(address, directory, **options):
    node = Node(address, directory, **options)
    node.start()
    node.open_db("demo")
    return node


def write_many(put):
    """More than the 1024 entries after which a snapshot is made."""
    for n in range(1100):
        put(n)


def model(node):
    return {row["key"]: row["value"] for row in node.query("SELECT key, value FROM model")}


@pytest.mark.parametrize("end", ENDS)
def test_theirs_opened_by_ours_and_back(go, tmp_path, address, end):
    directory = tmp_path / address
    demo = godqlite.Demo(go, tmp_path, address)
    for n in range(50):
        assert demo.put(f"key{n}", f"välue {n}")
    demo.end(ENDS[end])
    info = (directory / "info.yaml").read_text()
    (their_id,) = re.findall(r"ID: (\d+)", info)

    with pytest.raises(NodeError, match=f"{their_id}.*77|77.*{their_id}"):
        ours(address, directory, node_id=77)  # somebody else's directory
    node = ours(address, directory)  # the generated id: info.yaml decides
    data = model(node)
    assert len(data) == 51 and all(data[f"key{n}"] == f"välue {n}" for n in range(50))
    with Client([address]) as client:
        assert [(m.id, m.address, m.role) for m in client.cluster()] == [(int(their_id), address, 0)]
    node.exec("INSERT INTO model VALUES ('ours', 'written by ours')")
    node.exec("CREATE TABLE more (a)")
    node.stop()
    support.end(node)
    assert sorted((directory / "info.yaml").read_text().split()) == sorted(info.split())

    demo = godqlite.Demo(go, tmp_path, address)
    assert demo.get("ours") == "written by ours"
    assert demo.get("key7") == "välue 7"
    assert demo.put("key7", "theirs again")
    demo.end(ENDS[end])
    node = ours(address, directory, node_id=int(their_id))
    assert model(node)["key7"] == "theirs again" and len(model(node)) == 52
    support.end(node)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("node_id", [1, 4242, 3297041220608546238, 2**64 - 1, None])
def test_ours_opened_by_theirs(go, tmp_path, address, node_id, end):
    """Whatever id it has: info.yaml and the raft log agree."""
    directory = tmp_path / address
    if end == "killed":
        remote = support.RemoteNode(address, directory, node_id or 99)
        remote.open_db("demo")
        remote.exec("CREATE TABLE model (key TEXT, value TEXT, UNIQUE(key))")
        remote.exec("INSERT INTO model VALUES ('a', 'first'), ('b', 'größer')")
        remote.process.kill()
        remote.process.wait()
    else:
        node = ours(address, directory, node_id=node_id)
        node.exec("CREATE TABLE model (key TEXT, value TEXT, UNIQUE(key))")
        node.exec("INSERT INTO model VALUES ('a', 'first'), ('b', 'größer')")
        node.stop()
        support.end(node)

    demo = godqlite.Demo(go, tmp_path, address)
    assert (demo.get("a"), demo.get("b")) == ("first", "größer")
    assert demo.put("c", "theirs")
    demo.end(ENDS[end])
    (kept,) = re.findall(r"ID: (\d+)", (directory / "info.yaml").read_text())
    node = ours(address, directory, node_id=int(kept))
    assert model(node) == {"a": "first", "b": "größer", "c": "theirs", "demo-is-ready": "yes"}
    support.end(node)


def snapshots(directory):
    return [p for p in directory.glob("snapshot-*") if p.suffix != ".meta"]


def test_snapshots_of_theirs(go, tmp_path, address):
    demo = godqlite.Demo(go, tmp_path, address)
    write_many(lambda n: demo.put("same", f"value {n}"))
    support.wait_until(lambda: snapshots(tmp_path / address), 10, "a snapshot")
    demo.end()
    node = ours(address, tmp_path / address)
    assert model(node) == {"same": "value 1099", "demo-is-ready": "yes"}
    support.end(node)


def test_snapshots_of_ours(go, tmp_path, address):
    directory = tmp_path / address
    node = ours(address, directory)
    node.exec("CREATE TABLE model (key TEXT, value TEXT, UNIQUE(key))")
    node.exec("INSERT INTO model VALUES ('same', '')")
    write_many(lambda n: node.exec(f"UPDATE model SET value = 'value {n}'"))
    support.wait_until(lambda: snapshots(directory), 10, "a snapshot")
    node.stop()
    support.end(node)
    demo = godqlite.Demo(go, tmp_path, address)
    assert demo.get("same") == "value 1099"
    demo.end()


def test_our_client_and_their_node(go, tmp_path, address):
    demo = godqlite.Demo(go, tmp_path, address)
    with Client([support.free_address(), address]) as client:
        assert client.leader() == address
        (member,) = client.cluster()
        assert (member.address, member.role) == (address, 0)
    demo.end()


def test_their_node_joins_ours(go, tmp_path, node):
    """Both make one cluster: what one writes the other has."""
    node.open_db("demo")
    node.exec("CREATE TABLE model (key TEXT, value TEXT, UNIQUE(key))")
    node.exec("INSERT INTO model VALUES ('before', 'from ours')")
    demo = godqlite.Demo(go, tmp_path, support.free_address(), join=node.address)
    assert demo.get("before") == "from ours"
    assert demo.put("after", "from theirs")
    assert model(node) == {"before": "from ours", "after": "from theirs", "demo-is-ready": "yes"}
    with Client([node.address]) as client:
        members = {m.address: m.role_name for m in client.cluster()}
    assert members == {node.address: "Voter", demo.address: "Spare"}
    demo.end(signal.SIGKILL)
    node.exec("INSERT INTO model VALUES ('alone', 'ours still leads')")


# ---- the shell ----


def test_shell(go, node):
    code, out, err = go.shell(node.address, "shell.db", ".leader")
    assert (code, out.strip()) == (0, node.address)
    code, out, err = go.shell(node.address, "shell.db", ".cluster")
    assert (code, out.strip()) == (0, f"{node.id:x}|{node.address}|voter")
    code, out, err = go.shell(node.address, "shell.db", ".cluster", "-f", "json")
    assert json.loads(out) == [{"ID": node.id, "Address": node.address, "Role": 0}]
    assert go.shell(node.address, "shell.db", "CREATE TABLE t (a INTEGER, b TEXT)")[0] == 0
    assert go.shell(node.address, "shell.db", "INSERT INTO t VALUES (1, 'eins'), (2, 'zwei')")[0] == 0
    code, out, err = go.shell(node.address, "shell.db", "SELECT a, b FROM t ORDER BY a")
    assert code == 0 and re.findall(r"(\d)\W+(\w+)", out)[-2:] == [("1", "eins"), ("2", "zwei")]
    code, out, err = go.shell(node.address, "shell.db", "SELECT * FROM missing")
    assert "no such table: missing" in out + err
    node.open_db("shell.db")  # both see the same
    assert node.query("SELECT a, b FROM t ORDER BY a") == [{"a": 1, "b": "eins"}, {"a": 2, "b": "zwei"}]
    node.exec("INSERT INTO t VALUES (3, 'drei')")
    assert "drei" in go.shell(node.address, "shell.db", "SELECT b FROM t")[1]


def test_shell_values(go, node):
    """NULL and odd values in BOOLEAN and DATETIME columns, which kill or confuse a plain dqlite."""
    node.open_db("shell.db")
    node.exec("CREATE TABLE v (id INTEGER, b BOOLEAN, d DATETIME)")
    node.exec("INSERT INTO v VALUES (1, NULL, NULL), (2, 'yes', 2.5), (3, 1, '2024-01-02 03:04:05')")
    code, out, err = go.shell(node.address, "shell.db", "SELECT * FROM v ORDER BY id")
    assert code == 0, err
    lines = out.strip().splitlines()[-3:]
    assert "false" not in lines[0] and "yes" in lines[1] and "2.5" in lines[1]
    assert "true" in lines[2] and "2024-01-02" in lines[2]


def test_shell_dump_and_weight(go, node, tmp_path):
    node.exec("CREATE TABLE dumped (a)")
    code, out, err = go.shell(node.address, "test.db", f".dump {node.address} test.db", cwd=tmp_path)
    assert code == 0 and (tmp_path / "test.db").read_bytes().startswith(b"SQLite format 3\0"), out + err
    assert go.shell(node.address, "test.db", f".weight {node.address} 7")[0] == 0
    code, out, err = go.shell(node.address, "test.db", f".describe {node.address}")
    assert "7" in out, out + err
