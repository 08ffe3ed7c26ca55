# Everything a user or CI runs. Needs only make and CPython 3.11 or 3.12 (`make PYTHON=python3.12`).
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
VIDEOS ?=
VIEWS ?=
OUT ?= demo
# A test file to a process; each holds torch and, in some files, a Ray of its own: about 2 GB.
PARALLEL := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
OPTIONS = $(if $(VIDEOS),--videos "$(VIDEOS)") $(if $(VIEWS),--views '$(VIEWS)')

.PHONY: setup demo test test-all lint types lock clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip install --quiet --python $(RUN) -r requirements.txt
	$(VENV)/bin/uv pip install --quiet --python $(RUN) --no-deps --editable .
	@touch $@

demo: setup
	$(VENV)/bin/marey demo -o $(OUT) $(OPTIONS)

test: setup
	$(RUN) -m pytest $(PARALLEL)

test-all: setup
	$(RUN) -m pytest $(PARALLEL) -m ""

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: setup
	$(VENV)/bin/pyright

# Versions only: the file names no host, so any registry or mirror serves it.
lock: setup
	$(VENV)/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--no-emit-index-url --no-annotate --quiet --upgrade \
		--custom-compile-command "make lock" --output-file requirements.txt

clean:
	rm -rf $(VENV) demo build dist
