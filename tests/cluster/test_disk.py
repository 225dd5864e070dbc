"""A disk that fills up under one member: each has a small file system of its own (tmpfs; needs root)."""

import subprocess
import time

import checkers
import pytest
from harness import OK, wait_until

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


@pytest.mark.parametrize("who", [pytest.param("follower", marks=pytest.mark.quick), "leader"])
def test_full_disk(three, who):
    three[1].open_db().exec("CREATE TABLE rows(k TEXT, filling BLOB)")
    leader = three.leader()
    full = leader if who == "leader" else next(node for node in three.nodes if node is not leader)
    for node in three.nodes:
        three.write(node, rate=20, options={"timeout": 5000})
    wait_until(lambda: len(acknowledged(three)) > 20, 20, "writes")
    fill(full)
    # Enough to need new segments.
    other = next(node for node in three.nodes if node is not full).open_db()
    for number in range(12):
        other.worker.call("exec", sql=f"INSERT INTO rows VALUES('large{number}', zeroblob(2000000))")
    filled = time.monotonic()
    wait_until(lambda: len(acknowledged(three, filled)) > 5, 40, "the others write")
    (full.dir / "ballast").unlink()
    # What was told that the disk is full may have to be started again; its directory is in order.
    if full.worker.call("open_db").code != OK:
        full.worker.call("destroy")
        full.worker.quit()
        full.start()
    wait_until(lambda: full.worker.call("open_db").code == OK, 30, "the node is well again")
    for node in three.nodes:
        node.worker.ok("stop_writers")
    rows = other.query("SELECT k FROM rows WHERE k NOT LIKE 'large%'")
    wrong = checkers.check_rows(three.all_records("rows"), [row["k"] for row in rows])
    assert not wrong, wrong[:5]
    assert three.watch("leader").code == OK
