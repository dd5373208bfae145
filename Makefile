# make run     watch a base model become R1, offline, on this machine
# make help    everything else

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# With no GPU and no torch at hand, the CPU build is asked for; CUDA packages are never pulled onto a machine without one.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
READY := $(VENV)/.ready
# Tests start hundreds of short processes; without kept bytecode each compiles all our modules again (0.65 s -> 1.25 s).
unexport PYTHONDONTWRITEBYTECODE
# Not what starts processes, reads whole data files or loads tokenizers of real families.
QUICK := tests/config tests/schema tests/text tests/evaluation tests/data \
	$(addprefix --ignore=tests/,text/test_families.py text/test_checkpoint_contract.py data/test_hub_datasets.py data/test_shared_files.py data/test_scanning.py)

.PHONY: help install run quick test check ranks docs smoke slow bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(READY)  ## make the environment in .venv

$(READY): pyproject.toml constraints.txt configs/install.sh
	PYTHON=$(PYTHON) VENV=$(VENV) TORCH_INDEX=$(TORCH_INDEX) sh configs/install.sh
	@touch $@

run: $(READY)  ## the whole recipe: run-all configs/r1.yaml
	$(BIN)/r1pipe run-all configs/r1.yaml

quick: $(READY)  ## the tests that need no model
	$(BIN)/python -m pytest -m "not slow" $(QUICK)

test: $(READY)  ## the tests, without the slow ones and those of `docs`
	$(BIN)/python -m pytest -m "not slow" --ignore=tests/docs

slow: $(READY)  ## the slow tests, and all of docs/faults.md
	$(BIN)/python -m pytest -m "slow or fault" -n 0

ranks: $(READY)  ## every profile that CPU ranks can run, and two machines (the first time builds DeepSpeed's CPU operator: a minute)
	$(BIN)/python -m pytest -n 0 tests/stages/test_zero.py tests/stages/test_nodes.py

docs: $(READY)  ## every command, config and piece of Python in README.md, CONTRIBUTING.md and docs/
	$(BIN)/python -m pytest -n 0 tests/docs

check: $(READY)  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

smoke: $(READY)  ## every stage in one to two minutes, learning little
	rm -rf runs/smoke
	$(BIN)/r1pipe run-all configs/smoke.yaml

bench: $(READY)  ## the benchmarks in tests/bench
	@for file in tests/bench/bench_*.py; do $(BIN)/python $$file || exit 1; done

clean:  ## remove caches, not runs
	rm -rf .pytest_cache .ruff_cache build dist *.egg-info
