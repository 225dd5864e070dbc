"""A DB-API 2.0 driver over libdqlitepy.so, in one file and with ctypes alone.

    import dqlitepy_ctypes as db

    node = db.Node(1, "127.0.0.1:9001", "/var/lib/app")         # a node in this process
    with db.connect(node=node, database="app.db") as connection:  # or: addresses="10.0.0.1:9001,10.0.0.2:9001"
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)")
        connection.executemany("INSERT INTO t (data) VALUES (?)", [(b"a",), (b"b",)])
        for row in connection.execute("SELECT * FROM t WHERE id > :low", {"low": 0}):
            print(row)

It shows what a binding does with each part of include/dqlitepy.h and is meant to be read and copied. It is complete but
small: no type detection by declared types beyond what the library reports, no connection pool. The library finds the
leader, repeats what is safe to repeat, and says when it is not known whether a write was applied (OutcomeUnknownError).

Values: None, int (64 bits), float, str, bytes; bool and datetime may be given and come back from columns declared BOOLEAN
and DATETIME, DATE or TIMESTAMP. A str with a NUL is sent as CAST of its bytes would be, which only the caller can write:
it is refused with a message that says how. Text that is not UTF-8 comes back as str with surrogate escapes.
"""

import ctypes
import datetime
import os
import threading
import weakref
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_int64, c_uint, c_uint64, c_ulonglong, c_void_p

apilevel = "2.0"
threadsafety = 2  # threads may share the module and connections; cursors they may not
paramstyle = "qmark"  # also named: a dict for ":name"

# ---- exceptions -----------------------------------------------------------------------------------------------------


class Warning(Exception):  # noqa: A001  (the name is the standard's)
    pass


class Error(Exception):
    """`code` is the library's, `sqlite_code` SQLite's extended result code or 0."""

    code = 0
    sqlite_code = 0


class InterfaceError(Error):
    pass


class DatabaseError(Error):
    pass


class DataError(DatabaseError):
    pass


class OperationalError(DatabaseError):
    pass


class IntegrityError(DatabaseError):
    pass


class InternalError(DatabaseError):
    pass


class ProgrammingError(DatabaseError):
    pass


class NotSupportedError(DatabaseError):
    pass


class OutcomeUnknownError(OperationalError):
    """It is not known whether the statement was applied: look before you repeat it."""


class RetryError(OperationalError):
    """Nothing was changed; the same call may be made again."""


class TransactionLostError(OperationalError):
    """The transaction is gone and nothing of it was kept; rollback() and begin again."""


OK, INVALID, NOTFOUND, MISUSE = 0, 2, 3, 4
TIMEOUT, UNKNOWN, RETRY, LOST, INTERRUPTED = 100, 101, 102, 103, 104
ROW, DONE, SQL = 200, 201, 1000
INTEGER, FLOAT, TEXT, BLOB, NULL, UNIXTIME, ISO8601, BOOLEAN = 1, 2, 3, 4, 5, 9, 10, 11

_BY_CODE = {
    INVALID: ProgrammingError,
    NOTFOUND: ProgrammingError,
    MISUSE: ProgrammingError,
    8: InternalError,
    TIMEOUT: RetryError,
    UNKNOWN: OutcomeUnknownError,
    RETRY: RetryError,
    LOST: TransactionLostError,
    SQL + 1: OperationalError,
    SQL + 18: DataError,
    SQL + 19: IntegrityError,
    SQL + 20: DataError,
    SQL + 25: ProgrammingError,
}

# ---- the library ----------------------------------------------------------------------------------------------------


class Value(ctypes.Structure):
    _fields_ = [
        ("type", c_int),
        ("integer", c_int64),
        ("real", c_double),
        ("data", c_void_p),
        ("size", c_uint64),
    ]


