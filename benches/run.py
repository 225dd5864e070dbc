"""Measures the library against the floor and, with --peer, against the stand-in for the Go shim, in alternating rounds.

Writes to docs/performance: what the programs printed (raw.txt), the table (results.md) and a plot (results.svg).
"""
import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import report

TOP = Path(__file__).resolve().parent.parent
BUILD = TOP / "build" / "bench"


class Failed(Exception):
    """Says what failed and what to do."""


def build_driver():
    BUILD.mkdir(parents=True, exist_ok=True)
    sources = sorted(map(str, (TOP / "benches" / "driver").glob("*.c")))
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", BUILD / "driver", *sources, "-ldl", "-lpthread"], check=True)


def build_engine():
    """The engine without the library around it."""
    made = subprocess.run(
        [TOP / "scripts/cargo", "bench", "--no-run", "--locked", "--bench", "engine", "--message-format=json"],
        check=True, cwd=TOP, stdout=subprocess.PIPE, text=True).stdout
    programs = [json.loads(line).get("executable") for line in made.splitlines() if line.startswith("{")]
    shutil.copy2([program for program in programs if program][-1], BUILD / "engine")


def stay_on_one_processor():
    """Where the kernel puts the two ends of a connection decides between 17 and 60 us, for each of the subjects."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


class Place:
    """Where programs run: on this system, or in the peer's chroot, so that both libraries have the same libc."""

    def __init__(self, root, library):
        self.root = root
        self.base = Path(f"{root or ''}{'/tmp/dqlitepy-bench' if root else BUILD}-{os.getpid()}")
        self.shm = Path(f"/dev/shm/dqlitepy-bench-{os.getpid()}")
        self.base.mkdir(parents=True)
        self.shm.mkdir()
        for file in (BUILD / "driver", BUILD / "engine", library):
            if file.exists():
                shutil.copy2(file, self.base / file.name)

    def inside(self, path):
        """A path as programs in this place see it."""
        return "/" + str(Path(path).relative_to(self.root)) if self.root else str(path)

    def fresh(self, where, name):
        """An empty directory on disk or on tmpfs."""
        folder = (self.base if where == "disk" else self.shm) / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder if where == "tmpfs" else Path(self.inside(folder))

    def start(self, program, *arguments, **options):
        command = [self.inside(self.base / program), *map(str, arguments)]
        if self.root:
            command = ["chroot", str(self.root), *command]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)

    def clean(self):
        shutil.rmtree(self.base, ignore_errors=True)
        shutil.rmtree(self.shm, ignore_errors=True)


class Run:
    """One run: rounds over all subjects, every printed line kept."""

    def __init__(self, place, subjects, seconds, outside, raw):
        self.place, self.subjects, self.outside, self.raw = place, subjects, outside, raw
        self.environment = {**os.environ, "BENCH_SECONDS": str(seconds)}
        self.seconds = seconds
        self.records = []

    def keep(self, context, text):
        for line in text.splitlines():
            words = dict(word.split("=", 1) for word in line.split() if "=" in word)
            self.records.append({**context, "mode": line.split()[0], **words})
            context_words = (f"{key}={value}".replace(" ", "_") for key, value in context.items())
            print(" ".join(context_words), line, file=self.raw, flush=True)

    def measure(self, context, *arguments, **options):
        process = self.place.start("driver", *arguments, env=self.environment, **options)
        text, _ = process.communicate(timeout=600)
        if process.returncode != 0:
            raise Failed(f"driver {' '.join(map(str, arguments))} ended with {process.returncode}, see above")
        self.keep(context, text)

    def round(self, number):
        # Whoever comes first in one round comes last in the next.
        subjects = list(self.subjects.items())
        if number % 2:
            subjects.reverse()
        for where in ("tmpfs", "disk"):
            for subject, library in subjects:
                context = {"round": number, "where": where, "subject": subject}
                for mode in ("start", "calls") if where == "disk" else ("start", "memory", "calls"):
                    folder = self.place.fresh(where, f"{subject}-{mode}")
                    self.measure(context, mode, library, folder)
        for subject, library in subjects if self.outside else ():
            for where, placed in (("one processor", {"preexec_fn": stay_on_one_processor}), ("tmpfs", {})):
                self.remote({"round": number, "where": where, "subject": subject}, library, placed)
                if subject == "ours":
                    self.replicated({"round": number, "where": where, "subject": subject}, library, placed)

    def remote(self, context, library, placed):
        """A node in one process, clients in another; beside ours the engine on TCP without a door."""
        ours = context["subject"] == "ours"
        servers = [self.place.start("driver", "serve", library, self.place.fresh("tmpfs", "serve"), **placed)]
        if ours:
            servers.append(self.place.start("engine", self.place.fresh("tmpfs", "engine"), **placed))
        try:
            addresses = [server.stdout.readline().strip() for server in servers]
            if ours:
                self.measure(context, "remote", library, *addresses, **placed)
            else:
                client = self.place.start("client", addresses[0], self.seconds, **placed)
                self.keep(context, client.communicate(timeout=600)[0])
        finally:
            for server in servers:
                server.communicate(timeout=60)

    def replicated(self, context, library, placed):
        """Three nodes of ours beside three engines without a door, each in a process."""
        servers = []

        def serve(program, name, *arguments):
            folder = self.place.fresh("tmpfs", name)
            words = ("serve", library, folder) if program == "driver" else (folder,)
            servers.append(self.place.start(program, *words, *arguments, **placed))
            return servers[-1].stdout.readline().strip()

        try:
            ours = serve("driver", "ours-1")
            for number in (2, 3):
                serve("driver", f"ours-{number}", ours)
            bare = [serve("engine", f"engine-{number}", number) for number in (1, 2, 3)]
            self.measure(context, "add", library, *bare)
            self.measure(context, "replicated", library, ours, bare[0], **placed)
        finally:
            for server in reversed(servers):
                server.communicate(timeout=60)


