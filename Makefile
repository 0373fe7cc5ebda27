# `make demo` and `make test` set up their own environment in .venv; nothing else is needed beforehand.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO ?= demo

.DEFAULT_GOAL := help
.PHONY: help demo test lint coverage gpu-test clean

help:
	@echo "make demo      draw floorplans and shapes and edit a clip with the shipped models, into $(DEMO)/"
	@echo "make test      lint, type-check and test"
	@echo "make lint      ruff and pyright alone"
	@echo "make coverage  the tests, and which lines of the core they reach"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Trifold needs Python 3.11 or newer; '$(PYTHON)' is not. On Debian: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing. On Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python scripts/demo.py --output-dir $(DEMO)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

test: lint
	$(BIN)/python -m pytest -n 2

# Apart from the tests: tracing every line makes them take almost twice as long.
coverage: $(STAMP)
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term-missing:skip-covered --cov-fail-under=95

gpu-test: $(STAMP)
	$(BIN)/python -m pytest tests/gpu

clean:
	rm -rf $(VENV) build dist *.egg-info
