# Everything a person does in this repository. `make` alone lists it.

# The first Python on PATH, unless another there is clearly faster: it says which, and make PYTHON=... decides otherwise.
PYTHON ?= $(shell python3 scripts/find_python.py)
VENV := .venv
BIN := $(VENV)/bin
DATA ?= .data
PORT_BASE ?= 8080
WORKERS ?= 3
SEED ?= 1
RUNS ?= 1
SOAK_SECONDS ?= 3600
INSTALLED := $(VENV)/.installed
# Not uv's or pip's own lock formats: they hold addresses.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--exclude-newer "$$(date -u -d '7 days ago' +%F 2>/dev/null || date -u -v-7d +%F)"
PIP_INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check
UV_INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python

# Where it is set, every process that starts, and every run of the tests, compiles all of our modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run down test thorough chaos check soak lint fmt bench bench-reads bench-freshness bench-projection lock clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(INSTALLED) ## start everything on this machine and show it; Ctrl-C stops it, the data stay
	@$(BIN)/daybook up --data $(DATA) --port-base $(PORT_BASE)

down: $(INSTALLED) ## stop a stack that runs elsewhere on this machine
	@$(BIN)/daybook down --data $(DATA)

test: $(INSTALLED) ## whether it works, in some minutes, on real servers that are started for it
	$(BIN)/pytest -n $(WORKERS) --durations 10 -m "not thorough and not chaos"

thorough: $(INSTALLED) ## the tests that take long to prove what they prove; with `test` it is all but chaos
	$(BIN)/pytest -n $(WORKERS) --durations 10 -m "thorough and not chaos"

chaos: $(INSTALLED) ## do harm to a whole Daybook; EXPERIMENT=X9 SEED=7 RUNS=20 FULL=1, or SHORT=1 for a few minutes of it
ifdef SHORT
	$(BIN)/pytest -q tests/chaos
else
	@test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || ls /usr/lib/*/faketime >/dev/null 2>&1 || \
		apt-get -qq install --no-install-recommends --yes faketime >/dev/null || echo "no libfaketime: X20 will be skipped"
	$(BIN)/python -m tests.chaos $(EXPERIMENT) --seed $(SEED) --runs $(RUNS) $(if $(FULL),--full)
endif

check: lint ## format, lint, types, import rules, unit tests
	$(BIN)/pytest -n $(WORKERS) -q tests/unit

soak: $(INSTALLED) ## random commands beside a second rule book, for SOAK_SECONDS (an hour)
	DAYBOOK_SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/pytest -q -s tests/integration/command_service/test_rule_book.py

lint: $(INSTALLED) ## what check does, but for the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(INSTALLED) ## format, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED) ## measure durable transactions a second beside plain inserts
	$(BIN)/python -m bench

bench-reads: $(INSTALLED) ## measure balances as of anything in a ledger of a million entries
	$(BIN)/python -m bench reads

bench-freshness: $(INSTALLED) ## measure how soon a commit can be read at 1,000 transactions a second
	$(BIN)/python -m bench freshness

bench-projection: $(INSTALLED) ## measure how fast the books are rebuilt, and how fast they follow, for a million events
	$(BIN)/python -m bench projection

lock: $(INSTALLED) ## resolve the dependencies anew, none younger than a week
	$(COMPILE) --group install -o requirements-install.lock
	$(COMPILE) pyproject.toml --extra local -o requirements.lock
	$(COMPILE) pyproject.toml -c requirements.lock -o requirements-run.lock
	$(COMPILE) pyproject.toml -c requirements.lock --extra local --extra dev -o requirements-dev.lock

clean: ## remove what was made, but not the data
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@test ! -e $(DATA) || echo "the books in $(DATA) are still there"

# uv takes seconds where pip takes a minute, and keeps what it downloaded. It reads none of pip's settings (an index, say): where it
# cannot, pip does it.
$(INSTALLED): requirements-install.lock requirements-dev.lock
	$(eval PYTHON := $(PYTHON))
	@test -n "$(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit("Daybook needs Python 3.11 or later: make PYTHON=...") if sys.version_info < (3, 11) else None'
	@echo "installing what Daybook needs into $(VENV), with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP_INSTALL) --require-hashes -r requirements-install.lock && \
		$(UV_INSTALL) --require-hashes -r requirements-dev.lock && $(UV_INSTALL) --no-deps --editable . || \
		{ echo "uv could not: installing with pip" && \
		$(PIP_INSTALL) --require-hashes -r requirements-dev.lock && $(PIP_INSTALL) --no-deps --editable .; }
	@touch $@
