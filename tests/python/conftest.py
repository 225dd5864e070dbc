"""The tests run dqlitepy 0.1.0, as PyPI ships it, on our library."""

import faulthandler
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = Path(os.environ.setdefault("DQLITEPY_LIBRARY", str(ROOT / "target/release/libdqlitepy.so")))

import support  # noqa: E402  (needs the variable)

TEST_SECONDS = 90


def pytest_configure():
    if not LIBRARY.exists():
        pytest.exit(f"{LIBRARY} does not exist; build it first", returncode=1)


def pytest_report_header():
    import dqlitepy

    return f"library: {LIBRARY}, version {dqlitepy.get_version()}"


@pytest.fixture(autouse=True)
def time_limit():
    """A hang inside a C call cannot be interrupted from Python: say where it is, and end everything."""
    faulthandler.dump_traceback_later(TEST_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def address():
    return support.free_address()


@pytest.fixture
def node(tmp_path, address):
    """A running node with the database test.db open; it is really stopped afterwards."""
    node = support.running_node(address, tmp_path / "node")
    yield node
    support.end(node)
