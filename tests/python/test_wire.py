"""The node's public port, spoken to in raw bytes: what a real client sends works, and nothing that a client sends can
harm the node. The engine itself dies or hangs of several of these (zero words, two gigabytes, id 0, DESCRIBE 1)."""

import contextlib
import random
import socket
import sqlite3
import struct

import pytest

import support
import wire
from vectors import VECTORS
from wire import Closed, Failure, Wire, message, text, word


@pytest.fixture
def node(tmp_path, address):
    """A node with id 1, as in the vectors, in a process of its own, and a table."""
    node = support.RemoteNode(address, tmp_path / "node")
    node.exec("CREATE TABLE other (a)")
    yield node
    node.close()


def check_alive(node):
    """The node leads, writes and reads, through its own session and through the port."""
    (before,) = node.query("SELECT count(*) AS n FROM other")
    with support.Within(3):
        node.exec("INSERT INTO other VALUES (1)")
        with Wire(node.address) as w:
            assert w.call(wire.LEADER, word(0), wire.NODE) == word(1) + text(node.address)
            w.open().execute("INSERT INTO other VALUES (2)")
    assert node.query("SELECT count(*) AS n FROM other") == [{"n": before["n"] + 2}]


def refused(w):
    """The answer is a FAILURE or the end of the connection, soon; True for a FAILURE."""
    w.socket.settimeout(3)
    try:
        kind, _, body = w.response()
    except Closed:
        return False
    except TimeoutError:
        raise AssertionError("neither an answer nor the end of the connection")
    assert kind == wire.FAILURE, f"answer of type {kind}: {body[:40]!r}"
    return True


# ---- what a real client sends ----

PAIRS = [
    ("R03", "S02"),
    ("R04", "S03"),
    ("R05", None),
    ("R06", "S04"),
    ("R07", None),
    ("R08", "S05"),
    ("R09", "S06"),
    ("R10", "S07"),
    ("R11", "S08"),
    ("R12", "S09"),
    ("R13", "S10"),
    ("R14", "S11"),
    ("R15", "S12"),
    ("R16", "S12"),
    ("R20", "S12"),
    ("R24", "S18"),
    ("R25", "S19"),
    ("R31", "S21"),
]


def test_vectors(node):
    with Wire(node.address, VECTORS["R01"]) as w:
        for request, want in PAIRS:
            w.send(VECTORS[request])
            kind, schema, body = w.response()
            got = message(kind, body, schema)
            if want:
                assert got == VECTORS[want], f"{request} was answered with {got.hex(' ', 8)} instead of {want}"
            else:
                assert kind == wire.RESULT
        # These answers hold the node's address.
        assert w.call(wire.LEADER, word(0), wire.NODE) == word(1) + text(node.address)
        assert w.call(wire.CLUSTER, word(0), wire.NODES) == word(1) + word(1) + text(node.address)
        assert w.call(wire.CLUSTER, word(1), wire.NODES) == word(1) + word(1) + text(node.address) + word(0)
        domain, weight = struct.unpack("<QQ", w.call(wire.DESCRIBE, word(0), wire.METADATA))
        assert (domain, weight) == (0, 3)  # R20 set the weight
        # A failed step: SQLite's code and text, in the normal layout or behind the engine's rows prefix.
        w.send(VECTORS["R22"])
        kind, _, body = w.response()
        assert message(kind, body) == VECTORS["S17"] or body == word(1) + text("integer overflow")
        # The plain engine sends these 255 rows as one full page and an empty part; our parts are larger.
        w.send(VECTORS["R32"])
        assert len(w.parts()) == 513 * 8
        with pytest.raises(Failure):
            w.call(wire.TRANSFER, word(2), wire.EMPTY)


def test_heartbeat(node):
    """R21, S16: the code is the engine's, the text may say more."""
    with Wire(node.address) as w, pytest.raises(Failure, match="unrecognized request type") as caught:
        w.call(wire.HEARTBEAT, word(0), wire.EMPTY)
    assert caught.value.code == 1005


def test_legacy_handshake(node):
    with Wire(node.address, VECTORS["R30"]) as w:
        assert w.call(wire.LEADER, word(0), wire.NODE) == text(node.address)


def test_one_byte_at_a_time(node):
    with Wire(node.address, b"") as w:
        for byte in VECTORS["R01"] + VECTORS["R03"] + VECTORS["R04"]:
            w.send(bytes([byte]))
        assert message(*w.response()[::2]) == VECTORS["S02"]
        assert message(*w.response()[::2]) == VECTORS["S03"]


