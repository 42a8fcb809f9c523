# Every target does its own set-up. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The set-up needs nothing but a Python of the standard library; everything else runs from .venv.
SETUP_PYTHON := $(shell for p in python3 python3.11 python3.12 python3.13; do "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
SETUP := PYTHONPATH=e2e $(or $(SETUP_PYTHON),python3) -m prfaas_setup
BIN := .venv/bin
export PYTHONDONTWRITEBYTECODE ?= 1

.PHONY: help venv lock engine models doctor check test test-engines fuzz bench demo gpu-check clean clean-cache

help: ## List the targets
	@echo "prfaas: a prompt prefilled in one region and decoded in another"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

venv: ## Create or refresh .venv from requirements/dev.txt
	@$(SETUP) venv

lock: venv ## Resolve all dependencies anew and write requirements/*.txt
	@$(SETUP) lock
