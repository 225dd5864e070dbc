"""Every value comes back as what it is. Blobs are strings of their bytes, other bytes as Python's surrogate escapes."""

import json
import math
import random
import sqlite3
import struct

import pytest
from dqlitepy._ffi import ffi, get_library

import support


def raw_json(node, sql):
    """The bytes that the library gave."""
    out = ffi.new("char **")
    assert get_library().dqlitepy_node_query(node._handle, sql.encode(), out) == 0, support.last_error()
    try:
        return ffi.string(out[0])
    finally:
        get_library().dqlitepy_free(out[0])


def literal(value):
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, float):
        return exact(value)
    return str(value) if value > -(2**63) else "(-9223372036854775807 - 1)"


def exact(value):
    """A real in SQL without decimal digits: SQLite's own parser is off by one bit now and then."""
    if not math.isfinite(value):
        return "9e999" if value > 0 else "-9e999"
    if value == 0:
        return "-0.0" if math.copysign(1, value) < 0 else "0.0"
    mantissa, exponent = math.frexp(value)
    mantissa, exponent = int(mantissa * 2**53), exponent - 53
    sql = f"CAST({mantissa} AS REAL)"
    while exponent:
        step = min(62, abs(exponent))
        sql = f"({sql} {'*' if exponent > 0 else '/'} CAST({1 << step} AS REAL))"
        exponent -= step if exponent > 0 else -step
    return sql


def same(got, want):
    if isinstance(want, bytes):
        return got.encode("utf-8", "surrogateescape") == want
    return type(got) is type(want) and got == want and (got != 0 or math.copysign(1, got or 0) == math.copysign(1, want or 0))


