# Everything a user or CI runs. Needs only make and CPython 3.11 to 3.14, on Linux.
# The first that runs, fits and can make environments; another: `make setup PYTHON=python3.12`.
PYTHONS := python3 python3.13 python3.12 python3.14 python3.11
FITS := import ensurepip, sys, sysconfig, venv; \
	sys.exit(not (3, 11) <= sys.version_info < (3, 15) or bool(sysconfig.get_config_var("Py_GIL_DISABLED")))
PYTHON ?= $(shell for python in $(PYTHONS); do \
	$$python -c '$(FITS)' 2>/dev/null && command -v $$python && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
VIDEOS ?=
VIEWS ?=
OUT ?= demo
# A test file to a process; each holds torch and, in some files, a Ray of its own: about 2 GB.
PARALLEL := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
OPTIONS = $(if $(VIDEOS),--videos "$(VIDEOS)") $(if $(VIEWS),--views '$(value VIEWS)')

define NO_PYTHON
marey needs CPython 3.11, 3.12, 3.13 or 3.14 (not a free-threaded one) that has the modules venv
and ensurepip. Looked for: $(PYTHONS).
Install one (Debian, Ubuntu: apt install python3 python3-venv; anywhere: uv python install 3.13),
or name one: make setup PYTHON=/path/to/python3
endef
export NO_PYTHON

.PHONY: setup demo test test-all test-wheel test-peers lint types docs lock clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "$$NO_PYTHON" >&2; exit 1; }
	@"$(PYTHON)" -c '$(FITS)' || { echo "$(PYTHON) does not fit. $$NO_PYTHON" >&2; exit 1; }
	@echo "Python: $(PYTHON), $$("$(PYTHON)" -V), into $(VENV)/"
	@"$(PYTHON)" -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check $$(grep '^uv==' requirements.txt)
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(RUN) -r requirements.txt
	$(VENV)/bin/uv pip install --quiet --python $(RUN) --no-deps --editable .
	@touch $@

demo: setup
	$(VENV)/bin/marey demo -o $(OUT) $(OPTIONS)

test: setup
	$(RUN) -m pytest $(PARALLEL)

test-all: setup
	$(RUN) -m pytest $(PARALLEL) -m ""

# Builds the wheel and uses it in a new environment, beside projects that have our folders' names.
test-wheel: setup
	$(RUN) -m pytest tests/test_wheel.py -m ""

# Losses and masks against those of lightly, which lies beside the environment, not in it.
test-peers: setup
	$(VENV)/bin/uv pip install --quiet --python $(RUN) --no-deps --target $(VENV)/peers lightly==1.6.0
	PYTHONPATH=$(VENV)/peers $(RUN) -m pytest -m "" -k lightly tests

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: setup
	$(VENV)/bin/pyright

# The site, into site/. Any warning fails: a dead link, a page that is in no part of the navigation.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict

# Versions only: the file names no host, so any registry or mirror serves it.
lock: setup
	$(VENV)/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--no-emit-index-url --no-annotate --quiet --upgrade \
		--custom-compile-command "make lock" --output-file requirements.txt

clean:
	rm -rf $(VENV) demo build dist site
