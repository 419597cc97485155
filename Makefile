# Each target makes .venv and installs what it needs by itself; a second run needs no network.
PYTHON ?= python3
BIN := .venv/bin
PIP := -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# The native decoder: built where there is a compiler and libjpeg-turbo, else Pillow decodes.
NATIVE := setup.py $(wildcard native/*.c native/*.h)

.PHONY: demo test check lint interop gpu-check clean

demo: .venv/installed ## images -> shards -> train -> evaluate -> report, in minutes on two cores
	$(BIN)/imagesprint demo

test: .venv/installed-dev ## every test, without a GPU or a network
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

lint: .venv/installed-dev ## format, lint, types, import rule
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test ## all that CI runs

interop: .venv-interop/installed ## shards and crops against TensorFlow itself, in an environment of its own
	.venv-interop/bin/python -m pytest tests/interop

gpu-check: ## all that needs a GPU, without installing anything; DEVICE=cpu rehearses it
	$(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu_check.py --device $(or $(DEVICE),cuda)

clean:
	rm -rf .venv .venv-interop demo-run

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version) is too old: imagesprint needs Python 3.11 or newer"; \
	    echo "hint: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { echo "hint: on Debian and Ubuntu: apt-get install python3-venv"; rm -rf .venv; exit 1; }

.venv-interop/installed: .venv/bin/python pyproject.toml constraints.txt $(NATIVE)
	@echo "installing TensorFlow and all else into .venv-interop"
	@$(BIN)/python -m venv .venv-interop
	.venv-interop/bin/python $(PIP) --editable '.[dev,interop]'
	@touch $@

.venv/installed: .venv/bin/python pyproject.toml constraints.txt $(NATIVE)
	@echo "installing into .venv (PyTorch is large: a few minutes on a slow line)"
	$(BIN)/python $(PIP) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python $(PIP) --editable '.[dev]'
	@touch $@
