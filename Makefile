# All of this runs on python3, pip and make alone: the first target that needs it builds .venv from requirements.lock.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Newer than the environment's recipe exactly when the environment is up to date.
READY := $(VENV)/.ready

# What is linted and type-checked. Wildcards, because a folder without Python in it is not an error.
SOURCES := $(wildcard clustercore plugins tests benchmarks docs/examples tools)

.DEFAULT_GOAL := help

.PHONY: help
help: ## Say what the targets do
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# -- Environment --

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: venv
venv: $(READY) ## Build .venv, if requirements.lock or pyproject.toml changed

# The list is universal: one file for every supported Python and platform. Without a change to pyproject.toml the
# pins stay; `make lock UPGRADE=--upgrade` takes newer ones. uv is needed here and nowhere else.
.PHONY: lock
lock: ## Rewrite requirements.lock from pyproject.toml
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/pip install --quiet uv
	build/lock/bin/uv pip compile pyproject.toml --all-extras --group dev --universal --generate-hashes \
		--no-config --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(UPGRADE) \
		--quiet --output-file requirements.lock

# -- Use --

.PHONY: demo
demo: $(READY) ## Three processes, a kill -9, and every acknowledged write read back
	$(BIN)/clustercore demo

.PHONY: example
example: $(READY) ## The Cluster Center of a drone fleet: a partition, a lost leader, and servers that stay in step
	cd docs/examples && ../../$(BIN)/python -m cluster_center

# Two processes for every core, since much of the time is waiting (tests/conftest.py), but not more than eight: many
# tests start clusters of processes of their own. The debugger and `-s` need one process: TESTS='-n 0 ...'.
.PHONY: test
test: $(READY) ## All tests; TESTS='tests/unit -k name' for some
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal $(TESTS)

# -- Check: only reads --

.PHONY: check
check: check-format check-lint check-types check-layers check-protos check-news check-coverage ## All checks; only reads

.PHONY: check-format
check-format: $(READY)
	$(BIN)/ruff format --check $(SOURCES)

.PHONY: check-lint
check-lint: $(READY)
	$(BIN)/ruff check $(SOURCES)

.PHONY: check-types
check-types: $(READY)
	$(BIN)/mypy $(SOURCES)

.PHONY: check-layers
check-layers: $(READY)
	$(BIN)/lint-imports --no-cache --no-logo

.PHONY: check-protos
check-protos: $(READY)
	$(BIN)/python tools/protos.py --check

.PHONY: check-news
check-news: $(READY)
	$(BIN)/towncrier build --draft --version next >/dev/null

# The core holds the promises, so its own unit tests go through every branch of it.
.PHONY: check-coverage
check-coverage: export COVERAGE_FILE := build/coverage.raft
check-coverage: $(READY)
	@mkdir -p build
	$(BIN)/coverage run --source=clustercore.raft -m pytest --quiet tests/unit/raft
	$(BIN)/coverage report --fail-under=100

# -- Change --

.PHONY: fix
fix: $(READY) ## Format, and mend what ruff can mend
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

.PHONY: protos
protos: $(READY) ## Regenerate the code that protos/ describes
	$(BIN)/python tools/protos.py

.PHONY: clean
clean: ## Remove the environment and everything built
	rm -rf $(VENV) build dist .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
