"""The checkers find what they are there to find, and nothing in what is fine."""

import json
import random
from collections import Counter
from itertools import permutations
from math import inf

import checkers
import pytest
import storm
from checkers import DONE, MAYBE, NOT, Event, Operation, check_bank, check_registers, check_rows, linearizable


def write(began, ended, new):
    return Event("write", began, ended, new=new)


def read(began, ended, result):
    return Event("read", began, ended, result=result)


def cas(began, ended, old, new, result=True):
    return Event("cas", began, ended, old=old, new=new, result=result)


def test_one_after_another():
    assert linearizable([write(0, 1, 1), read(2, 3, 1), write(4, 5, 2), read(6, 7, 2)]) is None


def test_nothing_and_the_initial_value():
    assert linearizable([]) is None
    assert linearizable([read(0, 1, None)]) is None
    assert linearizable([read(0, 1, 5)], initial=5) is None
    assert "read 5" in str(linearizable([read(0, 1, 5)]))


def test_a_stale_read():
    fault = linearizable([write(0, 1, 1), write(2, 3, 2), read(4, 5, 1)])
    assert "no order explains read 1" in str(fault)
    assert fault.values == {2} and fault.stale
    assert not linearizable([write(0, 1, 1), read(2, 3, 7)]).stale


def test_a_read_during_a_write_sees_either():
    for seen in (1, 2):
        assert linearizable([write(0, 1, 1), write(2, 9, 2), read(3, 4, seen)]) is None


def test_a_value_that_was_seen_does_not_go_away_again():
    """Both reads overlap the write, but the second one comes after the first."""
    history = [write(0, 1, 1), write(2, 9, 2), read(3, 4, 2), read(5, 6, 1)]
    assert linearizable(history) is not None
    assert linearizable([*history[:2], read(3, 5, 2), read(4, 6, 1)]) is None


def test_concurrent_writes_in_either_order_but_only_one():
    both = [write(0, 5, 1), write(0, 5, 2)]
    for last in (1, 2):
        assert linearizable([*both, read(6, 7, last)]) is None
    assert linearizable([*both, read(6, 7, 1), read(8, 9, 2)]) is not None


def test_a_lost_write():
    assert linearizable([write(0, 1, 1), read(2, 3, None)]) is not None


def test_a_value_from_nowhere():
    assert linearizable([write(0, 1, 1), read(0, 1, 7)]) is not None


def test_compare_and_set():
    assert linearizable([write(0, 1, 1), cas(2, 3, 1, 2), read(4, 5, 2)]) is None
    assert linearizable([write(0, 1, 1), cas(2, 3, 7, 2), read(4, 5, 2)]) is not None
    assert linearizable([write(0, 1, 1), cas(2, 3, 7, 2, False), read(4, 5, 1)]) is None
    assert linearizable([write(0, 1, 1), cas(2, 3, 1, 2, False)]) is not None


def test_only_one_of_two_wins():
    assert linearizable([write(0, 1, 1), cas(2, 5, 1, 2), cas(2, 5, 1, 3)]) is not None
    assert linearizable([write(0, 1, 1), cas(2, 5, 1, 2), cas(2, 5, 1, 3, False)]) is None


def test_an_uncertain_write_may_show_later_once_or_never():
    uncertain = write(2, inf, 2)
    assert linearizable([write(0, 1, 1), uncertain, read(3, 4, 1)]) is None
    assert linearizable([write(0, 1, 1), uncertain, read(3, 4, 1), read(5, 6, 2), read(7, 8, 2)]) is None
    # Not twice, not back, and not before it began.
    history = [write(0, 1, 1), uncertain, read(3, 4, 2), write(5, 6, 3), read(7, 8, 2)]
    assert linearizable(history) is not None
    assert linearizable([write(0, 1, 1), uncertain, read(3, 4, 2), read(5, 6, 1)]) is not None
    assert linearizable([write(0, 1, 1), read(1.2, 1.5, 2), uncertain]) is not None


def test_an_uncertain_compare_and_set_needs_its_value():
    maybe = Event("cas", 2, inf, old=1, new=2)
    assert linearizable([write(0, 1, 1), maybe, read(3, 4, 2)]) is None
    assert linearizable([write(0, 1, 5), maybe, read(3, 4, 2)]) is not None


def test_an_uncertain_read_says_nothing():
    assert linearizable([write(0, 1, 1), Event("read", 2, inf, result=None)]) is None


