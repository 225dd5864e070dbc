"""go-dqlite's programs: `dqlite` (the shell) and `dqlite-demo` (a key-value store over HTTP), as the distribution ships
them. From PATH if they are installed, else unpacked, not installed, into build/go-dqlite."""

import os
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import support

CACHE = Path(__file__).resolve().parents[2] / "build/go-dqlite"
# The programs, what they need in Debian 12 and 13, and what any Debian has anyway but an odd machine may not.
PACKAGES = ["go-dqlite", "libdqlite0", "libraft2", "libuv1", "libuv1t64", "libsqlite3-0", "liblz4-1"]


class Missing(Exception):
    """Why the programs cannot be had here."""


def run(*command, seconds=60, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, **options)


def environment(root):
    libraries = ":".join(str(p) for p in (root / "usr/lib").glob("*-linux-gnu")) if root else ""
    return dict(os.environ, LD_LIBRARY_PATH=libraries, LC_ALL="C.UTF-8")


def works(root):
    programs = [str(root / "usr/bin" / p) if root else p for p in ("dqlite", "dqlite-demo")]
    return all(shutil.which(p) and run(p, "--help", env=environment(root)).returncode == 0 for p in programs)


def unpack():
    """Download and unpack; the packages of another release of Debian are simply not there."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise Missing("go-dqlite is not installed, and there is no apt-get to get it with")
    shutil.rmtree(CACHE, ignore_errors=True)
    (CACHE / "debs").mkdir(parents=True)
    quick = ["-qq", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20"]
    for attempt in range(2):
        got = [run("apt-get", *quick, "download", p, cwd=CACHE / "debs", seconds=120) for p in PACKAGES]
        if got[0].returncode == 0 or os.geteuid() != 0 or attempt:
            break
        run("apt-get", *quick, "update", seconds=300)  # the lists may be missing or old
    if got[0].returncode != 0:
        raise Missing(f"apt-get download go-dqlite: {got[0].stderr.strip() or got[0].stdout.strip()}")
    for deb in (CACHE / "debs").glob("*.deb"):
        run("dpkg-deb", "-x", str(deb), str(CACHE / "root"))
    shutil.rmtree(CACHE / "debs")


class GoDqlite:
    def __init__(self):
        self.root = None
        if not works(None):
            self.root = CACHE / "root"
            if not (self.root.is_dir() and works(self.root)):
                unpack()
                if not works(self.root):
                    raise Missing("the unpacked programs do not run; libraries are missing for them")
        self.environment = environment(self.root)

    def program(self, name):
        return str(self.root / "usr/bin" / name) if self.root else name

    def version(self):
        """The version of the C library that the programs use."""
        name = run("ldd", shutil.which(self.program("dqlite-demo")), env=self.environment).stdout
        return re.search(r"libdqlite\.so\.\S* => (\S+)", name)[1]

    def shell(self, address, database, command, *options, **more):
        """One command of the shell: (exit code, stdout, stderr)."""
        result = run(self.program("dqlite"), "-s", address, *options, database, command, env=self.environment, **more)
        return result.returncode, result.stdout, result.stderr

    def ask(self, address, command, *options):
        """What a command of the shell prints, if it succeeds."""
        code, out, err = self.shell(address, "demo", command, *options)
        assert (code, err) == (0, ""), f"{command}: code {code}: {out}{err}"
        return out.strip()


class Demo:
    """A running dqlite-demo; its node has the directory <parent>/<address> and keeps its table in database "demo"."""

    def __init__(self, programs, parent, address, join=None):
        self.address, self.api = address, support.free_address()
        command = [programs.program("dqlite-demo"), "-a", self.api, "-d", address, "-D", str(parent)]
        command += ["-j", join] if join else []
        self.log = open(Path(parent) / f"demo-{self.api}.log", "w+")
        self.process = subprocess.Popen(command, env=programs.environment, stdout=self.log, stderr=subprocess.STDOUT)
        try:
            support.wait_until(self.answers, 20, "dqlite-demo answers")
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"dqlite-demo does not serve: {self.output()}")

    def output(self):
        self.log.flush()
        self.log.seek(0)
        return self.log.read()[-2000:]

    def answers(self):
        assert self.process.poll() is None, f"dqlite-demo ended: {self.output()}"
        try:
            return self.put("demo-is-ready", "yes")
        except OSError:
            return False

    def put(self, key, value):
        request = urllib.request.Request(f"http://{self.api}/{key}", data=value.encode(), method="PUT")
        return urllib.request.urlopen(request, timeout=10).read().strip() == b"done"

    def get(self, key):
        return urllib.request.urlopen(f"http://{self.api}/{key}", timeout=10).read().decode().removesuffix("\n")

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(30)
        self.log.close()