def test_pipelined_requests(node):
    with Wire(node.address) as w:
        w.send(VECTORS["R03"] + VECTORS["R04"] + VECTORS["R16"])
        assert [w.response()[0] for _ in range(3)] == [wire.WELCOME, wire.DB, wire.EMPTY]


def test_large_result_and_slow_reader(node):
    sql = "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 200000) SELECT n FROM s"
    with Wire(node.address) as slow, Wire(node.address) as w:
        slow.open().send(message(wire.QUERY_SQL, word(0) + text(sql)))
        assert w.open().query(sql) > 200000 * 16
        check_alive(node)  # although the other one has not read a byte
        assert len(slow.parts()) > 200000 * 16


def test_large_request(node):
    with Wire(node.address) as w:
        w.open().execute("INSERT INTO other VALUES ('" + "x" * (8 << 20) + "')")
    assert node.query("SELECT max(length(a)) AS n FROM other") == [{"n": 8 << 20}]


def test_dump(node):
    with Wire(node.address) as w:
        body = w.call(wire.DUMP, text("test.db"), wire.FILES)
        assert struct.unpack_from("<Q", body)[0] == 2 and b"SQLite format 3\0" in body[:200]
        with pytest.raises(Failure, match="does not exist"):
            w.call(wire.DUMP, text("missing.db"), wire.FILES)


def dump(w):
    """The database's file as DUMP gives it."""
    body = w.call(wire.DUMP, text("test.db"), wire.FILES)
    start = body.index(b"SQLite format 3\0")
    return body[start : start + struct.unpack_from("<Q", body, start - 8)[0]]


def test_dumps_of_a_database_that_has_shrunk(node, tmp_path):
    """Its pages of before are still there: they go to no place behind those that it has now."""
    node.exec("CREATE TABLE large (a)")
    node.exec("INSERT INTO large SELECT randomblob(1 << 20) FROM (WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 32) SELECT n FROM s)")
    with Wire(node.address) as w:
        w.open()
        assert len(dump(w)) > 32 << 20
        node.exec("DELETE FROM large")
        node.exec("VACUUM")
        for _ in range(20):
            (tmp_path / "copy").write_bytes(dump(w))
            with contextlib.closing(sqlite3.connect(tmp_path / "copy")) as copy:
                assert copy.execute("SELECT count(*) FROM large").fetchone() == (0,)
                assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check_alive(node)


@pytest.mark.parametrize("name", ["x-wal", "x-journal", "test.db-wal"])
def test_names_that_are_others_to_the_engine(node, name):
    """Each connection got a database of its own, or one without a log; a write on the second ended the node."""
    for _ in range(2):
        with Wire(node.address) as w, pytest.raises(Failure) as failed:
            w.open(name)
        assert failed.value.code == 1 and "cannot end with" in failed.value.text
    check_alive(node)


def test_a_client_that_vanishes_takes_its_transaction_along(node):
    """Its connection lived on with the write lock: a virtual table of a schema that was replaced had statements of its own,
    which ended with the next statement that would be compiled."""
    node.exec("CREATE VIRTUAL TABLE words USING fts5(a)")
    with Wire(node.address) as w:
        w.open()
        w.call(wire.PREPARE, word(0) + text("PRAGMA integrity_check"), wire.STMT)
        w.call(wire.QUERY, struct.pack("<II", 0, 0), wire.ROWS)
        node.exec("CREATE TABLE new (a)")
        w.query("SELECT * FROM new")
        w.execute("BEGIN IMMEDIATE")
    check_alive(node)


def test_what_the_file_does_not_answer_is_not_made_up(node):
    """dbstat asks where a page is; it read what nobody had written, words of the host's stack."""
    for place in node.query("SELECT pageno, pgoffset, pgsize FROM dbstat"):
        assert (place["pgoffset"], place["pgsize"]) == ((place["pageno"] - 1) * 4096, 4096)


def test_mistyped_values_keep_their_type(node):
    """The engine aborts on these; through the port they arrive as what they are."""
    node.exec("CREATE TABLE m (b BOOLEAN, d DATETIME)")
    node.exec("INSERT INTO m VALUES ('yes', 1.5), (x'00', NULL)")
    with Wire(node.address) as w:
        body = w.open().call(wire.QUERY_SQL, word(0) + text("SELECT b, d FROM m"), wire.ROWS)
    rows = body[8 + 16 :]
    assert rows == word(0x23) + text("yes") + struct.pack("<d", 1.5) + word(0x54) + word(1) + rows[48:56] + word(0) + wire.COMPLETE
    assert rows[48] == 0


# ---- what no client should send ----


