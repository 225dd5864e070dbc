"""asyncio over libdqlitepy.so's queues: any number of queries at once in one thread, with ctypes alone.

    async with Queue() as queue:
        connection = await queue.connect("app.db", node=node)     # or: addresses="10.0.0.1:9001,10.0.0.2:9001"
        await connection.execute("INSERT INTO t (a) VALUES (?)", [1])
        async for row in connection.query("SELECT * FROM t"):     # streams, a part of the rows at a time
            print(row)

It shows what a binding does with dqlitepy_queue_* and is meant to be read and copied; values, errors and the node are those
of dqlitepy_ctypes.py beside it. A connection carries its statements out in the order in which they were submitted, and does
nothing else while a large result is read from it: tasks that run beside each other take a connection each. A task that is
cancelled, also by asyncio.timeout, ends its statement. Run it:  python dqlitepy_aio.py DIRECTORY [ADDRESS]
"""

import asyncio
import ctypes
import itertools
import sys
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_uint64, c_ulonglong, c_void_p

import dqlitepy_ctypes as db

FULL, MORE = 105, 202
AT_ONCE = 256  # rows or results that are fetched with one call


class Completion(ctypes.Structure):
    _fields_ = [
        ("token", c_uint64),
        ("code", c_int),
        ("sqlite_code", c_int),
        ("message", c_void_p),
        ("handle", c_ulonglong),
        ("last_insert_id", c_int64),
        ("rows_affected", c_int64),
        ("tail", c_uint64),
    ]


_lib = db._lib
_HANDLE = c_ulonglong
_VALUES = [_HANDLE, c_char_p, c_int64, POINTER(db.Value), c_uint64]
for name, arguments in {
    "dqlitepy_queue_open": [c_uint64, POINTER(_HANDLE)],
    "dqlitepy_queue_fd": [_HANDLE, POINTER(c_int)],
    "dqlitepy_queue_poll": [_HANDLE, POINTER(Completion), c_uint64, POINTER(c_uint64)],
    "dqlitepy_queue_cancel": [_HANDLE, c_uint64],
    "dqlitepy_queue_close": [_HANDLE],
    "dqlitepy_queue_session_open": [_HANDLE, c_uint64, _HANDLE, c_char_p],
    "dqlitepy_queue_session_open_addresses": [_HANDLE, c_uint64, c_char_p, c_char_p],
    "dqlitepy_queue_session_close": [_HANDLE, c_uint64, _HANDLE],
    "dqlitepy_queue_session_exec": [_HANDLE, c_uint64, *_VALUES],
    "dqlitepy_queue_session_query": [_HANDLE, c_uint64, *_VALUES],
    "dqlitepy_queue_session_exec_batch": [_HANDLE, c_uint64, *_VALUES, c_uint64],
    "dqlitepy_queue_rows_more": [_HANDLE, c_uint64, _HANDLE],
    "dqlitepy_queue_rows_close": [_HANDLE, c_uint64, _HANDLE],
}.items():
    getattr(_lib, name).argtypes = arguments
    getattr(_lib, name).restype = c_int


class Queue:
    """Where requests go and results come from; one serves a whole event loop."""

    def __init__(self, capacity=0):
        handle, fd = _HANDLE(), c_int()
        db._check(_lib.dqlitepy_queue_open(capacity, byref(handle)))
        db._check(_lib.dqlitepy_queue_fd(handle, byref(fd)))
        self._handle, self._fd = handle.value, fd.value
        self._tokens = itertools.count(1)
        self._waiting = {}  # token: the future
        self._room = asyncio.Event()
        self._results = (Completion * AT_ONCE)()
        asyncio.get_running_loop().add_reader(self._fd, self._ready)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.close()

    def close(self):
        """Ends whatever is under way. Connections are closed before."""
        asyncio.get_running_loop().remove_reader(self._fd)
        db._check(_lib.dqlitepy_queue_close(self._handle))
        for future in self._waiting.values():
            future.cancel()

    async def connect(self, database, node=None, addresses=None):
        name = db._text(database, "the database's name")
        if node is not None:
            call = (_lib.dqlitepy_queue_session_open, node.handle, name)
        else:
            call = (_lib.dqlitepy_queue_session_open_addresses, db._text(addresses, "addresses"), name)
        done = await self.request(*call, unwanted=_lib.dqlitepy_queue_session_close)
        return Connection(self, done["handle"])

    async def request(self, function, *arguments, unwanted=None):
        """Submits and waits for the result. Whoever is cancelled stays until the statement has ended, which it soon has,
        and `unwanted` has closed what it gave all the same: so the connection is free for the next one."""
        token, future = next(self._tokens), asyncio.get_running_loop().create_future()
        while (code := function(self._handle, token, *arguments)) == FULL:
            self._room.clear()
            await self._room.wait()
        db._check(code)
        self._waiting[token] = future
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            _lib.dqlitepy_queue_cancel(self._handle, token)
            await asyncio.wait([future])
            if not future.exception() and unwanted and future.result()["handle"]:
                await self.request(unwanted, future.result()["handle"])
            raise
        return future.result()

    def _ready(self):
        """Called by the event loop when the descriptor is readable."""
        count = c_uint64()
        db._check(_lib.dqlitepy_queue_poll(self._handle, self._results, AT_ONCE, byref(count)))
        for result in self._results[: count.value]:
            future, message = self._waiting.pop(result.token), db._taken(result.message)
            if result.code == db.OK:
                future.set_result({name: getattr(result, name) for name in ("handle", "last_insert_id", "rows_affected")})
            else:
                error = db._BY_CODE.get(result.code, db.OperationalError)(message)
                error.code, error.sqlite_code = result.code, result.sqlite_code
                future.set_exception(error)
        self._room.set()


