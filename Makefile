# MARS in user space. `make help` lists the targets.
SHELL   := /bin/bash
CARGO   ?= cargo
PREFIX  ?= /usr
DESTDIR ?=
BINS    := marsadm mars-logger mars-fetch mars-replay mars-sync mars-meta

.PHONY: help build demo test unit e2e fuzz lint bench soak install clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
	$(CARGO) test --workspace --locked

e2e: ## only the end-to-end tests
	tests/setup.sh test
	$(CARGO) build --workspace --all-targets --locked
	$(CARGO) test --workspace --test layers --test licences --test three_hosts --test failover --test handover_empty --test fuse_ext4 --test power_cuts --test kill_nine --test damage --test damage_sweep --test errors_below --locked -- --nocapture

fuzz: ## every fuzz target for FUZZ_SECONDS each (default 20)
	tests/fuzz.sh

soak: ## power cuts and kill -9 for MINUTES (default 10); SEED repeats one seed
	tests/setup.sh test
	$(CARGO) build --release --workspace --bins
	tests/soak.sh target/release

bench: build ## figures against peers in the same run, as one table (ONLY=row,... ROUNDS=3 SECONDS_PER_RUN=3); needs root
	tests/setup.sh bench
	benches/bench.py target/release $(if $(ONLY),--only $(ONLY))

install: build ## install binaries and units below DESTDIR and PREFIX (default /usr)
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 0755 $(addprefix target/release/,$(BINS)) $(DESTDIR)$(PREFIX)/sbin
	install -m 0644 units/*.target units/*.service units/*.socket units/*.timer units/*.path $(DESTDIR)$(PREFIX)/lib/systemd/system

clean: ## remove build results
	$(CARGO) clean
	rm -rf fuzz/target fuzz/corpus fuzz/artifacts
