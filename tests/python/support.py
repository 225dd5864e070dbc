"""What the tests share."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from dqlitepy import Node
from dqlitepy._ffi import ffi, get_library

_ports = iter(range(9001, 20000))
_ports_lock = threading.Lock()


def free_address():
    """An address on the loopback network that is this process's own, so that parallel runs cannot race for a port."""
    pid = os.getpid()
    host = f"127.{64 + (pid >> 16 & 63)}.{pid >> 8 & 255}.{pid & 255}"
    with _ports_lock:
        for port in _ports:
            with socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    s.bind((host, port))
                except OSError:
                    continue
            return f"{host}:{port}"
    raise RuntimeError("no free port")


def host_and_port(address):
    host, port = address.rsplit(":", 1)
    return host, int(port)


def running_node(address, data_dir, **options):
    node = Node(address, data_dir, **options)
    node.start()
    node.open_db("test.db")
    return node


def end(node):
    """Stop and destroy for good; dqlitepy's own close only forgets the node."""
    if node._handle:
        get_library().dqlitepy_node_destroy(node._handle)
        node._handle = 0
    node._started = False


def wait_until(ready, seconds=10.0, what=None):
    """The first true answer of ready(); fails after that many seconds."""
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while True:
        answer = ready()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not so after {seconds} s: {what or ready}"
        pause.wait(0.005)


class Within:
    """with Within(2.0): the block takes less than two seconds."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        self.start = time.monotonic()

    def __exit__(self, kind, error, trace):
        if kind is None:
            taken = time.monotonic() - self.start
            assert taken < self.seconds, f"took {taken:.2f} s, not less than {self.seconds} s"


def last_error():
    lib = get_library()
    pointer = lib.dqlitepy_last_error()
    if pointer == ffi.NULL:
        return None
    try:
        return ffi.string(pointer).decode()
    finally:
        lib.dqlitepy_free(pointer)


def python(code, *arguments, variables={}, **options):
    """Start a new interpreter that runs the code; its sys.argv[1:] are the arguments."""
    here = os.path.dirname(os.path.abspath(__file__))
    environment = dict(os.environ, PYTHONPATH=here, PYTHONFAULTHANDLER="1", **variables)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        **options,
    )


def run_python(code, *arguments, seconds=30, **options):
    """Run it to its end: (exit code, stdout, stderr)."""
    process = python(code, *arguments, **options)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the children that it may have forked
        out, err = process.communicate()
        raise AssertionError(f"still running after {seconds} s; stdout: {out}; stderr: {err}")
    return process.returncode, out, err


REMOTE = """
import json, logging, sys
logging.getLogger("dqlitepy").setLevel(100)
from dqlitepy import Node
node = Node(sys.argv[1], sys.argv[2], node_id=int(sys.argv[3]))
for line in sys.stdin:
    call, *arguments = json.loads(line)
    try:
        answer = {"result": getattr(node, call)(*arguments)}
    except Exception as e:
        answer = {"error": str(e)}
    print(json.dumps(answer), flush=True)
"""


class RemoteNode:
    """A node in a process of its own, so that what kills it fails one test only. Its methods are Node's."""

    def __init__(self, address, data_dir, node_id=1):
        self.address = address
        self.process = python(REMOTE, address, data_dir, node_id)
        self.start()
        self.open_db("test.db")

    def __getattr__(self, call):
        def remote_call(*arguments):
            try:
                self.process.stdin.write(json.dumps([call, *arguments]) + "\n")
                self.process.stdin.flush()
                line = self.process.stdout.readline()
            except BrokenPipeError:
                line = ""
            assert line, f"the node's process died: {self.post_mortem()}"
            answer = json.loads(line)
            assert "error" not in answer, f"{call}: {answer['error']}"
            result = answer["result"]
            return tuple(result) if call == "exec" else result

        return remote_call

    def post_mortem(self):
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        return f"exit code {self.process.wait()}, stderr: {self.process.stderr.read()[:2000]}"

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def close(self):
        """End it as an interpreter ends; it must be clean."""
        try:
            out, err = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the node's process does not end")
        assert (self.process.returncode, out, err) == (0, "", "")
