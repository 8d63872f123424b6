# "make run" and "make test" set up all they need, in .venv and build/.
PYTHON ?= python3
EXAMPLE ?= chat

BIN := .venv/bin
SOURCES := setup.py pyproject.toml $(wildcard flask_uwsgi_ws/*.p* flask_uwsgi_ws/backends/*.p*)

.PHONY: run test style types coverage bench clean

run: .venv/installed
	$(BIN)/python examples/$(EXAMPLE)/$(EXAMPLE).py

test: .venv/tools .venv/installed build/uncompiled/installed build/pyuwsgi/installed
	$(BIN)/pytest
	tests/uncompiled $(BIN)/pytest

style: .venv/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/tools .venv/installed
	$(BIN)/mypy

coverage: .venv/tools .venv/installed build/uncompiled/installed build/traced/installed build/pyuwsgi/installed
	tests/coverage

bench: .venv/tools .venv/installed build/wsload
	$(BIN)/python benchmarks/echo.py

clean:
	rm -rf .venv build *.egg-info flask_uwsgi_ws/*.so flask_uwsgi_ws/backends/*.so

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "Python 3.10 or later is needed: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip

# Without a C compiler uWSGI can not be built, and pyuwsgi's wheel serves.
.venv/installed: .venv/bin/python $(SOURCES)
	@echo "Installing the package and building uWSGI, which takes about a minute"
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --editable '.[uwsgi]' || $(BIN)/pip install --quiet --editable '.[pyuwsgi]'
	touch $@

.venv/tools: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --group test --group style --group types
	touch $@

build/uncompiled/installed: .venv/bin/python $(SOURCES)
	rm -rf build/uncompiled
	FLASK_UWSGI_WS_COMPILE=0 $(BIN)/pip install --quiet --no-deps --target build/uncompiled .
	touch $@

build/traced/installed: .venv/tools $(SOURCES)
	rm -rf build/traced
	mkdir -p build/traced
	cp -r setup.py flask_uwsgi_ws build/traced
	find build/traced -name '*.so' -delete
	cd build/traced && FLASK_UWSGI_WS_COMPILE=trace $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	touch $@

build/pyuwsgi/installed: .venv/bin/python
	$(BIN)/pip install --quiet --target build/pyuwsgi pyuwsgi
	touch $@

build/wsload: benchmarks/wsload.c
	mkdir -p build
	$(CC) -O2 -o $@ $<
