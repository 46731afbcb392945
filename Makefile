# Bare `make` prints this list. Everything runs in .venv, which `make setup` makes.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin

# A real Apache Kafka beside the checkout is used when nobody names another one.
KAFKA_HOME ?= $(if $(wildcard ../shared/kafka/libs),$(abspath ../shared/kafka))
ifneq ($(strip $(KAFKA_HOME)),)
export KAFKA_HOME
endif

.PHONY: help
help: ## print this list
	@echo "Sentinel Loop. Commands:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "Variables:"
	@awk -F ' ## ' '/^#\? / {sub(/^#\? /, "", $$1); printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

#? PYTHON ## interpreter for `make setup` (default: python3.11)
#? TORCH ## build of torch for `make setup`: cpu (or an error), cuda; default: cpu where pip can see it
#? KAFKA_HOME ## folder of a real Apache Kafka for the tests (its libs/*.jar; needs Java 17)
#? ARGS ## more arguments for the command behind the target: make test ARGS=--durations=20

.PHONY: setup
setup: ## make .venv from the lock files, with torch; quick when nothing changed
	@scripts/setup

.PHONY: check
check: setup ## lint, formatting, types, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

.PHONY: test
test: setup ## every test, with coverage (table: .venv/bin/coverage report); marked kafka: needs KAFKA_HOME
	@rm -f .coverage .coverage.* .cache/test-status && mkdir -p .cache
	@# scripts/retest has to tell failed tests from a run that broke off; make makes every failure a 2.
	@status=0; $(BIN)/pytest --cov --cov-report= $(ARGS) || status=$$?; echo $$status >.cache/test-status; exit $$status

.PHONY: format
format: setup ## rewrite the code the way `make check` wants it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: demo
demo: setup ## the loop on this machine: embedded broker and database, no accounts, no network
	$(BIN)/sentinel demo $(ARGS)

.PHONY: bench
bench: setup ## the whole path, measured: events/s and CPU per event, beside the peers
	$(BIN)/python -m benchmarks.path $(ARGS)

.PHONY: lock
lock: ## rewrite requirements/*.txt from pyproject.toml (ARGS=--upgrade takes newer versions)
	scripts/lock $(ARGS)

.PHONY: wheel
wheel: setup ## build the wheel into dist/
	$(BIN)/python -m hatchling build --target wheel

.PHONY: clean
clean: ## remove what builds, checks and runs left behind, and .venv
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov coverage.xml build dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
