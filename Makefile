# make demo   the quickstart study: table, figures, one HTML page; a second time trains nothing
# make test   the test suite             make check  ruff and mypy             make soak  the long tests
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
W2S_STORE ?= ./w2s-store
export W2S_STORE

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp

.PHONY: demo test soak check format clean

demo: $(STAMP)
	$(BIN)/w2s run tune_configs/quickstart.yaml

# Tests start many processes on few cores: more than a thread in each and they wait for each other.
test soak: export OMP_NUM_THREADS ?= 1
test soak: export TOKENIZERS_PARALLELISM ?= false

test: $(STAMP)
	$(BIN)/python -m pytest

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch goes first, so that the wheel that the machine's index offers (CPU or CUDA) is settled before the rest.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
