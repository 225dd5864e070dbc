"""Metrics: Prometheus' own parser reads them, and each figure moves when it should."""

import ctypes
import json
import sys
import threading
from ctypes import byref, c_char_p, c_int, c_uint, c_ulonglong, c_void_p
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import support

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples/python"))
import dqlitepy_ctypes as db  # noqa: E402

lib = db._lib
JSON, PROMETHEUS = 0, 1
for name, arguments in {
    "dqlitepy_metrics": [c_int, ctypes.POINTER(c_void_p)],
    "dqlitepy_node_metrics": [c_ulonglong, c_int, ctypes.POINTER(c_void_p)],
    "dqlitepy_client_metrics": [c_ulonglong, c_int, ctypes.POINTER(c_void_p)],
    "dqlitepy_client_create": [c_char_p, ctypes.POINTER(c_ulonglong)],
    "dqlitepy_client_leader": [c_ulonglong, ctypes.POINTER(c_void_p)],
    "dqlitepy_client_assign": [c_ulonglong, c_ulonglong, c_int],
    "dqlitepy_client_close": [c_ulonglong],
    "dqlitepy_node_set_busy_timeout": [c_ulonglong, c_uint],
    "dqlitepy_node_open_db": [c_ulonglong, c_char_p],
    "dqlitepy_node_query": [c_ulonglong, c_char_p, ctypes.POINTER(c_void_p)],
}.items():
    getattr(lib, name).argtypes = arguments


def text(function, *arguments):
    out = c_void_p()
    db._check(function(*arguments, byref(out)))
    return db._taken(out.value)


def parsed(function, *handle, only=None):
    """{(name, label value...): number} as Prometheus reads it, after a look whether JSON says the same. Of the process's
    nodes, other tests may have left some, only the one at that address."""
    found = {}
    for family in text_string_to_metric_families(text(function, *handle, PROMETHEUS)):
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family
        assert (family.type == "counter") == family.name.endswith("_total") or family.type == "counter", family
        for sample in family.samples:
            if only and sample.labels.get("address", only) != only:
                continue
            labels = tuple(value for name, value in sample.labels.items() if name not in ("id", "address"))
            assert (sample.name, *labels) not in found, sample
            found[(sample.name, *labels)] = sample.value
    assert found
    return found


def moved(before, after):
    """What is different, without what every look at it changes itself."""
    return {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}


@pytest.fixture
def started(tmp_path):
    """A node whose engine does not wait for locks, so that the library has to."""
    handle = c_ulonglong()
    address = support.free_address()
    db._check(lib.dqlitepy_node_create(7, address.encode(), str(tmp_path / "node").encode(), byref(handle)))
    lib.dqlitepy_node_set_busy_timeout(handle, 1)
    db._check(lib.dqlitepy_node_start(handle))
    node = db.Node.__new__(db.Node)
    node.handle, node.address = handle.value, address
    yield node
    node.close()


def node_figures(node):
    return parsed(lib.dqlitepy_node_metrics, node.handle)


def change(node, action):
    before = node_figures(node)
    action()
    return moved(before, node_figures(node))


def test_calls_rows_and_bytes(started):
    session = db.connect(node=started, database="a.db", autocommit=True)
    figures = change(started, lambda: session.execute("CREATE TABLE t (a)"))
    assert figures[("dqlitepy_node_calls_total", "write")] == 1
    sent = change(started, lambda: session.executescript("INSERT INTO t VALUES (1), (2); SELECT 1; BEGIN; COMMIT"))
    assert sent[("dqlitepy_node_calls_total", "write")] == 1
    assert sent[("dqlitepy_node_calls_total", "read")] == 1
    assert sent[("dqlitepy_node_calls_total", "transaction")] == 2
    assert sent[("dqlitepy_node_rows_changed_total",)] == 2
    assert sent[("dqlitepy_node_sent_bytes_total",)] > 100 and sent[("dqlitepy_node_received_bytes_total",)] > 50
    assert sent[("dqlitepy_node_call_duration_seconds_count",)] == 4
    assert sent[("dqlitepy_node_call_duration_seconds_bucket", "+Inf")] == 4
    assert 0 < sent[("dqlitepy_node_call_duration_seconds_sum",)] < 10
    assert not any("errors" in key[0] or "retries" in key[0] for key in sent)
    blob = change(started, lambda: session.execute("INSERT INTO t VALUES (?)", (bytes(1 << 20),)))
    assert blob[("dqlitepy_node_sent_bytes_total",)] > 1 << 20
    assert blob[("dqlitepy_node_calls_total", "prepare")] == 1
    many = change(started, lambda: session.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(1000)]))
    assert many[("dqlitepy_node_rows_changed_total",)] == 1000
    read = change(started, lambda: session.execute("SELECT a FROM t").fetchall())
    assert read[("dqlitepy_node_rows_read_total",)] == 1003
    assert read[("dqlitepy_node_received_bytes_total",)] > 1 << 20

    def as_json():
        db._check(lib.dqlitepy_node_open_db(started.handle, b"a.db"))
        text(lib.dqlitepy_node_query, started.handle, b"SELECT 1 FROM t LIMIT 5")

    read = change(started, as_json)
    assert read[("dqlitepy_node_rows_read_total",)] == 5 and read[("dqlitepy_node_connections_total",)] == 1
    session.close()


