"""Damaged files of a stopped node: the start names the file, or the node serves what is there; no process ends.

`python tests/python/test_damage.py SEED CASES` goes on for longer.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import support
from test_growth import EXAMPLES, db, node_with

# Each gets a directory and reports before what it does, so that the one that ended the process is known.
CASES = """
import random, shutil, sys
from pathlib import Path
sys.path.append(sys.argv[6])
import support
import dqlitepy_ctypes as db

whole, place, address, seed, count = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])

def sector(data, rng):
    at = rng.randrange(max(1, len(data)))
    return at, min(len(data), at + rng.choice((1, 8, 512, 4096)))

def cut(data, rng):
    return data[: rng.randrange(max(1, len(data)))]

def empty(data, rng):
    return b""

def zeroed(data, rng):
    begin, end = sector(data, rng)
    return data[:begin] + bytes(end - begin) + data[end:]

def flipped(data, rng):
    at = rng.randrange(max(1, len(data)))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if data else b"?"

def noise(data, rng):
    begin, end = sector(data, rng)
    return data[:begin] + rng.randbytes(end - begin) + data[end:]

def missing(data, rng):
    return None

KINDS = (cut, empty, zeroed, flipped, noise, missing)
names = sorted(path.name for path in Path(whole).iterdir() if path.name != "dqlite-lock")
for number in range(count):
    rng = random.Random(f"{seed}-{number}")
    kind, name = KINDS[number % len(KINDS)], names[number // len(KINDS) % len(names)]
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    file = place / name
    data = kind(file.read_bytes(), rng)
    file.unlink() if data is None else file.write_bytes(data)
    print(number, name, kind.__name__, end=" ", flush=True)
    node, outcome, before = None, "", support.last_error()
    try:
        node = db.Node(7, address, str(place))
        said = support.last_error() or ""
        assert all(path.name in said for path in place.glob("corrupt-*")), said
        outcome = "told" if name in said and said != before else "whole"
        with db.connect(node=node, database="test.db", autocommit=True) as connection:
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            rows = connection.execute("SELECT count(*) FROM t").fetchone()[0] if tables else 0
        connection.close()
        print(outcome, rows, flush=True)
    except db.Error as error:
        print("error", str(error).replace(chr(10), " "), flush=True)
    if node is not None:
        node.close()
"""

ROWS = 40


def node_with_every_file(directory, address):
    """Two snapshots with their metadata, closed and open segments, both files of the term and the vote, the two of ours."""
    node = node_with(address, directory, 16, 16)
    with db.connect(node=node, database="test.db", autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a)")
        for _ in range(ROWS):
            connection.execute("INSERT INTO t VALUES (zeroblob(1000))")
    connection.close()
    support.wait_until(lambda: len(list(directory.glob("snapshot-*.meta"))) == 2, what=directory)
    return node


def run(whole, place, address, seed, count, seconds):
    """What became of each, by file and kind; an assertion if one ended its process."""
    code, out, err = support.run_python(CASES, whole, place, address, seed, count, EXAMPLES, seconds=seconds)
    assert code == 0, f"seed {seed}: exit code {code}: {out[-300:]} {err[-2000:]}"
    return [line.split(" ", 3) for line in out.splitlines()]


def check(name, kind, outcome):
    """What a start makes of one damaged file. What is gone without a word is what no one can miss: see below."""
    what = f"{name} {kind}: {outcome}"
    if " error " in f" {outcome}":
        assert name.removesuffix(".meta") in outcome, what
        return
    told, rows = outcome.startswith("told"), int(outcome.split()[-1])
    # The end of an open segment, zeros or none at all, is what a write leaves that was not begun. A copy of the file tells.
    unseen = name.startswith("open-") and kind in ("cut", "empty", "zeroed", "missing")
    assert rows == ROWS or told or unseen, what


def damage(tmp_path, seed, count, seconds):
    address, whole = support.free_address(), tmp_path / "whole"
    node = node_with_every_file(tmp_path / "n", address)
    shutil.copytree(tmp_path / "n", whole)  # as kill -9 leaves it, with open segments
    node.close()
    outcomes = run(whole, tmp_path / "place", address, seed, count, seconds)
    assert len(outcomes) == count
    for _, name, kind, outcome in outcomes:
        check(name, kind, outcome)
    return outcomes


def test_damaged_files(tmp_path):
    outcomes = damage(tmp_path, os.environ.get("DAMAGE_SEED", "1"), 72, 60)
    said = [outcome for *_, outcome in outcomes]
    assert any("told" in outcome for outcome in said) and any("error" in outcome for outcome in said)


def test_damage_in_an_open_segment(tmp_path):
    """To the engine it is where a crash cut off a write; but behind it stands more, which was acknowledged."""
    address, copy = support.free_address(), tmp_path / "copy"
    node = node_with_every_file(tmp_path / "n", address)
    shutil.copytree(tmp_path / "n", copy)
    node.close()
    (copy / "dqlite-lock").unlink()
    segment = min(copy.glob("open-*"))
    data = bytearray(segment.read_bytes())
    data[len(data.rstrip(b"\0")) // 2] ^= 1
    segment.write_bytes(data)
    node = db.Node(7, address, str(copy))
    try:
        assert support.last_error().startswith("warning: ") and f"{segment.name} from byte" in support.last_error()
        with db.connect(node=node, database="test.db") as connection:
            assert connection.execute("SELECT count(*) FROM t").fetchone()[0] < ROWS
        connection.close()
    finally:
        node.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(*damage(Path(place), sys.argv[1], int(sys.argv[2]), 36000), sep="\n")
