# Two commands for a machine that has only Python 3.11 and make: `make demo` and `make test`.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/uv pip install --python $(BIN)/python -c constraints.txt

.PHONY: demo test test-all lint install clean

demo: $(VENV)/demo
	$(BIN)/camscope demo --out camscope-demo

test: install lint
	$(BIN)/pytest -m "not slow" -n 2

test-all: install lint
	$(BIN)/pytest -n 2

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/everything

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/demo: $(BIN)/uv pyproject.toml constraints.txt
	$(INSTALL) -e .
	touch $@

$(VENV)/everything: $(BIN)/uv pyproject.toml constraints.txt
	$(INSTALL) -e '.[dev,peers]'
	touch $@ $(VENV)/demo

clean:
	rm -rf $(VENV) camscope-demo dist build