_HANDLE = c_ulonglong
_PROGRESS = ctypes.CFUNCTYPE(c_int, c_void_p, c_uint64, c_uint64)
_SIGNATURES = {
    "dqlitepy_node_create": [_HANDLE, c_char_p, c_char_p, POINTER(_HANDLE)],
    "dqlitepy_node_create_with_cluster": [_HANDLE, c_char_p, c_char_p, c_char_p, POINTER(_HANDLE)],
    "dqlitepy_node_start": [_HANDLE],
    "dqlitepy_node_stop": [_HANDLE],
    "dqlitepy_node_destroy": [_HANDLE],
    "dqlitepy_session_open": [_HANDLE, c_char_p, POINTER(_HANDLE)],
    "dqlitepy_session_open_addresses": [c_char_p, c_char_p, POINTER(_HANDLE)],
    "dqlitepy_session_close": [_HANDLE],
    "dqlitepy_session_exec": [_HANDLE, c_char_p, c_int64, POINTER(c_int64), POINTER(c_int64)],
    "dqlitepy_session_dump": [_HANDLE, c_char_p, _PROGRESS, c_void_p],
    "dqlitepy_session_load_file": [_HANDLE, c_char_p, _PROGRESS, c_void_p],
    "dqlitepy_session_load_script": [_HANDLE, c_char_p, c_int64, _PROGRESS, c_void_p],
    "dqlitepy_session_prepare": [_HANDLE, c_char_p, c_int64, POINTER(_HANDLE), POINTER(c_uint64)],
    "dqlitepy_session_begin": [_HANDLE, c_int],
    "dqlitepy_session_commit": [_HANDLE],
    "dqlitepy_session_rollback": [_HANDLE],
    "dqlitepy_session_in_transaction": [_HANDLE, POINTER(c_int)],
    "dqlitepy_session_interrupt": [_HANDLE],
    "dqlitepy_session_set_timeout": [_HANDLE, c_uint],
    "dqlitepy_session_set_busy_timeout": [_HANDLE, c_uint],
    "dqlitepy_session_leader": [_HANDLE, POINTER(c_void_p)],
    "dqlitepy_statement_parameter_count": [_HANDLE, POINTER(c_int)],
    "dqlitepy_statement_parameter_name": [_HANDLE, c_int, POINTER(c_void_p)],
    "dqlitepy_statement_bind_values": [_HANDLE, POINTER(Value), c_uint64],
    "dqlitepy_statement_bind_time": [_HANDLE, c_int, c_int64, c_uint],
    "dqlitepy_statement_exec": [_HANDLE, POINTER(c_int64), POINTER(c_int64)],
    "dqlitepy_statement_query": [_HANDLE, POINTER(_HANDLE)],
    "dqlitepy_statement_add_batch": [_HANDLE],
    "dqlitepy_statement_exec_batch": [_HANDLE, POINTER(c_int64)],
    "dqlitepy_statement_reset": [_HANDLE],
    "dqlitepy_statement_finalize": [_HANDLE],
    "dqlitepy_rows_column_count": [_HANDLE, POINTER(c_int)],
    "dqlitepy_rows_column_name": [_HANDLE, c_int, POINTER(c_char_p)],
    "dqlitepy_rows_fetch": [_HANDLE, POINTER(Value), c_uint64, POINTER(c_uint64)],
    "dqlitepy_rows_close": [_HANDLE],
}


def _load():
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.environ.get("DQLITEPY_LIBRARY") or os.path.join(here, "../../target/release/libdqlitepy.so")
    lib = ctypes.CDLL(path)
    for name, arguments in _SIGNATURES.items():
        function = getattr(lib, name)
        function.argtypes = arguments
        function.restype = None if name == "dqlitepy_node_destroy" else c_int
    lib.dqlitepy_last_error.restype = c_void_p
    lib.dqlitepy_free.argtypes = [c_void_p]
    lib.dqlitepy_engine_version.restype = c_char_p
    return lib


_lib = _load()


def engine_version():
    return _lib.dqlitepy_engine_version().decode()


def _taken(pointer):
    """The text behind a pointer that the library gave us to free."""
    if not pointer:
        return None
    try:
        return ctypes.string_at(pointer).decode("utf-8", "replace")
    finally:
        _lib.dqlitepy_free(pointer)


