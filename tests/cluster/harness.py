"""Clusters of separate processes on a network of their own, and the faults that befall them.

    tests/cluster/harness.py    network namespaces, worker processes, faults, waiting
    tests/cluster/worker.py     the program of each process: one node, commanded by JSON lines
    tests/cluster/checkers.py   what must hold of the records that writers left
    tests/cluster/storm.py      random faults under writers for as long as you like: storm.py --seed 1 --seconds 300
    tests/cluster/test_*.py     pytest; they need root and iproute2, and skip with the reason where these are missing

Without root a user namespace does as well; storm.py enters one by itself, for pytest it is
`unshare --map-root-user --net --mount sh -c "mount -t tmpfs none /run && make cluster-test"`.

Each node lives in a network namespace with the address 10.77.0.N; a further namespace holds the bridges that connect them,
so that nothing appears in the host's network. A partition puts the parties on different bridges, silently, as a broken
switch would. Names carry this process's id; what a killed run left behind is removed by the next one.
"""

import ctypes
import itertools
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import checkers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIBRARY = Path(os.environ.setdefault("DQLITEPY_LIBRARY", str(ROOT / "target/release/libdqlitepy.so"))).resolve()
PREFIX = "dqlitepy"
PORT = 9001
CLONE_NEWNET = 0x40000000

OK, INVALID, NOTFOUND, MISUSE, NOLEADER, SHUTDOWN, STOPPED, INTERNAL = 0, 2, 3, 4, 5, 6, 7, 8
TIMEOUT, UNKNOWN, RETRY, TRANSACTION_LOST, SQL = 100, 101, 102, 103, 1000

# What a call may take beyond its own deadline, on a machine that is busy with other things.
SLACK = 3.0


def run(*command, stdin=None, check=True):
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}; stdin: {stdin}")
    return done


def why_not():
    """The reason why clusters cannot be tested here, or None."""
    if not LIBRARY.exists():
        return f"{LIBRARY} does not exist; build it first"
    for program, package in (("ip", "iproute2"), ("nsenter", "util-linux")):
        if not shutil.which(program):
            return f"{program} is missing (package {package})"
    name = f"{PREFIX}-{os.getpid()}-try"
    tried = run("ip", "netns", "add", name, check=False)
    if tried.returncode:
        return f"no network namespaces here{' without root' if os.geteuid() else ''}: {tried.stderr.strip()}"
    try:
        for command in (["ip", "-n", name, "link", "add", "br0", "type", "bridge"], [*enter(name), "true"]):
            tried = run(*command, check=False)
            if tried.returncode:
                return f"no networks of our own here: {' '.join(command)}: {tried.stderr.strip()}"
    finally:
        run("ip", "netns", "del", name)
    return None


def why_not_even_unshared():
    """The same, but if a user namespace has the rights that are missing here, this program starts anew in one."""
    reason = why_not()
    if reason and "DQLITEPY_UNSHARED" not in os.environ and LIBRARY.exists() and shutil.which("unshare"):
        # The names of network namespaces are files in /run, which is ours only if it is mounted anew.
        unshare = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh"]
        tried = run(*unshare, "true", check=False)
        if tried.returncode == 0:
            os.environ["DQLITEPY_UNSHARED"] = reason
            sys.stdout.flush()
            os.execvp(unshare[0], [*unshare, *sys.orig_argv])
        reason += f"; nor in a user namespace: {tried.stderr.strip()}"
    return reason


def enter(name):
    """What comes before a command that is to run in that network namespace."""
    return ["nsenter", f"--net=/run/netns/{name}"]


