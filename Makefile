# make train | test | test-e2e | test-long | lint | docs | benchmark | figures | mutants: each sets up .venv by itself, once, and again when pyproject.toml changes.
# More arguments go through ARGS, such as: make train ARGS="seed=1 trainer.total_steps=3e6"

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
DEV_EXTRAS := dev,docs,go2,hub,menagerie,onnx,ray,search,torch,train,viz,wandb

# Where the shell forbids Python to keep what it compiled, each process compiles all our modules anew, and tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help train test test-e2e test-long lint docs benchmark figures mutants clean

help:
	@echo "make train      train a policy for the Go2 (ARGS=\"key=value ...\")"
	@echo "make test       the tests, in a few minutes"
	@echo "make test-e2e   whole commands and runs, and rfx deploy before an emulated robot: in a few minutes too"
	@echo "make test-long  the long ones: minutes each"
	@echo "make lint       linter, formatter, types"
	@echo "make docs       the documentation as a site, into site/"
	@echo "make benchmark  speed and memory, as a table and benchmark.json"
	@echo "make figures    the results, measured again, into docs/ and README (ARGS=--list tells how long)"
	@echo "make mutants    which changes of our code its tests do not notice, into docs/mutants.md: minutes a file (ARGS=FILE: one)"
	@echo "make clean      remove .venv"

train: $(VENV)/.installed
	$(BIN)/python -m train +robot=go2 $(ARGS)

# A file is one worker's, for the sake of its fixtures.
test: $(VENV)/.installed-dev
	@$(BIN)/python tests/browser.py
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

# Three workers on two cores: one of them drives emulated robots and sleeps most of the time (tests/go2/test_go2_wire.py).
test-e2e: $(VENV)/.installed-dev
	@$(BIN)/python tests/browser.py
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile -m "e2e and not long" $(ARGS)

test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m long $(ARGS)

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 COLUMNS=100 $(BIN)/mkdocs build --strict --quiet $(ARGS)

benchmark: $(VENV)/.installed-dev
	$(BIN)/python -m train.benchmark $(ARGS)

figures: $(VENV)/.installed-dev
	$(BIN)/python -m measure.figures $(ARGS)

mutants: $(VENV)/.installed-dev
	@$(BIN)/python -c 'import mutmut' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[mutants]'
	$(BIN)/python measure/mutants.py $(ARGS)

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), rfx needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "setting up $(VENV), once"
	@$(PYTHON) -m venv $(VENV)

# The stamps, not the python, depend on pyproject.toml. The second installs everything that the tests and comparisons use.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[train]'
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[lint]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(DEV_EXTRAS)]' '$(TORCH)'
	@touch $@ $(VENV)/.installed
