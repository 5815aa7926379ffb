# make demo   the quickstart study: table, figures, one HTML page; a second time trains nothing
# make test   the test suite             make check  ruff and mypy             make soak  the long tests
# make bench  all benchmarks, one after another (over an hour on two cores)
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
W2S_STORE ?= ./w2s-store
export W2S_STORE

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp

BENCHMARKS := submissions throughput overhead schedule sharing memory checkpoints likelihood

.PHONY: demo test test-runs test-others soak bench check format clean

demo: $(STAMP)
	$(BIN)/w2s run tune_configs/quickstart.yaml

# Tests start many processes on few cores, so each gets one thread.
test soak: export OMP_NUM_THREADS ?= 1
test soak: export TOKENIZERS_PARALLELISM ?= false

# Tests of runs on Ray wait for processes most of the time, so the others run beside them. Each half prints at its end.
RUNS := tests/cli tests/scheduling tests/benchmarks tests/training/models tests/training/test_checkpoints.py

test: $(STAMP)
	$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target test-runs test-others

test-runs:
	$(BIN)/python -m pytest $(RUNS)

test-others:
	$(BIN)/python -m pytest $(addprefix --ignore=,$(RUNS))

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak

bench: $(STAMP)
	for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch is installed first, so that the machine's package index decides between its CPU and CUDA builds.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
