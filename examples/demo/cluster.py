"""A cluster of three processes on this machine loses its leader by kill -9, again and again, while all of them write:

    cluster.py DIRECTORY HOST ROUNDS     the story; HOST is an address that all three share, with a port for each
    cluster.py node NUMBER DIRECTORY ADDRESSES      one of the three, which the story starts

Each process inserts rows of its own as fast as it gets answers and reports what was acknowledged. In the end every
acknowledged row has to be there, once. Only dqlitepy's own classes are used, unmodified from PyPI.
"""

import collections
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

from dqlitepy import Client, Node
from dqlitepy.exceptions import DqliteError

BACK = 30.0  # seconds within which everything has to be well again

# ---- one of the three ----


def write(node, name, stopping):
    """Insert rows, each once, and report each that was acknowledged. What failed may or may not be there."""
    number = 0
    while not stopping.wait(0.002):
        number += 1
        key, began = f"{name}-{number}", time.monotonic()
        try:
            node.exec(f"INSERT INTO rows (k) VALUES ('{key}')")
        except DqliteError:
            continue
        print("acknowledged", key, began, time.monotonic(), flush=True)


def serve(number, directory, addresses):
    """The node and its writer; lines of stdin are commands, and with the end of stdin it all ends."""
    logging.getLogger("dqlitepy").setLevel(logging.CRITICAL + 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # is for the one who tells the story
    members = addresses.split(",")
    node = Node(members[number - 1], f"{directory}/node{number}", node_id=number, cluster=members)
    node.start()
    node.open_db("demo.db")
    node.exec("CREATE TABLE IF NOT EXISTS rows (k TEXT)")
    print("ready", flush=True)
    stopping = threading.Event()
    writer = threading.Thread(target=write, args=(node, f"node{number}.{os.getpid()}", stopping), daemon=True)
    writer.start()
    for command in sys.stdin:
        if command == "rows\n":
            print("rows", json.dumps([row["k"] for row in node.query("SELECT k FROM rows")]), flush=True)
        elif command == "quiet\n":
            stopping.set()
            writer.join()
            print("quiet", flush=True)
        elif command == "stop\n":
            node.stop()
            return
    os._exit(1)  # whoever started us is gone


# ---- the story ----


def say(text):
    print(f"demo: cluster: {text}", flush=True)


class Process:
    """One of the three, from outside."""

    def __init__(self, number, directory, addresses):
        self.number = number
        self.acknowledged = []  # (key, began, ended)
        self.said = collections.defaultdict(list)
        self.ended = False
        self.heard = threading.Condition()
        command = [sys.executable, __file__, "node", str(number), directory, ",".join(addresses)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            word, _, rest = line.strip().partition(" ")
            with self.heard:
                if word == "acknowledged":
                    key, began, ended = rest.split()
                    self.acknowledged.append((key, float(began), float(ended)))
                else:
                    self.said[word].append(rest)
                self.heard.notify_all()
        with self.heard:
            self.ended = True
            self.heard.notify_all()

    def wait(self, ready, what):
        """The first answer of ready() that is not None."""
        with self.heard:
            self.heard.wait_for(lambda: ready() is not None or self.ended, BACK)
            answer = ready()
        if answer is None:
            why = "the process ended" if self.ended else f"not within {BACK:.0f} s"
            raise SystemExit(f"demo: FAILED: node {self.number}: {what}: {why}")
        return answer

    def answer(self, word, command=None):
        """What it says to a command, or without one."""
        if command:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        self.wait(lambda: self.said[word] or None, word)
        return self.said[word].pop(0)

    def more_writes(self, count):
        until = len(self.acknowledged) + count
        self.wait(lambda: len(self.acknowledged) >= until or None, "acknowledged writes")

    def next_write(self, after):
        """When the first write that began after that moment was acknowledged."""
        later = lambda: next((ended for _, began, ended in self.acknowledged if began > after), None)  # noqa: E731
        return self.wait(later, "an acknowledged write")

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Cluster:
    """The three processes that run, and those that were killed."""

    def __init__(self, directory, host):
        self.directory = directory
        self.addresses = [f"{host}:{port}" for port in (9011, 9012, 9013)]
        self.running, self.all = {}, []

    def start(self, *numbers):
        for number in numbers:
            self.running[number] = Process(number, self.directory, self.addresses)
            self.all.append(self.running[number])
        for number in numbers:
            self.running[number].answer("ready")

    def lose_leader(self):
        """Kill whoever leads, see how long it takes until writes go on, and start it again."""
        with Client(self.addresses) as client:
            leader = self.addresses.index(client.leader()) + 1
            for process in self.running.values():
                process.more_writes(50)
            moment = time.monotonic()
            killed = self.running.pop(leader)
            killed.process.kill()
            ends = [process.next_write(moment) - moment for process in self.running.values()]
            say(
                f"node {leader}, the leader, killed with kill -9; next acknowledged write after {min(ends):.3f} s, on both "
                f"survivors after {max(ends):.3f} s; {client.leader()} leads now"
            )
        killed.process.wait()
        self.start(leader)

    def compare(self):
        """Every acknowledged row is there, once, through each of the nodes."""
        for process in self.running.values():
            process.answer("quiet", "quiet")
        acknowledged = {key for process in self.all for key, _, _ in process.acknowledged}
        for number, process in self.running.items():
            there = collections.Counter(json.loads(process.answer("rows", "rows")))
            lost, doubled = acknowledged - set(there), [key for key, times in there.items() if times > 1]
            if lost or doubled:
                raise SystemExit(f"demo: FAILED: through node {number}: {len(lost)} rows lost, {len(doubled)} doubled")
        unknown = len(there) - len(acknowledged)
        say(f"all {len(acknowledged)} acknowledged rows are there, each once, and {unknown} whose outcome nobody knew")

    def stop(self):
        for process in self.running.values():
            process.process.stdin.write("stop\n")
            process.process.stdin.close()
        if any(process.process.wait(BACK) for process in self.running.values()):
            raise SystemExit("demo: FAILED: a process did not end as it should")

    def end(self):
        for process in self.all:
            process.end()


def story(directory, host, rounds):
    began = time.monotonic()
    cluster = Cluster(directory, host)
    try:
        cluster.start(1, 2, 3)
        say(f"three processes are one cluster after {time.monotonic() - began:.2f} s: {', '.join(cluster.addresses)}")
        for _ in range(rounds):
            cluster.lose_leader()
        cluster.compare()
        cluster.stop()
    finally:
        cluster.end()


if __name__ == "__main__":
    if sys.argv[1] == "node":
        serve(int(sys.argv[2]), *sys.argv[3:])
    else:
        story(sys.argv[1], sys.argv[2], int(sys.argv[3]))
