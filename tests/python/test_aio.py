"""examples/python/dqlitepy_aio.py: many calls at once in one thread."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import support

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/python"
sys.path.insert(0, str(EXAMPLES))
import dqlitepy_aio as aio  # noqa: E402
import dqlitepy_ctypes as db  # noqa: E402

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
MANY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i, 'row ' || i FROM n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    node = db.Node(1, support.free_address(), str(tmp_path_factory.mktemp("node")))
    yield node
    node.close()


names = iter(f"aio{n}.db" for n in range(10000))


def run(server, body, capacity=0):
    """Runs body(queue, connect) in an event loop; connect opens the same new database each time."""

    async def main():
        database = next(names)
        async with aio.Queue(capacity) as queue:
            await body(queue, lambda: queue.connect(database, node=server))

    asyncio.run(asyncio.wait_for(main(), 60))


def test_the_example(tmp_path, address):
    for _ in range(2):
        result = subprocess.run(
            [sys.executable, EXAMPLES / "dqlitepy_aio.py", tmp_path / "data", address],
            capture_output=True, text=True, timeout=60, env=dict(os.environ),
        )  # fmt: skip
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.splitlines() == [
            "rows of each worker: 50 50 50 50 50 50 50 50 1000",
            "the statement without an end was ended",
            "the sum is 5000050000 with others beside it: True",
            "1555 UNIQUE constraint failed: t.id",
        ]


def test_values_and_order(server):
    async def body(queue, connect):
        async with await connect() as connection:
            values = [None, True, -(2**63), 0.1, "ä\U0001f600", b"\0\xff", "", b""]
            rows = await connection.fetch_all("SELECT " + ", ".join("?" * len(values)), values)
            assert rows == [tuple(values)]
            await connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n)")
            tasks = [connection.execute("INSERT INTO t (n) VALUES (?)", [n]) for n in range(300)]
            assert [done["last_insert_id"] for done in await asyncio.gather(*tasks)] == list(range(1, 301))
            assert await connection.fetch_all("SELECT count(*) FROM t WHERE id = n + 1") == [(300,)]
            await asyncio.gather(
                connection.execute("BEGIN"), connection.execute("DELETE FROM t"), connection.execute("ROLLBACK")
            )
            assert await connection.fetch_all("SELECT count(*) FROM t") == [(300,)]
            with pytest.raises(db.ProgrammingError, match="1 parameters, and 2 values"):
                await connection.execute("INSERT INTO t (n) VALUES (?)", [1, 2])
            with pytest.raises(db.OperationalError, match="syntax"):
                await connection.execute("SELEC")

    run(server, body)


def test_a_queue_that_is_full_is_waited_for(server):
    async def body(queue, connect):
        async with await connect() as connection:
            await asyncio.gather(*(connection.execute("SELECT 1") for _ in range(100)))

    run(server, body, capacity=3)


def test_cancelled_tasks_end_their_statements_and_leave_nothing(server):
    async def body(queue, connect):
        connection = await connect()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(connection.execute(ENDLESS), 0.1)
        for moment in range(60):
            tasks = [asyncio.create_task(connection.fetch_all(MANY)), asyncio.create_task(connect())]
            await asyncio.sleep(moment / 10000)
            for task in tasks:
                task.cancel()
            for late in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(late, aio.Connection):
                    await late.close()
            # Rows that came too late are closed, or the connection would be busy.
            assert await connection.fetch_all("SELECT 5") == [(5,)]
        await connection.close()
        assert not queue._waiting

    run(server, body)


def test_rows_left_in_the_middle(server):
    async def body(queue, connect):
        async with await connect() as connection:
            rows = connection.query(MANY)
            assert await anext(rows) == (1, "row 1")
            with pytest.raises(db.ProgrammingError, match="still sending rows"):
                await connection.execute("SELECT 1")
            await rows.aclose()
            assert await connection.fetch_all("SELECT 5") == [(5,)]

    run(server, body)


def test_no_thread_of_the_host(server):
    async def body(queue, connect):
        connections = await asyncio.gather(*(connect() for _ in range(20)))
        await asyncio.gather(*(connection.fetch_all(MANY) for connection in connections))
        assert threading.active_count() == 1
        await asyncio.gather(*(connection.close() for connection in connections))

    run(server, body)
    gc.collect()
