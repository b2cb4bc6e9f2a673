# make run: set up and search networks for scikit-learn's digits. make test: set up and run the tests.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export OMP_WAIT_POLICY = passive
unexport PYTHONDONTWRITEBYTECODE  # the tests start processes by the hundred: each would compile evonas anew

.PHONY: help run test slow faults lint benchmark clean

help:
	@echo "make run        set up and run examples/digits.yaml (two to four minutes on two cores)"
	@echo "make test       set up and run the tests"
	@echo "make slow       run the slow tests too"
	@echo "make faults     run the fault suite: kills, full disks, hangs, damage, Ray (about 40 minutes)"
	@echo "make lint       ruff and mypy --strict"
	@echo "make benchmark  print the benchmark ratios"
	@echo "make clean      remove the virtual environment and caches"

run: $(VENV)/.run
	$(BIN)/evonas run examples/digits.yaml

test: $(VENV)/.dev
	$(BIN)/python -m pytest

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow -n 0

faults: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow or not slow" -n 0 tests/faults tests/contract/test_resume.py \
	  tests/unit/test_pool.py tests/unit/test_store_faults.py tests/unit/test_cluster.py tests/unit/test_cluster_faults.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict evonas

benchmark: $(VENV)/.dev
	for script in tests/benchmark/*.py; do $(BIN)/python $$script || exit 1; done

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "evonas needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1): make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dashboard,onnx]' --constraint constraints.txt
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find evonas tests examples -name __pycache__ -prune -exec rm -rf {} +
