# One command for each thing a person does. `make help` lists them.
CARGO ?= cargo
export GOTOOLCHAIN ?= local
# `cargo test` that fails when anything was skipped, and says how much there was.
TALLY = target/debug/tally --cargo $(CARGO)

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: control-plane
control-plane: ## build etcd, Kubernetes, kwok, Karpenter and helm (once, about ten minutes)
	@$(CARGO) build --quiet -p trainyard-e2e --bin controlplane
	@target/debug/controlplane build

.PHONY: build
build: ## build the operator and the kubectl plugin
	$(CARGO) build -p trainyard -p kubectl-trainyard

.PHONY: demo
demo: control-plane ## show trainyard on a local control plane (KEEP=1 leaves it up)
	@$(CARGO) build --quiet -p trainyard -p trainyard-e2e --bins
	@target/debug/demo $(if $(KEEP),--keep)

.PHONY: test
test: lint deny control-plane tally ## every test there is; fails if one is skipped
	$(CARGO) build --quiet -p trainyard -p kubectl-trainyard --bins
	$(TALLY)

.PHONY: lint
lint: ## rustfmt, clippy and rustdoc, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --quiet

# Installed once, of the version that is meant.
.PHONY: cargo-deny
cargo-deny:
	@command -v cargo-deny >/dev/null || $(CARGO) install --quiet --locked cargo-deny@0.20.2

.PHONY: deny
deny: cargo-deny ## licences, sources and banned crates
	$(CARGO) deny check bans licenses sources

.PHONY: advisories
advisories: cargo-deny ## known faults of dependencies (asks GitHub; not part of test)
	$(CARGO) deny check advisories

.PHONY: tally
tally:
	@$(CARGO) build --quiet -p trainyard-e2e --bin tally

.PHONY: test-unit
test-unit: tally ## everything that needs no control plane
	$(TALLY) --exclude trainyard-e2e

.PHONY: test-e2e
test-e2e: control-plane tally ## the stories on the real control plane
	$(CARGO) build --quiet -p trainyard -p kubectl-trainyard --bins
	$(TALLY) --package trainyard-e2e

.PHONY: bench
bench: control-plane ## print figures: planner, and 50 and 500 Runs from submit to Running
	$(CARGO) bench -p trainyard-planner
	$(CARGO) build --quiet --release -p trainyard -p trainyard-e2e --bins
	target/release/bench

.PHONY: bench-width
bench-width: control-plane ## print more figures: shared machines, many lost at once, 5,000 runs, 20,000 queued (two hours)
	$(CARGO) build --quiet --release -p trainyard -p trainyard-e2e --bins
	target/release/bench starts --runs 500 --runs-per-machine 5 --losses 0
	target/release/bench losses
	target/release/bench flow
	target/release/bench queue

.PHONY: bench-memory
bench-memory: ## print what runs and nodes take of memory, in a plan and in the operator
	$(CARGO) bench --quiet -p trainyard --bench memory

# Installed once, of the version that is meant.
.PHONY: cargo-mutants
cargo-mutants:
	@command -v cargo-mutants >/dev/null || $(CARGO) install --quiet --locked cargo-mutants@27.1.0

# First the quick tests; then, on what they have not noticed, all. Status 2 only says that there is such.
MUTANTS = TMPDIR=$(CURDIR)/target/mutants-tmp $(CARGO) mutants --package trainyard-planner --output target $(addprefix --file ,$(FILES))

.PHONY: mutants
mutants: cargo-mutants ## change the planner everywhere, once each, and see whether a test notices (hours; FILES=planner/src/gang.rs)
	@mkdir -p target/mutants-tmp
	$(MUTANTS) || [ $$? -eq 2 ]
	$(MUTANTS) --iterate -- --test brute_force --test histories

.PHONY: clean
clean: ## remove what was built
	$(CARGO) clean
	rm -rf .local
