# Everything one does with Touchstone; `make` alone lists it. All of it happens in .venv and needs Python 3.11 or newer.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

BIN   := $(VENV)/bin
SERVE := $(VENV)/.serve-installed
DEV   := $(VENV)/.dev-installed
# --only-binary: where a wheel is missing, say so at once instead of looking for a compiler.
PIP   := $(BIN)/python -m pip --disable-pip-version-check install --quiet --only-binary :all:
# Not in the lock, because its builds for CPU and CUDA are different files under one version; see docs/operations.md.
TORCH := $(shell sed -n 's/^ *"\(torch==[^"]*\)",$$/\1/p' pyproject.toml)
UV    := $(VENV)/uv/bin/uv
FEAST := build/feast/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run demo test test-long check bench bench-features bench-outage train image lock clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(SERVE) ## serve the shipped model at http://127.0.0.1:8000 (settings: make run ARGS="--port 9000")
	$(BIN)/python -m service $(ARGS)

demo: $(DEV) ## start a service, send it simulated payments for a minute, show what it decides
	$(BIN)/python -m benchmarks demo $(ARGS)

test: $(DEV) ## run every test that takes seconds
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-long: $(DEV) ## run the tests that take minutes
	$(BIN)/python -m pytest -m long $(ARGS)

check: $(DEV) ## lint, formatting, types and the order of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV) ## measure latency, throughput and the speed of folding on this machine
	$(BIN)/python -m benchmarks bench $(ARGS)

bench-features: $(DEV) $(FEAST) ## measure features in Redis, ours beside Feast's, and what ours take there
	$(BIN)/python -m benchmarks features $(ARGS)

bench-outage: $(DEV) ## measure what clients of a service see while its Redis hangs, is killed and comes back
	$(BIN)/python -m benchmarks outage $(ARGS)

train: $(DEV) data/shipped.parquet ## make the shipped bundle again, from the simulator to models/touchstone
	$(BIN)/python -m training fit --data data/shipped.parquet --config training/configs/shipped.yaml --out models/touchstone \
	  --source "2,000,000 simulated payments (docs/simulator.md)"

image: ## build the container image touchstone:0.1.0
	docker compose build touchstone

lock: $(UV) ## choose versions anew for requirements/ (newer ones: make lock ARGS=--upgrade)
	$(call locked,serve,)
	$(call locked,dev,--extra train --extra dev --constraint requirements/serve.txt)

clean: ## remove what was installed, built and cached; data, runs and published thresholds stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find service training tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(SERVE): requirements/serve.txt | $(BIN)/python
	$(PIP) --require-hashes -r $<
	@touch $@

# The lock holds what torch needs, but for the CUDA libraries that belong to its build: those come with it.
$(DEV): requirements/dev.txt pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r $<
	$(PIP) $(TORCH)
	@touch $@

$(UV): | $(BIN)/python
	$(PIP) --target $(VENV)/uv uv==0.13.9

# Feast is a peer to compare with, not a part of this: it has an environment of its own, outside our locks.
$(FEAST): | $(BIN)/python
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet --only-binary :all: "feast[redis]==0.67.0" uvloop
	@touch $@

# What the shipped model is fitted on: two million payments over 120 days, always the same ones.
data/shipped.parquet: training/simulate.py $(wildcard training/simulation/*.py) | $(DEV)
	$(BIN)/python -m training simulate --transactions 2000000 --days 120 --seed 7 --out $@

# One lock for every platform and Python version; uv keeps the versions that the file already has.
define locked
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --annotation-style line pyproject.toml $(2) $(ARGS) --output-file requirements/$(1).txt
	awk 'BEGIN {print "# Written by `make lock`. Every platform, Python 3.11 and newer; torch is installed apart."} \
	  /^[a-z]/ {torch = /^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==/} !torch && !/^#/' \
	  requirements/$(1).txt > requirements/$(1).txt.new
	mv requirements/$(1).txt.new requirements/$(1).txt
endef
