"""The leader has taken a node in, and its answer never arrives."""

import socket
import struct
import threading

import pytest
from dqlitepy import Client, Node

import support
import wire


class Forwarder:
    """Stands before a node. The answer to the first ADD is kept back: `lost` is called then, and both ends are closed."""

    def __init__(self, address, bind):
        self.bind, self.lost = bind, lambda: None
        self.adds, self.done = 0, threading.Event()
        self.listener = socket.create_server(support.host_and_port(address))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
                server = socket.create_connection(support.host_and_port(self.bind), 10)
            except OSError:
                return
            server.settimeout(None)
            threading.Thread(target=self.forward, args=[client, server], daemon=True).start()

    def forward(self, client, server):
        keep_back = threading.Event()
        threading.Thread(target=self.answers, args=[server, client, keep_back], daemon=True).start()
        try:
            server.sendall(exactly(client, 8))
            kind = None
            while kind != wire.CONNECT:
                header = exactly(client, 8)
                words, kind = struct.unpack_from("<IB", header)
                body = exactly(client, words * 8)
                if kind == wire.ADD:
                    self.adds += 1
                    if self.adds == 1:
                        keep_back.set()
                server.sendall(header + body)
            while data := client.recv(1 << 16):
                server.sendall(data)  # raft's, in another format
        except OSError:
            pass
        end(client, server)

    def answers(self, server, client, keep_back):
        try:
            while data := server.recv(1 << 16):
                if keep_back.is_set():
                    self.lost()
                    self.done.set()
                    break
                client.sendall(data)
        except OSError:
            pass
        end(client, server)


def exactly(connection, n):
    data = connection.recv(n, socket.MSG_WAITALL)
    if len(data) < n:
        raise ConnectionResetError
    return data


def end(*connections):
    for connection in connections:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


@pytest.fixture
def leader(tmp_path):
    """Its address is a forwarder's."""
    address, bind = support.free_address(), support.free_address()
    node = Node(address, tmp_path / "leader", node_id=1, bind_address=bind)
    node.start()
    node.forwarder = Forwarder(address, bind)
    yield node
    node.forwarder.listener.close()
    support.end(node)


def check_members(leader, address):
    with Client([leader.forwarder.bind]) as client:
        assert [(member.id, member.address) for member in client.cluster()] == [(1, leader.address), (2, address)]


def test_the_start_goes_on(tmp_path, address, leader):
    node = Node(address, tmp_path / "node", node_id=2, cluster=[leader.address, address])
    try:
        node.start()
        assert leader.forwarder.done.is_set() and leader.forwarder.adds == 1
        check_members(leader, address)
        node.open_db("app.db")
        node.exec("CREATE TABLE t(a)")
    finally:
        support.end(node)


def test_a_client_looks_whether_it_is_done(leader):
    nobody = support.free_address()
    with Client([leader.address]) as client:
        client.add(2, nobody)
        assert leader.forwarder.done.is_set() and leader.forwarder.adds == 1
    check_members(leader, nobody)


START = """
import sys
from dqlitepy import Node
Node(sys.argv[1], sys.argv[2], node_id=2, cluster=[sys.argv[3], sys.argv[1]]).start()
"""


def test_the_next_start_goes_on(tmp_path, address, leader):
    """The process ends before it knows that it is a member."""
    processes = []

    def lost():
        processes[0].kill()
        processes[0].wait()

    leader.forwarder.lost = lost
    processes.append(support.python(START, address, tmp_path / "node", leader.address))
    assert leader.forwarder.done.wait(20)
    processes[0].communicate()
    node = Node(address, tmp_path / "node", node_id=2, cluster=[leader.address, address])
    try:
        node.start()
        assert leader.forwarder.adds == 1
        check_members(leader, address)
        node.open_db("app.db")
        node.exec("CREATE TABLE t(a)")
    finally:
        support.end(node)