def die_with_parent():
    """For a child: SIGKILL when the thread that started it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def wait_until(ready, seconds, what):
    """The first true answer of ready(). Fails after that many seconds."""
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while True:
        answer = ready()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not so after {seconds} s: {what() if callable(what) else what}")
        pause.wait(0.01)


class Net:
    """Namespaces 1 to n, connected by bridges in a namespace of their own."""

    def __init__(self, size):
        self.base = f"{PREFIX}-{os.getpid()}"
        self.size = 0
        self.switch = f"{self.base}-sw"
        self.bridges = 1
        self.cuts = set()
        remove_leftovers()
        try:
            run("ip", "netns", "add", self.switch)
            self.on_switch("link add br0 type bridge", "link set br0 up")
            for _ in range(size):
                self.grow()
        except BaseException:
            self.close()
            raise

    def grow(self):
        """One more namespace; its number."""
        number = self.size = self.size + 1
        run("ip", "netns", "add", self.name(number))
        self.on_switch(f"link add v{number} type veth peer name eth0 netns {self.name(number)}")
        self.inside(number, "link set lo up", f"addr add {self.host(number)}/24 dev eth0", "link set eth0 up")
        self.on_switch(f"link set v{number} master br0", f"link set v{number} up")
        return number

    def close(self):
        for number in range(1, self.size + 1):
            run("ip", "netns", "del", self.name(number), check=False)
        run("ip", "netns", "del", self.switch, check=False)

    def name(self, number):
        return f"{self.base}-{number}"

    def enter(self, number):
        """What comes before a command that is to run there."""
        return enter(self.name(number))

    def host(self, number):
        return f"10.77.0.{number}"

    def address(self, number):
        return f"{self.host(number)}:{PORT}"

    def dial(self, source, target):
        """A connection from one host to the node of another."""
        made = []

        def there():
            with open(f"/run/netns/{self.name(source)}") as space:
                if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.create_connection((self.host(target), PORT), 10))

        # Only that thread moves.
        thread = threading.Thread(target=there)
        thread.start()
        thread.join()
        return made.pop()

    def on_switch(self, *lines):
        run("ip", "-n", self.switch, "-batch", "-", stdin="\n".join(lines))

    def inside(self, number, *lines):
        run("ip", "-n", self.name(number), "-batch", "-", stdin="\n".join(lines))

    # Faults. Each has its cure.

    def unplug(self, number):
        """The link is down: to the others this host has vanished."""
        self.on_switch(f"link set v{number} down")

    def plug(self, number):
        self.on_switch(f"link set v{number} up")

    def partition(self, *groups):
        """Only members of one group reach each other; who is in no group is alone."""
        groups = [list(group) for group in groups]
        listed = set(itertools.chain(*groups))
        groups += [[number] for number in range(1, self.size + 1) if number not in listed]
        while self.bridges < len(groups):
            self.on_switch(f"link add br{self.bridges} type bridge", f"link set br{self.bridges} up")
            self.bridges += 1
        moves = [(number, bridge) for bridge, group in enumerate(groups) for number in group]
        self.on_switch(*[f"link set v{number} master br{bridge}" for number, bridge in moves])

    def cut(self, source, target):
        """What `source` sends no longer arrives at `target`; the way back stays open."""
        self.cuts.add((source, target))
        self.inside(source, f"neigh replace {self.host(target)} lladdr 02:00:00:00:00:01 dev eth0 nud permanent")

    def mend(self, source, target):
        self.cuts.discard((source, target))
        self.inside(source, f"neigh del {self.host(target)} dev eth0")

    def reset(self, *numbers, to=None):
        """Every connection of those hosts ends with a reset, at both ends; new ones are fine. `to`: only those that they opened
        to the node of that host."""
        which = ["dst", self.host(to), "dport", "=", f":{PORT}"] if to else []
        kill = ["ss", "--kill", "--tcp", "state", "established", *which]
        kills = [subprocess.Popen([*self.enter(number), *kill], stdout=subprocess.DEVNULL) for number in numbers]
        for kill in kills:
            assert kill.wait(30) == 0, "ss --kill"

    def refuse(self, source, target):
        """To `source` nobody listens at the target's address any more, as if a forwarder before it had died: what `source` sends
        there comes to itself. Links that the target opens are fine, and what it had of others it keeps."""
        self.inside(
            source,
            f"route add local {self.host(target)} dev lo table 77",
            f"rule add to {self.host(target)} ipproto tcp dport {PORT} table 77",
        )

    def accept(self, source, target):
        self.inside(
            source,
            f"rule del to {self.host(target)} ipproto tcp dport {PORT} table 77",
            f"route del local {self.host(target)} dev lo table 77",
        )

    def limit(self, number, rate):
        """Both ways: `rate` such as "1gbit", None for no limit."""
        ends = [("-n", self.switch, f"v{number}"), ("-n", self.name(number), "eth0")]
        for *where, device in ends:
            if rate is None:
                run("tc", *where, "qdisc", "del", "dev", device, "root", check=False)
            else:
                kind = ("tbf", "rate", rate, "burst", "256kb", "latency", "50ms")
                run("tc", *where, "qdisc", "replace", "dev", device, "root", *kind)

    def heal(self):
        """Everything as it was."""
        for source, target in list(self.cuts):
            self.mend(source, target)
        everyone = range(1, self.size + 1)
        self.on_switch(*[f"link set v{number} master br0" for number in everyone])
        self.on_switch(*[f"link set v{number} up" for number in everyone])


def remove_leftovers():
    """Namespaces of runs that were killed; what lived in them has ended with its controller."""
    for name in run("ip", "netns", "list").stdout.split():
        match = re.match(rf"{PREFIX}-(\d+)-", name)
        if match and not os.path.exists(f"/proc/{match[1]}"):
            run("ip", "netns", "del", name, check=False)


class Reply:
    """The answer to a command."""

    def __init__(self, worker, command):
        self.worker, self.command = worker, command
        self.arrived = threading.Event()
        self.code = self.error = self.value = self.began = self.seconds = None

    def fill(self, answer):
        for name, value in answer.items():
            if name != "id":
                setattr(self, name, value)
        self.arrived.set()

    def wait(self, seconds=60.0):
        """Itself, once the answer is there. That none comes is a failure of the test; a worker that ended is code -2."""
        if not self.arrived.wait(seconds):
            raise AssertionError(f"no answer within {seconds} s: {self}")
        return self

    def ok(self, seconds=60.0):
        """The value of a call that succeeded."""
        self.wait(seconds)
        assert self.code == OK, str(self)
        return self.value

    def __str__(self):
        outcome = f"code {self.code} after {self.seconds:.2f} s: {self.error}" if self.code is not None else "no answer"
        return f"{self.worker.label}: {self.command['op']} {self.command['with']}: {outcome}"


class Worker:
    """A process in a namespace. Make it on the main thread: it dies with the thread that made it."""

    counter = itertools.count(1)

    def __init__(self, net, number, work, label):
        self.label, self.work = label, Path(work)
        self.stderr = self.work / f"{label}.{next(self.counter)}.stderr"
        self.log = self.work / f"{label}.log"
        with open(self.stderr, "wb") as stderr:
            self.process = subprocess.Popen(
                [*net.enter(number), sys.executable, str(HERE / "worker.py"), str(self.log)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=dict(os.environ, DQLITEPY_LIBRARY=str(LIBRARY), PYTHONFAULTHANDLER="1"),
            )
        self.numbers = itertools.count(1)
        self.waiting = {}
        self.lock = threading.Lock()
        self.ended = False
        self.stopped = False
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            answer = json.loads(line)
            self.waiting.pop(answer["id"]).fill(answer)
        with self.lock:
            self.ended = True
            left, self.waiting = self.waiting, {}
        for reply in left.values():
            reply.fill({"code": -2, "error": "the process ended", "seconds": 0.0})

    def send(self, op, **arguments):
        """A reply to wait for."""
        number = next(self.numbers)
        command = {"id": number, "op": op, "with": arguments}
        reply = Reply(self, command)
        with self.lock:
            if not self.ended:
                self.waiting[number] = reply
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass
        if self.ended and self.waiting.pop(number, reply) is reply and not reply.arrived.is_set():
            reply.fill({"code": -2, "error": "the process ended", "seconds": 0.0})
        return reply

    def call(self, op, **arguments):
        return self.send(op, **arguments).wait()

    def ok(self, op, **arguments):
        return self.send(op, **arguments).ok()

    @property
    def alive(self):
        return self.process.poll() is None

    def pause(self):
        """Afterwards none of its threads runs."""
        self.process.send_signal(signal.SIGSTOP)
        self.stopped = True
        stats = [f"{task}/stat" for task in Path(f"/proc/{self.process.pid}/task").iterdir()]
        wait_until(lambda: all(Path(stat).read_text().rpartition(")")[2].split()[0] == "T" for stat in stats), 10, "a pause")

    def resume(self):
        self.process.send_signal(signal.SIGCONT)
        self.stopped = False

    def kill(self):
        """SIGKILL, and wait until nothing of it is left."""
        self.process.kill()
        self.process.wait(30)

    def quit(self):
        """The process ends by itself, with whatever runs in it."""
        if self.stopped:
            self.resume()
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.label} did not end within 10 s of the end of its input") from None

    def died(self):
        """How it ended, if that was not on our command."""
        code = self.process.poll()
        if code in (None, 0, -signal.SIGKILL):
            return None
        return f"{self.label} ended with {code}: {self.said()}"

    def said(self):
        return self.stderr.read_text(errors="replace")[-4000:] if self.stderr.exists() else ""


class Node:
    """A member: its identity stays, its processes come and go."""

    def __init__(self, cluster, number, id=None, list=None, options=None, address=None):
        self.cluster, self.number = cluster, number
        self.id = number if id is None else id
        self.address = address or cluster.net.address(number)
        self.dir = cluster.work / f"node{number}-{self.id}"
        self.list = list
        self.options = dict(options or {})
        self.worker = None
        self.label = f"node{number}"

    def spawn(self):
        """A new process in which the node exists and does not run."""
        assert self.worker is None or not self.worker.alive, f"{self.label} has a process"
        self.worker = Worker(self.cluster.net, self.number, self.cluster.work, self.label)
        self.cluster.workers.append(self.worker)
        self.worker.ok(
            "create",
            id=self.id,
            address=self.address,
            dir=str(self.dir),
            cluster=self.list,
            options=self.options,
        )
        return self.worker

    def begin(self):
        """Start in a new process; the reply to wait for."""
        return self.spawn().send("start")

    def start(self, seconds=60.0):
        self.begin().ok(seconds)
        return self

    def open_db(self, db="test.db"):
        self.worker.ok("open_db", db=db)
        return self

    def exec(self, sql):
        return self.worker.ok("exec", sql=sql)

    def query(self, sql):
        return self.worker.ok("query", sql=sql)

    def kill(self):
        self.worker.kill()

    def wipe(self):
        shutil.rmtree(self.dir)

    @property
    def alive(self):
        return self.worker is not None and self.worker.alive

    def __repr__(self):
        return f"node {self.id} at {self.address}"


class Cluster:
    """A network with `size` nodes that know each other by one list, and an observer on a host of its own."""

    def __init__(self, work, size=3, options=None, listed=True):
        self.work = Path(work)
        self.work.mkdir(parents=True, exist_ok=True)
        self.workers = []
        self.observed = set()
        self.closed = False
        self.writers = itertools.count(1)
        self.net = Net(size)
        try:
            self.list = ",".join(self.net.address(number) for number in range(1, size + 1))
            cluster_list = self.list if listed else None
            self.nodes = [Node(self, number, list=cluster_list, options=options) for number in range(1, size + 1)]
            self.observer_host = self.net.grow()
            self.observer = Worker(self.net, self.observer_host, self.work, "observer")
            self.workers.append(self.observer)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.finish(failed=kind is not None)

    def finish(self, failed=False):
        """The end, which is clean only if no process died by itself or wrote anything."""
        if self.closed:
            return
        try:
            deaths = [death for death in (worker.died() for worker in self.workers) if death]
            noises = [f"{worker.label} wrote: {worker.said()}" for worker in self.workers if worker.said()]
        finally:
            self.close()
        if not failed:
            assert not deaths and not noises, "; ".join(deaths + noises)
        elif deaths or noises:
            print("also:", "; ".join(deaths + noises))

    def close(self):
        self.closed = True
        for worker in self.workers:
            if worker.alive:
                worker.process.kill()
        for worker in self.workers:
            worker.process.wait(30)
        self.net.close()

    def __getitem__(self, number):
        return self.nodes[number - 1]

    def add_node(self, **settings):
        """One more host with a node."""
        node = Node(self, self.net.grow(), **settings)
        self.nodes.append(node)
        return node

    def start(self, seconds=60.0):
        """All at once."""
        for reply in [node.begin() for node in self.nodes]:
            reply.ok(seconds)
        return self

    def watch(self, op, addresses=None, **arguments):
        """A client call of the observer."""
        addresses = addresses or self.list
        if addresses not in self.observed:
            self.observer.ok("client", addresses=addresses, name=addresses)
            self.observed.add(addresses)
        return self.observer.call(op, name=addresses, **arguments)

    def is_up(self, node):
        """Whether its door is open, whatever it is behind it."""
        return self.observer.ok("connects", address=node.address)

    def leader(self, seconds=20.0, addresses=None):
        """The node that leads, once there is one."""
        found = wait_until(lambda: self.find_leader(addresses), seconds, "a leader")
        return found

    def find_leader(self, addresses=None):
        reply = self.watch("leader", addresses)
        return next((node for node in self.nodes if reply.code == OK and node.address == reply.value), None)

    def settled_leader(self, seconds=20.0):
        """The node that each of them follows: one that was cut off may believe for a while that it still leads."""

        def agreed():
            named = {self.find_leader(node.address) for node in self.nodes}
            return named.pop() if len(named) == 1 else None

        return wait_until(agreed, seconds, "a leader that all follow")

    def members(self, addresses=None, seconds=20.0):
        """id: (address, role)"""
        replies = []

        def ask():
            replies[:] = [self.watch("cluster", addresses)]
            return replies[0].code == OK

        wait_until(ask, seconds, lambda: str(replies[0]))
        return {member["id"]: (member["address"], member["role"]) for member in replies[0].value}

    def note(self, text):
        """A line of the controller between those of the nodes' logs."""
        with open(self.work / "notes.log", "a") as notes:
            notes.write(f"{time.monotonic():.3f} {text}\n")

    def write(self, node, kind="rows", **settings):
        """A writer in the node's process; its name. A name is used once, so that its records have a file of their own."""
        name = f"{node.label}-{kind}-{next(self.writers)}"
        node.worker.ok("write", writer=name, kind=kind, file=str(self.work / f"{name}.records"), **settings)
        return name

    def records(self, name):
        return checkers.load(self.work / f"{name}.records")

    def all_records(self, kind):
        files = sorted(self.work.glob(f"*-{kind}-*.records"))
        return [operation for file in files for operation in checkers.load(file)]

    def followers(self):
        leader = self.leader()
        return [node for node in self.nodes if node is not leader]
