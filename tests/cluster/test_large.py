"""A member joins, and one that was away returns, with 600 MB of data and under writes; what that takes is printed (-s).

The engine as others have it never gets more than 500 MiB across. CLUSTER_LARGE_MB sets another size.
"""

import os
import re
import time

import checkers
import pytest
from harness import OK, SQL, wait_until

MB = int(os.environ.get("CLUSTER_LARGE_MB", "600"))
PIECE = 2_000_000
KEPT = 1000  # log entries behind a snapshot
# A write may wait while the leader reads or writes a snapshot.
OPTIONS = {"timeout": 60000}


@pytest.fixture(autouse=True)
def time_limit():
    """In place of the shorter one of conftest.py."""
    import faulthandler

    faulthandler.dump_traceback_later(900, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def memory(node, what="VmHWM"):
    """The process's peak, or VmRSS, in MB."""
    for line in open(f"/proc/{node.worker.process.pid}/status"):
        if line.startswith(what):
            return int(line.split()[1]) * 1024 // 1_000_000


def forget_peak(node):
    with open(f"/proc/{node.worker.process.pid}/clear_refs", "w") as file:
        file.write("5")


def said(node):
    return node.worker.log.read_text()


def fill(node):
    """Half of it does not compress."""
    node.exec("CREATE TABLE rows(k TEXT, filling BLOB); CREATE TABLE beats(n); INSERT INTO beats VALUES(0)")
    for number in range(MB * 1_000_000 // PIECE):
        node.exec(f"INSERT INTO rows VALUES('large{number}', CAST(randomblob({PIECE // 2}) || zeroblob({PIECE // 2}) AS BLOB))")


def overwrite(node, entries):
    """So many log entries, and no more data."""
    for _ in range(entries):
        node.exec("UPDATE beats SET n = n + 1")


def newest_snapshot(node):
    """Up to which entry of the log it goes. Its description is written first, and lasts."""
    files = [path.name for path in node.dir.glob("snapshot-*") if path.suffix != ".meta"]
    return max((int(name.split("-")[2]) for name in files), default=0)


def await_snapshot(node, index):
    while newest_snapshot(node) < index:
        overwrite(node, 100)


def acknowledged(cluster, since=0.0):
    return [one for one in cluster.all_records("rows") if one.outcome == checkers.DONE and one.began > since]


def wait_caught_up(leader, node, since, seconds):
    """The leader says so in the part of its log after `since` characters."""
    wait_until(
        lambda: re.search(rf"node {node.id} has caught up", said(leader)[since:]),
        seconds,
        lambda: said(leader)[since:][-2000:],
    )


def progress(text):
    """How many of the messages tell of a part."""
    return len(re.findall(r"catch(?:es|ing) up: (?:received )?\d+ of \d+ MB of a snapshot", text))


def two_with_data(cluster, compressed):
    """Two members of three that are listed, with the data and a snapshot of it; and writers."""
    # Little log behind a snapshot.
    made = cluster(3, options=dict(OPTIONS, snapshot_compression=int(compressed), snapshot_params=[KEPT, KEPT, 0]))
    first, second, _ = made.nodes
    for reply in [first.begin(), second.begin()]:
        reply.ok(60)
    fill(first.open_db())
    leader = made.leader().open_db()
    await_snapshot(leader, 1)
    for node in (first, second):
        made.write(node, rate=50, options=OPTIONS)
    wait_until(lambda: len(acknowledged(made)) > 20, 60, "writes")
    return made


def catch_up(made, node, seconds):
    """Starts the node; the seconds until it is a member, and until it has everything."""
    leader = made.leader()
    forget_peak(leader)
    mark, began = len(said(leader)), time.monotonic()
    node.start(120)
    member = time.monotonic() - began
    wait_caught_up(leader, node, mark, seconds)
    taken = time.monotonic() - began
    print(f"start {member:.1f} s, in all {taken:.1f} s; peak: leader {memory(leader)} MB, other {memory(node)} MB")
    assert progress(said(leader)[mark:]) >= 1 and progress(said(node)) >= 2
    return taken


def check_data(made, node):
    """Everything is on that node: it says so with only one of the others left."""
    for writing in made.nodes[:2]:
        writing.worker.ok("stop_writers")
    leader = made.leader()
    (leader if leader is not node else made[1]).kill()
    wait_until(lambda: node.worker.call("open_db").code == OK, 60, "the node serves")
    wait_until(lambda: node.worker.call("query", sql="SELECT 1").code == OK, 60, "the node serves")
    rows = node.query("SELECT k FROM rows WHERE k NOT LIKE 'large%'")
    wrong = checkers.check_rows(made.all_records("rows"), [row["k"] for row in rows])
    assert not wrong, wrong[:5]
    (count,) = node.query("SELECT count(*) AS n, sum(length(filling)) AS bytes FROM rows WHERE k LIKE 'large%'")
    assert count == {"n": MB * 1_000_000 // PIECE, "bytes": MB * 1_000_000 // PIECE * PIECE}


@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "uncompressed"])
def test_large(cluster, compressed):
    made = two_with_data(cluster, compressed)
    third, leader = made[3], made.leader()
    print(f"\n{MB} MB, {'compressed' if compressed else 'uncompressed'}; the leader has {memory(leader, 'VmRSS')} MB resident")
    catch_up(made, third, 300)
    wait_until(lambda: made.members()[third.id][1] == 0, 60, lambda: str(made.members()))

    # Away for longer than the log is kept: the snapshot again, into a database that is full.
    third.worker.quit()
    leader = made.leader().open_db()
    # The second snapshot from now on was begun after it went.
    for _ in range(2):
        await_snapshot(leader, newest_snapshot(leader) + 1)
    await_snapshot(leader, newest_snapshot(leader) + KEPT + 1)
    catch_up(made, third, 300)
    # It looks once a second whether it has; the leader may hear of it before.
    installed = "a snapshot of .* is installed"
    wait_until(lambda: len(re.findall(installed, said(third))) > 1, 20, lambda: said(third)[-2000:])

    written = time.monotonic()
    wait_until(lambda: len(acknowledged(made, written)) > 20, 60, "writes")
    check_data(made, third)


def test_what_the_engine_counts_in_32_bits(cluster):
    """A row, and a transaction, of more than 2 GiB are refused, where the process died of them. It takes 5 GB of memory."""
    node = cluster(1, options=OPTIONS)[1]
    node.start()
    node.open_db().exec("CREATE TABLE large(a)")
    row = node.worker.call("query", sql="SELECT " + ", ".join(["zeroblob(900000000)"] * 3))
    assert row.code == SQL + 7, row
    node.exec("BEGIN")
    for _ in range(3):
        node.exec("INSERT INTO large VALUES(zeroblob(900000000))")
    transaction = node.worker.call("exec", sql="COMMIT")
    assert transaction.code == SQL + 13, transaction
    node.exec("INSERT INTO large VALUES(1)")
    assert node.query("SELECT count(*) AS n FROM large") == [{"n": 1}]


def test_slow_link(cluster):
    """Longer than the engine's patience (30 s for a snapshot, 50 s for a voter), and more writes than the log behind a
    snapshot holds: the first snapshot does it."""
    made = two_with_data(cluster, True)
    made.net.limit(3, "80mbit")
    mark = len(said(made.leader()))
    taken = catch_up(made, made[3], 600)
    assert MB < 600 or taken > 55
    leader = made.leader()
    assert len(re.findall(r"node 3 catches up: 0 of \d+ MB", said(leader)[mark:])) == 1, said(leader)[mark:]
    made.net.limit(3, None)
    wait_until(lambda: made.members()[3][1] == 0, 60, lambda: str(made.members()))
    check_data(made, made[3])
