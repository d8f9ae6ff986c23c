# dcr-operator. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dcr-operator
CONTROL_PLANE = KUBEBUILDER_ASSETS="$$(tests/control-plane/build.sh)"
TOOLS = DCR_OPERATOR_TOOLS="$$(tests/tools/build.sh)"
CARGO_DENY := 0.20.2
DENY := $(CACHE)/cargo-deny-$(CARGO_DENY)/bin/cargo-deny

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## A real control plane and a real authorization server on this machine, with the operator at work; ONCE=1 ends by itself
	cargo build --locked --bin dcr-operator --example demo
	$(CONTROL_PLANE) DCR_OPERATOR_BINARY=target/debug/dcr-operator ONCE="$(ONCE)" target/debug/examples/demo

.PHONY: test
test: lint deny ## Everything that CI runs
	$(CONTROL_PLANE) $(TOOLS) cargo test --locked --no-fail-fast

.PHONY: lint
lint: ## Format and lints
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

.PHONY: deny
deny: $(DENY) ## Licences, sources and duplicates of the dependencies
	$(DENY) --locked check bans licenses sources

$(DENY):
	cargo install cargo-deny --version $(CARGO_DENY) --locked --root $(CACHE)/cargo-deny-$(CARGO_DENY)

.PHONY: control-plane
control-plane: ## Find or build etcd, kube-apiserver, kube-controller-manager and kubectl; the last line is their folder
	@tests/control-plane/build.sh

.PHONY: tools
tools: ## Find or build helm, promtool, kubeconform and verdicts, which judge the chart; the last line is their folder
	@tests/tools/build.sh

.PHONY: bench
bench: ## The figures of docs/performance.md, measured
	cargo build --locked --release --bin dcr-operator --example bench
	$(CONTROL_PLANE) DCR_OPERATOR_BINARY=target/release/dcr-operator target/release/examples/bench

.PHONY: image
image: ## The image, FROM scratch with a static binary, as an archive in dist/; no container engine is needed
	@deploy/image.sh

.PHONY: release
release: ## All that a release consists of, in dist/: image, binary, chart, manifests, SBOM, checksums
	@deploy/release.sh

.PHONY: soak
soak: ## Many random histories, and a storm of faults for DURATION (30m): the figures of docs/reliability.md
	PROPTEST_CASES=100000 cargo test --locked --lib histories
	$(CONTROL_PLANE) STORM_DURATION="$(or $(DURATION),30m)" cargo test --locked --test integration storm:: -- --nocapture

.PHONY: crds
crds: ## Write crds/ and the admission policy anew from the code
	UPDATE_CRDS=1 cargo test --locked --lib _committed

.PHONY: chart
chart: ## Write the parts of the chart anew that come from crds/, deploy/ and values.yaml
	$(TOOLS) UPDATE_CHART=1 cargo test --locked --test install generated