def test_errors_and_retries(started):
    session = db.connect(node=started, database="a.db", autocommit=True)
    session.execute("CREATE TABLE t (a UNIQUE)")

    def fails(sql):
        with pytest.raises(db.Error):
            session.execute(sql).fetchall()

    assert change(started, lambda: fails("NONSENSE"))[("dqlitepy_node_errors_total", "sql")] == 1
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    timer = threading.Timer(0.1, session.interrupt)
    timer.start()
    assert change(started, lambda: fails(endless))[("dqlitepy_node_errors_total", "interrupted")] == 1
    timer.join()
    hurried = db.connect(node=started, database="a.db", autocommit=True, timeout=0.1)
    with pytest.raises(db.RetryError):
        before = node_figures(started)
        hurried.execute(endless).fetchall()
    late = moved(before, node_figures(started))
    assert late[("dqlitepy_node_errors_total", "timeout")] == 1
    assert late[("dqlitepy_node_call_duration_seconds_sum",)] >= 0.09
    buckets = [late.get(("dqlitepy_node_call_duration_seconds_bucket", bound), 0) for bound in ("0.05", "+Inf")]
    assert buckets[1] == buckets[0] + 1
    # The lock is held until the other session was refused at least once.
    session.begin("IMMEDIATE")
    other = db.connect(node=started, database="a.db", autocommit=True, busy_timeout=20)
    waiting = threading.Thread(target=other.execute, args=("INSERT INTO t VALUES (1)",))
    waiting.start()
    retries = ("dqlitepy_node_retries_total",)
    support.wait_until(lambda: node_figures(started)[retries] > 0)
    session.rollback()
    waiting.join()
    assert node_figures(started)[("dqlitepy_node_errors_total", "sql")] == 1
    for connection in session, hurried, other:
        connection.close()


def test_how_a_node_stands(started, tmp_path):
    figures = node_figures(started)
    assert figures[("dqlitepy_node_up",)] == 1 and figures[("dqlitepy_node_leads",)] == 1
    assert figures[("dqlitepy_node_role", "voter")] == 1 and figures[("dqlitepy_node_role", "spare")] == 0
    assert figures[("dqlitepy_node_leader", "7", started.address)] == 1
    assert figures[("dqlitepy_node_term",)] >= 1
    databases = figures[("dqlitepy_node_databases",)]
    session = db.connect(node=started, database="one.db", autocommit=True)
    other = db.connect(node=started, database="two.db", autocommit=True)
    session.execute("CREATE TABLE t (a)")
    after = node_figures(started)
    assert after[("dqlitepy_node_databases",)] == databases + 2
    assert after[("dqlitepy_node_applied_index",)] > figures[("dqlitepy_node_applied_index",)]
    assert after[("dqlitepy_node_last_index",)] >= after[("dqlitepy_node_applied_index",)]
    kinds = {"segments": 0, "snapshots": 0, "other": 0}
    support.wait_until(
        lambda: sum(node_figures(started)[("dqlitepy_node_directory_bytes", kind)] for kind in kinds)
        == sum(path.stat().st_size for path in (tmp_path / "node").iterdir())
    )
    assert after[("dqlitepy_node_directory_files", "segments")] >= 1
    session.close(), other.close()
    db._check(lib.dqlitepy_node_stop(started.handle))
    stopped = node_figures(started)
    assert stopped[("dqlitepy_node_up",)] == 0 and ("dqlitepy_node_term",) not in stopped
    assert stopped[("dqlitepy_node_calls_total", "write")] == after[("dqlitepy_node_calls_total", "write")]
    db._check(lib.dqlitepy_node_start(started.handle))
    assert node_figures(started)[("dqlitepy_node_calls_total", "write")] >= 1, "a restart forgets nothing"