@pytest.mark.parametrize("kind", range(22))
def test_zero_words(node, kind):
    for before in (lambda w: w, Wire.open):
        with Wire(node.address) as w:
            before(w).send(message(kind, b""))
            refused(w)
    check_alive(node)


@pytest.mark.parametrize("words", [0x10000000, 0x10000001, 0x1FFFFFFF, 0x20000000, 0x80000000, 0xFFFFFFFF])
def test_header_of_gigabytes(node, words):
    for kind in (wire.LEADER, wire.EXEC_SQL, wire.CONNECT, 77):
        with Wire(node.address) as w:
            w.send(message(kind, word(0), words=words))
            refused(w)
    check_alive(node)


@pytest.mark.parametrize(
    "kind, body",
    [
        (wire.ADD, word(0) + text("127.0.0.1:9999")),
        (wire.ADD, word(5) + text("")),
        (wire.ASSIGN, word(0) + word(0)),
        (wire.ASSIGN, word(0)),
        (wire.ASSIGN, word(1) + word(7)),
        (wire.ASSIGN, word(1) + word(2**63)),
        (wire.REMOVE, word(0)),
        (wire.REMOVE, word(1)),
        (wire.TRANSFER, word(0)),
        (wire.TRANSFER, word(1)),
        (wire.DESCRIBE, word(1)),
        (wire.DESCRIBE, word(2**64 - 1)),
        (wire.CLUSTER, word(2)),
        (wire.HEARTBEAT, word(0)),
        (wire.OPEN, text("x" * 600) + word(0) + text("volatile")),
        (wire.OPEN, b"x" * 4000),
        (wire.EXEC_SQL, word(0) + b"SELECT 1"),
        (wire.EXEC_SQL, word(7) + text("SELECT 1")),
        (wire.EXEC_SQL, word(0) + text("SELECT 1") + b"\xff" * 8),
        (wire.QUERY_SQL, word(0) + text("SELECT 1") + b"\xff" * 64),
        (wire.EXEC, word(2**64 - 1)),
        (wire.EXEC, struct.pack("<II", 0, 99)),
        (wire.QUERY, struct.pack("<II", 0, 0xFFFFFFFF)),
        (wire.FINALIZE, struct.pack("<II", 0, 5)),
        (wire.PREPARE, word(0) + b"y" * 80),
        (wire.DUMP, b"z" * 80),
    ],
)
def test_bad_requests(node, kind, body):
    for before in (lambda w: w, Wire.open):
        with Wire(node.address) as w:
            before(w).send(message(kind, body))
            refused(w)
    check_alive(node)


def test_unknown_types_and_schemas(node):
    failures = 0
    for kind in range(20, 256):
        with Wire(node.address) as w:
            w.send(message(kind, word(0)))
            failures += refused(w)
    for kind in range(20):
        if kind == wire.CONNECT:
            continue
        for schema in (2, 17, 255):
            with Wire(node.address) as w:
                w.open().send(message(kind, word(0) + text("SELECT 1"), schema))
                failures += refused(w)
    assert failures > 200  # a reason is given, the connection is not just cut
    check_alive(node)


@pytest.mark.parametrize("version", [word(0), word(2), b"GET / HT", b"\xff" * 8, b"\x16\x03\x01\x02\x00\x01\x00\x01"])
def test_other_protocols(node, version):
    with Wire(node.address, version) as w:
        with pytest.raises((Closed, Failure)):
            w.call(wire.LEADER, word(0), wire.NODE)
    check_alive(node)


def test_two_hundred_garbage_connections(node):
    """Half of them with a good version word, closed in every way there is; nothing is kept of them."""
    r = random.Random(200)
    check_alive(node)
    before = node.descriptors()
    for i in range(200):
        with Wire(node.address, wire.VERSION if i % 2 else r.randbytes(8)) as w:
            try:
                if i % 4 == 3:
                    w.send(struct.pack("<IBBH", r.randrange(1, 40), r.randrange(20), r.randrange(2), 0))
                w.send(r.randbytes(r.randrange(1, 4000)))
                if i % 3 == 0:
                    w.socket.shutdown(socket.SHUT_WR)
                    w.receive(1 << 16)
            except (Closed, OSError):  # it may be gone already
                pass
            if i % 5 == 0:
                w.reset()
    check_alive(node)
    support.wait_until(lambda: node.descriptors() <= before + 2, 10, "the descriptors of closed connections are given back")


def test_idle_and_half_open_connections(node):
    """Connections that say nothing, or not all of it, hold nobody up."""
    waiting = [Wire(node.address, part) for part in (b"", b"\1", wire.VERSION, wire.VERSION + b"\1\0\0") for _ in range(30)]
    check_alive(node)
    with support.Within(5):
        node.stop()
    node.start()
    node.open_db("test.db")
    for w in waiting:
        w.close()
    check_alive(node)


