"""The tests of clusters: see harness.py."""

import faulthandler
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import harness  # noqa: E402
from skips import pytest_sessionfinish  # noqa: E402, F401

# Longer than any test's own deadlines add up to; a hang shows where it is.
TEST_SECONDS = float(os.environ.get("CLUSTER_TEST_SECONDS", "300")) + float(os.environ.get("CLUSTER_SOAK", "0"))


def pytest_configure(config):
    config.addinivalue_line("markers", "quick: also a part of make test")


def pytest_report_header():
    return f"library: {harness.LIBRARY}"


@pytest.fixture(autouse=True)
def time_limit():
    faulthandler.dump_traceback_later(TEST_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def network():
    reason = harness.why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def cluster(network, tmp_path):
    """Makes clusters: cluster(size=3, ...). Everything of them ends with the test."""
    made = []

    def make(size=3, **settings):
        made.append(harness.Cluster(tmp_path / f"cluster{len(made)}", size, **settings))
        return made[-1]

    try:
        yield make
        for one in made:
            one.finish()
    finally:
        for one in made:
            one.close()
