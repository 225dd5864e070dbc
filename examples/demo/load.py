"""The same as load.c with dqlitepy's own classes, unmodified from PyPI:

    load.py load  DIRECTORY ADDRESS DATA          go on loading where the table ends; "acknowledged N" after each batch
    load.py check DIRECTORY ADDRESS DATA ROWS     compare the first ROWS rows with the data, each field of them
    load.py query DIRECTORY ADDRESS               some questions to the table, through the DB-API
"""

import itertools
import sys

from dqlitepy import Node, dbapi

BATCH = 100
TABLE = """CREATE TABLE IF NOT EXISTS files (id INTEGER PRIMARY KEY, package TEXT, path TEXT, size INTEGER, kib REAL,
    changed DATETIME, executable BOOLEAN, md5 BLOB)"""


def read(path):
    """The rows of the data as Python values."""
    with open(path, encoding="utf-8", newline="\n") as data:
        for line in data:
            number, package, name, size, kib, changed, executable, md5 = (
                None if field == r"\N" else field for field in line.rstrip("\n").split("\t")
            )
            yield (
                int(number),
                package,
                name,
                size and int(size),
                kib and float(kib),
                changed,
                executable and bool(int(executable)),
                bytes.fromhex(md5),
            )


def literal(value):
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def load(node, path):
    there = node.query("SELECT count(*) AS n FROM files")[0]["n"]
    rows = itertools.islice(read(path), there, None)
    while batch := list(itertools.islice(rows, BATCH)):
        values = ", ".join("(" + ", ".join(map(literal, row)) + ")" for row in batch)
        _, inserted = node.exec(f"INSERT INTO files VALUES {values}")
        there += inserted
        print("acknowledged", there, flush=True)


def from_table(row):
    """A blob arrives as a string of its bytes, a date as RFC 3339; the rest is what it was."""
    row["md5"] = row["md5"].encode("utf-8", "surrogateescape")
    row["changed"] = row["changed"] and row["changed"].removesuffix("Z").replace("T", " ")
    return tuple(row.values())


def check(node, path, wanted):
    same = 0
    table = map(from_table, node.query("SELECT * FROM files ORDER BY id"))
    table = list(table)
    for want, got in zip(itertools.islice(read(path), wanted), table):
        same += got == want
    print(f"{same} of {wanted} acknowledged rows are there and equal, {len(table)} rows in all")
    return same == wanted


def ask(node):
    cursor = dbapi.connect(node, "files.db").cursor()
    cursor.execute("SELECT package, count(*) AS files, round(sum(kib)) AS kib FROM files GROUP BY package ORDER BY files DESC LIMIT ?", (3,))
    print(", ".join(column[0] for column in cursor.description))
    for row in cursor:
        print(" ", row)
    cursor.execute("SELECT path, changed, executable FROM files WHERE changed IS NOT NULL ORDER BY changed DESC LIMIT 2")
    for row in cursor.fetchall():
        print(" ", row)


def main(what, directory, address, *rest):
    node = Node(address, directory)
    node.start()
    node.open_db("files.db")
    node.exec(TABLE)
    good = True
    if what == "load":
        load(node, *rest)
    elif what == "check":
        good = check(node, rest[0], int(rest[1]))
    else:
        ask(node)
    node.stop()
    return 0 if good else 1


sys.exit(main(*sys.argv[1:]))