def test_statement_after_finalize(node):
    """The id of a finalized statement while a higher one is alive: a null pointer in the engine."""
    with Wire(node.address) as w:
        w.open()
        for sql in ("SELECT 1", "SELECT 2"):
            w.call(wire.PREPARE, word(0) + text(sql), wire.STMT)
        w.call(wire.FINALIZE, word(0), wire.EMPTY)
        w.send(message(wire.QUERY, word(0)))
        refused(w)
    check_alive(node)


def test_finalize_twice(node):
    with Wire(node.address) as w:
        w.open()
        for sql in ("SELECT 1", "SELECT 2"):
            w.call(wire.PREPARE, word(0) + text(sql), wire.STMT)
        w.call(wire.FINALIZE, word(0), wire.EMPTY)
        w.send(message(wire.FINALIZE, word(0)))
        refused(w)
    check_alive(node)


def test_returning_through_exec(node):
    """The plain engine keeps the write lock for ever then, and dies at the second try. Ours runs it like any write."""
    with Wire(node.address) as w:
        w.open()
        for value in (7, 8):
            sql = f"INSERT INTO other VALUES ({value}) RETURNING a"
            w.call(wire.EXEC_SQL, word(0) + text(sql), wire.RESULT)
            check_alive(node)
    assert node.query("SELECT count(*) AS n FROM other WHERE a IN (7, 8)") == [{"n": 2}]


def test_what_a_failed_statement_keeps(node):
    """With OR FAIL that is what it did before it failed. The plain engine replicates none of it, and keeps the lock."""
    node.exec("CREATE TABLE kept (k INTEGER PRIMARY KEY)")
    node.exec("CREATE TRIGGER enough AFTER INSERT ON kept WHEN new.k % 10 = 9 BEGIN SELECT RAISE(FAIL, 'enough'); END")
    node.exec("INSERT INTO kept VALUES (0)")
    statements = ["INSERT OR FAIL INTO kept VALUES ({0}1), (0), ({0}2)", "INSERT INTO kept VALUES ({0}3), ({0}9), ({0}4)",
                  "INSERT OR FAIL INTO kept VALUES ({0}5), (0) RETURNING k"]
    expected = {0}
    with Wire(node.address) as w:
        w.open()
        for turn in range(1, 9):
            for sql, kept in zip(statements, ({turn * 10 + 1}, {turn * 10 + 3, turn * 10 + 9}, {turn * 10 + 5})):
                kind = wire.QUERY_SQL if "RETURNING" in sql and turn % 2 else wire.EXEC_SQL
                with pytest.raises(wire.Failure, match="UNIQUE constraint failed: kept.k|enough"):
                    w.call(kind, word(0) + text(sql.format(turn)), None)
                expected |= kept
                check_alive(node)
        # A write that fills the log: it is carried into the database between the failure and the answer.
        large = "WITH RECURSIVE s (n) AS (SELECT 1000 UNION ALL SELECT n + 2 FROM s WHERE n < 5000) INSERT OR FAIL INTO large"
        w.execute("CREATE TABLE large (k INTEGER PRIMARY KEY, b)")
        w.execute("INSERT INTO large VALUES (4000, 0)")
        with pytest.raises(wire.Failure, match="UNIQUE constraint failed: large.k"):
            w.execute(f"{large} SELECT n, zeroblob(4000) FROM s")
        assert node.query("SELECT count(*) AS n FROM large") == [{"n": 1501}]
        statement = w.call(wire.PREPARE, word(0) + text(statements[0].format(9)), wire.STMT)[:8]
        with pytest.raises(wire.Failure, match="UNIQUE constraint failed: kept.k"):
            w.call(wire.EXEC, statement, wire.RESULT)
        expected |= {91}
        check_alive(node)
    node.stop()
    node.start()
    node.open_db("test.db")
    assert {row["k"] for row in node.query("SELECT k FROM kept")} == expected


def test_a_statement_under_a_condition(node):
    """The half word of the header: 1, only inside a transaction; 2, only outside."""
    node.exec("CREATE TABLE conditional (a)")

    def insert(w, condition):
        request = bytearray(message(wire.EXEC_SQL, word(0) + text("INSERT INTO conditional VALUES (1)")))
        request[6] = condition
        w.send(bytes(request))
        kind, _, body = w.response()
        return int.from_bytes(body[:8], "little") if kind == wire.FAILURE else "done"

    with Wire(node.address) as w:
        assert insert(w, 1) == 12  # no database is open
        w.open()
        assert [insert(w, condition) for condition in (0, 1, 2)] == ["done", 12, "done"]
        w.execute("BEGIN")
        assert [insert(w, condition) for condition in (0, 1, 2)] == ["done", "done", 12]
        w.execute("COMMIT")
    assert node.query("SELECT count(*) AS n FROM conditional") == [{"n": 4}]


