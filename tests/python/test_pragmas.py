"""PRAGMAs that are more than they say. Whatever a client sends: the database takes writes afterwards, and nothing is gone."""

import pytest

import support
import wire
from wire import Wire, text, word

ANALYSE = "PRAGMA optimize(0x10002)"  # all tables, without a limit


@pytest.fixture
def filled(node):
    node.exec("CREATE TABLE t (a INTEGER PRIMARY KEY, b, c)")
    node.exec("CREATE INDEX i ON t (b)")
    node.exec("WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 5000) INSERT INTO t SELECT n, n % 7, n FROM s")
    yield node
    node.exec("INSERT INTO t (b) VALUES ('written afterwards')")
    assert count(node) == 1


def count(node, where="b = 'written afterwards'"):
    return node.query(f"SELECT count(*) AS n FROM t WHERE {where}")[0]["n"]


def analysed(node):
    return node.query("SELECT count(*) AS n FROM sqlite_schema WHERE name = 'sqlite_stat1'") == [{"n": 1}]


@pytest.mark.parametrize("sql", ["PRAGMA optimize", ANALYSE, " ;/* a */ pragma -- b\n main . [OPTIMIZE] = 0x10002", 'PRAGMA"optimize"(0x10002)', "\ufeffPRAGMA optimize(0x10002)", " \x0bPRAGMA \ufeffoptimize(0x10002)"])
def test_optimize_writes(filled, sql):
    filled.query("SELECT * FROM t WHERE b = 3")  # so that it finds something to do without being told
    filled.exec(sql)
    assert analysed(filled)


def test_optimize_by_query(filled):
    assert filled.query(ANALYSE) == []
    assert analysed(filled)


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
@pytest.mark.parametrize("before", ["SELECT count(*) FROM t", "INSERT INTO t (b) VALUES (0)"])
def test_optimize_in_a_transaction(filled, before, end):
    filled.exec("BEGIN")
    filled.exec(before) if before.startswith("INSERT") else filled.query(before)
    filled.exec(ANALYSE)
    filled.exec(end)
    assert analysed(filled) == (end == "COMMIT")


def test_optimize_prepared(filled):
    with Wire(filled.address) as w:
        w.open()
        w.call(wire.PREPARE, word(0) + text(ANALYSE), wire.STMT)
        for _ in range(3):
            w.call(wire.EXEC, word(0), wire.RESULT)
    assert analysed(filled)


def test_optimize_hidden_in_a_select(filled):
    with pytest.raises(Exception, match="not authorized"):
        filled.query("SELECT * FROM pragma_optimize(0x10002)")
    assert filled.query("SELECT cid FROM pragma_table_info('t')") == [{"cid": n} for n in range(3)]


def test_optimize_as_a_function(filled):
    """That of FTS3 writes as well, inside of a SELECT; its statement does the same."""
    filled.exec("CREATE VIRTUAL TABLE f USING fts4(x)")
    for n in range(5):
        filled.exec(f"INSERT INTO f VALUES ('hello {n}')")
    filled.exec("CREATE VIEW v AS SELECT optimize(f) FROM f")
    for sql in ["SELECT optimize(f) FROM f LIMIT 1", "SELECT * FROM v LIMIT 1"]:
        with pytest.raises(Exception, match="not authorized"):
            filled.query(sql)
    filled.exec("INSERT INTO f(f) VALUES ('optimize')")
    assert filled.query("SELECT count(*) AS n FROM f WHERE x MATCH 'hello'") == [{"n": 5}]


@pytest.mark.parametrize("name", ["'te' || 'st.db'", "'file:{}?' || 'vfs=unix'", "lower('X.DB')", "?"])
def test_attach_of_what_is_computed(filled, tmp_path, name):
    there = tmp_path / "escaped.db"
    with pytest.raises(Exception, match="not authorized"):
        filled.exec(f"ATTACH {name.format(there)} AS o")
    filled.exec("ATTACH '' AS o")
    filled.exec("CREATE TABLE o.t (a)")
    filled.exec("DETACH o")
    assert not there.exists()


@pytest.mark.parametrize("between", [[], ["PRAGMA delete_database"], ["SAVEPOINT s", "ROLLBACK TO s"]])
def test_a_deletion_that_is_rolled_back(filled, between):
    for sql in ["BEGIN IMMEDIATE", "PRAGMA delete_database", *between, "ROLLBACK"]:
        filled.exec(sql)
    assert count(filled, "a <= 5000") == 5000


@pytest.mark.parametrize("statements", [
    ["SAVEPOINT s", "PRAGMA delete_database", "ROLLBACK TO s"],
    ["EXPLAIN PRAGMA delete_database"],
    ["SELECT 1; PRAGMA delete_database"],
])
def test_a_deletion_that_was_not_run(filled, statements):
    """To compile it is not to run it; what was rolled back did not."""
    with Wire(filled.address) as w:
        w.open()
        w.execute("BEGIN IMMEDIATE")
        for sql in statements:
            try:
                w.query(sql) if "SELECT" in sql else w.execute(sql)
            except wire.Failure:
                assert ";" in sql
        w.call(wire.PREPARE, word(0) + text("PRAGMA delete_database"), wire.STMT)
        w.execute("COMMIT")
    assert count(filled, "a <= 5000") == 5000


