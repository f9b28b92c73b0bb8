# Everything a person needs: `make quickstart` and `make test`; both set up first, once.

# The Python of .venv if there is one, so that another Python is only taken when it is named.
PYTHON ?= $(shell .venv/bin/python -c "" 2> /dev/null && echo .venv/bin/python || echo python3)
# cpu or gpu; without it the machine decides.
EXTRA ?=
# Where the CPU build of torch comes from if pip's own settings know none.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint docs

help:
	@echo "make quickstart   set up, train an agent in a dream, and measure it in the real environment"
	@echo "make test         set up, check the style and the types, run the tests"
	@echo "make lint         style and types only"
	@echo "make docs         build the documentation into site/, strictly: a broken link is an error"
	@echo "make setup        set up .venv, which the others do by themselves (EXTRA=cpu|gpu: not by what the machine has)"

setup:
	@"$(PYTHON)" -c "" 2> /dev/null || \
		{ echo "error: there is no $(PYTHON); name a Python, as in 'make setup PYTHON=python3.12'" >&2; exit 1; }
	@"$(PYTHON)" set_up.py --extra "$(EXTRA)" --torch-cpu-index "$(TORCH_CPU_INDEX)"

quickstart: setup
	@$(BIN)/dreamgym quickstart

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

# Two processes, for most tests wait for something; each takes a file at a time, in the order of tests/conftest.py.
# Files that can share a Ray do (tests/ray/conftest.py). What was skipped, and why, is told at the end.
test: lint
	@$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

# The packages of the extra `docs` come with the first call; what is there already is not asked for again.
docs: setup
	@$(BIN)/python -c "import material, mkdocstrings" 2> /dev/null || $(BIN)/python -m pip install --quiet --editable ".[docs]"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
