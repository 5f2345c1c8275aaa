# Everything a developer or CI runs. On a fresh machine only Python >= 3.11 and make have to be there:
# each target creates the environment and installs what it needs, once (see the stamps below).

PYTHON ?= python3
VENV ?= .venv
# One more than there are cores: a third of the time tests wait for servers and disks.
TEST_WORKERS ?= 3
TEST_ARGS ?=
DEMO_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Half of an installation is compiling all modules to bytecode, of which tests use a part: CI leaves it to the imports.
COMPILE ?= --compile
# The locks name everything, so pip is not to solve: it would look for newer versions of what has extras, and refuse them.
INSTALL_LOCKED := $(PIP) install --quiet $(COMPILE) --no-deps --require-hashes
# Installs this checkout in place. The build backend is locked too, so nothing is fetched unpinned.
INSTALL_SELF := $(PIP) install --quiet --no-deps --no-build-isolation --editable .

# Tests start hundreds of processes; without bytecode each compiles all of fraudml that it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format types wheel bench soak parity lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.dev-stamp ## create .venv with fraudml and the development tools

demo: $(VENV)/.base-stamp ## the whole path, from simulated transactions to a scoring API (DEMO_ARGS=--exit)
	$(BIN)/fraudml demo $(DEMO_ARGS)

test: $(VENV)/.dev-stamp ## every test, doctests included (TEST_ARGS="-k name" for some)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

lint: $(VENV)/.dev-stamp ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev-stamp ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev-stamp ## mypy, strict
	$(BIN)/mypy

wheel: $(BIN)/python ## build the wheel into dist/
	$(INSTALL_LOCKED) -r requirements/build.txt
	rm -f dist/fraudml-*.whl
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/fraudml-*.whl

bench: $(VENV)/.dev-stamp ## run the benchmarks (minutes; see benchmarks/README.md)
	$(BIN)/python -m benchmarks

soak: $(VENV)/.dev-stamp ## kill -9 twenty times under full load, also of workers, then ten minutes of open-loop load
	FRAUDML_TEST_KILLS=20 $(BIN)/python -m pytest tests/integration/test_kill.py
	FRAUDML_TEST_STREAM_KILLS=20 FRAUDML_TEST_STREAM_ROWS=20000 FRAUDML_TEST_OUTAGE_S=60 \
	    $(BIN)/python -m pytest tests/acceptance/test_stream.py tests/integration/test_worker_faults.py
	FRAUDML_TEST_EVERY_STEP=1 $(BIN)/python -m pytest tests/integration/test_warehouse_sync.py
	BENCH_PARTS=open BENCH_OPEN_SECONDS=600 BENCH_RESOLUTION=5min $(BIN)/python -m benchmarks serving

parity: $(VENV)/.dev-stamp ## every value of the Handbook's first 200,000 rows, in every backend (minutes)
	FRAUDML_TEST_HANDBOOK_ROWS=200000 $(BIN)/python -m pytest -v --durations=0 tests/parity/test_handbook.py

lock: $(BIN)/python ## solve the dependencies again and rewrite requirements/*.txt
	VENV=$(VENV) scripts/lock

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamps: .base-stamp is enough to run fraudml, .dev-stamp adds what tests and checks need.
# Both are in one environment; the lock of the second contains the first with equal versions.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "fraudml needs Python 3.11 or newer, and '$(PYTHON)' is not." \
	         "Name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -f $@; exit 1; }

$(VENV)/.base-stamp: requirements/base.txt requirements/build.txt pyproject.toml | $(BIN)/python
	@echo "Installing fraudml and what it needs into $(VENV) ..."
	$(INSTALL_LOCKED) -r requirements/base.txt -r requirements/build.txt
	$(INSTALL_SELF)
	@touch $@

$(VENV)/.dev-stamp: requirements/dev.txt requirements/build.txt pyproject.toml | $(BIN)/python
	@echo "Installing fraudml and its development tools into $(VENV) ..."
	$(INSTALL_LOCKED) -r requirements/dev.txt -r requirements/build.txt
	$(INSTALL_SELF)
	@touch $(VENV)/.base-stamp $@
