# `make help` lists the targets. Cargo does the building; the recipes only put its calls in order.
CARGO := scripts/cargo

# Recipes of one run share target/ and ports, so they follow one another; cargo and cc use all processors by themselves.
.NOTPARALLEL:
.PHONY: all lib static header demo test asan cluster-test storm peer-test setup fmt clean distclean help
.PHONY: bench bench-peer bench-micro bench-instructions bench-growth
.PHONY: cures fuzz-short fuzz kill9 valgrind tsan

all: lib ## the shared library (default)

lib: setup ## target/release/libdqlitepy.so
	$(CARGO) build --release --locked --lib

static: lib ## build/libdqlitepy.a: one object that exports only dqlitepy_*
	scripts/static-lib

header: setup ## write include/dqlitepy.h anew from the sources
	scripts/header

demo: lib ## the main job on real data: load, query, kill -9, and everything is there again; a cluster that loses its leader
	examples/demo/run

test: setup ## everything that must hold: Rust, C, Python
	scripts/test

asan: setup ## build with the address sanitizer and that of undefined behaviour, and run the C and Rust tests on it
	scripts/asan

tsan: setup ## build with the thread sanitizer over Rust, its library and C, and run the C tests of threads on it
	scripts/tsan

cures: setup ## build without each cure of docs/engine-defects.md in turn: its test must fail (half an hour)
	scripts/cures

fuzz-short: setup ## every fuzz target for a minute (a quarter of an hour with the build)
	scripts/fuzz 60

fuzz: setup ## every fuzz target for an hour; FUZZ="600 sql door"
	scripts/fuzz $(or $(FUZZ),3600)

valgrind: setup ## the C tests that are not about time under valgrind (an hour)
	scripts/valgrind

kill9: lib ## kill -9 of one node, a thousand times, with a count of what it kept; KILL9="100 7" for rounds and seed
	scripts/kill9 $(KILL9)

cluster-test: lib ## clusters in network namespaces: joins, failover, faults, 600 MB (root only, some twenty minutes)
	build/venv/bin/python -m pytest -q tests/cluster

storm: lib ## writers under kills, pauses and partitions, with checkers; STORM="--seconds 3600 --seed 7"
	build/venv/bin/python tests/cluster/storm.py $(STORM)

peer-test: lib ## against go-dqlite 2.0 in a Debian 13 chroot (root only, minutes to set up the first time)
	tests/interop/peer-test || [ $$? = 77 ]

bench: lib ## speed against the bare engine, into docs/performance; BENCH="--rounds 15 --seconds 1"
	build/venv/bin/python benches/run.py $(BENCH)

bench-peer: lib ## the same, and against the stand-in for the Go shim in its chroot (root only)
	build/venv/bin/python benches/run.py --peer $(BENCH)

bench-growth: lib ## cost against size and connections, minutes; GROWTH="--megabytes 10,100 --tmpfs"
	build/venv/bin/python benches/growth.py $(GROWTH)

bench-micro: setup ## single steps of a call
	$(CARGO) test --release --locked --lib -- --ignored --exact micro::run --nocapture

bench-instructions: lib ## instructions per call against benches/instructions.json; WRITE=--write renews it
	build/venv/bin/python benches/instructions.py $(WRITE)

setup: ## get what is missing: packages (as root), the engine's sources, crates, a Python environment
	@scripts/setup

fmt: ## format the Rust sources
	$(CARGO) fmt

clean: ## remove what was built
	rm -rf target build/static build/asan build/tsan build/cures build/fuzz build/kill9 build/logs build/libdqlitepy.a

distclean: clean ## also what was downloaded
	rm -rf build vendor/dqlite vendor/.fetch

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