@pytest.mark.parametrize("change", ["INSERT INTO t (b) VALUES (1)", "CREATE TABLE u (a)", "SAVEPOINT s"])
def test_a_deletion_with_changes_behind_it(filled, change):
    for sql in ["BEGIN IMMEDIATE", "PRAGMA delete_database", change]:
        filled.exec(sql)
    for end in ["COMMIT", "END"]:
        with pytest.raises(Exception, match="delete_database cannot be committed"):
            filled.exec(end)
    with pytest.raises(Exception, match="delete_database cannot be committed"):
        filled.query("COMMIT")
    filled.exec("ROLLBACK")
    assert count(filled, "a <= 5000") == 5000
    filled.exec("INSERT INTO t (b) VALUES (1)")


@pytest.mark.parametrize("between", ["SELECT count(*) FROM t", "PRAGMA user_version", "EXPLAIN DELETE FROM t"])
def test_a_deletion_with_reads_behind_it(node, between):
    node.exec("CREATE TABLE t (a)")
    for sql in ["BEGIN IMMEDIATE", "PRAGMA delete_database", between, "COMMIT"]:
        node.query(sql) if sql == between else node.exec(sql)
    with pytest.raises(Exception, match="no such table"):
        node.query("SELECT * FROM t")
    node.exec("CREATE TABLE t (a)")


@pytest.mark.parametrize("end", ["COMMIT", "end transaction", "/* now */ Commit;"])
def test_a_deletion(node, end):
    node.exec("CREATE TABLE t (a)")
    for sql in ["BEGIN IMMEDIATE", "PRAGMA delete_database", end]:
        node.exec(sql)
    with pytest.raises(Exception, match="no such table"):
        node.query("SELECT * FROM t")
    node.exec("CREATE TABLE t (a)")
    assert node.query("SELECT * FROM t") == []


def test_a_deletion_by_prepared_statements(node):
    node.exec("CREATE TABLE t (a)")
    with Wire(node.address) as w:
        w.open()
        w.execute("BEGIN IMMEDIATE")
        w.execute("PRAGMA delete_database; -- this is all")
        w.call(wire.PREPARE, word(0) + text("COMMIT"), wire.STMT)
        w.call(wire.EXEC, word(0), wire.RESULT)
    with pytest.raises(Exception, match="no such table"):
        node.query("SELECT * FROM t")
    node.exec("CREATE TABLE t (a)")


def test_a_deletion_whose_client_vanishes(filled):
    with Wire(filled.address) as w:
        w.open()
        for sql in ["BEGIN IMMEDIATE", "PRAGMA delete_database", "PRAGMA delete_database"]:
            w.execute(sql)
    support.wait_until(lambda: not is_locked(filled), what="the lock of the client that is gone")
    assert count(filled, "a <= 5000") == 5000


def is_locked(node):
    try:
        node.exec("UPDATE t SET c = c WHERE a = 1")
    except Exception as error:
        assert "locked" in str(error)
        return True
    return False


@pytest.mark.parametrize("pragma", ["hard_heap_limit", "soft_heap_limit", "temp_store_directory"])
def test_settings_of_the_whole_process(filled, pragma):
    for sql in [f"PRAGMA {pragma} = 4000", f"PRAGMA {pragma}(4000)", f"SELECT * FROM pragma_{pragma}(4000)"]:
        with pytest.raises(Exception, match="not authorized|authorization denied|no such table|too many arguments"):
            filled.query(sql)
    filled.query(f"PRAGMA {pragma}")


NAMED = "SELECT DISTINCT name FROM pragma_pragma_list ORDER BY name"
CONTEXTS = [[], ["BEGIN"], ["BEGIN", "SELECT count(*) FROM t"], ["BEGIN", "INSERT INTO t (b) VALUES (1)"]]


def attempt(node, sql):
    call = node.query if sql.startswith("SELECT") else node.exec
    try:
        call(sql)
    except Exception as error:
        assert "lost" not in str(error) and "deadline" not in str(error) and "INTERNAL" not in str(error), (sql, error)


@pytest.mark.parametrize("context", CONTEXTS, ids=len)
def test_every_pragma(filled, context):
    names = [row["name"] for row in filled.query(NAMED)] + ["delete_database", "unheard_of"]
    assert len(names) > 50
    written = 0
    for name in names:
        for sql in [f"PRAGMA {name}", f"PRAGMA {name} = 1", f"PRAGMA {name}(t)", f"SELECT * FROM pragma_{name}"]:
            with Wire(filled.address) as w:  # what it sets ends with the connection
                w.open()
                for each in [*context, sql, "ROLLBACK"]:
                    try:
                        (w.query if each.startswith("SELECT") else w.execute)(each)
                    except wire.Failure:
                        pass
            attempt(filled, "ROLLBACK")
            filled.exec("INSERT INTO t (b) VALUES ('between')")
            written += 1
    assert count(filled, "b = 'between'") == written
    assert count(filled, "a <= 5000") == 5000
