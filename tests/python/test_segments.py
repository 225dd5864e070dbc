"""The log's next segments: written ahead, so that a write into them changes no record of the file system (segment.c)."""

import fcntl
import os
import struct
import sys
from pathlib import Path

import pytest
import support

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples/python"))
import dqlitepy_ctypes as db  # noqa: E402

FIEMAP, UNWRITTEN = 0xC020660B, 0x800
ROOM = 256  # extents


def extents(path):
    """(bytes, whether written) of each, from <linux/fiemap.h>."""
    with open(path, "rb") as file:
        ask = bytearray(struct.pack("=QQLLLL", 0, 2**64 - 1, 0, 0, ROOM, 0) + bytes(56 * ROOM))
        fcntl.ioctl(file, FIEMAP, ask)
    count = struct.unpack_from("=L", ask, 20)[0]
    found = [struct.unpack_from("=QQQQQL", ask, 32 + 56 * number) for number in range(count)]
    return [(length, not flags & UNWRITTEN) for _, _, length, _, _, flags in found]


def file_system_of(path):
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    under = [mount for mount in mounts if os.path.realpath(path).startswith(mount[1].rstrip("/") + "/") or mount[1] == "/"]
    return max(under, key=lambda mount: len(mount[1]))[2]


def test_segments_are_written_before_they_are_needed(tmp_path):
    if file_system_of(tmp_path) not in ("ext4", "xfs"):
        pytest.skip(f"{file_system_of(tmp_path)} does not write in place, so nothing is written ahead there")
    folder = tmp_path / "node"
    node = db.Node(7, support.free_address(), str(folder))
    try:
        connection = db.connect(node=node, database="a.db", autocommit=True)
        connection.execute("CREATE TABLE t (a BLOB)")

        def prepared():
            """The segments that are allocated and not begun; those of the start are not written ahead."""
            numbers = sorted(int(path.name.split("-")[1]) for path in folder.glob("open-*"))
            return [folder / f"open-{number}" for number in numbers[1:] if number > 4]

        def write_until(ready):
            # So slowly that the library does not take it for a load.
            connection.execute("INSERT INTO t VALUES (zeroblob(300000))")
            connection.execute("DELETE FROM t")
            return ready()

        def written():
            return any(
                os.stat(path).st_size >= 8 << 20 and all(written for _, written in extents(path)) for path in prepared()
            )

        support.wait_until(lambda: write_until(written), 60, lambda: [(path, extents(path)) for path in prepared()])
        connection.close()
    finally:
        node.close()
