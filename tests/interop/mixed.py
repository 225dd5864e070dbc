"""Clusters on the loopback network in which each node is a process, of ours or of go-dqlite's (dqlite-demo).

Both kinds take the same commands here, keep their directory in the same place and serve the same table `model`, so that a
test may put one in the other's place. Writers reach whoever leads over the wire, as any client would.
"""

import re
import threading
import time

import checkers
import dqlitepy_ctypes as driver
import godqlite
import harness
import support
from harness import wait_until
from checkers import DONE, MAYBE, NOT, Operation

VOTER, STANDBY, SPARE = 0, 1, 2
MODEL = "CREATE TABLE IF NOT EXISTS model (key TEXT, value TEXT, UNIQUE(key))"


class Loopback:
    """Instead of a network of its own; see harness.Net."""

    def enter(self, number):
        return []


class Ours:
    """A node of ours in a process of its own."""

    def __init__(self, place, address, join=None, options=None):
        self.kind, self.place, self.address = "ours", place, address
        self.worker = harness.Worker(Loopback(), 0, place.path, f"ours-{place.number(address)}")
        place.workers.append(self.worker)
        members = ",".join(join) if join else None
        id = place.known_id(address) or place.number(address)
        self.worker.ok("create", id=id, address=address, dir=str(place.path / address), cluster=members, options=options)
        self.worker.ok("start")
        self.worker.ok("open_db", db="demo")
        if not join:
            self.make_model()

    def make_model(self):
        """The cluster may be changing its leader just then, and to do this twice is no harm."""
        for _ in range(5):
            reply = self.worker.call("exec", sql=MODEL)
            if reply.code != harness.UNKNOWN:
                break
        reply.ok()

    def put(self, key, value):
        return self.worker.ok("exec", sql=f"INSERT OR REPLACE INTO model VALUES ('{key}', '{value}')")[1] == 1

    def get(self, key):
        rows = self.worker.ok("query", sql=f"SELECT value FROM model WHERE key = '{key}'")
        return rows[0]["value"] if rows else None

    def stop(self):
        self.worker.ok("stop")
        self.worker.quit()

    def kill(self):
        self.worker.kill()


class Theirs:
    """A dqlite-demo."""

    def __init__(self, place, address, join=None):
        self.kind, self.address = "theirs", address
        self.demo = godqlite.Demo(place.programs, place.path, address, ",".join(join) if join else None)
        place.demos.append(self.demo)
        self.put, self.get = self.demo.put, self.demo.get

    def stop(self):
        """It hands over first."""
        self.demo.end()

    def kill(self):
        self.demo.process.kill()
        self.demo.process.wait(30)


KINDS = {"ours": Ours, "theirs": Theirs}


class Place:
    """The directories of one cluster, its running nodes, and one who looks at it from outside."""

    def __init__(self, programs, path):
        self.programs, self.path = programs, path
        self.workers, self.demos, self.writers = [], [], []
        self.addresses, self.nodes = [], {}
        self.observer = harness.Worker(Loopback(), 0, path, "observer")
        self.workers.append(self.observer)

    def close(self):
        for writer in self.writers:
            writer.stopping.set()
        for process in [worker.process for worker in self.workers] + [demo.process for demo in self.demos]:
            if process.poll() is None:
                process.kill()
            process.wait(30)
        for worker in self.workers:
            try:
                worker.process.stdin.close()
            except OSError:
                pass  # what it did not read any more

    def check_processes(self):
        """None of ours died by itself or wrote anything."""
        assert not [worker.died() for worker in self.workers if worker.died()]
        assert not [worker.said() for worker in self.workers if worker.said()]

    # Nodes.

    def start(self, kind, address=None, join=None, **settings):
        """A node of that kind: a new one that joins the others, or the one at this address again."""
        address = address or support.free_address()
        if address not in self.addresses:
            join = join or list(self.addresses)
            self.addresses.append(address)
        self.nodes[address] = KINDS[kind](self, address, join, **settings)
        return self.nodes[address]

    def number(self, address):
        return self.addresses.index(address) + 1

    def known_id(self, address):
        info = self.path / address / "info.yaml"
        return int(re.search(r"ID: (\d+)", info.read_text())[1]) if info.exists() else None

    # What is seen from outside.

    def client(self, op, **arguments):
        addresses = ",".join(self.addresses)
        self.observer.ok("client", addresses=addresses, name=addresses)
        reply = self.observer.call(op, name=addresses, **arguments)
        self.observer.ok("client_close", name=addresses)
        return reply

    def members(self):
        """address: role"""
        return {member["address"]: member["role"] for member in self.client("cluster").ok()}

    def id(self, address):
        return next(member["id"] for member in self.client("cluster").ok() if member["address"] == address)

    def leader(self):
        return self.client("leader").ok()

    def shape(self):
        """The leader, and each member's role: what must not go to and fro."""
        return self.leader(), tuple(sorted(self.members().items()))

    def roles(self):
        """How many voters, stand-bys and spares."""
        found = list(self.members().values())
        return tuple(found.count(role) for role in (VOTER, STANDBY, SPARE))

    def wait_for_roles(self, voters, standbys=0, spares=0, seconds=60.0):
        """go-dqlite looks at the roles every 30 s."""
        wait_until(lambda: self.roles() == (voters, standbys, spares), seconds, lambda: f"roles {self.roles()}")

    def lead(self, address):
        """Lets that node lead."""
        self.client("transfer", id=self.id(address)).ok()
        assert self.leader() == address

    def connect(self):
        """A connection to whoever leads."""
        return driver.connect(addresses=",".join(self.addresses), database="demo", timeout=10, autocommit=True)

    def sql(self, text):
        """The rows of a statement that the leader runs."""
        cursor = self.connect().execute(text)
        return cursor.fetchall() if cursor.description else []

    def write(self, name):
        """A writer; the table is there before the first one."""
        self.sql("CREATE TABLE IF NOT EXISTS log (k TEXT)")
        self.writers.append(Writer(self, name))
        self.writers[-1].start()
        return self.writers[-1]

    def put_through(self, nodes):
        """An application of theirs, which goes from node to node until one says that it is done."""
        self.writers.append(Putter(self, nodes))
        self.writers[-1].start()
        return self.writers[-1]