def _check(code):
    """The code, if it is a success; otherwise the exception for it. Same thread, so the last error is this call's."""
    if code in (OK, ROW, DONE):
        return code
    kind = _BY_CODE.get(code, OperationalError)
    error = kind(_taken(_lib.dqlitepy_last_error()) or f"error {code}")
    error.code, error.sqlite_code = code, _lib.dqlitepy_last_sqlite_code()
    raise error


def _text(value, what):
    try:
        encoded = value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ProgrammingError(f"{what} cannot be written as UTF-8: {error}") from None
    if b"\0" in encoded:
        raise ProgrammingError(f"{what} holds a NUL")
    return encoded


class Node:
    """A dqlite node in this process, running from the start."""

    def __init__(self, id, address, data_dir, cluster=None):  # noqa: A002
        handle = _HANDLE()
        arguments = [_text(str(a), "the argument") for a in (address, data_dir)]
        if cluster is None:
            _check(_lib.dqlitepy_node_create(id, *arguments, byref(handle)))
        else:
            _check(_lib.dqlitepy_node_create_with_cluster(id, *arguments, _text(cluster, "cluster"), byref(handle)))
        self.handle = handle.value
        try:
            _check(_lib.dqlitepy_node_start(self.handle))
        except Error:
            self.close()
            raise

    def close(self):
        handle, self.handle = self.handle, 0
        if handle:
            _lib.dqlitepy_node_destroy(handle)

    __del__ = close

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# ---- values ---------------------------------------------------------------------------------------------------------

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def _set(place, value, keep):
    """Writes a parameter; what has to live until it is bound goes to `keep`."""
    if value is None:
        place.type = NULL
    elif value is True or value is False:
        place.type, place.integer = BOOLEAN, value
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        place.type, place.integer = INTEGER, value
    elif isinstance(value, float):
        place.type, place.real = FLOAT, value
    elif isinstance(value, str):
        data = value.encode("utf-8", "surrogateescape")
        _point(place, TEXT, data, keep)
    elif isinstance(value, bytes):
        _point(place, BLOB, value, keep)
    elif isinstance(value, datetime.datetime):
        _point(place, ISO8601, value.isoformat(" ").encode(), keep)
    elif isinstance(value, (datetime.date, datetime.time)):
        _point(place, ISO8601, value.isoformat().encode(), keep)
    else:
        try:
            data = bytes(memoryview(value))
        except TypeError:
            raise InterfaceError(f"a {type(value).__name__} cannot be a parameter") from None
        _point(place, BLOB, data, keep)


def _point(place, kind, data, keep):
    keep.append(data)
    place.type, place.size = kind, len(data)
    place.data = ctypes.cast(c_char_p(data), c_void_p)


def _get(value):
    kind = value.type
    if kind == INTEGER:
        return value.integer
    if kind == TEXT:
        return _bytes(value).decode("utf-8", "surrogateescape")
    if kind == NULL:
        return None
    if kind == FLOAT:
        return value.real
    if kind == BLOB:
        return _bytes(value)
    if kind == BOOLEAN:
        return bool(value.integer) if value.integer in (0, 1) else value.integer
    if kind == UNIXTIME:
        try:
            return _EPOCH + datetime.timedelta(seconds=value.integer)
        except OverflowError:
            return value.integer
    text = _bytes(value).decode("utf-8", "surrogateescape")
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        return text


def _bytes(value):
    return ctypes.string_at(value.data, value.size) if value.size else b""


Date, Time, Timestamp = datetime.date, datetime.time, datetime.datetime
Binary = bytes


def DateFromTicks(ticks):
    return datetime.date.fromtimestamp(ticks)


def TimeFromTicks(ticks):
    return datetime.datetime.fromtimestamp(ticks).time()


def TimestampFromTicks(ticks):
    return datetime.datetime.fromtimestamp(ticks)


class _Type:
    """A type object of the DB-API. SQLite's columns have no fixed type, so no description names one."""

    def __init__(self, *kinds):
        self.kinds = kinds

    def __eq__(self, other):
        return other in self.kinds if isinstance(other, int) else self is other

    __hash__ = object.__hash__


