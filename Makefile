# `make help` lists the targets. Everything that takes more than a line is in .ci/.

SHELL := /bin/bash
.DEFAULT_GOAL := help

export HERALD_CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/herald
# Tools that install-deps had to fetch come before the machine's own; what is for
# administrators is not on the PATH of others.
export PATH := $(HERALD_CACHE)/tools/bin:$(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin
# The Go toolchain that the control plane wants is fetched by an older one.
export GOTOOLCHAIN ?= auto
ifdef CI
export CARGO_INCREMENTAL := 0
endif


LAB := target/debug/herald-lab
.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: install-deps build ## See Herald work on a real control plane, step by step (no cluster needed)
	@$(LAB) demo

.PHONY: test
test: install-deps ## Everything that must hold: lint, deny, unit tests, scenarios
	@.ci/test

.PHONY: build
build: ## Build the programs (debug)
	cargo build --workspace --bins

.PHONY: lint
lint: ## Format check and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

.PHONY: deny
deny: ## Licences, sources and banned crates
	cargo deny check bans licenses sources

.PHONY: unit
unit: ## Unit, property and integration tests
	cargo test --workspace

.PHONY: sim
sim: ## Elections from random schedules; make sim SEEDS=1000000
	cargo run --quiet --bin herald-sim -- --seeds $(or $(SEEDS),100000)

.PHONY: scenarios
scenarios: build ## The lab's scenarios; make scenarios NAMES="expose node-crash"
	@$(LAB) scenario $(NAMES)

.PHONY: bench
bench: ## The scenarios that measure something, with what users run; figures at the end
	cargo build --release --workspace --bins --exclude herald-speaker-cmd
	@deploy/build
	@install target/speaker/herald-speaker target/release/
	@target/release/herald-lab bench $(NAMES)

.PHONY: bench-aws
bench-aws: ## What the AWS provider costs in calls and seconds, against the strict stand-in
	cargo run --quiet -p herald-aws --example bench_aws

.PHONY: generate
generate: ## Write deploy/crds, docs/reference.md and docs/aws-annotations.md from the code
	cargo build --quiet --bin herald-operator
	target/debug/herald-operator crds > deploy/crds/crds.yaml.new
	mv deploy/crds/crds.yaml.new deploy/crds/crds.yaml
	target/debug/herald-operator reference > docs/reference.md.new
	mv docs/reference.md.new docs/reference.md
	target/debug/herald-operator aws-annotations > docs/aws-annotations.md.new
	mv docs/aws-annotations.md.new docs/aws-annotations.md

.PHONY: lab-up
lab-up: install-deps build ## Start a cluster with Herald on this machine and leave it running
	@$(LAB) up

.PHONY: lab-down
lab-down: ## End what lab-up started
	@$(LAB) down

.PHONY: install-deps
install-deps: ## Install what is missing on this machine
	@.ci/setup

.PHONY: clean
clean: ## Delete what cargo built; what install-deps and the lab fetched stays in HERALD_CACHE
	cargo clean