class Writer(threading.Thread):
    """Inserts rows into `log` through whoever leads, each with a key of its own, and records what came of each."""

    def __init__(self, place, name):
        super().__init__(daemon=True)
        self.place, self.label = place, name
        self.stopping = threading.Event()
        self.operations = []
        self.connection = None

    def run(self):
        number = 0
        while not self.stopping.wait(0.005):
            key = f"{self.label}.{number}"
            operation = Operation(self.label, number, "insert", time.monotonic(), details={"keys": [key]})
            number += 1
            try:
                if self.connection is None:
                    operation.outcome = NOT
                    self.connection = self.place.connect()
                operation.outcome = MAYBE
                self.connection.execute("INSERT INTO log VALUES (?)", (key,))
                operation.outcome = DONE
            except driver.OutcomeUnknownError as error:
                operation.error = str(error)
            except driver.Error as error:
                operation.outcome, operation.error = NOT, str(error)
            operation.ended = time.monotonic()
            self.operations.append(operation)

    def next_write(self, after):
        """When the first insert that began after that moment was acknowledged."""
        return next((one.ended for one in list(self.operations) if one.began > after and one.outcome == DONE), None)

    def wait_for_write(self, seconds=30.0):
        """How long it takes from now to an acknowledged insert."""
        now = time.monotonic()
        return wait_until(lambda: self.next_write(now), seconds, lambda: str(self.operations[-3:])) - now

    def wait_for_writes(self, count, seconds=30.0):
        """So many more of them."""
        until = self.writes() + count
        wait_until(lambda: self.writes() >= until, seconds, lambda: str(self.operations[-3:]))

    def writes(self):
        return sum(one.outcome == DONE for one in list(self.operations))

    def longest_silence(self, since):
        ends = [since] + [one.ended for one in list(self.operations) if one.ended > since and one.outcome == DONE]
        return max(later - earlier for earlier, later in zip(ends, ends[1:]))

    def finish(self):
        self.stopping.set()
        self.join(30)
        assert not self.is_alive()
        present = [row[0] for row in self.connection.execute("SELECT k FROM log").fetchall()]
        mine = [key for key in present if key.startswith(self.label + ".")]
        wrong = checkers.check_rows(self.operations, mine)
        assert not wrong, wrong[:10]
        return len(mine)


class Putter(threading.Thread):
    """Puts values under keys of their own through any of `nodes`, which the test may replace meanwhile."""

    def __init__(self, place, nodes):
        super().__init__(daemon=True)
        self.place, self.nodes = place, nodes
        self.stopping = threading.Event()
        self.done = []

    def run(self):
        number = 0
        while not self.stopping.wait(0.01):
            node = self.nodes[number % len(self.nodes)]
            number += 1
            try:
                if node.put(f"put{number}", f"value{number}"):
                    self.done.append(number)
            except (OSError, ValueError, AssertionError):
                pass  # not this one, not now

    def finish(self):
        self.stopping.set()
        self.join(60)
        assert not self.is_alive()
        present = dict(self.place.sql("SELECT key, value FROM model"))
        lost = [number for number in self.done if present.get(f"put{number}") != f"value{number}"]
        assert len(self.done) > 100 and not lost, lost[:10]