def test_the_process_is_the_sum_of_all(started):
    before = parsed(lib.dqlitepy_metrics, only=started.address)
    remote = db.connect(addresses=started.address, database="a.db", autocommit=True)
    remote.execute("CREATE TABLE t (a)")
    cursor = remote.execute("SELECT 1 UNION SELECT 2")
    during = moved(before, parsed(lib.dqlitepy_metrics, only=started.address))
    assert during[("dqlitepy_handles", "session")] == 1 and during[("dqlitepy_handles", "result")] == 1
    assert during[("dqlitepy_calls_total", "write")] == 1
    cursor.close()
    remote.close()
    after = moved(before, parsed(lib.dqlitepy_metrics, only=started.address))
    assert after[("dqlitepy_calls_total", "write")] == 1, "what is closed still counts"
    assert ("dqlitepy_handles", "session") not in after
    all_figures = parsed(lib.dqlitepy_metrics, only=started.address)
    assert all_figures[("dqlitepy_node_up",)] == 1
    assert any(key[0] == "dqlitepy_build_info" and "SQLite" in "".join(key) for key in all_figures)


def test_a_client(started):
    client = c_ulonglong()
    db._check(lib.dqlitepy_client_create(started.address.encode(), byref(client)))
    before = parsed(lib.dqlitepy_client_metrics, client)
    assert text(lib.dqlitepy_client_leader, client) == started.address
    assert lib.dqlitepy_client_assign(client, 99, 0) == db.NOTFOUND
    after = moved(before, parsed(lib.dqlitepy_client_metrics, client))
    assert after[("dqlitepy_client_calls_total", "members")] == 2
    assert after[("dqlitepy_client_errors_total", "not_found")] == 1
    assert after[("dqlitepy_client_connections_total",)] == 2
    lib.dqlitepy_client_close(client)


def test_json_says_the_same(started):
    figures = json.loads(text(lib.dqlitepy_node_metrics, started.handle, JSON))
    as_text = text(lib.dqlitepy_node_metrics, started.handle, PROMETHEUS)
    names = [line.split()[2] for line in as_text.splitlines() if line.startswith("# TYPE")]
    assert list(figures) == names and len(set(names)) == len(names)
    assert figures["dqlitepy_node_up"] == {
        "type": "gauge",
        "help": "Whether the node runs.",
        "samples": [{"labels": {"id": "7", "address": started.address}, "value": 1}],
    }
    histogram = figures["dqlitepy_node_call_duration_seconds"]["samples"][0]
    assert histogram["count"] == histogram["buckets"]["+Inf"]
    documented = (Path(__file__).resolve().parents[2] / "docs/metrics.md").read_text()
    whole = json.loads(text(lib.dqlitepy_metrics, JSON))
    for name in [*names, *whole]:
        assert name.replace("dqlitepy_node_", "").replace("dqlitepy_", "") in documented, name


def test_bad_arguments(started):
    out = c_void_p(1)
    assert lib.dqlitepy_metrics(2, byref(out)) == db.INVALID and not out.value
    assert lib.dqlitepy_metrics(JSON, None) == db.INVALID
    assert lib.dqlitepy_node_metrics(0, JSON, byref(out)) == db.NOTFOUND
    assert lib.dqlitepy_client_metrics(started.handle, JSON, byref(out)) == db.INVALID


def test_another_leader_is_noticed(tmp_path):
    addresses = [support.free_address() for _ in range(3)]
    handles = []
    for n, address in enumerate(addresses):
        handle = c_ulonglong()
        directory = str(tmp_path / str(n)).encode()
        cluster = ",".join(addresses).encode()
        db._check(lib.dqlitepy_node_create_with_cluster(n + 1, address.encode(), directory, cluster, byref(handle)))
        db._check(lib.dqlitepy_node_start(handle))
        handles.append(handle.value)

    def figures(handle):
        return parsed(lib.dqlitepy_node_metrics, handle)

    try:
        support.wait_until(lambda: all(figures(h)[("dqlitepy_node_role", "voter")] for h in handles), 30)
        leader = support.wait_until(lambda: [h for h in handles if figures(h)[("dqlitepy_node_leads",)]])[0]
        others = [h for h in handles if h != leader]
        node = db.Node.__new__(db.Node)
        node.handle = others[0]
        session = db.connect(node=node, database="a.db", autocommit=True)
        session.execute("CREATE TABLE t (a)")
        before = figures(others[0])
        assert before[("dqlitepy_node_leader_changes_total",)] == 0
        lib.dqlitepy_node_destroy(leader)
        handles.remove(leader)
        support.wait_until(lambda: any(figures(h)[("dqlitepy_node_leads",)] for h in handles), 20)
        support.wait_until(lambda: answers(session), 20)
        after = figures(others[0])
        assert after[("dqlitepy_node_leader_changes_total",)] == 1
        assert after[("dqlitepy_node_term",)] > before[("dqlitepy_node_term",)]
        session.close()
    finally:
        for handle in handles:
            lib.dqlitepy_node_destroy(handle)


def answers(session):
    try:
        return session.execute("SELECT 1").fetchall()
    except db.Error:
        return None