def explained_by_trial(events):
    """What linearizable computes, by trying every order of every choice. For histories without uncertain operations."""
    for order in permutations(events):
        if any(b.ended < a.began for i, a in enumerate(order) for b in order[i + 1 :]):
            continue
        state = None
        for event in order:
            allowed, state = event.apply(state)
            if not allowed:
                break
        else:
            return True
    return False


def test_against_trial_of_all_orders():
    rng = random.Random(1)
    outcomes = {True: 0, False: 0}
    for _ in range(1500):
        events = []
        for _ in range(rng.randrange(1, 6)):
            began = rng.randrange(12)
            ended = began + rng.randrange(1, 6)
            kind = rng.choice(["read", "write", "cas"])
            value = rng.choice([None, 1, 2, 3]) if kind == "read" else None
            events.append(
                Event(kind, began, ended, rng.randrange(1, 4), rng.randrange(1, 4), value if kind == "read" else rng.random() < 0.5)
            )
        expected = explained_by_trial(events)
        assert (linearizable(events) is None) == expected, [str(event) for event in events]
        outcomes[expected] += 1
    assert min(outcomes.values()) > 200, outcomes


def simulated(rng, writers, length, lost=0.0):
    """The history of a real register under concurrent clients; some results never arrive."""
    value, events, clock = None, [], 0.0
    free = [0.0] * writers
    for number in range(length):
        writer = rng.randrange(writers)
        began = max(free[writer], clock + rng.random() * 0.1)
        moment = began + rng.random()
        clock = max(clock, moment) + 1e-6
        moment = clock
        ended = moment + rng.random()
        free[writer] = ended + 1e-6
        uncertain = rng.random() < lost
        applied = not uncertain or rng.random() < 0.5
        kind = rng.choice(["read", "write", "cas"])
        if kind == "read":
            if not uncertain:
                events.append(read(began, ended, value))
        elif kind == "write":
            events.append(write(began, inf if uncertain else ended, number))
            value = number if applied else value
        else:
            old = value if rng.random() < 0.7 else -1
            hit = applied and old == value
            events.append(Event("cas", began, inf if uncertain else ended, old, number, hit))
            value = number if hit else value
    return events


def test_long_histories_of_a_real_register():
    rng = random.Random(2)
    for _ in range(5):
        assert linearizable(simulated(rng, 9, 1000)) is None
        assert linearizable(simulated(rng, 9, 600, lost=0.05)) is None


def test_a_stale_read_in_a_long_history_is_found():
    rng = random.Random(3)
    for _ in range(20):
        events = simulated(rng, 5, 300, lost=0.02)
        reads = [n for n, event in enumerate(events) if event.kind == "read" and event.began > 20 and event.result is not None]
        place = rng.choice(reads)
        # What was read long before: its value has been overwritten in between.
        old = next(event.result for event in events if event.kind == "read" and event.result is not None)
        if sum(event.kind == "write" and event.certain for event in events[:place]) < 10:
            continue
        events[place] = read(events[place].began, events[place].ended, old)
        assert linearizable(events) is not None


def operation(outcome, *keys, op="insert", value=None):
    return Operation("w", 1, op, 0.0, 1.0, outcome, value=value, details={"keys": list(keys)})


def test_rows():
    assert check_rows([operation(DONE, "a"), operation(MAYBE, "b"), operation(MAYBE, "c"), operation(NOT, "d")], ["a", "b"]) == []
    for operations, present, word in [
        ([operation(DONE, "a")], [], "lost"),
        ([operation(DONE, "a")], ["a", "a"], "doubled"),
        ([operation(MAYBE, "a")], ["a", "a"], "doubled"),
        ([operation(NOT, "a")], ["a"], "refused"),
        ([operation(MAYBE, "a", "b")], ["a"], "torn"),
        ([operation(DONE, "a", "b")], ["a"], "lost"),
        ([], ["a"], "nowhere"),
    ]:
        wrong = check_rows(operations, present)
        assert len(wrong) == 1 and word in wrong[0], wrong


def test_bank():
    ledger = [{"k": "a", "source": 0, "target": 1, "amount": 3}]
    transfer = operation(DONE, "a", op="transfer")
    fine = operation(DONE, op="total", value=[{"total": 20, "accounts": 2}])
    off = operation(DONE, op="total", value=[{"total": 17, "accounts": 2}])
    assert check_bank([transfer, fine], 2, 10, ledger, {0: 7, 1: 13}) == []
    assert "total of 17" in check_bank([transfer, off], 2, 10, ledger, {0: 7, 1: 13})[0]
    assert "balances" in check_bank([transfer], 2, 10, ledger, {0: 10, 1: 13})[0]
    assert "lost" in check_bank([transfer], 2, 10, [], {0: 10, 1: 10})[0]
    assert "doubled" in check_bank([transfer], 2, 10, ledger * 2, {0: 4, 1: 16})[0]


