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
PEERS := $(patsubst %,build/peers/%/.installed,triton kserve mlserver bentoml)
# The same onnxruntime for all who are compared: that of our lock.
ORT := $(shell sed -n 's/^\(onnxruntime==[0-9.]*\).*/\1/p' requirements/serve.txt)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run demo test test-long check bench bench-peers bench-features bench-outage bench-instructions train image lock clean

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

bench: $(DEV) ## measure on this machine: one client, the fold, and load from many clients beside the ordinary way
	$(BIN)/python -m benchmarks bench $(ARGS)

bench-peers: $(DEV) $(PEERS) ## measure the same load beside model servers that others wrote
	$(BIN)/python -m benchmarks contest $(ARGS)

bench-features: $(DEV) $(FEAST) ## measure features in Redis, ours beside Feast's, and what ours take there
	$(BIN)/python -m benchmarks features $(ARGS)

bench-outage: $(DEV) ## measure what clients of a service see while its Redis hangs, is killed and comes back
	$(BIN)/python -m benchmarks outage $(ARGS)

bench-instructions: $(DEV) ## count what the fold and the decoder cost, and compare with what is recorded (ARGS=--record)
	$(BIN)/python -m benchmarks.instructions $(ARGS)

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

# The same for model servers that others wrote, one environment each; one that cannot be installed here is left out.
build/peers/triton/.installed: | $(BIN)/python
	$(call peer,nvidia-pytriton==0.7.0,&& $(triton_stub))

build/peers/kserve/.installed: | $(BIN)/python
	$(call peer,kserve==0.21.0)

build/peers/mlserver/.installed: | $(BIN)/python
	$(call peer,mlserver==1.7.1 httptools==0.9.0)

# 1.4.40 asks for a certifi that is newer than the newest.
build/peers/bentoml/.installed: | $(BIN)/python
	$(call peer,bentoml==1.4.39 httptools==0.9.0 uvloop==0.23.0)

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

define peer
	($(PYTHON) -m venv $(@D) && $(@D)/bin/python -m pip --disable-pip-version-check install --quiet --only-binary :all: \
	  $(ORT) $(1) $(2) && touch $@) || echo "$(@D): not installed, so left out"
endef

# PyTriton brings a part of Triton's Python backend for each version of Python; Triton looks for its own one here.
triton_files = $(@D)/lib/python3.*/site-packages/pytriton/tritonserver
triton_stub = cp $(triton_files)/python_backend_stubs/$$($(PYTHON) -c 'import sysconfig as s; print(s.get_python_version())')/* \
  $(triton_files)/backends/python/
