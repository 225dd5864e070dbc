"""A disk that fills up under one member: each has a small file system of its own (tmpfs; needs root)."""

import subprocess
import time

import checkers
import pytest
from harness import OK, UNKNOWN, wait_until

SIZE = "96m"  # raft keeps three segments of 8 MiB prepared


def mounted(cluster, size):
    """A cluster whose nodes have a disk each."""
    for node in cluster.nodes:
        node.dir.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "dqlitepy-test", str(node.dir)], capture_output=True)
        if done.returncode:
            pytest.skip(f"no mount here: {done.stderr.decode().strip()}")
    return cluster


@pytest.fixture
def three(cluster):
    made = cluster(3, options={"timeout": 5000})
    try:
        yield mounted(made, SIZE).start()
    finally:
        made.close()
        for node in made.nodes:
            subprocess.run(["umount", "--lazy", str(node.dir)], capture_output=True, check=False)


def fill(node):
    """Not a byte is left."""
    with open(node.dir / "ballast", "wb", buffering=0) as ballast:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    ballast.write(b"x" * size)
            except OSError:
                pass


def acknowledged(cluster, since=0.0):
    return [one for one in cluster.all_records("rows") if one.outcome == checkers.DONE and one.began > since]


def applied(node):
    return node.worker.ok("metrics")["dqlitepy_node_applied_index"]["samples"][0]["value"]


def rows_under(cluster, node):
    """What a node's database holds shows while it leads."""
    wait_until(lambda: cluster.watch("transfer", id=node.id).code == OK and cluster.leader() is node, 40, f"{node} leads")
    return node.open_db().query("SELECT k, length(filling) AS bytes FROM rows ORDER BY k")


@pytest.mark.parametrize("who", [pytest.param("follower", marks=pytest.mark.quick), "leader"])
def test_full_disk(three, who):
    """The others go on; a leader steps down, and what it had begun is of unknown outcome. With space again it goes on, too."""
    three[1].open_db().exec("CREATE TABLE rows(k TEXT, filling BLOB)")
    leader = three.settled_leader()
    full = leader if who == "leader" else three.followers()[0]
    others = [node for node in three.nodes if node is not full]
    for node in three.nodes:
        three.write(node, rate=20, options={"timeout": 5000})
    wait_until(lambda: len(acknowledged(three)) > 20, 20, "writes")
    fill(full)
    # More than the segments that are prepared can hold.
    other = others[0].open_db()
    replies = [other.worker.call("exec", sql=f"INSERT INTO rows VALUES('large{n}', zeroblob(2000000))") for n in range(22)]
    filled, stands_at = time.monotonic(), applied(full)
    wait_until(lambda: len(acknowledged(three, filled)) > 20, 40, "the others write")
    # It met the end of its disk: nothing was written there meanwhile.
    assert applied(full) == stands_at < min(applied(node) for node in others)
    assert three.leader() is not full
    refused = [reply for reply in replies if reply.code != OK]
    assert all(reply.code == UNKNOWN for reply in refused) and len(refused) <= (3 if who == "leader" else 0), refused
    (full.dir / "ballast").unlink()
    wait_until(lambda: applied(full) > stands_at, 40, "the node goes on")
    for node in three.nodes:
        node.worker.ok("stop_writers")
    held = {node: rows_under(three, node) for node in three.nodes}
    assert all(rows == held[full] for rows in held.values())
    large = [row["k"] for row in held[full] if row["bytes"] == 2000000]
    told = {f"large{n}": reply.code for n, reply in enumerate(replies)}
    assert len(large) == len(set(large)) and {k for k, code in told.items() if code == OK} <= set(large) <= set(told)
    wrong = checkers.check_rows(three.all_records("rows"), [row["k"] for row in held[full] if row["bytes"] is None])
    assert not wrong, wrong[:5]