def test_second_request_during_the_first(node):
    with Wire(node.address) as w:
        w.open()
        sql = "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 50000) SELECT n FROM s"
        w.send(message(wire.QUERY_SQL, word(0) + text(sql)) + message(wire.INTERRUPT, word(0)))
        kinds = []
        while not kinds or kinds[-1] not in (wire.EMPTY, wire.FAILURE):
            kinds.append(w.response()[0])
        assert kinds[-1] == wire.EMPTY
        assert w.query("SELECT 1") > 0
    check_alive(node)


@pytest.mark.parametrize("node_id", [0, 1, 2, 2**64 - 1])
def test_stranger_who_wants_a_raft_link(node, node_id):
    """CONNECT and messages of a leader, of this term and higher ones: only members may do this, and nobody else is one.
    The id and the address of the node itself, 1, are known to each client, and no member's either."""
    append_entries, request_vote = 1, 3
    for address in ("127.0.0.1:1", node.address):
        with Wire(node.address) as w:
            try:
                w.send(message(wire.CONNECT, word(node_id) + text(address)))
                for term in (*range(1, 30), 1000):
                    append = word(term) + word(0) * 5
                    w.send(struct.pack("<QQ", append_entries, len(append)) + append)
                for term in (5, 1000):
                    vote = word(term) + word(node_id) + word(100) + word(term) + word(1)
                    w.send(struct.pack("<QQ", request_vote, len(vote)) + vote)
                w.socket.settimeout(3)
                w.receive(1)
            except (Closed, TimeoutError):
                pass
    check_alive(node)


def test_client_that_reads_nothing_and_stop(node):
    """A paused result must not hold up the stop."""
    sql = "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 10000000) SELECT n, 'text' FROM s"
    with Wire(node.address) as w:
        w.open().send(message(wire.QUERY_SQL, word(0) + text(sql)))
        w.receive(100)
        with support.Within(5):
            node.stop()
    node.start()
    node.open_db("test.db")
    check_alive(node)


def test_client_dies_with_the_write_lock(node):
    """A client that vanishes inside of a transaction gives the lock back."""
    for end in (Wire.close, Wire.reset):
        w = Wire(node.address).open()
        w.execute("BEGIN IMMEDIATE")
        w.execute("INSERT INTO other VALUES (3)")
        end(w)
        with support.Within(2):
            node.exec("INSERT INTO other VALUES (4)")
    assert node.query("SELECT count(*) AS n FROM other WHERE a = 3") == [{"n": 0}]


def test_client_dies_during_a_long_statement(node):
    """One second after its end the write lock is free."""
    long = "INSERT INTO other WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000000000) SELECT max(n) FROM s"
    w = Wire(node.address).open()
    w.send(message(wire.EXEC_SQL, word(0) + text(long)))
    w.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        w.response()  # it is at work
    w.reset()
    with support.Within(3):
        node.exec("INSERT INTO other VALUES (5)")


def test_long_column_names(node):
    """Names of more than a page: the engine would send parts without rows for ever."""
    with Wire(node.address) as w:
        w.open()
        assert w.query(f"SELECT length('{'x' * 5000}')") > 5000


def test_random_requests(node):
    """Two thousand requests of known types with bodies that are nearly right, on connections that go on as long as they may."""
    r = random.Random(2000)
    pieces = [word(0), word(1), word(2), word(2**32), word(2**64 - 1), text(""), text("test.db"), text("SELECT 1")]
    pieces += [text("INSERT INTO other VALUES (9)"), text("x" * 300), b"\xff" * 8, struct.pack("<II", 0, 1)]
    members = (wire.CONNECT, wire.ADD, wire.ASSIGN, wire.REMOVE)  # these may rightly change the cluster
    kinds = [k for k in range(20) if k not in members]
    w = None
    for _ in range(2000):
        if w is None:
            w = Wire(node.address, timeout=5)
            if r.random() < 0.7:
                w.open()
        body = b"".join(r.choice(pieces) for _ in range(r.randrange(0, 5)))
        try:
            w.send(message(r.choice(kinds), body, r.choice([0, 0, 0, 1])))
            while w.response()[2][-8:] == wire.MORE:
                pass
        except Closed:
            w.close()
            w = None
    if w:
        w.close()
    check_alive(node)
