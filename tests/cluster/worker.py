"""One process with one node, commanded by lines of JSON on stdin; tests/cluster/harness.py is the other side.

A command is {"id": n, "op": name, "with": {...}}; each runs in a thread of its own, so that one may wait while others go on, and its
answer is {"id": n, "code": the library's code, "error": its message, "value": ..., "seconds": ...}. Writers are loops of
statements inside this process: before a statement is sent, and again when its result is known, a line is appended to the
writer's file with one write(2), so that a SIGKILL loses no acknowledgement. Only functions of include/dqlitepy.h are used.
"""

import ctypes
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_uint, c_ulonglong, c_void_p

OK, INTERNAL, SHUTDOWN, STOPPED, UNKNOWN = 0, 8, 6, 7, 101

LIBRARY = ctypes.CDLL(os.environ["DQLITEPY_LIBRARY"])
HANDLE = c_ulonglong
LOG_CALLBACK = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p)


def declare(name, *arguments, result=c_int):
    function = getattr(LIBRARY, "dqlitepy_" + name)
    function.argtypes, function.restype = arguments, result
    return function


node_create = declare("node_create", c_ulonglong, c_char_p, c_char_p, POINTER(HANDLE))
node_create_with_cluster = declare(
    "node_create_with_cluster", c_ulonglong, c_char_p, c_char_p, c_char_p, POINTER(HANDLE)
)
node_start = declare("node_start", HANDLE)
node_handover = declare("node_handover", HANDLE)
node_stop = declare("node_stop", HANDLE)
node_destroy = declare("node_destroy", HANDLE, result=None)
node_open_db = declare("node_open_db", HANDLE, c_char_p)
node_exec = declare("node_exec", HANDLE, c_char_p, POINTER(c_int64), POINTER(c_int64))
node_query = declare("node_query", HANDLE, c_char_p, POINTER(c_void_p))
client_create = declare("client_create", c_char_p, POINTER(HANDLE))
client_close = declare("client_close", HANDLE)
client_add = declare("client_add", HANDLE, c_ulonglong, c_char_p)
client_remove = declare("client_remove", HANDLE, c_ulonglong)
client_assign = declare("client_assign", HANDLE, c_ulonglong, c_int)
client_transfer = declare("client_transfer", HANDLE, c_ulonglong)
client_leader = declare("client_leader", HANDLE, POINTER(c_void_p))
client_cluster = declare("client_cluster", HANDLE, POINTER(c_void_p))
node_metrics = declare("node_metrics", HANDLE, c_int, POINTER(c_void_p))
last_error = declare("last_error", result=c_void_p)
free = declare("free", c_void_p, result=None)

OPTIONS = {
    "bind_address": declare("node_set_bind_address", HANDLE, c_char_p),
    "busy_timeout": declare("node_set_busy_timeout", HANDLE, c_uint),
    "network_latency_ms": declare("node_set_network_latency_ms", HANDLE, c_uint),
    "timeout": declare("node_set_timeout", HANDLE, c_uint),
    "start_timeout": declare("node_set_start_timeout", HANDLE, c_uint),
    "voters": declare("node_set_voters", HANDLE, c_uint),
    "standbys": declare("node_set_standbys", HANDLE, c_uint),
    "bootstrap": declare("node_set_bootstrap", HANDLE, c_int),
    "auto_recovery": declare("node_set_auto_recovery", HANDLE, c_int),
    "snapshot_compression": declare("node_set_snapshot_compression", HANDLE, c_int),
    "snapshot_params": declare("node_set_snapshot_params", HANDLE, c_uint, c_uint, c_int),
}


def take_text(pointer):
    """The text of a char * of the library, which is given back."""
    if not pointer:
        return None
    try:
        return ctypes.string_at(pointer).decode()
    finally:
        free(pointer)


class Failed(Exception):
    """A call of the library that did not return 0."""

    def __init__(self, code):
        self.code = code
        self.message = take_text(last_error())
        super().__init__(f"{code}: {self.message}")


def check(code):
    if code != OK:
        raise Failed(code)


def make_node(id, address, dir, cluster=None, options=None):
    """The handle of a node that does not run yet."""
    handle = HANDLE()
    if cluster is None:
        check(node_create(id, address.encode(), dir.encode(), byref(handle)))
    else:
        check(node_create_with_cluster(id, address.encode(), dir.encode(), cluster.encode(), byref(handle)))
    try:
        for name, value in (options or {}).items():
            values = value if isinstance(value, list) else [value.encode() if isinstance(value, str) else value]
            check(OPTIONS[name](handle, *values))
    except Failed:
        node_destroy(handle)
        raise
    return handle


def exec_sql(handle, sql):
    numbers = c_int64(), c_int64()
    check(node_exec(handle, sql.encode(), byref(numbers[0]), byref(numbers[1])))
    return [number.value for number in numbers]


def query_sql(handle, sql):
    text = c_void_p()
    check(node_query(handle, sql.encode(), byref(text)))
    return json.loads(take_text(text.value))


