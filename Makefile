# vllmd.platform: `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help run precheck plan stop status image lock-image gc clean distclean test lint sanity unit policies molecule drills bench collection lock

INVENTORY ?= inventories/local
PROFILE ?= cpu
SCENARIO ?= --all
# Where the pinned Python environment lives; point it elsewhere to share one between checkouts.
VENV ?= .venv
export VLLMD_VENV := $(abspath $(VENV))
export PATH := $(VLLMD_VENV)/bin:$(PATH)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nVariables: INVENTORY=%s PROFILE=%s SCENARIO=%s ARGS="--check --diff ..."\n' '$(INVENTORY)' '$(PROFILE)' '$(SCENARIO)'

run: ## from a fresh machine to a chat answer: packages, image, virtual machine, question
	@scripts/play site.yml -i $(INVENTORY) $(ARGS)

precheck: ## what the hosts can do and what they lack; changes nothing on them; exit status 0 ready, 2 not
	@scripts/bootstrap run && scripts/precheck -i $(INVENTORY) $(ARGS)

plan: ## which replica runs where, and what that changes; ARGS=--check writes no plan
	@scripts/play playbooks/plan.yml -i $(INVENTORY) $(ARGS)

status: ## what runs here, and how to reach it
	@scripts/play playbooks/status.yml -i $(INVENTORY) $(ARGS)

stop: ## end the runtimes, gracefully
	@scripts/play playbooks/stop.yml -i $(INVENTORY) $(ARGS)

image: ## build the guest image alone (PROFILE=cpu)
	@scripts/play playbooks/generate.yml -i $(INVENTORY) -e runtime_assembler_profile=$(PROFILE) $(ARGS)

lock-image: ## build the image from what the mirrors serve now, write its lock file (LOCK=FILE), say what changed
	@[ -n "$(LOCK)" ] || { echo 'name the lock file: make lock-image LOCK=$$PWD/image.lock' >&2; exit 2; }
	@scripts/play playbooks/generate.yml -i $(INVENTORY) -e runtime_assembler_profile=$(PROFILE) \
	  -e runtime_assembler_lock_file=$(abspath $(LOCK)) -e runtime_assembler_lock_update=true $(ARGS)

gc: ## remove old images and caches that nothing needs; ARGS="--check --diff" says what and how much
	@scripts/play playbooks/gc.yml -i $(INVENTORY) $(ARGS)

clean: ## remove what `make run` made: runtimes, images, launcher, units; caches stay
	@scripts/play playbooks/teardown.yml -i $(INVENTORY) $(ARGS)
	@rm -rf build .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis

distclean: ## clean, and after asking remove caches and the Python environment too (YES=1 does not ask)
	@scripts/distclean

test: ## everything: lint, sanity, unit tests, molecule scenarios
	@scripts/check-all

lint: ## ansible-lint, yamllint, ruff, mypy, shellcheck, dib-lint
	@scripts/bootstrap test && scripts/check-lint

sanity: ## ansible-test sanity over the built collection
	@scripts/bootstrap test && scripts/check-sanity

unit: ## unit and property tests (ARGS="-k name")
	@scripts/bootstrap test && python -m pytest $(ARGS)

policies: ## checkov over the manifests that Runtimes on Kubernetes become, and over what the roles give a cluster
	@scripts/bootstrap test && scripts/check-policies $(ARGS)

molecule: ## scenarios on real systemd hosts and an emulated guest (SCENARIO=hypervisor)
	@scripts/bootstrap test && scripts/check-molecule $(SCENARIO)

drills: ## what is too long for `make test`: fleets killed and full, hosts that vanish, an authority replaced, an upgrade, three members; three hours
	@scripts/bootstrap test && python -m pytest -n 0 tests/fleet
	@VLLMD_TEST_MARKS='drill or not drill' scripts/check-molecule hypervisor vfio runtimes kubernetes kubernetes_control_plane

bench: ## measure boot and build beside a stock image; writes build/benchmarks/
	@scripts/bootstrap test && python benchmarks/boot.py $(ARGS)

collection: ## build the collection artefact into build/
	@scripts/bootstrap run && ansible-galaxy collection build --force --output-path build .

lock: ## pin requirements/*.in to the newest versions, with hashes
	@scripts/lock-requirements
