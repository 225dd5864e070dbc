"""dqlitepy's Node."""

import re

import pytest
from dqlitepy import (
    Client,
    DqliteError,
    ErrorCode,
    Node,
    NodeAlreadyRunningError,
    NodeError,
    NodeNotRunningError,
    NodeStartError,
    get_version,
)
from dqlitepy._ffi import get_library

import support


def test_version():
    number, text = get_version()
    major, minor, patch = (int(part) for part in text.split("-")[0].split("+")[0].split("@")[0].split(".")[:3])
    assert number == major * 10000 + minor * 100 + patch > 0


def test_main_job(node):
    assert node.exec("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)") == (0, 0)
    assert node.exec("INSERT INTO users (name) VALUES ('Alice'), ('Bob')") == (2, 2)
    assert node.query("SELECT * FROM users ORDER BY id") == [{"id": 1, "name": "Alice"}, {"id": 2, "name": "Bob"}]
    assert list(node.query("SELECT name, id FROM users")[0]) == ["name", "id"]  # the order of the SELECT
    assert node.query("SELECT * FROM users WHERE id = 3") == []
    node.handover()
    assert node.is_running


def test_transactions(node):
    node.exec("CREATE TABLE t (a)")
    node.begin()
    node.exec("INSERT INTO t VALUES (1)")
    assert node.query("SELECT a FROM t") == [{"a": 1}]
    node.rollback()
    assert node.query("SELECT a FROM t") == []
    node.begin()
    node.exec("INSERT INTO t VALUES (2)")
    node.commit()
    assert node.query("SELECT a FROM t") == [{"a": 2}]
    with pytest.raises(NodeError, match="no transaction"):
        node.commit()


def test_stop_and_start_again(tmp_path, address):
    node = support.running_node(address, tmp_path / "n")
    node.exec("CREATE TABLE t (a)")
    node.stop()
    assert not node.is_running
    node.start()
    node.open_db("test.db")
    assert node.query("SELECT count(*) AS n FROM t") == [{"n": 0}]
    support.end(node)


def test_errors(node):
    with pytest.raises(NodeError) as caught:
        node.exec("NONSENSE")
    assert caught.value.code == 1001
    assert caught.value.error_code is ErrorCode.UNKNOWN
    assert 'near "NONSENSE": syntax error' in str(caught.value)
    with pytest.raises(NodeError, match="no such table: missing") as caught:
        node.query("SELECT * FROM missing")
    assert caught.value.code == 1001
    node.exec("CREATE TABLE t (a UNIQUE)")
    node.exec("INSERT INTO t VALUES (1)")
    with pytest.raises(NodeError, match="UNIQUE constraint failed: t.a") as caught:
        node.exec("INSERT INTO t VALUES (1)")
    assert caught.value.code == 1019
    assert type(caught.value) is NodeError  # not a NodeAssertionError


def test_wrong_state(tmp_path, address):
    node = Node(address, tmp_path / "n")
    with pytest.raises(NodeNotRunningError):
        node.handover()
    node.stop()  # dqlitepy: nothing to do
    node.start()
    with pytest.raises(NodeAlreadyRunningError):
        node.start()
    with pytest.raises(NodeError) as caught:  # no database yet
        node.query("SELECT 1")
    assert caught.value.error_code is ErrorCode.MISUSE
    support.end(node)


def test_forgotten_handle(node):
    """After close() dqlitepy calls with the handle 0."""
    handle = node._handle
    node.close()
    with pytest.raises(NodeError) as caught:
        node.exec("SELECT 1")
    assert caught.value.error_code is ErrorCode.NOTFOUND
    node._handle = handle


def test_close_and_open_again(tmp_path, address):
    """close() forgets a node that goes on running; the same directory is opened again meanwhile."""
    first = support.running_node(address, tmp_path / "n")
    first.exec("CREATE TABLE t (a)")
    first.exec("INSERT INTO t VALUES (1)")
    first.close()
    second = support.running_node(address, tmp_path / "n")
    second.exec("INSERT INTO t VALUES (2)")
    third = support.running_node(address, tmp_path / "n")  # and without any close
    assert third.query("SELECT a FROM t ORDER BY a") == [{"a": 1}, {"a": 2}]
    assert second.query("SELECT count(*) AS n FROM t") == [{"n": 2}]
    third.stop()
    support.end(second)
    support.end(third)
    fourth = support.running_node(address, tmp_path / "n")
    assert fourth.query("SELECT count(*) AS n FROM t") == [{"n": 2}]
    support.end(fourth)


def test_with_statement(tmp_path, address):
    for n in range(3):
        with Node(address, tmp_path / "n") as node:
            node.open_db("test.db")
            node.exec("CREATE TABLE IF NOT EXISTS t (a)")
            node.exec(f"INSERT INTO t VALUES ({n})")
            assert node.query("SELECT count(*) AS n FROM t") == [{"n": n + 1}]


