# `make` alone prints what there is.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
LIBRARY ?= demo-library
export OMP_WAIT_POLICY ?= PASSIVE

help:  ## print this list
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "splatmill needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.lock
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-test.lock
	@touch $@

install: $(VENV)/.installed  ## create .venv and install the locked dependencies

demo: install  ## make every prop of deployments/manifests/starter.csv on this machine, then print the catalogue and write the gallery
	$(BIN)/splatmill run deployments/manifests/starter.csv --library $(LIBRARY)
	$(BIN)/splatmill sql --library $(LIBRARY) "select asset_id, status, faces, glb_path from assets order by asset_id"
	$(BIN)/splatmill gallery --library $(LIBRARY)

test: $(VENV)/.installed-test  ## install what the tests need and run them, a file in each of two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-farm-files: $(VENV)/.installed-test  ## run every command of the farm's units, services and pods on PostgreSQL, and a farm in a bucket (as root, 10 minutes)
	$(BIN)/python -m pytest -m farmfiles tests/deployments/test_farm.py tests/flows/farm/test_served.py

.clients/.installed: $(VENV)/.installed-test tests/clients/package.json tests/clients/install.sh
	sh tests/clients/install.sh .clients $(BIN)/python
	@touch $@

test-clients: .clients/.installed  ## read exports with Blender, Godot, three.js, model-viewer, OpenUSD, the Khronos validator, webdataset and datasets, which it installs into .clients
	$(BIN)/python -m pytest -m clients tests/clients

lint: $(VENV)/.installed-test  ## style, types and the import contract
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

chaos-catalog: $(VENV)/.installed-test  ## kill catalogue writers and the compactor at random for a minute, and count rows
	$(BIN)/python -m tests.chaos.catalog

chaos: $(VENV)/.installed-test  ## a night on a farm with PostgreSQL, three workers, a second run and a bucket in which everything is killed (about 40 minutes)
	$(BIN)/python -m tests.chaos.farm

$(VENV)/.installed-bench: $(VENV)/.installed-test requirements-bench.lock
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-bench.lock
	@touch $@

bench: $(VENV)/.installed-bench  ## install what is measured beside us and run every benchmark on this machine but flow_starter.py, which wants a trained folder, and recipes.py and constants.py, which want a night (long)
	for b in $(filter-out tests/bench/flow_starter.py tests/bench/recipes.py tests/bench/constants.py,$(wildcard tests/bench/*.py)); do echo "== $$b"; $(BIN)/python $$b || exit 1; done

gpu:  ## what only a GPU can answer: parity, strategies, an asset, graphs, parts, bench; DRY=1 without one (tests/gpu/run.py)
	$(PYTHON) tests/gpu/run.py

clean:  ## remove the virtual environment and the demo library
	rm -rf $(VENV) $(LIBRARY) .clients

.PHONY: help install demo test test-farm-files test-clients lint chaos-catalog chaos bench gpu clean