class Process:
    """What the commands act on."""

    def __init__(self):
        self.nodes = {}
        self.clients = {}
        self.writers = {}
        self.output = threading.Lock()
        # A writer attaches to the node only while it runs: starting it would be somebody else's decision.
        self.life = threading.Lock()
        self.running = threading.Event()
        self.config = None

    # Each command's name is the name of its method.

    def create(self, id, address, dir, cluster=None, options=None, name="node"):
        self.nodes[name] = make_node(id, address, dir, cluster, options)
        if name == "node":
            self.config = {"id": id, "address": address, "dir": dir, "cluster": cluster}

    def start(self, name="node"):
        check(node_start(self.nodes[name]))
        if name == "node":
            self.running.set()

    def stop(self, name="node"):
        self.keep_writers_out(name)
        check(node_stop(self.nodes[name]))

    def handover(self, name="node"):
        check(node_handover(self.nodes[name]))

    def destroy(self, name="node"):
        self.keep_writers_out(name)
        node_destroy(self.nodes.pop(name))

    def open_db(self, db="test.db", name="node"):
        check(node_open_db(self.nodes[name], db.encode()))

    def exec(self, sql, name="node"):
        return exec_sql(self.nodes[name], sql)

    def query(self, sql, name="node"):
        return query_sql(self.nodes[name], sql)

    def metrics(self, name="node"):
        text = c_void_p()
        check(node_metrics(self.nodes[name], 0, byref(text)))
        return json.loads(take_text(text.value))

    def client(self, addresses, name="client"):
        handle = HANDLE()
        check(client_create(addresses.encode(), byref(handle)))
        self.clients[name] = handle

    def client_close(self, name="client"):
        check(client_close(self.clients.pop(name)))

    def leader(self, name="client"):
        text = c_void_p()
        check(client_leader(self.clients[name], byref(text)))
        return take_text(text.value)

    def cluster(self, name="client"):
        text = c_void_p()
        check(client_cluster(self.clients[name], byref(text)))
        return json.loads(take_text(text.value))

    def add(self, id, address, name="client"):
        check(client_add(self.clients[name], id, address.encode()))

    def remove(self, id, name="client"):
        check(client_remove(self.clients[name], id))

    def assign(self, id, role, name="client"):
        check(client_assign(self.clients[name], id, role))

    def transfer(self, id, name="client"):
        check(client_transfer(self.clients[name], id))

    def write(self, writer, kind, file, **settings):
        """Start a writer: a loop of statements of that kind."""
        self.writers[writer] = KINDS[kind](self, writer, file, settings)
        self.writers[writer].start()

    def stop_writers(self):
        for writer in self.writers.values():
            writer.stopping.set()
        for writer in self.writers.values():
            writer.join()
        self.writers.clear()

    def connects(self, address):
        """Whether somebody listens there."""
        host, port = address.rsplit(":", 1)
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return False
        return True

    def keep_writers_out(self, name):
        with self.life:
            if name == "node":
                self.running.clear()

    # The loop.

    def answer(self, command):
        number, op = command["id"], command["op"]
        began = time.monotonic()
        reply = {"id": number, "code": OK, "error": None, "value": None}
        try:
            reply["value"] = getattr(self, op)(**command["with"])
        except Failed as failed:
            reply.update(code=failed.code, error=failed.message)
        except Exception as fault:  # a fault of the test itself
            reply.update(code=-1, error=f"{op}: {fault!r}")
        reply.update(began=began, seconds=time.monotonic() - began)
        with self.output:
            sys.stdout.write(json.dumps(reply) + "\n")
            sys.stdout.flush()

    def serve(self):
        for line in sys.stdin:
            threading.Thread(target=self.answer, args=(json.loads(line),), daemon=True).start()
        # The controller is gone; what runs here is of no use any more.
        os._exit(0)


