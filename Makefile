# make run   trains on the built-in sample     make test  runs the tests, without the slow ones; make test-all  all
# make lint  ruff and mypy
# make docs  the documentation site, in build/docs/html
# make dashboard   MLflow on mlflow.db, and the links of the studies in it
# Each makes .venv and installs what it needs first; PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-all test-slow lint docs sanitize dashboard clean
.DEFAULT_GOAL := run

# A stamp is written only after a finished install, so an interrupted one is done again. .dev has all of the others.
INSTALLED := pyproject.toml setup.py ctr/native/sources.py $(wildcard ctr/native/src/*)

.venv/bin/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("ctr needs Python 3.11 or newer; this is %d.%d. Try: make PYTHON=python3.11" % v)'
	$(PYTHON) -m venv .venv

.venv/.run: $(INSTALLED) | .venv/bin/python
	$(BIN)/python -m pip install -e ".[sweep,report]"
	touch $@

.venv/.docs: $(INSTALLED) | .venv/bin/python
	$(BIN)/python -m pip install -e ".[docs]"
	touch $@

.venv/.dev: $(INSTALLED) | .venv/bin/python
	$(BIN)/python -m pip install -e ".[dev]"
	touch .venv/.run .venv/.docs $@

run: .venv/.run
	$(BIN)/python -m ctr.train dataset=criteo dataset.source=sample opt=group_adam

dashboard: .venv/.run
	@$(BIN)/python -m ctr.dashboard

# A process for each core, which takes tests over from the others when it has none left.
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

test: .venv/.dev
	$(PYTEST) -m "not slow"

test-slow: .venv/.dev
	$(PYTEST) -m slow --durations=25

test-all: .venv/.dev
	$(PYTEST) --durations=25

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Warnings are errors, missing references too.
docs: .venv/.docs
	$(BIN)/python -m sphinx -W --keep-going -n -q -j auto docs build/docs/html

# The compiled kernels with all warnings as errors, their tests under AddressSanitizer and UBSan.
build/sanitized.so: $(wildcard ctr/native/src/*)
	mkdir -p build
	$(CXX) -shared -fPIC -std=c++20 -O1 -g -march=native -fno-math-errno -fno-trapping-math -pthread \
	  -Wall -Wextra -Wpedantic -Wconversion -Werror \
	  -DCTR_SOURCES='"$(shell $(PYTHON) ctr/native/sources.py)"' \
	  -fsanitize=address,undefined -fno-sanitize-recover=all ctr/native/src/*.cpp -o $@

# Python itself is not built for the sanitizer: its allocations at exit are no leaks of ours.
sanitize: .venv/.dev build/sanitized.so
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 CTR_NATIVE_LIBRARY=build/sanitized.so $(PYTEST) -p no:cacheprovider tests/native tests/training/compiled \
	  tests/optim/test_fused.py tests/training/test_rows_step.py tests/training/test_passes.py

clean:
	rm -rf .venv build dist *.egg-info
