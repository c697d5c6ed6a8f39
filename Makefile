# make demo: twelve small pictures from start to end.  make test: all checks.  make soak: the
# long form of the tests of faults, about half an hour.  make bench: figures of this machine.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test soak bench format

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo,test]'
	touch $@

demo: .venv/installed
	$(BIN)/python -m jobs.demo

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile

soak: .venv/installed
	timeout 3600 $(BIN)/python -m pytest -m soak -v --durations=0

bench: .venv/installed
	$(BIN)/python -m jobs.benchmark --json benchmark.json

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
