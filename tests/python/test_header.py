"""The header, read by cffi as a Python program would, against what dqlitepy declares for itself."""

import re
import subprocess

import cffi
import pytest
from dqlitepy import _ffi, get_version

from conftest import LIBRARY, ROOT

HEADER = ROOT / "include/dqlitepy.h"
BEGIN, END = "/* dqlitepy:cdef:begin */", "/* dqlitepy:cdef:end */"


@pytest.fixture(scope="module")
def declarations():
    text = HEADER.read_text()
    assert text.count(BEGIN) == 1 and text.count(END) == 1
    return text.split(BEGIN)[1].split(END)[0]


@pytest.fixture(scope="module")
def ffi(declarations):
    ffi = cffi.FFI()
    ffi.cdef(declarations)  # as it is, with nothing removed
    return ffi


def functions(ffi):
    """Name and type of each function that the FFI declares, as cffi knows them after parsing."""
    with ffi._lock:  # cffi wants it held
        return {
            name.removeprefix("function "): ffi._get_cached_btype(declared[0])
            for name, declared in ffi._parser._declarations.items()
            if name.startswith("function ")
        }


def described(kind):
    """A type in words; typedefs are resolved and const does not count for the ABI."""
    return re.sub(r"\bconst\b ?| const\b", "", f"{kind.result.cname} ({', '.join(a.cname for a in kind.args)})")


def test_same_types_as_dqlitepy_declares(ffi):
    theirs, ours = functions(_ffi.ffi), functions(ffi)
    assert len(theirs) == 25
    for name, kind in theirs.items():
        assert name in ours, f"{name} is missing in the header"
        assert described(ours[name]) == described(kind), name


def test_every_function_can_be_loaded(ffi):
    lib = ffi.dlopen(str(LIBRARY))
    names = functions(ffi)
    assert len(names) >= 25
    for name in names:
        assert getattr(lib, name) != ffi.NULL
    assert (lib.dqlitepy_version_number(), ffi.string(lib.dqlitepy_version_string()).decode()) == get_version()


def test_names_of_the_codes(ffi):
    lib = ffi.dlopen(str(LIBRARY))
    names = ["OK", "NOMEM", "INVALID", "NOTFOUND", "MISUSE", "NOLEADER", "SHUTDOWN", "STOPPED", "INTERNAL"]
    assert [getattr(lib, f"DQLITEPY_{name}") for name in names] == list(range(9))
    names = ["TIMEOUT", "UNKNOWN", "RETRY", "TRANSACTION_LOST"]
    assert [getattr(lib, f"DQLITEPY_{name}") for name in names] == [100, 101, 102, 103]
    assert lib.DQLITEPY_SQL == 1000


def test_node_info(ffi):
    assert ffi.sizeof("dqlitepy_node_info") == 24
    fields = [(name, field.type.cname, field.offset) for name, field in ffi.typeof("dqlitepy_node_info").fields]
    assert fields == [("id", "unsigned long long", 0), ("address", "char *", 8), ("role", "int", 16)]


def test_used_through_our_own_declarations(ffi, tmp_path, address):
    """A binding made from the header alone does the main job."""
    lib = ffi.dlopen(str(LIBRARY))
    handle, text = ffi.new("dqlitepy_handle *"), ffi.new("char **")
    numbers = ffi.new("int64_t[2]")
    assert lib.dqlitepy_node_create(1, address.encode(), str(tmp_path / "n").encode(), handle) == lib.DQLITEPY_OK
    node = handle[0]
    assert lib.dqlitepy_node_start(node) == 0
    assert lib.dqlitepy_node_open_db(node, b"test.db") == 0
    assert lib.dqlitepy_node_exec(node, b"CREATE TABLE t (a); INSERT INTO t VALUES (7)", numbers, numbers + 1) == 0
    assert list(numbers) == [1, 1]
    assert lib.dqlitepy_node_query(node, b"SELECT a FROM t", text) == 0
    assert ffi.string(text[0]) == b'[{"a":7}]'
    lib.dqlitepy_free(text[0])
    lib.dqlitepy_node_destroy(node)


def test_every_declaration_is_documented(declarations):
    """Each function has a comment right before it that says which version brought it."""
    documented = []
    for match in re.finditer(r"/\*((?:(?!\*/).)*)\*/\s*(\w[^;/#{]*?\b(dqlitepy_\w+)\s*\([^;]*\));", declarations, re.S):
        assert "Since" in match[1], f"no Since in the comment of {match[3]}"
        documented.append(match[3])
    code = re.sub(r"/\*.*?\*/", "", declarations, flags=re.S)
    declared = re.findall(r"\b(dqlitepy_\w+)\s*\(", code)
    assert sorted(documented) == sorted(declared)
    assert len(declared) == len(set(declared)), "a function is declared twice"


def test_ascii_and_no_paths():
    text = HEADER.read_text()
    assert text.isascii()
    assert str(ROOT) not in text


def test_compiles_without_anything_else(tmp_path):
    """The header includes what it needs."""
    for name, compiler, standard in [("a.c", "cc", "c99"), ("a.cpp", "c++", "c++11")]:
        source = tmp_path / name
        source.write_text('#include "dqlitepy.h"\ndqlitepy_node_info info;\n')
        strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-std={standard}", f"-I{HEADER.parent}"]
        subprocess.run([compiler, *strict, "-fsyntax-only", str(source)], check=True, timeout=60)
