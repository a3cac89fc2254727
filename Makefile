PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo check test lint bench docs gallery clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "%-9s %s\n", $$1, $$2}'

demo: $(VENV)/installed  ## train under attack, certify and plot the bundled digits
	$(BIN)/crfl run configs/digits.yaml --out runs/demo

check: lint  ## linters, types and the tests that are quick and need no real data
	$(BIN)/python -m pytest -m "not slow and not data"

test: $(VENV)/installed  ## all tests; CRFL_DATA_DIR adds those on real data
	$(BIN)/python -m pytest

lint: $(VENV)/installed  ## linters and types, as CI runs them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed  ## speed and memory against hand-written rivals; needs the data under CRFL_DATA_DIR
	$(BIN)/python -m benchmarks
	$(BIN)/python benchmarks/loan_scale.py

docs: $(VENV)/installed  ## the documentation site, into docs/_build
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build

gallery: $(VENV)/installed  ## draw the pictures of the documentation again
	$(BIN)/python docs/draw_gallery.py

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:  ## remove what the other targets made
	rm -rf $(VENV) runs build docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
