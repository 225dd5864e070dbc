"""Clusters of our nodes and go-dqlite's: see mixed.py."""

import faulthandler
import logging
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("DQLITEPY_LIBRARY", str(ROOT / "target/release/libdqlitepy.so"))
for folder in ("tests/python", "tests/cluster", "examples/python"):
    sys.path.insert(0, str(ROOT / folder))

import godqlite  # noqa: E402
import mixed  # noqa: E402
import pytest  # noqa: E402
from skips import pytest_sessionfinish  # noqa: E402, F401

TEST_SECONDS = 300
logging.getLogger("dqlitepy").setLevel(logging.CRITICAL + 1)


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes more than ten seconds; not in make test")


@pytest.fixture(autouse=True)
def time_limit():
    faulthandler.dump_traceback_later(TEST_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def go():
    try:
        return godqlite.GoDqlite()
    except godqlite.Missing as reason:
        pytest.skip(str(reason))


def one_place(go, path):
    """Where a cluster lives; whatever still runs in it ends with the test."""
    path.mkdir()
    place = mixed.Place(go, path)
    yield place
    place.close()


@pytest.fixture
def place(go, tmp_path):
    yield from one_place(go, tmp_path / "place")


@pytest.fixture
def another_place(go, tmp_path):
    yield from one_place(go, tmp_path / "another")
