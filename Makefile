# Two commands for a machine that has only Python 3.11 and make: `make demo` and `make test`.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Two workers of one thread each: threads of several workers on the same cores wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n 2
INSTALL = $(BIN)/uv pip install --python $(BIN)/python -c constraints.txt

.PHONY: demo test test-all coverage bench audit lint install clean

demo: $(VENV)/demo
	$(BIN)/camscope demo --out camscope-demo

test: install lint
	$(PYTEST) -m "not slow"

test-all: install lint
	$(PYTEST)

# Prints the lines that no test runs, and writes htmlcov/index.html.
coverage: install
	$(PYTEST) -m "not slow" --cov=camscope --cov-report=term-missing:skip-covered --cov-report=html

# PICTURES=FOLDER times the stream over a folder of photographs too.
bench: install
	$(BIN)/python benchmarks/speed/run.py $(if $(PICTURES),--pictures $(PICTURES))

# Known vulnerabilities of the pinned packages; needs the package index's database.
audit: install
	$(BIN)/uv tool run pip-audit --requirement constraints.txt --no-deps --disable-pip

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
	rm -rf $(VENV) camscope-demo dist build htmlcov .coverage
