"""What a leader wrote to its own log alone, before it was cut off, is nowhere once another one has led."""

import threading

from harness import wait_until

BACK = 30.0


def figure(node, name):
    return node.worker.ok("metrics")[f"dqlitepy_node_{name}"]["samples"][0]["value"]


def keys(node):
    return [row["k"] for row in node.query("SELECT k FROM rows ORDER BY rowid")]


def wait_for_write(node, key):
    """A write that may need a new leader, and may be tried until it is acknowledged."""
    replies = []

    def done():
        replies[:] = [node.worker.call("exec", sql=f"INSERT OR IGNORE INTO rows(k) VALUES('{key}')")]
        return replies[0].code == 0

    wait_until(done, BACK, lambda: str(replies[0]))


def test_a_leader_that_was_cut_off_gives_up_what_it_alone_has(cluster):
    """The next leader sends it the log in pieces, and the first one holds nothing that it lacks. It has that much, and not
    what stands behind it in its own log: neither may the leader count that as its entry, nor may it be applied."""
    three = cluster(3, options={"timeout": 3000}).start()
    leader = three.leader().open_db()
    leader.exec("CREATE TABLE rows(k TEXT UNIQUE, filling BLOB)")
    # More than one message holds.
    for number in range(3):
        leader.exec(f"INSERT INTO rows VALUES('large{number}', zeroblob(3000000))")
    others = [node for node in three.nodes if node is not leader]
    for node in others:
        node.kill()
    last = figure(leader, "last_index")
    leftover = leader.worker.send("exec", sql="INSERT INTO rows(k) VALUES('leftover')")
    wait_until(lambda: figure(leader, "last_index") > last, BACK, "the write is in the leader's log")
    leader.kill()
    assert leftover.wait().code != 0
    for reply in [node.begin() for node in others]:
        reply.ok(BACK)
    first, second = others
    wait_until(lambda: first.worker.call("open_db").code == 0, BACK, "another leader")
    wait_for_write(first, "next")
    # The new leader's messages to it are given up when some heartbeats wait, and it no longer knows what that one has.
    threading.Event().wait(4)
    leader.start(BACK)
    wait_for_write(first, "after")
    applied = figure(three.leader(), "applied_index")
    wait_until(lambda: figure(leader, "applied_index") >= applied, BACK, "it has caught up")

    # Now the majority needs it.
    three.leader().kill()
    survivor = first if first.alive else second
    wait_until(lambda: survivor.worker.call("open_db").code == 0, BACK, "another leader")
    wait_for_write(survivor, "last")
    expected = ["large0", "large1", "large2", "next", "after", "last"]
    assert keys(survivor) == expected
    for _ in range(20):
        if three.leader() is leader:
            break
        three.watch("transfer", id=leader.id)
    assert three.leader() is leader
    assert keys(leader.open_db()) == expected
    assert leader.query("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
