"""Random texts of several statements, with everything in them that may mislead a splitter, against Python's own sqlite3:
both must accept or refuse, and end with the same tables."""

import random
import sqlite3

import pytest
from dqlitepy import NodeError

TABLES = """
CREATE TABLE t (id INTEGER PRIMARY KEY, a, "re;turning" TEXT);
CREATE TABLE k (x UNIQUE NOT NULL);
CREATE TABLE log (id INTEGER PRIMARY KEY, what TEXT);
"""
TRIGGER = """CREATE TRIGGER IF NOT EXISTS {name} AFTER {event} ON t {when} BEGIN
    INSERT INTO log (what) VALUES ('{name}; ' || CASE WHEN {row}.a IS NULL THEN 'end;' ELSE typeof({row}.a) END); -- END;
    UPDATE log SET what = what || '.' WHERE id = (SELECT max(id) FROM log); /* END */
END"""
TEXTS = ["x", "a;b", "it''s", "-- no comment", "/* none */", "RETURNING id", "BEGIN", "END;", "", "\n;\n", '"', "[", "`", "ä;ö"]


class Scripts:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.statements = [
            self.insert, self.insert, self.insert, self.update, self.delete, self.read, self.read, self.schema,
            self.trigger, self.transaction, self.savepoint, self.wrong, self.nothing,
        ]  # fmt: skip

    def one_of(self, *choices):
        return self.random.choice(choices)

    def literal(self):
        text = self.one_of(*TEXTS)
        return self.one_of("NULL", str(self.random.randrange(-9, 99)), "1.5", "x'00ff'", f"'{text}'", f"'{text}'", "char(59, 0, 39)")

    def insert(self):
        column = self.one_of('"re;turning"', "[re;turning]", "`re;turning`", "a")
        many = ", ".join(f"({self.literal()})" for _ in range(self.random.randrange(1, 4)))
        head = self.one_of("INSERT INTO", "REPLACE INTO", "INSERT OR IGNORE INTO", "WITH w (n) AS (VALUES (1)) INSERT INTO")
        return f"{head} t ({column}) VALUES {many}{self.one_of('', '', ' RETURNING id', ' returning*', f' RETURNING {column} AS r')}"

    def update(self):
        where = f"WHERE id % {self.random.randrange(2, 9)} = 1"
        return f"UPDATE t SET a = {self.literal()} {where}{self.one_of('', ' RETURNING id, a')}"

    def delete(self):
        return f"DELETE FROM t WHERE id % {self.random.randrange(3, 15)} = 0{self.one_of('', ' RETURNING *')}"

    def read(self):
        return self.one_of(
            "SELECT * FROM t", "VALUES (1), (2)", "WITH a (x) AS (SELECT 1) SELECT x FROM a", "EXPLAIN DELETE FROM t",
            "PRAGMA table_info(t)", "SELECT 'INSERT INTO t VALUES (1);'", "select(1)", "PRAGMA foreign_keys",
        )  # fmt: skip

    def schema(self):
        name = self.one_of("u", '"u;v"', "[end]", "`begin`")
        return self.one_of(
            f"CREATE TABLE IF NOT EXISTS {name} (a, b CHECK (b <> ';'))", f"DROP TABLE IF EXISTS {name}",
            f"CREATE VIEW IF NOT EXISTS view_{self.random.randrange(3)} AS SELECT ';' AS s", "CREATE INDEX IF NOT EXISTS i ON t (a)",
        )  # fmt: skip

    def trigger(self):
        event = self.one_of("INSERT", "DELETE", "UPDATE")
        row = "old" if event == "DELETE" else "new"
        when = self.one_of("", f"WHEN CASE WHEN {row}.id > 3 THEN 1 ELSE 0 END")
        if self.random.random() < 0.4:
            return f"DROP TRIGGER IF EXISTS on_{event}"
        return TRIGGER.format(name=f"on_{event}", event=event, when=when, row=row)

    def transaction(self):
        begin = self.one_of("BEGIN", "BEGIN IMMEDIATE", "begin transaction", "BEGIN EXCLUSIVE TRANSACTION")
        inside = [self.one_of(self.insert, self.update, self.delete, self.read, self.wrong)() for _ in range(self.random.randrange(3))]
        return ";".join([begin, *inside, self.one_of("COMMIT", "END", "END TRANSACTION", "ROLLBACK", "rollback transaction")])

    def savepoint(self):
        return f"SAVEPOINT s;{self.insert()};{self.one_of('ROLLBACK TO s;', '')}RELEASE s"

    def wrong(self):
        if self.random.random() < 0.7:
            return f"INSERT OR IGNORE INTO k VALUES ({self.literal()})"
        return self.one_of("INSERT INTO missing VALUES (1)", "SELEC 1", "INSERT INTO k VALUES (7), (7)", "COMMIT", "SELECT (", "INSERT INTO k VALUES (NULL)")

    def nothing(self):
        return self.one_of("", " ", "-- ;", "/* ; */", "--\n")

    def noise(self):
        return self.one_of("", "", " ", "\n", "\t", " -- ; '\n", "/* ; ' \" */", "\n--\n", "/**/")

    def script(self):
        parts = [self.noise() + self.one_of(*self.statements)() + self.noise() for _ in range(self.random.randrange(1, 6))]
        return self.one_of(";", ";;", " ; ").join(part + "\n" if "--" in part else part for part in parts) + self.one_of("", ";", "; -- end")


def tables(query):
    return [query(f"SELECT {columns} FROM {name} ORDER BY 1") for name, columns in [
        ("t", 'id, typeof(a) AS y, quote(a) AS a, quote("re;turning") AS r'),
        ("k", "quote(x) AS x"),
        ("log", "id, what"),
        ("sqlite_master", "name, type"),  # not the text, which SQLite keeps with the blanks around it
    ]]  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_random_scripts(node, seed):
    reference = sqlite3.connect(":memory:", isolation_level=None)
    reference.execute("PRAGMA foreign_keys = ON")
    scripts = Scripts(seed)
    for connection in (reference.executescript, node.exec):
        connection(TABLES)

    def both(sql, run=reference.executescript):
        want = got = None
        try:
            run(sql)
        except sqlite3.Error as e:
            want = str(e)
        try:
            node.exec(sql)
        except NodeError as e:
            got = str(e)
        return want, got

    accepted = refused = 0
    for _ in range(150):
        sql = scripts.script()
        want, got = both(sql)
        assert (want is None) == (got is None), f"{sql!r}: sqlite3 says {want}, we say {got}"
        if want:
            refused += 1
            # A statement that is cut short reads differently without the semicolon after it.
            assert want in got or "incomplete input" in got, f"{sql!r}: sqlite3 says {want}, we say {got}"
            # And both are, or are not, in a transaction now. (executescript would commit first.)
            want, got = both("ROLLBACK", reference.execute)
            assert (want is None) == (got is None), f"{sql!r}: ROLLBACK: sqlite3 says {want}, we say {got}"
        else:
            accepted += 1
        ours = [[tuple(row.values()) for row in rows] for rows in tables(node.query)]
        assert ours == tables(lambda q: reference.execute(q).fetchall()), f"after {sql!r}"
    assert accepted > 50 and refused > 2
