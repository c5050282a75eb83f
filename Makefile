# MARS in user space. `make help` lists the targets.
SHELL   := /bin/bash
CARGO   ?= cargo
PREFIX  ?= /usr
DESTDIR ?=
# Where the programs to install and to pack are.
BIN_DIR ?= target/release
# They are built first, unless they are taken from elsewhere.
BUILT   := $(if $(filter target/release,$(BIN_DIR)),build)

# Where a test fails is in its message; `make unit RUST_BACKTRACE=1` says more.
export RUST_BACKTRACE := 0

.PHONY: help build demo test unit e2e fuzz lint bench soak cluster cluster-shell install deb rpm clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build everything, optimised (target/release)
	tests/setup.sh build
	$(CARGO) build --release --workspace --bins

demo: build ## two hosts on this machine: replicate a file system, hand it over, prove that every byte is right
	tests/setup.sh demo
	tests/demo.sh target/release

test: ## all tests (installs what they need)
	tests/setup.sh test
	$(MAKE) --no-print-directory lint unit fuzz
	tests/demo.sh target/debug
	@echo "make test: all parts passed"

lint: ## formatting and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

unit: ## unit, property, process and end-to-end tests
	$(CARGO) build --workspace --all-targets --locked
	$(CARGO) test --workspace --locked --no-fail-fast

e2e: ## only the end-to-end tests
	tests/setup.sh test
	$(CARGO) build --workspace --all-targets --locked
	$(CARGO) test --workspace --test layers --test licences --test tables --test three_hosts --test failover --test handover_empty --test fuse_ext4 --test power_cuts --test kill_nine --test damage --test damage_sweep --test errors_below --locked -- --nocapture

cluster: ## only the scenarios on containers with real systemd (needs root)
	tests/setup.sh cluster
	$(CARGO) build --workspace --bins --locked
	$(CARGO) test -p mars-cluster --locked -- --nocapture --test-threads=1

cluster-shell: ## a running cluster of two hosts in containers, and a shell on one of them (needs root)
	tests/setup.sh cluster
	$(CARGO) build --workspace --bins --locked
	target/debug/mars-cluster shell

fuzz: ## every fuzz target for FUZZ_SECONDS each (default 20)
	tests/fuzz.sh

soak: ## power cuts and kill -9 for MINUTES (default 10); SEED repeats one seed
	tests/setup.sh test
	$(CARGO) build --release --workspace --bins
	tests/soak.sh target/release

bench: build ## figures against peers in the same run, as one table (ONLY=row,... ROUNDS=3 SECONDS_PER_RUN=3); needs root
	tests/setup.sh bench
	benches/bench.py target/release $(if $(ONLY),--only $(ONLY))

install: $(BUILT) ## programs, units, manual pages, ... below DESTDIR and PREFIX (/usr); from BIN_DIR
	packaging/install --bin-dir $(BIN_DIR) --destdir '$(DESTDIR)' --prefix '$(PREFIX)'

deb: $(BUILT) ## Debian package in target/packages
	tests/setup.sh package
	packaging/build-deb --bin-dir $(BIN_DIR)

rpm: $(BUILT) ## RPM in target/packages
	tests/setup.sh package
	packaging/build-rpm --bin-dir $(BIN_DIR)

clean: ## remove build results
	$(CARGO) clean
	rm -rf fuzz/target fuzz/corpus fuzz/artifacts
