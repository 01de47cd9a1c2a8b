# capsid: one command to run, one to test, one to measure. `make help` lists them.
#
# Every step decides for itself whether there is anything to do: cargo by its fingerprints, the kernel and the images
# by the hash of their inputs (kept in the cache, outside the checkout), the packages by what is installed. So all
# targets are phony, and an unchanged tree takes seconds.
#
#   CAPSID_CACHE   root of the cache; default ${XDG_CACHE_HOME:-~/.cache}/capsid
#   BENCH          arguments of `make bench`, as `tests/bench/bench.py --help` explains them
#   SOAK_KILLS     how many kills `make soak` takes to end, in SOAK_SECONDS at most; CAPSID_SOAK_SEED repeats its choices
#   PREFIX         where `make install` puts things, below DESTDIR; default /usr/local
#   FUZZ_SECONDS   how long `make fuzz` runs each target; default 60

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:
.DEFAULT_GOAL := help

STEP := tests/step
GUEST := target/guest
CAPSID := target/release/capsid
PREFIX ?= /usr/local
SOAK_SECONDS ?= 3600
SOAK_KILLS ?= 200
FUZZ_SECONDS ?= 60
# Everything is built already: two steps that run side by side must not build the same thing.
BUILT ?=
READY := $(if $(BUILT),,build)
# This feature keeps the conformance tests out of a plain `cargo test`, which needs nothing that is built elsewhere.
CONFORMANCE := capsid-tests/conformance

##@ Everyday

.PHONY: run
run: build ## set up what is missing, build, and run a container in a microVM
	@$(STEP) load $(CAPSID) load -i images/out/busybox.tar
	@echo '$$ capsid run --rm busybox sh -c ...'
	@$(CAPSID) run --rm busybox sh -c 'echo "Hello from a microVM: Linux $$(uname -r), $$(nproc) processor, PID $$$$"'

# The emulated host is one processor's work, and takes the longest: the other is for what needs no KVM.
.PHONY: test
test: setup-test check build build-tests unit kvm-host-self-test ## the whole suite
	@BUILT=1 tests/together conformance-kvm conformance-emulated-and-soak
	@echo '✓ all tests passed'

.PHONY: conformance
conformance: setup-conformance build ## other people's clients and tests of them: docker-py, bollard, docker
	@$(STEP) -v conformance tests/clients/run

.PHONY: bench
bench: setup-bench build ## measure the promises: a table here, JSON in target/bench
	@tests/bench/bench.py $(BENCH)

.PHONY: fuzz
fuzz: setup-fuzz ## run each fuzz target for FUZZ_SECONDS
	@tests/fuzz/run $(FUZZ_SECONDS)

.PHONY: check
check: setup-test ## formatting, lints, licences
	@$(STEP) format cargo fmt --all --check
	@$(STEP) format-fuzz cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
	@$(STEP) lint cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	@$(STEP) licences tests/cargo-deny --locked check --hide-inclusion-graph licenses bans sources

##@ Parts

.PHONY: build
build: setup-build guest host images ## programs in target/release, the guest in target/guest, images in images/out

.PHONY: host
host: setup-build ## capsid, capsidd and capsid-vmm
	@$(STEP) host cargo build --locked --release -p capsid -p capsid-daemon -p capsid-vmm

.PHONY: guest
guest: setup-build ## the kernel, the agent's initramfs, the template of the writable layer
	@$(STEP) kernel kernel-config/build $(GUEST)/vmlinux
	@$(STEP) agent guest-agent/build $(GUEST)/initramfs.cpio
	@$(STEP) writable images/writable $(GUEST)/writable.ext4

.PHONY: images
images: setup-build ## OCI images in images/out
	@$(STEP) images images/build

.PHONY: unit
unit: ## unit and property tests, of programs and scripts
	@CAPSID_REQUIRE=all $(STEP) -v unit cargo test --locked --workspace --no-fail-fast
	@$(STEP) bench-tests python3 -B -m unittest discover -s tests/bench
	@$(STEP) clients-tests python3 -B -m unittest discover -s tests/clients

.PHONY: build-tests
build-tests: build ## compile the tests that need KVM or its emulation, which run side by side
	@$(STEP) build-tests cargo test --locked --workspace --features $(CONFORMANCE) --no-run

.PHONY: conformance-emulated-and-soak
conformance-emulated-and-soak: conformance-emulated soak-short

.PHONY: conformance-emulated
conformance-emulated: $(READY) ## the conformance tests on the emulated engine, here
	@CAPSID_TEST_ENGINE=emulated $(STEP) -v conformance-emulated \
		cargo test --locked --workspace --features $(CONFORMANCE) --test conformance

.PHONY: conformance-short
conformance-short: setup-conformance build ## the part of `make conformance` that `make test` runs
	@$(STEP) -v conformance-short tests/clients/run --short

.PHONY: conformance-kvm
# Without the monitor's tests of the other engine: `unit` ran them, and an emulator within the emulated host is slow.
conformance-kvm: $(READY) ## the conformance tests and the monitor's own on KVM, in the emulated host
	@CAPSID_TEST_ENGINE=kvm CAPSID_REQUIRE=all $(STEP) -v conformance-kvm \
		tests/kvm-host/cargo-test --features $(CONFORMANCE) --without emulated --without soak capsid-vmm capsid-tests

.PHONY: kvm-host-self-test
kvm-host-self-test: setup-test ## does the emulated host keep its promises?
	@$(STEP) kvm-host tests/kvm-host/kvm-host --prepare
	@$(STEP) -v kvm-host-self-test tests/kvm-host/self-test

.PHONY: soak
soak: $(READY) ## kill at random under load until SOAK_KILLS kills: nothing acknowledged may be lost
	@CAPSID_SOAK_SECONDS=$(SOAK_SECONDS) CAPSID_SOAK_KILLS=$(SOAK_KILLS) CAPSID_SOAK_STARTS=100 $(STEP) -v soak \
		cargo test --locked --workspace --features $(CONFORMANCE) --test soak -- --nocapture --test-threads 1

.PHONY: soak-short
soak-short: $(READY) ## two minutes of it
	@$(STEP) -v soak-short cargo test --locked --workspace --features $(CONFORMANCE) --test soak -- --nocapture --test-threads 1

##@ Other

.PHONY: install
install: ## programs, guest, units of systemd, manual and completions below DESTDIR/PREFIX, after `make build`
	@$(STEP) install host/daemon/install "$(DESTDIR)" "$(PREFIX)"

.PHONY: setup-build setup-test setup-bench setup-fuzz setup-conformance
setup-build setup-test setup-bench setup-fuzz setup-conformance: setup-%:
	@$(STEP) setup tests/setup $*

.PHONY: clean
clean: ## remove what was built; the cache stays
	@rm -rf target images/out tests/fuzz/target

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
