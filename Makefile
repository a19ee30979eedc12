# The everyday commands. `make help` lists them; everything they need beyond Rust, Python and make they fetch themselves.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build demo python test test-long check lint fmt bench-fetch bench-ingest bench-serve bench-overload bench-encode bench-onnx bench-tools bench-gpu check-cuda setup clean-data

CACHE := $(HOME)/.cache/larder
# A build folder outside the checkout is used where there is one, and never needed.
ifndef CARGO_TARGET_DIR
ifneq ($(wildcard $(CACHE)/target),)
export CARGO_TARGET_DIR := $(CACHE)/target
endif
endif
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
# Data that only some machines have; tests that need it skip without it, and say so.
export LARDER_SHARED := $(abspath $(or $(LARDER_SHARED),../shared))
# Where a skipped test writes its name.
SKIPS := $(TARGET)/skipped-tests
# What setup found out about this machine.
ENV := . "$(CACHE)/setup.env";

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: setup ## build the release binary and say where it is
	$(ENV) cargo build --release --locked --package larder
	@echo "$(TARGET)/release/larder"

demo: build ## build, invent a shop, serve it and ask it 200 questions
	"$(TARGET)/release/larder" demo

# What Python programs need to call a node: packages in the cache, stubs of the proto files in STUBS.
STUBS := $(TARGET)/python
export LARDER_PYTHON := $(CACHE)/tools/python/bin/python
export LARDER_PYTHON_STUBS := $(STUBS)
python: ## install what docs/python.md uses, and make Python stubs of the proto files
	@tools/python/setup.sh "$(STUBS)"
	@echo "$(LARDER_PYTHON), with PYTHONPATH=$(STUBS)"

test: setup python ## run all tests; ends with how many were skipped
	$(ENV) cargo build --locked --package larder
	for model in minilm-l6 potion me5-small; do "$(TARGET)/debug/larder" model get "$$model"; done
	: >"$(SKIPS)"
	$(ENV) LARDER_SKIP_LOG="$(SKIPS)" cargo test --workspace --locked
	@awk 'NF && !seen[$$0]++ { names = names (n++ ? ", " : "") $$0 } END { printf "skipped: %d (%s)\n", n, n ? names : "none" }' "$(SKIPS)"

test-long: ## run the long variants of the same tests
	LARDER_LONG=1 LARDER_FUZZ_SECONDS=$(or $(LARDER_FUZZ_SECONDS),60) $(MAKE) test

check: test lint ## test and lint: what must pass before a change is merged

lint: setup ## formatting, clippy, documentation, dependencies
	cargo fmt --all --check
	$(ENV) cargo clippy --workspace --all-targets --locked -- -D warnings
	$(ENV) RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace --locked
	tools/deny.sh

fmt: ## format the code
	cargo fmt --all

bench-fetch: setup bench-tools ## measure Store::fetch beside RocksDB, a hash map, Redis and DuckDB (LARDER_BENCH_USERS=20000: in a minute)
	$(ENV) cargo bench --locked --workspace --bench fetch

bench-ingest: build ## measure loading and swapping snapshots, live rows and how soon they are seen (LARDER_BENCH_ROWS=100000: in two minutes)
	$(ENV) LARDER_BIN="$(TARGET)/release/larder" cargo bench --locked --workspace --bench ingest

bench-serve: build ## measure what a request costs the node besides the forward, beside a bare gRPC server, and what batching saves
	$(ENV) LARDER_BIN="$(TARGET)/release/larder" cargo bench --locked --workspace --bench serve

bench-overload: build ## measure what a node does beyond its capacity (LARDER_BENCH_SECONDS=2: shorter; LARDER_BENCH_MECHANISMS=1: each mechanism off)
	$(ENV) LARDER_BIN="$(TARGET)/release/larder" cargo bench --locked --workspace --bench overload

bench-encode: setup bench-onnx ## measure the encoder beside ONNX Runtime, and the search of a million examples
	$(ENV) cargo bench --locked --workspace --bench encode

ONNX := $(CACHE)/tools/onnx
bench-onnx: ## install ONNX Runtime where it is missing
	@"$(ONNX)/bin/python" -c 'import onnx, onnxruntime, safetensors' 2>/dev/null || { python3 -m venv "$(ONNX)" && "$(ONNX)/bin/pip" install -q onnxruntime==1.31.1 onnx numpy safetensors; } || echo "bench-onnx: no onnxruntime" >&2

check-cuda: setup ## check that the build for NVIDIA GPUs compiles; needs no GPU
	tools/cuda/build.sh check

# Binaries that were built elsewhere and carried here (tools/cuda/build.sh release) are used as they are.
bench-gpu: ## measure the model on an NVIDIA GPU beside the CPU; without a GPU it says so and writes nothing
	@if [ -e /dev/nvidiactl ] || [ -e /dev/dxg ]; then \
	  [ -x target/cuda/bench-gpu ] || { tools/setup.sh && tools/cuda/build.sh release; }; \
	  LARDER_CHECKOUT="$(CURDIR)" target/cuda/bench-gpu; \
	else echo "bench gpu: this machine has no NVIDIA GPU; nothing is written"; fi

# What the benchmarks compare with. Without it they run all the same, and say what they leave out.
DUCKDB := $(CACHE)/tools/duckdb
bench-tools: ## install Redis and DuckDB where they are missing (Redis needs root or sudo)
	@command -v redis-server >/dev/null || $(if $(filter 0,$(shell id -u)),,sudo -n )apt-get install -y -qq redis-server >/dev/null || echo "bench-tools: no redis-server" >&2
	@"$(DUCKDB)/bin/python" -c 'import duckdb, pyarrow' 2>/dev/null || { python3 -m venv "$(DUCKDB)" && "$(DUCKDB)/bin/pip" install -q duckdb==2.0.0 pyarrow==26.0.1; } || echo "bench-tools: no duckdb" >&2

setup: ## install what is missing to build (needs root, sudo or nothing at all)
	@tools/setup.sh

clean-data: ## remove what the demo made
	rm -rf data
