"""A member that was away applies what it missed about as fast as it would have then."""

import os
import time

from harness import wait_until

BACK = 60.0
MISSED = 6000


def cpu(node):
    """Seconds of both kinds that its process has had."""
    fields = open(f"/proc/{node.worker.process.pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def applied(node):
    # A loop that is busy does not say.
    figure = node.worker.ok("metrics").get("dqlitepy_node_applied_index")
    return figure["samples"][0]["value"] if figure else 0


def test_a_member_applies_what_it_missed_without_reading_all_for_each(cluster, capsys):
    """Amid it a snapshot begins, which takes the connection that was kept for applying, and ends when all is applied."""
    three = cluster(3).start()
    leader = three.leader().open_db()
    leader.exec("CREATE TABLE rows(k TEXT, filling BLOB)")
    away = next(node for node in three.nodes if node is not leader)
    away.kill()
    for _ in range(MISSED // 100):
        leader.exec("INSERT INTO rows VALUES('key', zeroblob(3000));" * 100)
    wanted = applied(leader)
    away.start(BACK)
    began, before = time.monotonic(), cpu(away)
    wait_until(lambda: applied(away) >= wanted, BACK, lambda: f"{applied(away)} of {wanted}")
    with capsys.disabled():
        print(f"\n{MISSED} writes applied in {time.monotonic() - began:.1f} s, {cpu(away):.1f} s of processor, {before:.1f} before")
    assert cpu(away) < 3.0