STRING, BINARY, NUMBER = _Type(TEXT), _Type(BLOB), _Type(INTEGER, FLOAT, BOOLEAN)
DATETIME, ROWID = _Type(UNIXTIME, ISO8601), _Type(INTEGER)

# ---- connections ----------------------------------------------------------------------------------------------------


def connect(node=None, database="app.db", addresses=None, timeout=None, busy_timeout=None, autocommit=False):
    """A connection: to the cluster of a Node of this process, or of a comma-separated list of addresses.

    Times are in seconds. With autocommit=False a transaction begins with the first statement that changes something and
    ends with commit() or rollback(); with True only an explicit BEGIN begins one.
    """
    return Connection(node, database, addresses, timeout, busy_timeout, autocommit)


class Connection:
    Warning, Error, InterfaceError, DatabaseError = Warning, Error, InterfaceError, DatabaseError
    DataError, OperationalError, IntegrityError, InternalError = DataError, OperationalError, IntegrityError, InternalError
    ProgrammingError, NotSupportedError = ProgrammingError, NotSupportedError

    def __init__(self, node, database, addresses, timeout, busy_timeout, autocommit):
        self._handle = 0
        if (node is None) == (addresses is None):
            raise InterfaceError("connect needs either node or addresses")
        handle, name = _HANDLE(), _text(database, "the database's name")
        if node is not None:
            _check(_lib.dqlitepy_session_open(node.handle, name, byref(handle)))
        else:
            _check(_lib.dqlitepy_session_open_addresses(_text(addresses, "addresses"), name, byref(handle)))
        self._handle = handle.value
        self._lock = threading.RLock()
        self._reading = None  # the cursor whose rows still hold the session
        self.autocommit = autocommit
        if timeout is not None:
            _check(_lib.dqlitepy_session_set_timeout(self._handle, max(1, int(timeout * 1000))))
        if busy_timeout is not None:
            _check(_lib.dqlitepy_session_set_busy_timeout(self._handle, int(busy_timeout * 1000)))

    def _open(self):
        if not self._handle:
            raise ProgrammingError("the connection is closed")
        return self._handle

    @property
    def in_transaction(self):
        inside = c_int()
        _check(_lib.dqlitepy_session_in_transaction(self._open(), byref(inside)))
        return bool(inside.value)

    @property
    def leader(self):
        address = c_void_p()
        self._free()
        _check(_lib.dqlitepy_session_leader(self._open(), byref(address)))
        return _taken(address.value)

    def cursor(self):
        self._open()
        return Cursor(self)

    def execute(self, sql, parameters=()):
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql, sets):
        return self.cursor().executemany(sql, sets)

    def executescript(self, script):
        """Runs all statements of a text, each committed by itself unless the text says otherwise."""
        with self._lock:
            self._free()
            encoded = _text(script, "the script")
            _check(_lib.dqlitepy_session_exec(self._open(), encoded, len(encoded), None, None))

    def dump(self, path, progress=None):
        """Writes a copy of the database as a SQLite file. progress(done, total) ends it by returning something true."""
        self._long(_lib.dqlitepy_session_dump, progress, os.fsencode(path))

    def load_file(self, path, progress=None):
        """Loads a SQLite file into a database that has nothing of the same names."""
        self._long(_lib.dqlitepy_session_load_file, progress, os.fsencode(path))

    def load_script(self, script, progress=None):
        """Runs a script as large as memory, in transactions of bounded size."""
        encoded = _text(script, "the script")
        self._long(_lib.dqlitepy_session_load_script, progress, encoded, len(encoded))

    def _long(self, function, progress, *arguments):
        raised = []

        def report(_data, done, total):
            try:
                return bool(progress(done, total))
            except BaseException as error:  # noqa: BLE001  (C has no exceptions)
                raised.append(error)
                return 1

        with self._lock:
            self._free()
            code = function(self._open(), *arguments, _PROGRESS(report if progress else 0), None)
        if raised:
            raise raised[0]
        _check(code)

    def begin(self, mode="DEFERRED"):
        modes = {"DEFERRED": 0, "IMMEDIATE": 1, "EXCLUSIVE": 2}
        with self._lock:
            self._free()
            _check(_lib.dqlitepy_session_begin(self._open(), modes[mode.upper()]))

    def commit(self):
        self._end(_lib.dqlitepy_session_commit)

    def rollback(self):
        self._end(_lib.dqlitepy_session_rollback)

    def _end(self, function):
        with self._lock:
            self._open()
            if self.in_transaction:
                self._free()
                _check(function(self._handle))

    def interrupt(self):
        """From any thread: ends the statement that is running."""
        _check(_lib.dqlitepy_session_interrupt(self._open()))

    def close(self):
        handle, self._handle = self._handle, 0
        if handle:
            _check(_lib.dqlitepy_session_close(handle))

    def _free(self, but=None):
        """Reads the rows of another cursor to their end into memory, so that the session can do something else."""
        reading = self._reading and self._reading()
        if reading is not None and reading is not but:
            reading._buffer_all()
        self._reading = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.commit()
        else:
            self.rollback()

    def __del__(self):
        try:
            self.close()
        except Exception:
            pass


