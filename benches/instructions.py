"""Counts the instructions of hot calls by valgrind and compares them with benches/instructions.json: a regression check
that other load on the machine cannot disturb. --write makes the file anew, after a change that is meant to cost.

`client` are those inside the exported function, on the caller's thread; `all` are those of the whole process, so of the
engine too.
"""
import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import run

LIMITS = Path(__file__).with_name("instructions.json")
# The kind of call, and two counts: their difference leaves the start of the node out.
KINDS = {"select1": (200, 1200), "insert": (100, 400), "rows_10": (200, 700), "rows_10000": (2, 6)}
# What a count may grow: threads meet in different ways in each run, which the client's part hardly feels.
SLACK = {"client": 1.03, "all": 1.10}


def count(library, kind, calls, only_client):
    """Instructions of a process that makes so many calls."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
        if only_client:
            command += ["--toggle-collect=dqlitepy_node_query", "--toggle-collect=dqlitepy_node_exec"]
        command += [run.BUILD / "driver", "count", library, f"{folder}/node", kind, str(calls)]
        said = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=600).stderr
        found = re.search(r"Collected : (\d+)", said)
        if not found:
            sys.exit(f"instructions: valgrind counted nothing; it said:\n{said}")
        return int(found.group(1))


def measure(library):
    found = {}
    for kind, (few, many) in KINDS.items():
        found[kind] = {}
        for part in ("client", "all"):
            both = [count(library, kind, calls, part == "client") for calls in (few, many)]
            found[kind][part] = round((both[1] - both[0]) / (many - few))
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", default=run.TOP / "target/release/libdqlitepy.so", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if not shutil.which("valgrind"):
        print("instructions: skipped, valgrind is not installed. What to do: apt-get install valgrind")
        return 0
    run.build_driver()
    found = measure(given.library)
    if given.write:
        LIMITS.write_text(json.dumps(found, indent=2) + "\n")
    limits = json.loads(LIMITS.read_text())
    failed = 0
    for kind, parts in found.items():
        for part, number in parts.items():
            limit = limits[kind][part] * SLACK[part]
            failed += number > limit
            print(f"{kind:12} {part:8} {number:10} instructions per call, committed {limits[kind][part]:10}"
                  f"{'  TOO MANY' if number > limit else ''}")
    if failed:
        print("instructions: more than committed in benches/instructions.json. What to do: find what the last change added, "
              "or make bench-instructions WRITE=--write if it is worth that.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
