# "make run" and "make test" set up all they need, in .venv and build/.
PYTHON ?= python3
EXAMPLE ?= chat
SECONDS ?= 60

BIN := .venv/bin
VERSIONS ?= 3.10 3.12 3.13
# What coverage is measured of.
FORMS ?= uncompiled traced
# One that atheris has a wheel for.
FUZZ_PYTHON ?= 3.12
BEHAVIOUR := $(addprefix tests/test_,behaviour.py faults.py flask_features.py limits.py processes.py asyncio.py \
    gevent.py handshake.py)
OPERATIONS := $(addprefix tests/test_,cli.py configs.py cross_site.py docs.py ending.py ending_handlers.py hostile.py \
    idle.py install.py outages.py queue_outages.py reload.py rooms_run.py servers.py) \
    $(wildcard tests/test_compat*.py tests/test_example*.py)
# Most tests wait most of the time.
PARALLEL := --numprocesses 4 --dist worksteal
SOURCES := setup.py pyproject.toml $(wildcard $(addprefix flask_uwsgi_ws/,*.p* backends/*.p* compat/*.p* queues/*.p*))

.PHONY: run test test-uncompiled test-operations test-all smoke style types coverage docs conformance \
    conformance-quick bench bench-quick bench-workers bench-rooms bench-servers idle reload rooms screenshots soak fuzz \
    fuzz-differential asan clean

run: .venv/installed
	$(BIN)/python examples/$(EXAMPLE)/$(firstword $(subst -, ,$(EXAMPLE))).py

test: .venv/tools .venv/installed build/pyuwsgi/installed
	tests/form compiled $(BIN) $(PARALLEL)

# As "make coverage" does on another Python.
test-uncompiled: .venv/tools .venv/installed build/uncompiled/installed build/pyuwsgi/installed
	tests/form uncompiled $(BIN) $(PARALLEL)

# The ends of workers, reloads, outages, hostile clients, proxies, configurations, uWSGI's build and
# the examples in a browser, on the compiled form.
test-operations: .venv/tools .venv/installed build/gunicorn-eventlet/installed
	tests/again $(BIN)/pytest $(PARALLEL) $(OPERATIONS)

# The behavioural suite of every backend and mode on the other Pythons, and a short form of it.
test-all: test test-uncompiled $(VERSIONS:%=build/py%/installed)
	set -e; for v in $(VERSIONS); do tests/again build/py$$v/bin/pytest $(PARALLEL) $(BEHAVIOUR) -k "not pyuwsgi"; done

smoke: $(VERSIONS:%=build/py%/installed)
	set -e; for v in $(VERSIONS); do tests/again build/py$$v/bin/pytest -q $(PARALLEL) $(BEHAVIOUR) -m smoke -k "not pyuwsgi"; done

style: .venv/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/tools .venv/installed
	$(BIN)/mypy

coverage: .venv/tools .venv/installed build/pyuwsgi/installed build/gunicorn-eventlet/installed build/py3.13/installed $(FORMS:%=build/%/installed)
	FORMS="$(FORMS)" tests/coverage

# From the uncompiled form, since the compiled one has lost the comments on its attributes.
docs: .venv/docs .venv/installed build/uncompiled/installed
	tests/uncompiled $(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html is the documentation"

conformance: .venv/tools .venv/installed build/gunicorn-eventlet/installed
	$(BIN)/python tests/conformance $(ARGS)

conformance-quick: .venv/tools .venv/installed build/gunicorn-eventlet/installed
	$(BIN)/python tests/conformance --quick $(ARGS)

# The worker of each mode, three times under 500 clients that come back.
reload: .venv/tools .venv/installed
	$(BIN)/python tests/reload $(ARGS)

# 400 clients in 20 rooms of four workers, and Redis and workers killed among them; on every mode,
# without a history and with one. ARGS='--churn --minutes 10' for comings and goings.
rooms: .venv/tools .venv/installed
	PYTHONPATH=tests $(BIN)/python tests/rooms $(ARGS)

bench: .venv/tools .venv/installed
	$(BIN)/python -m benchmarks $(ARGS)

bench-quick: .venv/tools .venv/installed
	$(BIN)/python -m benchmarks --quick $(ARGS)

bench-workers: .venv/tools .venv/installed
	$(BIN)/python -m benchmarks.workers $(ARGS)

# A message to a room of a thousand clients, beside Flask-SocketIO and websockets.
bench-rooms: .venv/tools .venv/installed
	$(BIN)/python -m benchmarks.rooms $(ARGS)

# flask-sock's echo on its own servers, and with another import on them and on uWSGI.
bench-servers: .venv/tools .venv/installed build/gunicorn-eventlet/installed
	$(BIN)/python -m benchmarks.elsewhere $(ARGS)

# Connections that are idle for 150 s behind nginx and uWSGI's router, with their defaults.
idle: .venv/tools .venv/installed
	$(BIN)/python tests/idle.py

# The pictures of the examples' READMEs; ARGS="chat login" for some.
screenshots: .venv/tools .venv/installed
	PYTHONPATH=tests $(BIN)/python tests/screenshots.py $(ARGS)

# Clients that come, talk and vanish at random; ARGS='--minutes 30 --clients 1000' for the whole.
soak: .venv/tools .venv/installed
	PYTHONPATH=tests $(BIN)/python tests/soak $(ARGS)

# Random and damaged bytes through this package and others, side by side; ARGS='--frames 10000000'.
fuzz-differential: .venv/tools .venv/installed build/uncompiled/installed
	PYTHONPATH=tests $(BIN)/python tests/fuzz/differential.py --uncompiled build/uncompiled $(ARGS)

# Bytes that are led by what they reach in the uncompiled form.
fuzz: build/fuzz/installed build/uncompiled/installed
	PYTHONPATH=tests tests/uncompiled build/fuzz/bin/python tests/fuzz/guided.py $(SECONDS) $(ARGS)

# The compiled form with AddressSanitizer.
asan: .venv/tools .venv/installed build/asan/installed
	tests/asan $(BIN)/pytest -q -p no:cacheprovider $(addprefix tests/test_,frames.py connection.py \
	    compression.py oracles.py differential.py connection_states.py)
	PYTHONPATH=tests tests/asan $(BIN)/python tests/fuzz/differential.py --minutes 2 --share 0 $(ARGS)

clean:
	rm -rf .venv build *.egg-info flask_uwsgi_ws/*.so flask_uwsgi_ws/backends/*.so

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "Python 3.10 or later is needed: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip

.venv/installed: .venv/bin/python $(SOURCES)
	@echo "Installing the package and building uWSGI, which takes two minutes or three"
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --editable '.[gevent,asyncio,redis,login]'
	tests/uwsgi $(BIN)
	touch $@

.venv/tools: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --group test --group style --group types
	touch $@

.venv/docs: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --group docs
	touch $@

build/uncompiled/installed: .venv/bin/python $(SOURCES)
	rm -rf build/uncompiled
	FLASK_UWSGI_WS_COMPILE=0 $(BIN)/pip install --quiet --no-deps --target build/uncompiled .
	touch $@

build/py%/bin/python:
	tests/python $* -m venv build/py$*
	build/py$*/bin/pip install --quiet --upgrade pip

build/py%/installed: build/py%/bin/python $(SOURCES) pyproject.toml
	FLASK_UWSGI_WS_COMPILE=quick build/py$*/bin/pip install --quiet --group test \
	    '.[gevent,asyncio,redis,login]'
	tests/uwsgi build/py$*/bin
	touch $@

.PRECIOUS: build/py%/bin/python

build/traced/installed: .venv/tools $(SOURCES)
	rm -rf build/traced
	mkdir -p build/traced
	cp -r setup.py flask_uwsgi_ws build/traced
	find build/traced -name '*.so' -delete
	cd build/traced && FLASK_UWSGI_WS_COMPILE=trace $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	touch $@

build/fuzz/installed: pyproject.toml
	tests/python $(FUZZ_PYTHON) -m venv build/fuzz
	build/fuzz/bin/pip install --quiet --upgrade pip
	build/fuzz/bin/pip install --quiet --group fuzz
	touch $@

build/asan/installed: .venv/tools $(SOURCES)
	rm -rf build/asan
	mkdir -p build/asan
	cp -r setup.py flask_uwsgi_ws build/asan
	find build/asan -name '*.so' -delete
	cd build/asan && CFLAGS="-fsanitize=address -fno-omit-frame-pointer -O1 -g" \
	    $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	touch $@

# The last gunicorn that has a worker for eventlet.
build/gunicorn-eventlet/installed: .venv/bin/python
	$(BIN)/pip install --quiet --target build/gunicorn-eventlet 'gunicorn<26'
	touch $@

build/pyuwsgi/installed: .venv/bin/python
	$(BIN)/pip install --quiet --target build/pyuwsgi pyuwsgi
	touch $@
