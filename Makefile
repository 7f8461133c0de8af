# Every target sets up what it needs: Python 3.11 or later and a package index are enough.

VENV := .venv
BIN := $(VENV)/bin
TORCH ?= -r requirements/cpu.txt
PYTHON ?= $(shell for p in python3.12 python3.13 python3.11 python3 python3.14 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One process for each core, with one thread: more threads only slow each other down.
JOBS ?= logical
TESTS := $(BIN)/python -m pytest -n $(JOBS) --maxprocesses 4 --dist worksteal
# Touched only after everything is installed: an interrupted set-up goes on where it stopped.
READY := $(VENV)/.ready

.PHONY: help demo docs test test-fast coverage bench check lint package clean-venv
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  make test ARGS="-k record"          some of the tests; ARGS goes to every target that runs something'
	@echo '  make test JOBS=1                    one process'
	@echo '  make test HYPOTHESIS_PROFILE=thorough   1,000 random inputs in place of 25'
	@echo '  make demo PYTHON=/path/to/python3   with this Python'
	@echo '  make clean-venv demo TORCH=torch    the newest torch, for example for an NVIDIA GPU'

demo: $(READY)  ## poison a small model, clean it, and look at the evidence
	$(BIN)/w2s demo $(ARGS)

test: $(READY)  ## all tests
	$(TESTS) $(ARGS)

test-fast: $(READY)  ## the tests that train nothing and open no real model
	$(TESTS) -m "not slow and not real" $(ARGS)

coverage: $(READY)  ## all tests, with the lines and branches of src that they reach
	$(TESTS) --cov --cov-report=term --cov-report=html:build/coverage $(ARGS)

check: lint  ## linters, types and the order of the layers
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

lint: $(READY)  ## linters only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(READY)  ## build the site into build/site; a broken link or a missing docstring fails
	$(BIN)/ruff check src
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(ARGS)

package: $(READY)  ## build sdist and wheel, and run the demo of the wheel in an empty folder (tiny)
	rm -rf dist build
	$(BIN)/python -m build
	$(PIP) install --quiet --no-deps --target build/installed dist/*.whl
	mkdir build/elsewhere
	cd build/elsewhere && for command in --version --help ls; do \
		PYTHONPATH=../installed $(abspath $(BIN))/python -m w2sdefense $$command || exit 1; done
	@cd build/elsewhere && PYTHONPATH=../installed $(abspath $(BIN))/python -c \
		'import w2sdefense; print("ran from", w2sdefense.__file__); assert "installed" in w2sdefense.__file__'
	cd build/elsewhere && PYTHONPATH=../installed $(abspath $(BIN))/python ../../tests/stand_ins.py '[["w2s", "demo"]]'

bench: $(READY)  ## time a training step against LoRA and a plain loop (a quarter of an hour)
	$(BIN)/python benchmarks/train_step.py --output benchmarks/results/train_step.json $(ARGS)

clean-venv:  ## remove the virtual environment
	rm -rf $(VENV)

$(READY): pyproject.toml $(wildcard requirements/*.txt)
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or later with venv was found." \
		"Install one (Debian: python3-venv) or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH)
	$(PIP) install -c requirements/constraints.txt -e ".[dev,docs,gguf,browser,play,tune]"
	$(PIP) install --no-deps -r requirements/embedded.txt
	touch $@
