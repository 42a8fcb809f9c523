# Every target does its own set-up. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The set-up needs nothing but a Python 3.11 or newer; everything else runs from .venv.
SETUP = python=$$(e2e/prfaas_setup/find-python) && PYTHONPATH=e2e "$$python" -m prfaas_setup
BIN := .venv/bin
ARGS ?=
# How many generated inputs each test of make fuzz gets.
FUZZ_EXAMPLES ?= 20000
PYTEST := $(BIN)/python -m pytest
NOT_SLOW := not engine_full and not gpu and not e2e

# The parts of a target use the same two cores and the same caches.
.NOTPARALLEL:

.PHONY: help venv lock system engine kubernetes cluster e2e clean-e2e images models doctor check chart crds format test test-project test-connector test-engines \
        fuzz bench demo gpu-check clean clean-cache

help: ## List the targets
	@echo "prfaas: a prompt prefilled in one region and decoded in another"
	@echo
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

demo: venv system engine ## Show it: two emulated regions, real engines (options: make demo ARGS='--json')
	@$(SETUP) model smollm2-135m > /dev/null
	@$(BIN)/prfaas demo $(ARGS)

check: venv ## Format, lint, types and import rules
	@failed=""; \
	step() { echo "== $$*"; "$(BIN)/$$@" || failed="$$failed $$1"; }; \
	step ruff format --check --output-format concise .; \
	step ruff check --output-format concise .; \
	step mypy; \
	step lint-imports --no-logo; \
	step python -m prfaas.api.crds --check; \
	step python -m prfaas.chart --check; \
	[ -z "$$failed" ] || { echo "check failed:$$failed (make format mends the format)"; exit 1; }

test: check test-project test-connector ## Everything that must pass before a change goes in, with real engines

test-project: venv system engine kubernetes
	@echo "== tests of the project (engines: real vLLM on this CPU)"
	@PRFAAS_REQUIRE_ENGINE=1 PRFAAS_REQUIRE_CLUSTER=1 $(PYTEST) -m "$(NOT_SLOW)" $(ARGS)

test-connector: venv engine
	@echo "== tests of the connector inside the engine's environment"
	@$(SETUP) in-engine -- -m pytest -m "$(NOT_SLOW) and not engine" $(ARGS) tests/connector

test-engines: venv system engine ## The long matrix: every kind of KV cache, every case, real engines
	@PRFAAS_REQUIRE_ENGINE=1 $(PYTEST) -m engine_full $(ARGS)

e2e: export CLUSTER ?= e2e
e2e: PROVIDER ?= bare
e2e: venv engine ## Everything in a real cluster (PROVIDER=bare, kind or existing; KEEP=1 leaves it)
	@trap '[ -n "$(KEEP)" ] || $(BIN)/prfaas cluster down --name "$$CLUSTER"' EXIT; \
	$(BIN)/prfaas cluster up --name "$$CLUSTER" --provider '$(PROVIDER)' --nodes 2; \
	eval "$$($(BIN)/prfaas cluster env --name "$$CLUSTER")"; \
	PRFAAS_REQUIRE_ENGINE=1 $(PYTEST) -m e2e $(ARGS) tests/cluster tests/e2e

clean-e2e: ## End all clusters and remove what is left of them, also after a crash
	@if [ -x $(BIN)/prfaas ]; then $(BIN)/prfaas cluster down --all; fi

cluster: PROVIDER ?= bare
cluster: venv ## A Kubernetes to try things in, without Docker (ARGS='--nodes 2 --kwok-nodes 20')
	@$(BIN)/prfaas cluster up --provider '$(PROVIDER)' $(ARGS)
	@echo 'Use it:   eval "$$($(BIN)/prfaas cluster env)"; kubectl get nodes'
	@echo 'End it:   $(BIN)/prfaas cluster down'

fuzz: venv ## Byte parsers under generated input, longer than in make test (FUZZ_EXAMPLES=20000)
	@PRFAAS_HYPOTHESIS=fuzz FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(PYTEST) -m fuzz --timeout=0 $(ARGS)

bench: venv system engine ## Measure, and write the tables of docs/benchmarks.md
	@$(SETUP) bench-system
	@$(BIN)/prfaas bench $(ARGS)

gpu-check: export GPU_PYTHON ?=
gpu-check: ## The connector's device tests on a CUDA device; needs only torch and pytest
	@e2e/prfaas_setup/gpu-check

chart: venv ## Generate the chart's values, schema, roles and tables
	@$(BIN)/python -m prfaas.chart

crds: venv ## Generate crds/, the chart's copies and docs/api.md from the models
	@$(BIN)/python -m prfaas.api.crds

format: venv ## Format and mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format .

venv: ## Create or refresh .venv from requirements/dev.txt
	@$(SETUP) venv

system:
	@$(SETUP) system

kubernetes: venv ## Build an API server and etcd for the tests (the first time some minutes; needs Go)
	@$(BIN)/python -m prfaas_cluster.assets etcd kube-apiserver > /dev/null

engine: venv ## Build the engine's environment in the user's cache folder
	@$(SETUP) engine > /dev/null

images: ENGINE ?= buildah
images: BASE ?=
images: venv ## Build the images (ENGINE=docker BASE=python:3.11-slim-bookworm@sha256:… uses Docker)
	@$(SETUP) images --engine '$(ENGINE)' --base '$(BASE)' $(ARGS)

models: venv ## Make the models of the tests and the demo now, not on demand
	@$(SETUP) models

doctor: ## Say what is there and what is missing
	@$(SETUP) doctor
	@if [ -x $(BIN)/prfaas ]; then $(BIN)/prfaas cluster programs; fi

lock: venv ## Resolve all dependencies anew and write requirements/*.txt
	@$(SETUP) lock

clean: ## Remove what was built in this folder
	rm -rf .venv .run dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

clean-cache: clean-e2e ## Remove the engine, the models and Kubernetes from the user's cache folder
	@$(SETUP) clean-cache
