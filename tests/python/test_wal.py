"""A write-ahead log that grows because rows are half read: whoever comes then reads through an index of several parts."""

import sys
from pathlib import Path

import support

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples/python"))
import dqlitepy_ctypes as db  # noqa: E402


def test_a_log_of_many_megabytes_behind_rows_that_are_half_read(tmp_path):
    node = db.Node(7, support.free_address(), str(tmp_path / "node"))
    try:
        reader = db.connect(node=node, database="a.db", autocommit=True)
        idle = db.connect(node=node, database="a.db", autocommit=True)
        reader.execute("CREATE TABLE t (a BLOB)")
        reader.execute("INSERT INTO t VALUES (zeroblob(2000000))")
        assert idle.execute("SELECT count(*) FROM t").fetchone() == (1,)
        rows = reader.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT i, hex(i), (SELECT length(a) FROM t) FROM n"
        )
        assert rows.fetchone()[0] == 1
        writer = db.connect(node=node, database="a.db", autocommit=True)
        for _ in range(40):
            writer.execute("INSERT INTO t VALUES (zeroblob(1000000))")
        late = db.connect(node=node, database="a.db", autocommit=True)
        assert late.execute("SELECT count(*), sum(length(a)) FROM t").fetchone() == (41, 42000000)
        assert idle.execute("SELECT count(*) FROM t").fetchone() == (41,)
        assert rows.fetchone()[0] == 2
        rows.close()
        writer.execute("INSERT INTO t VALUES (x'00')")
        assert late.execute("SELECT count(*) FROM t").fetchone() == (42,)
        for connection in reader, idle, writer, late:
            connection.close()
    finally:
        node.close()
