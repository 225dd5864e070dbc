"""What must hold of the records that the writers of worker.py left, and of what is in the database afterwards.

A record's operation has one of three outcomes. DONE: acknowledged, so it is there, once. NOT: refused with a code that
says that nothing was changed, so it is not there. MAYBE: reported as unknown, or cut off by the end of the process: it is
there wholly, once, or not at all.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from math import inf

DONE, NOT, MAYBE = "done", "not", "maybe"

INTERNAL, SHUTDOWN, UNKNOWN = 8, 6, 101


@dataclass(slots=True)
class Operation:
    writer: str
    number: int
    op: str
    began: float
    ended: float = inf
    outcome: str = MAYBE
    code: int | None = None
    error: str | None = None
    value: object = None
    details: dict = field(default_factory=dict)

    def __str__(self):
        span = f"{self.began:.3f}..{self.ended:.3f}"
        return f"{self.writer}#{self.number} {self.op} {self.details} -> {self.outcome} {self.value} {self.code} [{span}]"


def outcome_of(code, phase):
    """What a failure says about the operation. Before COMMIT nothing of a transaction can stay."""
    if phase in ("begin", "inside", "read", "total"):
        return NOT
    return MAYBE if code in (INTERNAL, SHUTDOWN, UNKNOWN) else NOT


def load(path):
    """The operations of one file, in order. The last one may be cut off."""
    operations = []
    with open(path, "rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            record = json.loads(line)
            kind = record.pop("e")
            if kind == "attach":
                continue
            if kind == "call":
                base = {name: record.pop(name) for name in ("w", "n", "op", "t")}
                operations.append(Operation(base["w"], base["n"], base["op"], base["t"], details=record))
                continue
            last = operations[-1]
            last.ended = record["t"]
            if kind == "ok":
                last.outcome, last.value, last.code = DONE, record["value"], 0
            else:
                last.code, last.error = record["code"], record["error"]
                last.outcome = outcome_of(record["code"], record["phase"])
    return operations


def check_rows(operations, present):
    """`present`: the keys in the table, as often as they are there. Returns what is wrong, as texts."""
    count = Counter(present)
    wrong = [f"doubled: {key} is there {times} times" for key, times in count.items() if times > 1]
    known = set()
    for operation in operations:
        keys = operation.details["keys"]
        known.update(keys)
        there = [key for key in keys if count[key]]
        if operation.outcome == DONE and len(there) < len(keys):
            wrong.append(f"lost: {sorted(set(keys) - set(there))} of acknowledged {operation}")
        elif operation.outcome == NOT and there:
            wrong.append(f"refused, but there: {there} of {operation}: {operation.error}")
        elif operation.outcome == MAYBE and there and len(there) < len(keys):
            wrong.append(f"torn: only {there} of {operation}")
    wrong += [f"from nowhere: {key}" for key in count if key not in known]
    return wrong


def check_bank(operations, accounts, balance, ledger, balances):
    """Transfers between `accounts` that began with `balance` each.

    `ledger`: rows {k, source, target, amount}; `balances`: {account: balance}. The operations hold looks at the totals.
    """
    total = accounts * balance
    wrong = []
    for operation in operations:
        if operation.op == "total" and operation.outcome == DONE:
            seen = operation.value[0]
            if (seen["total"], seen["accounts"]) != (total, accounts):
                wrong.append(f"torn: a total of {seen['total']} in {seen['accounts']} accounts, not {total}: {operation}")
    transfers = [operation for operation in operations if operation.op == "transfer"]
    wrong += check_rows(transfers, [row["k"] for row in ledger])
    expected = {account: balance for account in range(accounts)}
    for row in ledger:
        expected[row["source"]] -= row["amount"]
        expected[row["target"]] += row["amount"]
    if expected != balances:
        differing = {account: (expected.get(account), balances.get(account)) for account in expected | balances}
        differing = {account: pair for account, pair in differing.items() if pair[0] != pair[1]}
        wrong.append(f"torn: balances are not what the ledger says (account: expected, found): {differing}")
    return wrong


@dataclass(frozen=True)
class Event:
    """An operation on a register. `ended` is infinite where nobody knows whether it took effect."""

    kind: str  # read, write or cas
    began: float
    ended: float
    old: object = None  # what cas compared with
    new: object = None  # what write or cas put there
    result: object = None  # what read saw; whether cas took effect
    label: str = ""

    @property
    def certain(self):
        return self.ended != inf

    def apply(self, state):
        """(allowed, state afterwards)"""
        if self.kind == "read":
            return state == self.result, state
        if self.kind == "write":
            return True, self.new
        if not self.certain or self.result:
            return state == self.old, self.new
        return state != self.old, state

    def __str__(self):
        what = {"read": f"read {self.result}", "write": f"write {self.new}", "cas": f"cas {self.old} to {self.new}"}
        outcome = "" if self.kind != "cas" else f" = {self.result}"
        return f"{what[self.kind]}{outcome} [{self.began:.4f}..{self.ended:.4f}] {self.label}"


@dataclass
class Fault:
    """The first event that no order explains, and what the register could have held then."""

    event: Event
    values: set
    events: list

    @property
    def stale(self):
        """Whether it is a read of what was right once: a leader that was replaced and does not know it yet."""
        earlier = {None} | {other.new for other in self.events if other.began < self.event.ended}
        return self.event.kind == "read" and self.event.result in earlier

    def __str__(self):
        event = self.event
        around = [str(other) for other in self.events if other.began < event.ended and other.ended > event.began]
        values = sorted(str(value) for value in self.values)
        return f"no order explains {event}; the value could be {values}; at the same time: {around}"


class TooHard(Exception):
    """More possibilities than can be looked at."""


def linearizable(events, initial=None, limit=200_000):
    """None if one order of the events explains them, each at one moment between its begin and its end; else the Fault.

    Wing and Gong's search in the order of time, as Lowe does it: what is kept are the possibilities (value, what of the
    open operations took effect), and an operation is placed only when its end forces it. Operations without an end may
    take effect at any time or never; of two possibilities that differ only in them, the one that used fewer is enough.
    """
    events = [event for event in events if event.certain or event.kind != "read"]
    times = [(event.began, 0, number) for number, event in enumerate(events)]
    # At one and the same instant a begin comes before an end: such operations overlap.
    times += [(event.ended, 1, number) for number, event in enumerate(events) if event.certain]
    open_events = set()
    possible = {(initial, frozenset(), frozenset())}
    for _, ends, number in sorted(times):
        if not ends:
            open_events.add(number)
            continue
        event = events[number]
        after, seen, work = set(), set(possible), list(possible)
        while work:
            state, placed, used = work.pop()
            if number in placed:
                after.add((state, placed - {number}, used))
                continue
            if len(seen) > limit:
                raise TooHard(f"over {limit} possibilities at {event}")
            for candidate in open_events - placed - used:
                allowed, then = events[candidate].apply(state)
                if not allowed:
                    continue
                if events[candidate].certain:
                    successor = (then, placed | {candidate}, used)
                else:
                    successor = (then, placed, used | {candidate})
                if successor not in seen:
                    seen.add(successor)
                    work.append(successor)
        if not after:
            return Fault(event, {state for state, _, _ in possible}, events)
        open_events.discard(number)
        possible = fewest(after)
    return None


def fewest(possible):
    """Without those for which another one reached the same with fewer of the uncertain operations."""
    best = {}
    for state, placed, used in sorted(possible, key=lambda one: len(one[2])):
        kept = best.setdefault((state, placed), [])
        if not any(other <= used for other in kept):
            kept.append(used)
    return {(state, placed, used) for (state, placed), kept in best.items() for used in kept}


def register_events(operations):
    """The events of each register: {register: [Event]}. What was refused did not happen."""
    events = {}
    for operation in operations:
        if operation.outcome == NOT:
            continue
        details, certain = operation.details, operation.outcome == DONE
        result = None
        if certain and operation.op == "read":
            result = operation.value[0] if operation.value else None
        elif certain and operation.op == "cas":
            result = operation.value == 1
        event = Event(
            operation.op,
            operation.began,
            operation.ended if certain else inf,
            details.get("old"),
            details.get("new"),
            result,
            f"{operation.writer}#{operation.number}",
        )
        events.setdefault(details["register"], []).append(event)
    return events


def check_registers(operations):
    """What is wrong with the registers, as texts."""
    wrong = []
    for register, events in sorted(register_events(operations).items()):
        where = f"register {register} with {len(events)} operations"
        try:
            # After a stale read the rest still has to be in order.
            while (fault := linearizable(events)) and fault.stale:
                wrong.append(f"stale read: {where}: {fault}")
                events = [event for event in events if event is not fault.event]
        except TooHard as reason:
            fault = f"undecided: {reason}"
        if fault:
            wrong.append(f"{where}: {fault}")
    return wrong