class Connection:
    def __init__(self, queue, handle):
        self._queue, self._handle = queue, handle

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.close()

    async def close(self):
        handle, self._handle = self._handle, 0
        if handle:
            await self._queue.request(_lib.dqlitepy_queue_session_close, handle)

    async def execute(self, sql, parameters=()):
        """Runs one statement, or without parameters any number of them; its numbers."""
        values, count, keep = _values(parameters)
        return await self._submit(_lib.dqlitepy_queue_session_exec, sql, values, count)

    async def executemany(self, sql, sets):
        """Runs a statement for all sets of parameters, or for none of them if one fails."""
        sets = [tuple(parameters) for parameters in sets]
        if sets:
            if len({len(parameters) for parameters in sets}) > 1:
                raise db.ProgrammingError("the sets have different lengths")
            values, _, keep = _values([value for parameters in sets for value in parameters])
            return await self._submit(_lib.dqlitepy_queue_session_exec_batch, sql, values, len(sets[0]), len(sets))

    async def query(self, sql, parameters=()):
        """The rows of a statement, one after the other."""
        values, count, keep = _values(parameters)
        close = _lib.dqlitepy_queue_rows_close
        rows = (await self._submit(_lib.dqlitepy_queue_session_query, sql, values, count, unwanted=close))["handle"]
        try:
            columns, count = c_int(), c_uint64()
            db._check(_lib.dqlitepy_rows_column_count(rows, byref(columns)))
            width = columns.value
            page = (db.Value * (AT_ONCE * max(1, width)))()
            while (code := _lib.dqlitepy_rows_fetch(rows, page, AT_ONCE, byref(count))) != db.DONE:
                if code == MORE:
                    await self._queue.request(_lib.dqlitepy_queue_rows_more, rows)
                    continue
                db._check(code)
                found = [db._get(value) for value in page[: count.value * width]]
                for at in range(0, len(found), width):
                    yield tuple(found[at : at + width])
        finally:
            await self._queue.request(close, rows)

    async def fetch_all(self, sql, parameters=()):
        return [row async for row in self.query(sql, parameters)]

    async def _submit(self, function, sql, *arguments, unwanted=None):
        text = db._text(sql, "the SQL")
        return await self._queue.request(function, self._handle, text, len(text), *arguments, unwanted=unwanted)


def _values(parameters):
    """The parameters as C has them, their number, and what has to live until they were copied."""
    keep, values = [], (db.Value * len(parameters))()
    for place, value in zip(values, parameters):
        db._set(place, value, keep)
    return values, len(parameters), keep


async def main(directory, address):
    node = db.Node(1, address, directory)
    async with Queue() as queue:
        pool = [await queue.connect("aio.db", node=node) for _ in range(8)]
        await pool[0].execute("DROP TABLE IF EXISTS t; CREATE TABLE t (id INTEGER PRIMARY KEY, worker, text)")

        # 400 writes from 400 tasks over 8 connections, all at once.
        insert = "INSERT INTO t (worker, text) VALUES (?, ?)"
        await asyncio.gather(*(pool[n % 8].execute(insert, [n % 8, f"row {n}"]) for n in range(400)))
        await pool[0].executemany(insert, [(8, None)] * 1000)

        # As many reads, while one more connection waits for a statement that never ends.
        async def never():
            async with await queue.connect("aio.db", node=node) as own:
                await own.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")

        stuck = asyncio.create_task(never())
        counted = await asyncio.gather(*(pool[n % 8].fetch_all("SELECT count(*) FROM t WHERE worker = ?", [n % 9]) for n in range(400)))
        print("rows of each worker:", *(rows[0][0] for rows in counted[:9]))
        try:
            await asyncio.wait_for(stuck, 0.2)
        except asyncio.TimeoutError:
            print("the statement without an end was ended")

        # A large result and, beside it, small ones: nobody waits for the other.
        async def stream():
            numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT i, 'text' FROM n"
            return sum([row[0] async for row in pool[0].query(numbers)])

        async def ticks(task):
            done = 0
            while not task.done():
                await pool[1].fetch_all("SELECT 1")
                done += 1
            return done

        streaming = asyncio.create_task(stream())
        beside = await ticks(streaming)
        print("the sum is", await streaming, "with others beside it:", beside > 1)

        try:
            await pool[2].execute("INSERT INTO t (id) VALUES (?)", [1])
        except db.IntegrityError as error:
            print(error.sqlite_code, error)
        await asyncio.gather(*(connection.close() for connection in pool))
    node.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "aio-data", sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:9001"))
