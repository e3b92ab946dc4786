# Needs python3 >= 3.11 and make; everything else is installed into .venv from the hashed lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# More than the cores of a small machine: the tests wait more than they compute.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
DATA ?= .data
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run test test-long planted lint fmt types imports check lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.base ## Make .venv with what the gateway needs

$(VENV)/.base: requirements/base.lock requirements/build.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) --require-hashes -r requirements/base.lock -r requirements/build.lock
	$(PIP) --no-deps --no-build-isolation --no-index --editable .
	@touch $@

setup-dev: $(VENV)/.dev ## Make .venv with what the tests need, too

$(VENV)/.dev: requirements/dev.lock $(VENV)/.base
	$(PIP) --require-hashes -r requirements/dev.lock
	@touch $@

run: setup ## Start a gateway with the built-in sandbox; prints URL, key and a curl
	@$(BIN)/seedance-gateway serve --sandbox --data-dir $(DATA) $(ARGS)

test: setup-dev ## Run the whole default suite
	$(PYTEST) $(ARGS)

test-long: setup-dev ## Run the long sweeps
	$(PYTEST) -m "long or not long" $(ARGS)

planted: setup-dev ## Plant bugs in a copy, one at a time; the tests must catch each
	$(BIN)/python -m tests.planted $(ARGS)

lint: setup-dev ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: setup-dev ## Format, and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup-dev ## Types, strictly
	$(BIN)/mypy

imports: setup-dev ## The floors of docs/architecture.md
	$(BIN)/lint-imports

check: lint types imports ## Everything but the tests

lock: ## Renew the hashed locks (needs uv)
	uv pip compile pyproject.toml --extra postgres --python-version 3.11 --universal --generate-hashes --no-header --no-emit-index-url -q -o requirements/base.lock
	uv pip compile pyproject.toml requirements/dev.in --extra postgres --python-version 3.11 --universal --generate-hashes --no-header --no-emit-index-url -q -o requirements/dev.lock
	echo hatchling | uv pip compile - -c requirements/dev.lock --python-version 3.11 --universal --generate-hashes --no-header --no-emit-index-url -q -o requirements/build.lock

clean: ## Remove the virtual environment and the data folder
	rm -rf $(VENV) $(DATA)