def test_records_are_read_back(tmp_path):
    records = [
        {"w": "x", "n": 1, "e": "attach", "code": 5, "error": "no", "t": 0.5},
        {"w": "x", "n": 1, "e": "call", "op": "insert", "keys": ["a"], "t": 1.0},
        {"w": "x", "n": 1, "e": "ok", "value": [1, 1], "t": 2.0},
        {"w": "x", "n": 2, "e": "call", "op": "transaction", "keys": ["b"], "t": 3.0},
        {"w": "x", "n": 2, "e": "error", "code": 101, "phase": "commit", "error": "?", "t": 4.0},
        {"w": "x", "n": 3, "e": "call", "op": "transaction", "keys": ["c"], "t": 5.0},
        {"w": "x", "n": 3, "e": "error", "code": 6, "phase": "inside", "error": "?", "t": 6.0},
        {"w": "x", "n": 4, "e": "call", "op": "insert", "keys": ["d"], "t": 7.0},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records) + '{"w": "x", "n": 4, "e": "o'
    (tmp_path / "file").write_text(text)
    loaded = checkers.load(tmp_path / "file")
    assert [one.outcome for one in loaded] == [DONE, MAYBE, NOT, MAYBE]
    assert [one.ended for one in loaded] == [2.0, 4.0, 6.0, inf]


def test_registers_are_told_apart():
    def register(number, op, began, outcome=DONE, value=None, new=None):
        return Operation("w", 1, op, began, began + 1, outcome, value=value, details={"register": number, "new": new})

    fine = [register(1, "write", 0, value=1, new="a"), register(2, "read", 2, value=[]), register(1, "read", 4, value=["a"])]
    assert check_registers(fine) == []
    # What was refused did not happen.
    wrong = check_registers([register(1, "write", 0, NOT, new="a"), register(1, "read", 2, value=["a"])])
    assert len(wrong) == 1 and "register 1" in wrong[0]


def test_stale_reads_are_named_and_do_not_hide_other_faults():
    def register(op, began, value=None, new=None):
        return Operation("w", 1, op, began, began + 1, DONE, value=value, details={"register": 1, "new": new})

    stale = [register("write", 0, 1, "a"), register("write", 2, 1, "b"), register("read", 4, ["a"]), register("read", 6, [])]
    wrong = check_registers(stale)
    assert len(wrong) == 2 and all(fault.startswith("stale read: ") for fault in wrong)
    wrong = check_registers([*stale[:3], register("read", 8, ["c"])])
    assert [fault.startswith("stale read: ") for fault in wrong] == [True, False]


# ---- the storm itself ----


def test_a_plan_depends_on_its_seed_alone():
    assert storm.plan(5, 300, None) == storm.plan(5, 300, None)
    assert storm.plan(5, 300, None) != storm.plan(6, 300, None)
    assert {fault.name for fault in storm.plan(1, 3000, None)} == set(storm.FAULTS)
    assert {fault.name for fault in storm.plan(1, 300, ["kill"])} == {name for name in storm.FAULTS if name.startswith("kill")}


def test_the_storm_of_make_test_has_what_it_is_for():
    """Seed and seconds as in scripts/test."""
    assert {fault.name for fault in storm.plan(4, 60, None)} >= set(storm.NAMED)


def test_a_storm_in_which_little_happened_is_no_proof():
    def outcome(**less):
        done = {op: 100 for op in storm.FLOOR} | less
        return storm.Outcome(Counter({f"{op} {DONE}": count for op, count in done.items()}), Counter(kill=9), seconds=30.0)

    assert storm.too_little(outcome(), storm.LOAD) == []
    for op in storm.FLOOR:
        assert [op in fault for fault in storm.too_little(outcome(**{op: 1}), storm.LOAD)] == [True]
    assert storm.too_little(outcome(insert=0, transaction=0), {**storm.LOAD, "rows": (0, 10.0)}) == []
    calm = outcome()
    calm.faults.clear()
    assert ["faults" in fault for fault in storm.too_little(calm, storm.LOAD)] == [True]


def test_a_load_changes_what_it_names():
    assert storm.parse_load("rows=6x0,bank=2x2.5") == {**storm.LOAD, "rows": (6, 0.0), "bank": (2, 2.5)}
    with pytest.raises(ValueError, match="raws=1x1"):
        storm.parse_load("raws=1x1")
