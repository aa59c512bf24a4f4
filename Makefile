# Everything that CI and a laptop run. `make lint test` is what a change passes.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help build lint fmt test unit e2e e2e-argocd tools demo bench faults image manifests install.yaml

# The one place outside the repository that anything is kept in.
CACHE_ROOT := $(if $(IMAGESET_MIRROR_CACHE),$(IMAGESET_MIRROR_CACHE),$(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/imageset-mirror)
# Scenarios at the same time; most of their time is spent waiting. Each needs about 600 MiB.
E2E_THREADS ?= 4
CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(CACHE_ROOT)/tools/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the release binary
	cargo build --release --locked

lint: $(CARGO_DENY) ## Formatting, clippy, docs, dependencies, generated files
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
	$(CARGO_DENY) --locked check bans licenses sources
	cargo test --locked --test crds --test layers
	cargo run --locked -p e2e -- manifests --check

test: ## Unit, property, integration and end-to-end tests
	cargo test --locked
	$(MAKE) e2e

unit: ## Only what needs no servers
	cargo test --locked

tools: ## Build the real servers that the end-to-end tests start (once; about 10 minutes)
	cargo run --locked -p e2e -- tools

e2e: tools ## End-to-end tests on real servers, with the operator as `cargo build` makes it
	cargo build --locked
	IMAGESET_MIRROR_BIN="$(CURDIR)/target/debug/imageset-mirror" cargo test --locked -p e2e -- --test-threads=$(E2E_THREADS)

faults: tools ## Everything that goes wrong on the way to a registry, with every kill of the sweeps (`make test` has a sample of them)
	cargo build --locked
	cargo test --locked -p e2e --test faults -- --list | tail -n 1
	FAULTS=all IMAGESET_MIRROR_BIN="$(CURDIR)/target/debug/imageset-mirror" cargo test --locked -p e2e --test faults -- --test-threads=$(E2E_THREADS)

e2e-argocd: tools ## End-to-end tests with the real Argo CD; builds it once (about 5 minutes), and needs redis-server or apt-get
	cargo run --locked -p e2e -- tools --argocd
	cargo build --locked
	IMAGESET_MIRROR_BIN="$(CURDIR)/target/debug/imageset-mirror" cargo test --locked -p e2e --test argocd -- --ignored --test-threads=$(E2E_THREADS)

image: build ## Build the operator's image in target/image, without a container engine; PUSH=HOST/NAME:TAG pushes it
	IMAGESET_MIRROR_BIN="$(CURDIR)/target/release/imageset-mirror" cargo run --locked -p e2e -- image $(if $(PUSH),--push "$(PUSH)" -- $(PUSH_FLAGS))

demo: build tools ## Show the whole thing on this machine; KEEP=1 leaves it running
	IMAGESET_MIRROR_BIN="$(CURDIR)/target/release/imageset-mirror" cargo run --locked -p e2e -- demo

bench: ## Compare with its peers in requests, time, processors and memory; writes e2e/bench/RESULTS.md (about an hour; BENCH="--runs 1" for less)
	cargo build --release --locked
	IMAGESET_MIRROR_BIN="$(CURDIR)/target/release/imageset-mirror" cargo run --release --locked -p e2e -- bench --output e2e/bench/RESULTS.md $(BENCH)
	IMAGESET_MIRROR_BIN="$(CURDIR)/target/release/imageset-mirror" cargo run --release --locked -p e2e -- bench-recheck
	IMAGESET_MIRROR_BIN="$(CURDIR)/target/release/imageset-mirror" cargo run --release --locked -p e2e -- bench-plan
	IMAGESET_MIRROR_BIN="$(CURDIR)/target/release/imageset-mirror" cargo run --release --locked -p e2e -- bench-huge
	IMAGESET_MIRROR_BIN="$(CURDIR)/target/release/imageset-mirror" cargo run --release --locked -p e2e -- bench-catalog

manifests: ## Regenerate crds/, config/ and the generated parts of the chart
	UPDATE=1 cargo test --locked --test crds
	cargo run --locked -p e2e -- manifests

install.yaml: ## Write target/install.yaml: everything, for `kubectl apply --server-side -f`
	mkdir -p target
	cargo run --locked -p e2e -- install-yaml target/install.yaml

$(CARGO_DENY):
	@echo "building cargo-deny $(CARGO_DENY_VERSION), once, about 4 minutes"
	cargo install --locked --quiet --root "$(CACHE_ROOT)/tools/cargo-deny-$(CARGO_DENY_VERSION)" cargo-deny@$(CARGO_DENY_VERSION)