def random_values(seed, n):
    r = random.Random(seed)
    makers = [
        lambda: r.randrange(-(2**63), 2**63),
        lambda: r.choice([0, 1, -1, 2**63 - 1, -(2**63), 2**53 + 1, 2**31, -(2**31) - 1]),
        lambda: struct.unpack("<d", struct.pack("<Q", r.getrandbits(64)))[0],
        lambda: r.choice([0.0, 1.0, -1.5, 1e15, 1e16, 1e17, 1e-5, 123456.789, 5e-324, 1.7976931348623157e308, math.inf, -math.inf]),
        lambda: "".join(chr(r.choice([r.randrange(32, 127), r.randrange(1, 32), r.randrange(160, 0xD800), r.randrange(0xE000, 0x110000)])) for _ in range(r.randrange(30))),
        lambda: r.choice(["", "'", '"', "\\", "\\u0041", "</script>", "\x7f", "\u2028\u2029", "\ufeff", "\U0010ffff", "null"]),
        lambda: bytes(r.getrandbits(8) for _ in range(r.randrange(40))),
        lambda: r.choice([b"", b"\0", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", "ä€😀".encode(), b"a\0b", b"\xe2\x82"]),
        lambda: None,
    ]
    for i in range(n):
        value = makers[i % len(makers)]()
        if isinstance(value, float) and math.isnan(value):
            value = 0.25  # SQLite stores NaN as NULL
        yield value


@pytest.mark.parametrize("column", ["", "TEXT", "BLOB", "INTEGER", "REAL", "NUMERIC"])
def test_round_trip(node, column):
    """Two thousand values against Python's own sqlite3, which says what the column's affinity makes of them."""
    values = list(random_values(f"round trip {column}", 2000))
    if column == "TEXT":  # how many digits a real gets as text differs between versions of SQLite
        values = [v for v in values if not isinstance(v, float)]
    reference = sqlite3.connect(":memory:")
    reference.text_factory = lambda b: b.decode("utf-8", "surrogateescape")
    reference.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {column})")
    node.exec(f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {column})")
    for start in range(0, len(values), 100):
        rows = ", ".join(f"({literal(v)})" for v in values[start : start + 100])
        node.exec(f"INSERT INTO t (v) VALUES {rows}")
        reference.execute(f"INSERT INTO t (v) VALUES {rows}")
    got = node.query("SELECT id, v, typeof(v) AS t FROM t ORDER BY id")
    want = reference.execute("SELECT id, v, typeof(v) FROM t ORDER BY id").fetchall()
    assert len(got) == len(want) == len(values)
    for row, (number, value, kind) in zip(got, want):
        assert row["id"] == number and row["t"] == kind
        assert same(row["v"], value), f"row {number} of column {column!r}: {row['v']!r} instead of {value!r}"


def test_every_byte_and_every_pair(node):
    blobs = [bytes([a]) for a in range(256)] + [bytes([a, b]) for a in range(0, 256, 5) for b in range(0, 256, 3)]
    sql = "SELECT * FROM (VALUES " + ", ".join(f"({literal(b)})" for b in blobs) + ")"
    raw = raw_json(node, sql)
    raw.decode("utf-8")  # strictly: the text is always valid UTF-8
    got = [row["column1"].encode("utf-8", "surrogateescape") for row in json.loads(raw)]
    assert got == blobs


def test_text_that_is_not_utf8(node):
    assert node.query("SELECT CAST(X'61ff62' AS TEXT) AS a")[0]["a"].encode("utf-8", "surrogateescape") == b"a\xffb"


def test_text_with_nul(node):
    node.exec("CREATE TABLE t (a TEXT, d DATETIME)")
    node.exec("INSERT INTO t VALUES ('a' || char(0) || 'b', 'x' || char(0) || 'y')")
    assert node.query("SELECT a, d FROM t") == [{"a": "a\0b", "d": "x\0y"}]


@pytest.mark.parametrize(
    "stored, read",
    [
        ("1", True),
        ("0", False),
        ("5", True),
        ("-1", True),
        ("NULL", None),
        ("'yes'", "yes"),
        ("1.5", 1.5),
        ("X'ff'", "\udcff"),
        ("''", ""),
    ],
)
def test_boolean_column(node, stored, read):
    node.exec("CREATE TABLE t (v BOOLEAN)")
    node.exec(f"INSERT INTO t VALUES ({stored})")
    (row,) = node.query("SELECT v FROM t")
    assert row["v"] is read if isinstance(read, bool) or read is None else row["v"] == read


@pytest.mark.parametrize("column", ["DATETIME", "TIMESTAMP", "DATE"])
@pytest.mark.parametrize(
    "stored, read",
    [
        ("'2024-01-02 03:04:05'", "2024-01-02T03:04:05Z"),
        ("'2024-01-02T03:04:05'", "2024-01-02T03:04:05Z"),
        ("'2024-01-02 03:04:05.5'", "2024-01-02T03:04:05.5Z"),
        ("'2024-01-02 03:04:05.123456789'", "2024-01-02T03:04:05.123456789Z"),
        ("'2024-01-02 03:04:05+00:00'", "2024-01-02T03:04:05Z"),
        ("'2024-01-02 03:04:05-05:30'", "2024-01-02T03:04:05-05:30"),
        ("'2024-01-02 03:04'", "2024-01-02T03:04:00Z"),
        ("'2024-01-02'", "2024-01-02T00:00:00Z"),
        ("1704164645", "2024-01-02T03:04:05Z"),
        ("0", "1970-01-01T00:00:00Z"),
        ("-1", "1969-12-31T23:59:59Z"),
        ("9223372036854775807", 9223372036854775807),
        ("NULL", None),
        ("''", ""),
        ("'next week'", "next week"),
        ("'2024-13-45'", "2024-13-45"),
        ("2460311.5", 2460311.5),
        ("X'00ff'", "\0\udcff"),
    ],
)
def test_date_column(node, column, stored, read):
    node.exec(f"CREATE TABLE t (v {column})")
    node.exec(f"INSERT INTO t VALUES ({stored})")
    assert node.query("SELECT v FROM t") == [{"v": read}]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/St_Johns", "nonsense"])
def test_time_zone_of_the_host_does_not_matter(tmp_path, address, zone):
    code = """
import sys, support
node = support.running_node(sys.argv[1], sys.argv[2])
node.exec("CREATE TABLE t (d DATETIME)")
node.exec("INSERT INTO t VALUES (0), ('2024-07-02 03:04:05')")
print([row["d"] for row in node.query("SELECT d FROM t")])
"""
    result = support.run_python(code, address, tmp_path / "n", variables={"TZ": zone})
    assert result == (0, "['1970-01-01T00:00:00Z', '2024-07-02T03:04:05Z']\n", "")


def test_keys(node):
    assert list(node.query('SELECT 1 AS z, 2 AS "A b", 3 AS "ü""\\", 4 AS ""')[0]) == ["z", "A b", 'ü"\\', ""]
    assert node.query("SELECT 1 AS a, 2 AS b, 3 AS a") == [{"a": 3, "b": 2}]  # the last of the same name wins
    assert raw_json(node, "SELECT 1 AS a, 2 AS a").count(b'"a"') == 2


def test_empty_results(node):
    assert raw_json(node, "SELECT 1 WHERE 0") == b"[]"
    assert raw_json(node, "") == b"[]"


def test_many_rows(node):
    node.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b REAL, c BLOB)")
    node.exec(
        "INSERT INTO t (a, b, c) WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 100000)"
        " SELECT 'row ' || n, n / 8.0, CAST('blob ' || n AS BLOB) FROM s"
    )
    rows = node.query("SELECT * FROM t ORDER BY id")
    assert len(rows) == 100000
    assert all(r == {"id": n, "a": f"row {n}", "b": n / 8, "c": f"blob {n}"} for n, r in enumerate(rows, 1))


@pytest.mark.parametrize("size", [4095, 4096, 65536, 1 << 20, 10 << 20])
def test_large_values(node, size):
    node.exec("CREATE TABLE t (s TEXT, b BLOB)")
    text, blob = "ä" * (size // 2), random.Random(size).randbytes(size // 2)
    node.exec(f"INSERT INTO t VALUES ({literal(text)}, {literal(blob)})")
    (row,) = node.query("SELECT s, b FROM t")
    assert row["s"] == text and same(row["b"], blob)


def test_a_query_without_columns(node):
    """It has no rows, and its end is seen."""
    with support.Within(5.0):
        for sql in ("PRAGMA foreign_keys = 1", "PRAGMA user_version = 4", "PRAGMA incremental_vacuum"):
            assert node.query(sql) == []
    assert node.query("PRAGMA user_version") == [{"user_version": 4}]
