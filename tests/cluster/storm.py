"""A storm: random faults under writers on all nodes, and afterwards the proof that nothing was lost, doubled or torn.

    tests/cluster/storm.py [--seed N] [--seconds 60] [--nodes 3] [--load KIND=WRITERSxRATE,...] [--faults kill,pause,...]
                           [--runs 1] [--keep DIR]

The seed decides which faults come, when, upon whom and how long; what the machine makes of them is its own business. With
`--nodes 3,5` clusters of both sizes live through it side by side; `--runs 5` is five storms one after another, with the
seeds N to N + 4. `--load rows=6x0,bank=1x50` has six writers of rows on each node that never rest, one that makes 50
transfers a second, and of registers, whose checker bears no more than some tens of operations a second, the usual one.
TMPDIR says where records and databases are. Exit code 0 if every check holds, 1 if one does not, 77 if clusters cannot be
tested here. Prints the seed, what was done, what came of it and the verdict. With a fault the records and logs stay in the
directory that is named.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import checkers  # noqa: E402
import harness  # noqa: E402
from harness import OK, wait_until  # noqa: E402

ACCOUNTS, BALANCE = 8, 100
CALL = 5.0  # the deadline of the writers' calls, in seconds
BACK = 60.0  # within this everything must be well after the last fault
SKIPPED = 77
# Of each node: how many writers of each kind, and the operations of each in a second; 0: as many as it can.
LOAD = {"rows": (1, 10.0), "bank": (1, 10.0), "register": (1, 10.0)}
WRITES = ("insert", "transaction", "transfer", "write", "cas")

# Name: (how often, seconds it lasts). "leader" in a name: it befalls whoever leads just then.
FAULTS = {
    "kill": (4, (0.0, 3.0)),
    "kill leader": (3, (0.0, 3.0)),
    "kill minority": (1, (0.5, 4.0)),
    "kill all": (1, (0.0, 1.0)),
    "pause": (2, (0.2, 5.0)),
    "pause leader": (2, (0.2, 8.0)),
    "stop": (2, (0.0, 3.0)),
    "stop leader": (2, (0.0, 2.0)),
    "stop and start": (1, (0.0, 0.5)),
    "unplug": (1, (0.3, 6.0)),
    "unplug leader": (1, (0.3, 8.0)),
    "partition": (3, (0.5, 8.0)),
    "split leader": (1, (0.5, 8.0)),
    "cut": (1, (0.5, 6.0)),
    "cut leader": (1, (0.5, 6.0)),
    "reset": (2, (0.0, 0.5)),
    "reset around paused leader": (1, (0.0, 2.5)),
}


# What no storm of a minute does without, however its dice fall.
NAMED = ("kill leader", "pause leader", "stop leader", "unplug leader", "partition", "split leader", "cut leader", "reset")

# Of each kind of operation so many have to be done in a second of the storm, on the average. With less than a tenth of what
# the writers are there for it would prove nothing.
FLOOR = {"insert": 2.0, "transaction": 0.4, "transfer": 1.5, "total": 1.0, "read": 1.2, "write": 0.8, "cas": 0.3}


@dataclass
class Fault:
    after: float  # seconds of calm before it
    name: str
    lasts: float
    dice: int  # decides whom it befalls


def plan(seed, seconds, wanted):
    """The faults of a run: the same for the same seed. Each of those named comes once before any comes again by chance."""
    rng = random.Random(seed)
    names = [name for name in FAULTS if name in wanted or name.split()[0] in wanted] if wanted else list(FAULTS)
    first = [name for name in NAMED if name in names]
    rng.shuffle(first)
    faults, spent = [], 0.0
    while True:
        name = first.pop() if first else rng.choices(names, [FAULTS[name][0] for name in names])[0]
        fault = Fault(rng.uniform(0.2, 4.0), name, rng.uniform(*FAULTS[name][1]), rng.getrandbits(32))
        spent += fault.after + fault.lasts
        if spent > seconds and faults:
            return faults
        faults.append(fault)


def parse_load(text):
    """The load with what "rows=6x0,bank=1x50" changes of the usual one."""
    load = dict(LOAD)
    for part in filter(None, text.split(",")):
        kind, _, setting = part.partition("=")
        writers, _, rate = setting.partition("x")
        if kind not in LOAD:
            raise ValueError(f"{part}: there are {', '.join(LOAD)}")
        load[kind] = int(writers), float(rate)
    return load


@dataclass
class Outcome:
    counts: Counter = field(default_factory=Counter)
    faults: Counter = field(default_factory=Counter)
    wrong: list = field(default_factory=list)
    longest: float = 0.0
    seconds: float = 0.0  # that the writers wrote

    @property
    def writes(self):
        """Acknowledged ones; a transaction is one."""
        return sum(self.counts[f"{op} {checkers.DONE}"] for op in WRITES)


class Storm:
    def __init__(self, cluster, seed, load, say):
        self.cluster, self.seed, self.load, self.say = cluster, seed, load, say
        self.net = cluster.net
        self.faults = Counter()
        self.paused = []  # (node, from, to)
        self.epoch = time.monotonic()
        self.wait = threading.Event().wait

    def prepare(self):
        self.cluster.start()
        first = self.cluster[1].open_db()
        first.exec(
            "CREATE TABLE rows(k TEXT); CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER); "
            "CREATE TABLE ledger(k TEXT, source INTEGER, target INTEGER, amount INTEGER); "
            "CREATE TABLE registers(id INTEGER PRIMARY KEY, v TEXT); "
            + "".join(f"INSERT INTO accounts VALUES({number}, {BALANCE}); " for number in range(ACCOUNTS))
        )
        self.epoch = time.monotonic()
        for node in self.cluster.nodes:
            self.start_writers(node)

    def start_writers(self, node):
        for kind, (writers, rate) in self.load.items():
            settings = {"rate": rate, "seed": self.seed, "options": {"timeout": int(CALL * 1000)}}
            for _ in range(writers):
                self.cluster.write(node, kind, accounts=ACCOUNTS, epoch=self.epoch, **settings)

    def blow(self, faults):
        for fault in faults:
            self.wait(fault.after)
            rng = random.Random(fault.dice)
            victims = self.choose(fault.name, rng)
            what = f"{fault.name} {[node.number for node in victims]} {fault.lasts:.2f} s"
            self.cluster.note(what)
            self.say(f"{time.monotonic() - self.epoch:7.2f} s: {what}")
            self.faults[fault.name] += 1
            getattr(self, "do_" + fault.name.split()[0])(fault, victims, rng)

    def choose(self, name, rng):
        nodes = self.cluster.nodes
        if name == "kill all":
            return nodes
        if name == "reset":
            return rng.sample(nodes, rng.randint(1, len(nodes)))
        if name in ("kill minority", "partition"):
            return rng.sample(nodes, rng.randint(1, (len(nodes) - 1) // 2))
        leader = self.cluster.find_leader() if name.endswith("leader") else None
        return [leader or rng.choice(nodes)]

    # Each fault from its begin to its end.

    def do_kill(self, fault, victims, rng):
        for node in victims:
            node.worker.process.kill()
        for node in victims:
            node.kill()
        self.wait(fault.lasts)
        self.restart(victims)

    def restart(self, nodes):
        for reply in [node.begin() for node in nodes]:
            reply.ok(BACK)
        for node in nodes:
            self.start_writers(node)

    def do_pause(self, fault, victims, rng):
        began = time.monotonic()
        for node in victims:
            node.worker.pause()
        self.wait(fault.lasts)
        for node in victims:
            node.worker.resume()
            self.paused.append((node, began, time.monotonic()))

    def do_reset(self, fault, victims, rng):
        """Connections end, and new ones are fine; those of whom the leader knows nothing yet when it goes on, too."""
        if fault.name == "reset":
            self.net.reset(*[node.number for node in victims])
            self.wait(fault.lasts)
            return
        began = time.monotonic()
        for node in victims:
            node.worker.pause()
        self.net.reset(*[node.number for node in self.cluster.nodes if node not in victims])
        self.wait(fault.lasts)
        for node in victims:
            node.worker.resume()
            self.paused.append((node, began, time.monotonic()))

    def do_stop(self, fault, victims, rng):
        for node in victims:
            node.worker.ok("stop")
        if fault.name == "stop and start":
            self.wait(fault.lasts)
            for node in victims:
                node.worker.ok("start")
            return
        for node in victims:
            node.worker.quit()
        self.wait(fault.lasts)
        self.restart(victims)

    def do_unplug(self, fault, victims, rng):
        for node in victims:
            self.net.unplug(node.number)
        self.wait(fault.lasts)
        for node in victims:
            self.net.plug(node.number)

    def do_partition(self, fault, victims, rng):
        self.net.partition([number for number in range(1, self.net.size + 1) if self.cluster_number(number) not in victims],
                           [node.number for node in victims])
        self.wait(fault.lasts)
        self.net.heal()

    def cluster_number(self, number):
        return self.cluster.nodes[number - 1] if number <= len(self.cluster.nodes) else None

    def do_split(self, fault, victims, rng):
        """The leader with a minority on one side."""
        others = [node for node in self.cluster.nodes if node not in victims]
        friends = rng.sample(others, (len(self.cluster.nodes) - 1) // 2 - 1)
        self.do_partition(fault, victims + friends, rng)

    def do_cut(self, fault, victims, rng):
        """What one sends to another no longer arrives."""
        others = [node for node in self.cluster.nodes if node not in victims]
        pairs = [(node.number, other.number) for node in victims for other in rng.sample(others, rng.randint(1, len(others)))]
        if rng.random() < 0.5:
            pairs = [(target, source) for source, target in pairs]
        for pair in pairs:
            self.net.cut(*pair)
        self.wait(fault.lasts)
        for pair in pairs:
            self.net.mend(*pair)

    # Afterwards.

    def calm(self):
        """Everything heals; each node writes once more by itself, and then the writers stop."""
        self.net.heal()
        for node in self.cluster.nodes:
            assert node.alive, f"{node} is gone: {node.worker.said()}"
        healed = time.monotonic()
        replies = {}

        def well(node):
            replies[node] = node.worker.call("open_db")
            return replies[node].code == OK

        for node in self.cluster.nodes:
            wait_until(lambda node=node: well(node), BACK, lambda node=node: f"{node} is not well again: {replies[node]}")
        self.say(f"all well again after {time.monotonic() - healed:.2f} s")
        stops = [node.worker.send("stop_writers") for node in self.cluster.nodes]
        for stop in stops:
            stop.ok(BACK)
        self.ended = time.monotonic()

    def check(self):
        outcome = Outcome(faults=self.faults, seconds=self.ended - self.epoch)
        records = {kind: self.cluster.all_records(kind) for kind in LOAD}
        snapshots = []
        # What each node's database holds shows only while that node leads.
        for node in self.cluster.nodes:
            self.make_leader(node)
            snapshots.append((node.number, self.read(node)))
            outcome.wrong += [f"node {node.number}: {fault}" for fault in self.judge(snapshots[-1][1], records)]
        outcome.counts["databases looked at"] = len(snapshots)
        if any(snapshot != snapshots[0][1] for _, snapshot in snapshots):
            outcome.wrong.append("the nodes differ in what they hold")
        operations = [operation for of_a_kind in records.values() for operation in of_a_kind]
        for operation in operations:
            outcome.counts[operation.outcome] += 1
            outcome.counts[f"{operation.op} {operation.outcome}"] += 1
            if operation.code:
                outcome.counts[f"code {operation.code}"] += 1
        outcome.wrong += checkers.check_registers(records["register"])
        outcome.wrong += self.too_slow(operations)
        outcome.longest = self.longest_silence(operations)
        outcome.wrong += too_little(outcome, self.load)
        return outcome

    def make_leader(self, node):
        replies = []

        def leads():
            if self.cluster.find_leader() is node:
                return True
            # Only who votes can lead; of five nodes two stand by.
            replies[:] = [self.cluster.watch("assign", id=node.id, role=0), self.cluster.watch("transfer", id=node.id)]
            return False

        wait_until(leads, BACK, lambda: f"{node} does not take the lead: {replies[0]}, {replies[-1]}")

    def read(self, node):
        node.open_db()
        return {
            "rows": sorted(row["k"] for row in node.query("SELECT k FROM rows")),
            "ledger": sorted(node.query("SELECT k, source, target, amount FROM ledger"), key=lambda row: row["k"]),
            "accounts": {row["id"]: row["balance"] for row in node.query("SELECT id, balance FROM accounts")},
            "integrity": node.query("PRAGMA integrity_check"),
        }

    def judge(self, held, records):
        wrong = checkers.check_rows(records["rows"], held["rows"])
        wrong += checkers.check_bank(records["bank"], ACCOUNTS, BALANCE, held["ledger"], held["accounts"])
        if held["integrity"] != [{"integrity_check": "ok"}]:
            wrong.append(f"integrity_check: {held['integrity']}")
        return wrong

    def too_slow(self, operations):
        """Calls that outlived their deadline, pauses of their process apart. A transaction is five calls at most."""
        wrong = []
        for operation in operations:
            if operation.code is None:
                continue
            label = operation.writer.split("-")[0]
            paused = sum(
                max(0.0, min(operation.ended, to) - max(operation.began, since))
                for node, since, to in self.paused
                if node.label == label
            )
            calls = 6 if operation.op in ("transaction", "transfer") else 1
            if operation.ended - operation.began - paused > calls * CALL + harness.SLACK:
                wrong.append(f"too slow: {operation.ended - operation.began:.1f} s for {operation}: {operation.error}")
        return wrong

    def longest_silence(self, operations):
        """The longest time without an acknowledged write."""
        ends = sorted(one.ended for one in operations if one.outcome == checkers.DONE and one.op in WRITES)
        return max((later - earlier for earlier, later in zip(ends, ends[1:])), default=0.0)


def too_little(outcome, load):
    """A storm that nothing survived, or in which nothing happened, proves nothing."""
    kinds = {"insert": "rows", "transaction": "rows", "transfer": "bank", "total": "bank"}
    wrong = [] if sum(outcome.faults.values()) >= min(3, outcome.seconds / 10) else [f"too few faults: {dict(outcome.faults)}"]
    for op, rate in FLOOR.items():
        writers, usual = load[kinds.get(op, "register")]
        least = rate * outcome.seconds * min(1.0, (usual or 10.0) / 10.0) if writers else 0
        done = outcome.counts[f"{op} {checkers.DONE}"]
        if done < least:
            wrong.append(f"too little: {done} of {op} done in {outcome.seconds:.0f} s, not {least:.0f}")
    return wrong


def storm(seed, seconds, nodes, work, load=LOAD, faults=None, say=print):
    """One run; the outcome."""
    with harness.Cluster(work, nodes) as cluster:
        run = Storm(cluster, seed, load, say)
        run.prepare()
        run.blow(plan(seed, seconds, faults))
        run.calm()
        return run.check()


def report(outcome, say=print):
    counts = outcome.counts
    say(f"faults: {sum(outcome.faults.values())}: {dict(sorted(outcome.faults.items()))}")
    say(
        f"operations: {counts['done']} acknowledged, {counts['maybe']} unknown, {counts['not']} refused; "
        f"{dict(sorted((name, count) for name, count in counts.items() if ' ' in name))}"
    )
    say(
        f"writes: {outcome.writes} acknowledged in {outcome.seconds:.0f} s, {outcome.writes / outcome.seconds:.0f} a second; "
        f"longest time without one: {outcome.longest:.2f} s"
    )
    for fault in outcome.wrong[:20]:
        say(f"WRONG: {fault[:1500]}")
    if len(outcome.wrong) > 20:
        say(f"... and {len(outcome.wrong) - 20} more")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--nodes", default="3", help="how many, or several such numbers for several clusters")
    parser.add_argument("--load", type=parse_load, default=LOAD, help="e.g. rows=6x0,bank=1x50; see above")
    parser.add_argument("--runs", type=int, default=1, help="so many, with the seeds that follow")
    parser.add_argument("--faults", help="only these, e.g. kill,pause or 'kill leader,cut'")
    parser.add_argument("--keep", help="a directory for records and logs that stays")
    options = parser.parse_args()
    reason = harness.why_not_even_unshared()
    if reason:
        print(f"storm: skipped: {reason}")
        return SKIPPED
    sizes = [int(size) for size in options.nodes.split(",")]
    return one_after_another(options, sizes[0]) if len(sizes) == 1 else side_by_side(options, sizes)


def side_by_side(options, sizes):
    """A process for each size, whose output comes when it has ended."""
    load = ",".join(f"{kind}={writers}x{rate}" for kind, (writers, rate) in options.load.items())
    common = [sys.executable, __file__, f"--seed={options.seed}", f"--seconds={options.seconds}", f"--load={load}"]
    common += [f"--runs={options.runs}"] + ([f"--faults={options.faults}"] if options.faults else [])
    runs = []
    for size in sizes:
        keep = [f"--keep={options.keep}/{size}-nodes"] if options.keep else []
        command = [*common, f"--nodes={size}", *keep]
        runs.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=harness.die_with_parent))
    for one in runs:
        print(one.communicate()[0], end="", flush=True)
    codes = {one.returncode for one in runs}
    return 1 if codes - {0, SKIPPED} else max(codes)


def one_after_another(options, nodes):
    seeds = range(options.seed, options.seed + options.runs)
    writes = [run(options, nodes, seed) for seed in seeds]
    passed = [count for count in writes if count is not None]
    if options.runs > 1:
        print(f"storms: {len(passed)} of {options.runs} passed, {sum(passed)} acknowledged writes")
    return 0 if len(passed) == options.runs else 1


def run(options, nodes, seed):
    """How many writes were acknowledged; None if anything was wrong."""
    work = f"{options.keep}/seed-{seed}" if options.keep else tempfile.mkdtemp(prefix="dqlitepy-storm-")
    print(f"storm: seed {seed}, {nodes} nodes, {options.seconds:.0f} s, {harness.LIBRARY}", flush=True)
    faults = options.faults.split(",") if options.faults else None
    try:
        say = lambda text: print(text, flush=True)  # noqa: E731
        outcome = storm(seed, options.seconds, nodes, work, options.load, faults, say)
    except Exception as fault:
        print(f"storm: FAILED: seed {seed}: {fault!r}; see {work}")
        return None
    report(outcome)
    if outcome.wrong:
        print(f"storm: FAILED: seed {seed}; see {work}")
        return None
    if not options.keep:
        shutil.rmtree(work)
    print(f"storm: passed: seed {seed}", flush=True)
    return outcome.writes


if __name__ == "__main__":
    sys.exit(main())