def peer_libraries(place, folder):
    """Builds the Go client where the peer lives; the stand-in itself is there already (tests/interop/peer-test)."""
    stand_in = "/peer/goshim/build/libdqlitepy-ordered.so"
    if not Path(f"{place.root}{stand_in}").exists():
        raise Failed(f"{place.root} has no stand-in. What to do: make peer-test sets it up (root, network)")
    for mount in ("proc", "dev", "dev/shm"):
        if not os.path.ismount(place.root / mount):
            subprocess.run(["mount", "--bind", f"/{mount}", place.root / mount], check=True)
    source = place.base / "src" / "client"
    source.mkdir(parents=True)
    shutil.copy2(folder / "client.go", source)
    inside = place.inside(place.base)
    script = f"""
        cd {inside}
        mkdir -p src/github.com/canonical/go-dqlite
        ln -s /usr/share/gocode/src/github.com/canonical/go-dqlite src/github.com/canonical/go-dqlite/v2
        export GO111MODULE=off GOFLAGS= GOPATH={inside}:/usr/share/gocode GOCACHE=/tmp/go-cache HOME=/tmp
        export CGO_LDFLAGS_ALLOW='-Wl,-z,now'
        go build -o client ./src/client"""
    subprocess.run(["chroot", place.root, "sh", "-ec", script], check=True)
    return {"peer": stand_in}


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    commit = subprocess.run(["git", "-C", TOP, "describe", "--always", "--dirty"], stdout=subprocess.PIPE, text=True)
    return {"commit": commit.stdout.strip(), "processors": f"{os.cpu_count()} x {cpu}", "kernel": platform.release(),
            "load": "%.2f" % os.getloadavg()[0], "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", default=TOP / "target/release/libdqlitepy.so", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.4, help="for each kind of call in each round")
    parser.add_argument("--peer", action="store_true", help="also the stand-in for the Go shim, in its chroot (root)")
    parser.add_argument("--inside", action="store_true", help="no clients from outside")
    parser.add_argument("--out", default=TOP / "docs/performance", type=Path)
    given = parser.parse_args()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    root = Path(os.environ.get("ROOT", cache / "dqlitepy-peer")) if given.peer else None
    build_driver()
    if not given.inside:
        build_engine()
    place = Place(root, given.library)
    try:
        subjects = {"ours": place.inside(place.base / given.library.name)}
        if given.peer:
            subjects.update(peer_libraries(place, TOP / "benches/peer"))
        given.out.mkdir(parents=True, exist_ok=True)
        about = {**machine(), "rounds": given.rounds, "seconds": given.seconds}
        with open(given.out / "raw.txt", "w") as raw:
            print(" ".join(f"{key}={str(value).replace(' ', '_')}" for key, value in about.items()), file=raw)
            run = Run(place, subjects, given.seconds, not given.inside, raw)
            for number in range(given.rounds):
                run.round(number)
                print(f"round {number + 1} of {given.rounds}, load {os.getloadavg()[0]:.2f}", file=sys.stderr)
        about["load"] += " to %.2f" % os.getloadavg()[0]
        print(report.write(run.records, about, given.out))
    except (Failed, subprocess.SubprocessError) as error:
        sys.exit(f"bench: {error}")
    finally:
        place.clean()


if __name__ == "__main__":
    main()
