"""The short form of storm.py. CLUSTER_SEED and CLUSTER_SECONDS choose another storm; a failure names its seed."""

import os

import pytest
import storm

SEED = int(os.environ.get("CLUSTER_SEED", "1"))
SECONDS = float(os.environ.get("CLUSTER_SECONDS", "30"))


@pytest.mark.parametrize("nodes", [3, 5])
def test_storm(network, tmp_path, capsys, nodes):
    outcome = storm.storm(SEED, SECONDS, nodes, tmp_path)
    with capsys.disabled():
        print(f"\nstorm of {SECONDS:.0f} s over {nodes} nodes, seed {SEED}")
        storm.report(outcome)
    assert not outcome.wrong, f"seed {SEED}: {outcome.wrong[:5]}"
    # A storm that nothing survived, or in which nothing happened, proves nothing.
    assert outcome.counts["done"] > 10 * SECONDS and sum(outcome.faults.values()) >= 3


def test_a_plan_depends_on_its_seed_alone():
    assert storm.plan(5, 300, None) == storm.plan(5, 300, None)
    assert storm.plan(5, 300, None) != storm.plan(6, 300, None)
    assert {fault.name for fault in storm.plan(1, 3000, None)} == set(storm.FAULTS)
    assert {fault.name for fault in storm.plan(1, 300, ["kill"])} == {name for name in storm.FAULTS if name.startswith("kill")}


def test_a_load_changes_what_it_names():
    assert storm.parse_load("rows=6x0,bank=2x2.5") == {**storm.LOAD, "rows": (6, 0.0), "bank": (2, 2.5)}
    with pytest.raises(ValueError, match="raws=1x1"):
        storm.parse_load("raws=1x1")
