# `make help` lists the targets. Everything is installed into .venv; nothing else on the machine is touched.
SHELL := /bin/bash
PYTHON ?= python3
DATASET ?= demo
DATA ?=
IDS ?=
EVERY ?= 1
BIN := .venv/bin


help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade uv || true
	if [ -x $(BIN)/uv ]; then $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[test]'; \
	else $(BIN)/python -m pip install --quiet -e '.[test]'; fi
	touch $@

setup: .venv/installed ## create .venv and install the command and the test tools into it

all: setup ## set up and run the pipeline: `make all`, or `make all DATASET=voc DATA=/path/to/VOC2012`
	$(BIN)/bas run $(DATASET) $(if $(DATA),--data $(DATA))

test: setup ## set up and run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

bench: setup ## speed against plain references, one JSON line each: `make bench`, or `make bench IDS="rw_small crf_pair"`
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks $(IDS)

faults: setup ## strike every stage at every point, run it again, compare: `make faults`, or `make faults EVERY=40` for a sample
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.faults --every $(EVERY)

check: setup ## ruff, types, import layers, wheel contents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m build --wheel --no-isolation --outdir build/wheel . > /dev/null
	$(BIN)/python tests/check_wheel.py build/wheel

clean: ## remove what the tests and builds left
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
