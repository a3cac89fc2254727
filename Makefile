PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs bench clean

demo: $(VENV)/installed  ## train under attack, certify and plot the bundled digits
	$(BIN)/crfl run configs/digits.yaml --out runs/demo

test: $(VENV)/installed  ## the test suite; CRFL_DATA_DIR adds the tests on real data
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed  ## speed and memory against hand-written rivals, LOAN at full size; needs the data under CRFL_DATA_DIR
	$(BIN)/python -m benchmarks
	$(BIN)/python benchmarks/loan_scale.py

docs: $(VENV)/installed  ## the documentation site, into docs/_build
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs build docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
