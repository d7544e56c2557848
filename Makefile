# Penstock. `make help` lists what there is.
# Needs Python 3.11 or newer (with venv) and nothing else; everything is installed into .venv.

SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
PORT ?= $(or $(PENSTOCK_PORT),8700)
SEED ?= 1

.PHONY: help up demo test test-fast test-crewai chaos check format bench bench-attempts soak proof-statistics equal-prompts lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: .venv/run ## install, start, serve the example agent (port 8700, or PORT=…)
	PENSTOCK_PORT=$(PORT) $(BIN)/penstock up examples/support

demo: .venv/run ## a worse prompt is caught and rolled back, a better one promoted by proof (SEED=1)
	$(BIN)/penstock demo --seed $(SEED)

test: .venv/dev ## all tests, with their own PostgreSQL and Redis (installed when missing)
	$(BIN)/python scripts/with_services.py -- $(BIN)/pytest $(ARGS)

test-fast: .venv/dev ## the tests that need no server and no network, in seconds
	$(BIN)/pytest tests/unit tests/property $(ARGS)

chaos: .venv/dev ## the fault matrix: thousands of kills, restarts, outages (half an hour to an hour; SEED=1)
	PENSTOCK_CHAOS_KILLS=1000 PENSTOCK_CHAOS_ROUNDS=10 PENSTOCK_CHAOS_SEED=$(SEED) \
	  $(BIN)/python scripts/with_services.py -- $(BIN)/pytest tests/chaos $(ARGS)

check: .venv/dev ## format, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev ## format the code and fix what can be fixed
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format -q .

test-crewai: .venv/dev ## crews and flows with CrewAI itself (an environment of 850 MB)
	PENSTOCK_TEST_CREWAI=1 $(BIN)/pytest tests/e2e/test_real_crewai.py $(ARGS)

# Each part goes on when another one fails, and the whole fails then.
bench: .venv/dev ## every figure beside its peer (langgraph dev, Aegra, DBOS, pgbench: into .bench) and its goal
	@failed=; for part in releases side_by_side library steps checkpoints; do \
	  printf '\n== %s\n' $$part; \
	  $(BIN)/python scripts/with_services.py -- $(BIN)/python benchmarks/$$part.py || failed="$$failed $$part"; \
	done; printf '\n== attempt_cost\n'; \
	$(BIN)/python benchmarks/attempt_cost.py --python $(CURDIR)/.bench/langgraph/bin/python || failed="$$failed attempt_cost"; \
	[ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

soak: .venv/dev ## 10,000 tasks whose sessions are deleted, then 500 at once on one worker: memory, latency
	$(BIN)/python benchmarks/soak.py

bench-attempts: .venv/dev ## what one isolated attempt costs, in CPU, time and memory
	$(BIN)/python benchmarks/attempt_cost.py

proof-statistics: .venv/run ## false alarms and detection of the rollout rule, simulated (≤ 5 min)
	$(BIN)/python benchmarks/proof_statistics.py

equal-prompts: .venv/run ## 40 rollouts of two equal prompts through the real system
	$(BIN)/python benchmarks/equal_prompts.py

lock: .venv/dev ## compile requirements/*.lock anew from pyproject.toml
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header \
	  --python-version 3.11 --group build pyproject.toml -o requirements/run.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header \
	  --python-version 3.11 --group build --group test --group check pyproject.toml \
	  -o requirements/dev.lock

clean: ## remove what the other targets have installed
	rm -rf .venv .bench build dist

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Penstock needs Python 3.11 or newer; name one: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/python requirements/run.lock pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/run.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/run requirements/dev.lock
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@touch $@
