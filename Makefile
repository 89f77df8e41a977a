# Everything runs in .venv, which the first target makes. Needed beforehand: Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types proto proto-check docs docs-check bench bench-long chaos simulate gpu-check \
  bundle deb windows-installer install-check engine-lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Foxden needs Python 3.11 or newer; this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -c constraints.txt torch
	$(PY) -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

install: $(STAMP)  ## make .venv with everything in it

demo: install  ## draw a picture: broker, agent, engine and SDK, started and shut down
	$(PY) -m foxden demo

test: install  ## all tests
	$(PY) tests/run.py

lint: install  ## ruff
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: install  ## mypy --strict on the four packages
	$(VENV)/bin/mypy

PROTOS := proto/foxden_proto/v1/*.proto
proto: install  ## regenerate the committed stubs
	cd proto && PATH="$(CURDIR)/$(VENV)/bin:$$PATH" ../$(PY) -m grpc_tools.protoc -I . \
	  --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. $(PROTOS:proto/%=%)

docs: install  ## redraw the state diagrams in ARCHITECTURE.md
	$(PY) tests/tools/draw_states.py

generated-check: install  ## the committed stubs and diagrams are what the sources give
	$(PY) tests/tools/check_generated.py

bench: install  ## measure; prints a table and writes build/bench.json
	$(PY) tests/bench/run.py

bench-long: install  ## measure what takes too long for every day (an hour)
	$(PY) tests/bench/run.py --long

KILLS ?= 100
chaos: install  ## break everything under load: KILLS=100 broker kills per store, a verdict per invariant
	$(PY) tests/chaos/run.py --kills $(KILLS)

simulate: install  ## 1000 seeds of the whole-system simulation
	$(PY) tests/simulation/run.py --seeds 1000

gpu-check: install  ## the engine and its placements on CUDA, with full-size random SD 1.5 and SDXL
	$(PY) tests/gpu/gpu_check.py

bundle: install  ## the shell that owners install, without torch: dist/foxden
	$(PY) packaging/build_bundle.py

deb: bundle  ## the Debian package, and the archive for one user and for updates
	$(PY) packaging/linux/build_deb.py dist/foxden

windows-installer: install  ## compile the Windows installer (around a stand-in where no Windows bundle is)
	$(PY) packaging/windows/build_installer.py

install-check: install  ## build, install, draw, update and remove as an ordinary user; says what is left
	$(PY) packaging/install_check.py

engine-lock: install  ## write down again which files the engine's environment is made of
	$(PY) packaging/lock_engine.py

clean:  ## remove the virtualenv and everything built
	rm -rf $(VENV) build dist