def test_open_transaction_of_a_forgotten_node(tmp_path, address):
    """Whoever attaches to a running node has a session of its own."""
    first = support.running_node(address, tmp_path / "n", busy_timeout_ms=200)
    first.exec("CREATE TABLE t (a)")
    first.begin()
    first.exec("INSERT INTO t VALUES (1)")
    second = support.running_node(address, tmp_path / "n")
    assert second.query("SELECT a FROM t") == []
    first.rollback()
    second.exec("INSERT INTO t VALUES (2)")
    assert first.query("SELECT a FROM t") == [{"a": 2}]
    support.end(second)
    support.end(first)


def test_generated_id_survives_a_restart(tmp_path, address):
    node = support.running_node(address, tmp_path / "n")
    generated = node.id
    assert f"ID: {generated}\nAddress: {address}\n" in (tmp_path / "n/info.yaml").read_text()
    support.end(node)
    node = support.running_node(address, tmp_path / "n")
    assert node.id == generated
    support.end(node)


def test_own_id(tmp_path, address):
    node = support.running_node(address, tmp_path / "n", node_id=42)
    assert "ID: 42\n" in (tmp_path / "n/info.yaml").read_text()
    support.end(node)
    with pytest.raises(DqliteError, match=r"42.*43|43.*42") as caught:
        support.running_node(address, tmp_path / "n", node_id=43)
    assert caught.value.error_code is ErrorCode.INVALID


def test_all_options(tmp_path, address):
    bind = support.free_address()
    node = support.running_node(
        address,
        tmp_path / "n",
        node_id=1,
        bind_address=bind,
        auto_recovery=True,
        busy_timeout_ms=100,
        snapshot_compression=True,
        network_latency_ms=20,
    )
    node.exec("CREATE TABLE t (a)")
    assert node.bind_address == bind
    support.end(node)


def test_port_in_use(node, tmp_path):
    with pytest.raises(NodeStartError, match="in use") as caught:
        Node(node.address, tmp_path / "other").start()
    assert node.address in str(caught.value)
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize("bad", ["", "nonsense", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:-1"])
def test_bad_address(tmp_path, bad):
    with support.Within(2.0), pytest.raises(NodeError, match="address") as caught:
        Node(bad, tmp_path / "n", node_id=1).start()
    assert caught.value.error_code is ErrorCode.INVALID
    assert list((tmp_path / "n").iterdir()) == []


def test_port_zero(tmp_path, address):
    """The kernel chooses; the directory remembers, so that the node is found there again."""
    host = support.host_and_port(address)[0]
    node = support.running_node(f"{host}:0", tmp_path / "n")
    node.exec("CREATE TABLE t (a)")
    (real,) = re.findall(r"^Address: (.*)$", (tmp_path / "n/info.yaml").read_text(), re.M)
    assert support.host_and_port(real)[0] == host and support.host_and_port(real)[1] > 0
    with Client([real]) as client:
        assert client.leader() == real
    support.end(node)
    node = support.running_node(f"{host}:0", tmp_path / "n")
    assert node.query("SELECT name FROM sqlite_master") == [{"name": "t"}]
    with Client([real]) as client:
        assert [m.address for m in client.cluster()] == [real]
    support.end(node)


def test_data_dir_is_a_file(tmp_path, address):
    (tmp_path / "n").mkdir()
    node = Node(address, tmp_path / "n")
    (tmp_path / "n").rmdir()
    (tmp_path / "n").write_text("")
    with pytest.raises(NodeStartError, match="directory"):
        node.start()
    support.end(node)


@pytest.mark.parametrize("name", ["", "a/b", "a:b", ":memory:", "file:x?mode=memory", "x" * 201])
def test_bad_database_name(node, name):
    with pytest.raises(NodeError, match="name") as caught:
        node.open_db(name)
    assert caught.value.error_code is ErrorCode.INVALID
    node.exec("CREATE TABLE t (a)")  # test.db is still the one


def test_several_databases(node):
    for name in ["a.db", "b.db", "ä b.db"]:
        node.open_db(name)
        node.exec(f"CREATE TABLE t AS SELECT '{name}' AS a")
    for name in ["b.db", "ä b.db", "a.db"]:
        node.open_db(name)
        assert node.query("SELECT a FROM t") == [{"a": name}]


def test_message_is_read_twice(node):
    """As dqlitepy does it: the first copy is freed unread."""
    lib = get_library()
    with pytest.raises(NodeError):
        node.exec("NONSENSE")
    lib.dqlitepy_free(lib.dqlitepy_last_error())
    assert "NONSENSE" in support.last_error()
    assert "NONSENSE" in support.last_error()
