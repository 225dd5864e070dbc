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
