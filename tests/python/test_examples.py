"""The examples do what they say, twice in the same directory."""

import os
import subprocess
import sys

from conftest import LIBRARY, ROOT


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def test_hello_c(tmp_path, address):
    (tmp_path / "libdqlitepy.so").symlink_to(LIBRARY)
    soname = run("readelf", "-d", LIBRARY).stdout.split("Library soname: [")[1].split("]")[0]
    if not (tmp_path / soname).exists():
        (tmp_path / soname).symlink_to(LIBRARY)
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{ROOT}/include", f"-L{tmp_path}"]
    built = run("cc", *strict, ROOT / "examples/c/hello.c", "-o", tmp_path / "hello", "-ldqlitepy", f"-Wl,-rpath,{tmp_path}")
    assert (built.returncode, built.stderr) == (0, "")
    for ids in ((1, 2), (3, 4)):
        result = run(tmp_path / "hello", tmp_path / "data", address)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == (
            f"inserted 2 rows, the last one has id {ids[1]}\n"
            f'[{{"id":{ids[1]},"text":"world"}},{{"id":{ids[0]},"text":"hello"}}]\n'
        )
    result = run(tmp_path / "hello", tmp_path / "data", "nonsense")
    assert result.returncode == 1 and "address" in result.stderr


def run_python(name, *arguments):
    return run(sys.executable, ROOT / "examples/python" / name, *arguments, env=dict(os.environ))


def test_hello_py(tmp_path, address):
    for _ in range(2):
        result = run_python("hello.py", tmp_path / "data", address)
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        assert lines[:2] == ["1 hello", "2 world"] and lines[3] == f"the leader is {address}"
        assert lines[2].startswith("1019 ") and "UNIQUE constraint failed: greeting.text" in lines[2]


def test_alchemy_py(tmp_path, address):
    for ids in ((1, 2), (3, 4)):
        result = run_python("alchemy.py", tmp_path / "data", address)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines() == [f"{ids[1]} Bob None", f"{ids[0]} Ada 1.65"]


def test_cluster_of_the_demo(tmp_path):
    host = f"127.62.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
    result = run(sys.executable, ROOT / "examples/demo/cluster.py", tmp_path, host, "1", env=dict(os.environ))
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    first, killed, last = result.stdout.splitlines()
    assert "node 1, the leader, killed" in killed and f"{host}:901" in killed.split(";")[-1]
    assert "acknowledged rows are there, each once" in last