class Writer(threading.Thread):
    """A loop of operations on a handle of its own, with a record of each."""

    def __init__(self, process, name, file, settings):
        super().__init__(daemon=True)
        self.process = process
        self.writer = name
        self.db = settings.get("db", "test.db")
        self.options = settings.get("options") or {}
        rate = settings.get("rate", 20)
        self.pause = 1.0 / rate if rate else 0.0
        self.settings = settings
        self.random = random.Random(f"{settings.get('seed', 0)}/{name}")
        self.stopping = threading.Event()
        self.file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.handle = None
        self.number = 0

    def record(self, **what):
        os.write(self.file, (json.dumps({"w": self.writer, "n": self.number, **what}) + "\n").encode())

    def run(self):
        while not self.stopping.is_set():
            if self.handle is None:
                self.attach()
                continue
            began = time.monotonic()
            self.number += 1
            try:
                self.operate()
            except Failed as failed:
                if failed.code in (SHUTDOWN, STOPPED, INTERNAL):
                    self.detach()
            left = self.pause - (time.monotonic() - began)
            if left > 0:
                self.stopping.wait(left)
        self.detach()
        os.close(self.file)

    def attach(self):
        if not self.process.running.wait(0.1):
            return
        try:
            with self.process.life:
                if not self.process.running.is_set():
                    return
                handle = make_node(**self.process.config, options=self.options)
                try:
                    check(node_start(handle))
                except Failed:
                    node_destroy(handle)
                    raise
            self.handle = handle
            check(node_open_db(handle, self.db.encode()))
        except Failed as failed:
            self.record(e="attach", code=failed.code, error=failed.message, t=time.monotonic())
            self.detach()
            self.stopping.wait(0.05)

    def detach(self):
        if self.handle is not None:
            node_destroy(self.handle)
            self.handle = None

    def do(self, op, action, **details):
        """Record that `action` is about to run, run it, record what came of it."""
        self.record(e="call", op=op, t=time.monotonic(), **details)
        self.phase = op
        try:
            value = action()
        except Failed as failed:
            self.record(e="error", code=failed.code, phase=self.phase, error=failed.message, t=time.monotonic())
            raise
        self.record(e="ok", value=value, t=time.monotonic())
        return value

    def exec(self, sql):
        return exec_sql(self.handle, sql)

    def transaction(self, statements):
        """All or nothing. Up to COMMIT a failure means that nothing of it is kept."""
        self.phase = "begin"
        self.exec("BEGIN IMMEDIATE")
        try:
            self.phase = "inside"
            for sql in statements:
                self.exec(sql)
            self.phase = "commit"
            self.exec("COMMIT")
        except Failed as failed:
            if failed.code not in (SHUTDOWN, STOPPED):
                self.roll_back()
            raise

    def roll_back(self):
        """Ends the transaction, whatever became of it; a handle on which that fails is given up."""
        try:
            self.exec("ROLLBACK")
        except Failed as failed:
            if failed.code < 1000:  # SQLite's "no transaction is active" is fine
                self.detach()


class Rows(Writer):
    """Inserts rows with a key that no other operation uses; every fifth time three of them in one transaction."""

    def operate(self):
        key = f"{self.writer}.{self.number}"
        if self.random.randrange(5):
            self.do("insert", lambda: self.exec(f"INSERT INTO rows(k) VALUES('{key}')"), keys=[key])
        else:
            keys = [f"{key}{letter}" for letter in "abc"]
            inserts = [f"INSERT INTO rows(k) VALUES('{key}')" for key in keys]
            self.do("transaction", lambda: self.transaction(inserts), keys=keys)


class Bank(Writer):
    """Moves money between accounts, and looks at the total, which never changes."""

    TOTAL = (
        "SELECT (SELECT sum(balance) FROM accounts) AS total, (SELECT count(*) FROM accounts) AS accounts, "
        "(SELECT total(amount) FROM ledger) AS moved, (SELECT count(*) FROM ledger) AS transfers"
    )

    def operate(self):
        if self.random.randrange(3) == 0:
            self.do("total", lambda: query_sql(self.handle, self.TOTAL))
            return
        key = f"{self.writer}.{self.number}"
        source, target = self.random.sample(range(self.settings["accounts"]), 2)
        amount = self.random.randrange(1, 10)
        statements = [
            f"UPDATE accounts SET balance = balance - {amount} WHERE id = {source}",
            f"UPDATE accounts SET balance = balance + {amount} WHERE id = {target}",
            f"INSERT INTO ledger(k, source, target, amount) VALUES('{key}', {source}, {target}, {amount})",
        ]
        self.do("transfer", lambda: self.transaction(statements), keys=[key])


class Register(Writer):
    """Reads, writes, and compares and sets registers. A new register every few seconds keeps histories short."""

    def operate(self):
        register = int((time.monotonic() - self.settings["epoch"]) / self.settings.get("period", 4.0))
        choice = self.random.randrange(10)
        value = f"{self.writer}.{self.number}"
        if choice < 5:
            sql = f"SELECT v FROM registers WHERE id = {register}"
            read = self.do("read", lambda: [row["v"] for row in query_sql(self.handle, sql)], register=register)
            self.seen = read[0] if read else None
        elif choice < 8 or getattr(self, "seen", None) is None:
            sql = f"INSERT INTO registers(id, v) VALUES({register}, '{value}') ON CONFLICT(id) DO UPDATE SET v = excluded.v"
            self.do("write", lambda: self.exec(sql)[1], register=register, new=value)
        else:
            old = self.seen
            sql = f"UPDATE registers SET v = '{value}' WHERE id = {register} AND v = '{old}'"
            self.do("cas", lambda: self.exec(sql)[1], register=register, old=old, new=value)


KINDS = {"rows": Rows, "bank": Bank, "register": Register}


def keep_log(path):
    """What the library says goes into a file, for whoever looks into a failure."""
    if not hasattr(LIBRARY, "dqlitepy_set_log_callback"):
        return None
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    @LOG_CALLBACK
    def told(_, level, message):
        os.write(file, f"{time.monotonic():.3f} {'?DIWE'[level]} {message.decode()}\n".encode())

    check(declare("set_log_callback", LOG_CALLBACK, c_void_p)(told, None))
    return told


def main():
    # Also a worker that is stopped by SIGSTOP ends with its controller.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    callback = keep_log(sys.argv[1]) if len(sys.argv) > 1 else None
    Process().serve()
    del callback


if __name__ == "__main__":
    main()