_BATCH = 256  # rows of one call
_CHANGES = ("INSERT", "UPDATE", "DELETE", "REPLACE")


class Cursor:
    def __init__(self, connection):
        self.connection = connection
        self.arraysize = 1
        self.description = None
        self.rowcount = -1
        self.lastrowid = None
        self._rows = 0  # the handle
        self._fetched = []  # in reverse order: the next row is the last
        self._closed = False

    # -- running

    def execute(self, sql, parameters=()):
        with self.connection._lock:
            session = self._start()
            statement = self._prepare(session, sql, single=True)
            if not statement:
                return self
            try:
                self._bind(statement, parameters)
                self._begin_if_needed(session, sql)
                self._run(statement, sql)
            finally:
                _lib.dqlitepy_statement_finalize(statement)
        return self

    def executemany(self, sql, sets):
        with self.connection._lock:
            session = self._start()
            statement = self._prepare(session, sql, single=True)
            if not statement:
                return self
            try:
                for parameters in sets:
                    self._bind(statement, parameters)
                    _check(_lib.dqlitepy_statement_add_batch(statement))
                self._begin_if_needed(session, sql)
                affected = c_int64()
                _check(_lib.dqlitepy_statement_exec_batch(statement, byref(affected)))
                self.rowcount = affected.value
            finally:
                _lib.dqlitepy_statement_finalize(statement)
        return self

    def _start(self):
        session = self._open()
        self._close_rows()
        self.connection._free(but=self)
        self.description, self.rowcount, self.lastrowid = None, -1, None
        return session

    def _prepare(self, session, sql, single):
        if not isinstance(sql, str):
            raise TypeError("the SQL must be a str")
        encoded, statement, tail = _text(sql, "the SQL"), _HANDLE(), c_uint64()
        _check(_lib.dqlitepy_session_prepare(session, encoded, len(encoded), byref(statement), byref(tail)))
        if single and tail.value < len(encoded):
            _lib.dqlitepy_statement_finalize(statement.value)
            raise ProgrammingError("execute takes one statement; use executescript for several")
        return statement.value

    def _bind(self, statement, parameters):
        count = c_int()
        _check(_lib.dqlitepy_statement_parameter_count(statement, byref(count)))
        count = count.value
        if isinstance(parameters, dict):
            parameters = [self._named(statement, index, parameters) for index in range(1, count + 1)]
        elif isinstance(parameters, (str, bytes)) or not hasattr(parameters, "__len__"):
            raise ProgrammingError("the parameters must be a sequence or a dict")
        if len(parameters) != count:
            raise ProgrammingError(f"the statement has {count} parameters, and {len(parameters)} were given")
        values, keep = (Value * count)(), []
        for place, value in zip(values, parameters):
            _set(place, value, keep)
        _check(_lib.dqlitepy_statement_bind_values(statement, values, count))

    def _named(self, statement, index, parameters):
        name = c_void_p()
        _check(_lib.dqlitepy_statement_parameter_name(statement, index, byref(name)))
        name = _taken(name.value)
        if name is None or name[1:] not in parameters:
            raise ProgrammingError(f"no value for parameter {name or index}")
        return parameters[name[1:]]

    def _begin_if_needed(self, session, sql):
        if not self.connection.autocommit and _verb(sql) in _CHANGES and not self.connection.in_transaction:
            _check(_lib.dqlitepy_session_begin(session, 0))

    def _run(self, statement, sql):
        if _verb(sql) in _CHANGES and "returning" not in sql.lower():
            last, affected = c_int64(), c_int64()
            _check(_lib.dqlitepy_statement_exec(statement, byref(last), byref(affected)))
            self.rowcount = affected.value
            self.lastrowid = last.value if _verb(sql) in ("INSERT", "REPLACE") and affected.value else None
            return
        rows = _HANDLE()
        _check(_lib.dqlitepy_statement_query(statement, byref(rows)))
        self._rows = rows.value
        columns = c_int()
        _check(_lib.dqlitepy_rows_column_count(self._rows, byref(columns)))
        if columns.value == 0:
            self._close_rows()
            return
        self.description = tuple((self._name(i), None, None, None, None, None, None) for i in range(columns.value))
        self._values = (Value * (_BATCH * columns.value))()
        self.connection._reading = weakref.ref(self)

    def _name(self, column):
        name = c_char_p()
        _check(_lib.dqlitepy_rows_column_name(self._rows, column, byref(name)))
        return name.value.decode("utf-8", "surrogateescape")

    # -- reading

    def fetchone(self):
        with self.connection._lock:
            self._readable()
            if not self._fetched:
                self._fetch()
            return self._fetched.pop() if self._fetched else None

    def fetchmany(self, size=None):
        rows = []
        for _ in range(self.arraysize if size is None else size):
            row = self.fetchone()
            if row is None:
                break
            rows.append(row)
        return rows

    def fetchall(self):
        return list(iter(self.fetchone, None))

    def __iter__(self):
        return self

    def __next__(self):
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def _fetch(self):
        """The next rows, as many as have come."""
        if not self._rows:
            return False
        found, columns = c_uint64(), len(self.description)
        if _check(_lib.dqlitepy_rows_fetch(self._rows, self._values, _BATCH, byref(found))) == DONE:
            self._close_rows(keep=True)
            return False
        values = [_get(value) for value in self._values[: found.value * columns]]
        rows = [tuple(values[at : at + columns]) for at in range(0, len(values), columns)]
        rows.reverse()
        self._fetched = rows + self._fetched if self._fetched else rows
        return True

    def _buffer_all(self):
        while self._fetch():
            pass

    def _readable(self):
        self._open()
        if self.description is None:
            raise ProgrammingError("there are no rows: the last statement yields none, or there was none")

    def _open(self):
        if self._closed:
            raise ProgrammingError("the cursor is closed")
        return self.connection._open()

    def _close_rows(self, keep=False):
        rows, self._rows = self._rows, 0
        if not keep:
            self._fetched = []
        if rows:
            _check(_lib.dqlitepy_rows_close(rows))

    def close(self):
        self._open()
        self._closed = True
        self._close_rows()

    def setinputsizes(self, sizes):
        pass

    def setoutputsize(self, size, column=None):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if not self._closed:
            self.close()

    def __del__(self):
        try:
            self._close_rows()
        except Exception:
            pass


def _verb(sql):
    """The first word, behind blanks and comments; behind WITH the verb that decides is looked for."""
    text = sql.lstrip(" \t\n\r\f;")
    while text.startswith(("--", "/*")):
        end, skip = ("\n", 1) if text.startswith("--") else ("*/", 2)
        at = text.find(end)
        text = "" if at < 0 else text[at + skip :].lstrip(" \t\n\r\f;")
    word = text.split(None, 1)[0].upper() if text else ""
    if word == "WITH":
        rest = text.upper()
        return next((verb for verb in _CHANGES if f"{verb} " in rest), word)
    return word
