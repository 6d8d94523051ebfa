# One command for each thing a person does. `make help` lists them.
CARGO ?= cargo
export GOTOOLCHAIN ?= local

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
test: lint deny test-unit test-e2e ## every test there is

.PHONY: lint
lint: ## rustfmt, clippy and rustdoc, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --quiet

.PHONY: deny
deny: ## advisories, licences and banned crates
	@command -v cargo-deny >/dev/null || $(CARGO) install --quiet --locked cargo-deny@0.20.2
	$(CARGO) deny check bans licenses sources

.PHONY: test-unit
test-unit: ## everything that needs no control plane
	$(CARGO) test --workspace --exclude trainyard-e2e --quiet

.PHONY: test-e2e
test-e2e: control-plane ## the stories on the real control plane
	$(CARGO) build --quiet -p trainyard --bin trainyard
	$(CARGO) test -p trainyard-e2e

.PHONY: bench
bench: control-plane ## print figures: planner, and 50 and 500 Runs from submit to Running
	$(CARGO) bench -p trainyard-planner
	$(CARGO) build --quiet --release -p trainyard -p trainyard-e2e --bins
	target/release/bench

.PHONY: clean
clean: ## remove what was built
	$(CARGO) clean
	rm -rf .local
