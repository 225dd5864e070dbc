"""A small client of dqlite's wire protocol, with none of the care of a real one: it sends what it is told."""

import socket
import struct

import support

LEADER, CLIENT, HEARTBEAT, OPEN, PREPARE, EXEC, QUERY, FINALIZE, EXEC_SQL, QUERY_SQL = range(10)
INTERRUPT, CONNECT, ADD, ASSIGN, REMOVE, DUMP, CLUSTER, TRANSFER, DESCRIBE, WEIGHT = range(10, 20)
FAILURE, NODE, WELCOME, NODES, DB, STMT, RESULT, ROWS, EMPTY, FILES, METADATA = range(11)
COMPLETE, MORE = b"\xff" * 8, b"\xee" * 8
VERSION = struct.pack("<Q", 1)


def word(n):
    return struct.pack("<Q", n & (2**64 - 1))


def text(s):
    raw = (s.encode() if isinstance(s, str) else s) + b"\0"
    return raw + b"\0" * (-len(raw) % 8)


def message(kind, body, schema=0, words=None):
    """words: what the header says, if that is not the truth."""
    return struct.pack("<IBBH", len(body) // 8 if words is None else words, kind, schema, 0) + body


class Closed(Exception):
    """The server closed or reset the connection."""


class Failure(Exception):
    def __init__(self, body):
        self.code = struct.unpack_from("<Q", body)[0]
        self.text = body[8:].split(b"\0")[0].decode(errors="replace")
        super().__init__(f"{self.code}: {self.text}")


class Wire:
    def __init__(self, address, version=VERSION, timeout=10.0):
        self.socket = socket.create_connection(support.host_and_port(address), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send(version)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def close(self):
        self.socket.close()

    def reset(self):
        """Close so that the peer gets a reset, as from a process that was killed."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as e:
            raise Closed from e

    def receive(self, n):
        data = bytearray()
        while len(data) < n:
            try:
                part = self.socket.recv(min(n - len(data), 1 << 20))
            except ConnectionResetError as e:
                raise Closed from e
            if not part:
                raise Closed
            data += part
        return bytes(data)

    def response(self):
        """The next message: (type, schema, body)."""
        words, kind, schema, _ = struct.unpack("<IBBH", self.receive(8))
        return kind, schema, self.receive(words * 8)

    def request(self, kind, body, schema=0):
        self.send(message(kind, body, schema))
        return self.response()

    def call(self, kind, body, want, schema=0):
        """The body of the expected answer."""
        got, _, answer = self.request(kind, body, schema)
        if got == FAILURE:
            raise Failure(answer)
        assert got == want, f"answer of type {got} instead of {want}"
        return answer

    def open(self, name="test.db"):
        self.call(OPEN, text(name) + word(0) + text("volatile"), DB)
        return self

    def execute(self, sql):
        return struct.unpack_from("<qQ", self.call(EXEC_SQL, word(0) + text(sql), RESULT))

    def query(self, sql):
        """The number of bytes of all parts of the answer."""
        self.send(message(QUERY_SQL, word(0) + text(sql)))
        return len(self.parts())

    def parts(self):
        """All ROWS messages up to the one that says that it is the last."""
        everything = bytearray()
        while True:
            kind, _, body = self.response()
            if kind == FAILURE:
                raise Failure(body)
            assert kind == ROWS
            everything += body
            if body[-8:] == COMPLETE:
                return bytes(everything)
            assert body[-8:] == MORE
