# Every target sets up what it needs: Python 3.11 or later and a package index are enough.
#
#   make demo              poison a small model, clean it, and look at the evidence
#   make test              all tests            (ARGS="-k record" for some of them)
#   make bench             time a training step against LoRA and a plain loop (a quarter of an hour)
#   make check             linters, types and the order of the layers (make lint: linters only)
#
#   make demo PYTHON=/opt/python3.12/bin/python3
#   make clean-venv demo TORCH="torch"          the newest torch, for example for an NVIDIA GPU

VENV := .venv
BIN := $(VENV)/bin
TORCH ?= -r requirements/cpu.txt
PYTHON ?= $(shell for p in python3.12 python3.13 python3.11 python3 python3.14 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Touched only after everything is installed: an interrupted set-up goes on where it stopped.
READY := $(VENV)/.ready

.PHONY: demo test bench check lint clean-venv

demo: $(READY)
	$(BIN)/w2s demo $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(ARGS)

bench: $(READY)
	$(BIN)/python benchmarks/train_step.py --output benchmarks/results/train_step.json $(ARGS)

check: lint
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(READY): pyproject.toml $(wildcard requirements/*.txt)
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or later with venv was found." \
		"Install one (Debian: python3-venv) or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH)
	$(PIP) install -c requirements/constraints.txt -e ".[dev,gguf,browser,tune]"
	$(PIP) install --no-deps -r requirements/embedded.txt
	touch $@

clean-venv:
	rm -rf $(VENV)
