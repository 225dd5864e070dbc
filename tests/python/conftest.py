"""The tests run dqlitepy 0.1.0, as PyPI ships it, on our library."""

import logging
import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = Path(os.environ.setdefault("DQLITEPY_LIBRARY", str(ROOT / "target/release/libdqlitepy.so")))

import support  # noqa: E402  (needs the variable)

TEST_SECONDS = 80

# dqlitepy logs every failure, also from __del__, that is from within the garbage collection of whatever runs just then.
# Formatting those tracebacks parses Python, and Python 3.11 breaks when that happens inside another parse.
logging.getLogger("dqlitepy").setLevel(logging.CRITICAL + 1)


def pytest_configure():
    if not LIBRARY.exists():
        pytest.exit(f"{LIBRARY} does not exist; build it first", returncode=1)


def pytest_report_header():
    import dqlitepy

    return f"library: {LIBRARY}, version {dqlitepy.get_version()}"


@pytest.fixture(autouse=True)
def time_limit():
    def too_long(*_):
        raise TimeoutError(f"the test has taken {TEST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def address():
    return support.free_address()


@pytest.fixture
def node(tmp_path, address):
    """A running node with the database test.db open; it is really stopped afterwards."""
    node = support.running_node(address, tmp_path / "node")
    yield node
    support.end(node)
