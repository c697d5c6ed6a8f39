# make demo: twelve small pictures from start to end.  make test: all checks.  make soak: the
# long form of the tests of faults, about half an hour.  make bench: figures of this machine.
# make quality JUDGE=FILE: what a trained VGG says of the pictures.  make pictures VGG=FILE: those of
# README and docs again.  make docs: the documentation as a site.
# make coverage: lines and branches that no test runs; tests of times may fail under it.
PYTHON ?= python3
BIN := .venv/bin
JUDGE ?= imagenet

.PHONY: demo test quality pictures soak bench format docs coverage

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
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -rs

coverage: .venv/installed
	$(BIN)/coverage erase
	-$(BIN)/coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

quality: .venv/installed
	$(BIN)/python -m jobs.quality --judge $(JUDGE)

pictures: .venv/installed
	$(BIN)/python -m jobs.pictures $(if $(VGG),--vgg $(VGG))

soak: .venv/installed
	timeout 3600 $(BIN)/python -m pytest -m soak -v --durations=0

bench: .venv/installed
	$(BIN)/python -m jobs.benchmark --json benchmark.json

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "open site/index.html, or run: $(BIN)/python -m http.server -d site"

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
