# Everything a person needs: `make quickstart` and `make test`; both set up first, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Set-up is done as long as pyproject.toml asks for the same packages and the same interpreter is there.
WANTED := $(shell $(PYTHON) -c "import hashlib,tomllib; p=tomllib.load(open('pyproject.toml','rb')); \
	print(hashlib.sha256(repr((p['build-system'],p['project'])).encode()).hexdigest()[:16])" 2>/dev/null)
STAMP := $(VENV)/.set-up-$(WANTED)
# vLLM's CPU package pins the CPU build of torch, which only macOS has under the plain version.
TORCH := torch==2.13.0$(if $(filter Darwin,$(shell uname -s)),,+cpu)

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint

help:
	@echo "make quickstart   set up, train an agent in a dream, and measure it in the real environment"
	@echo "make test         set up, check the style and the types, run the tests"
	@echo "make lint         style and types only"
	@echo "make setup        set up .venv, which the others do by themselves"

setup: $(STAMP)

$(STAMP):
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || \
		{ echo "error: Python 3.11 or newer is needed; name it, as in 'make setup PYTHON=python3.12'."; exit 1; }
	@echo "setting up $(VENV) (once; some minutes, about 4 GB)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "  1/4 pip and build tools"
	@$(PIP) --upgrade "pip>=24" "setuptools>=77,<81" wheel
	@echo "  2/4 $(TORCH)"
	@$(PIP) "$(TORCH)" || { echo "error: pip finds no $(TORCH); let it know of an index that has it \
	(pip config set global.extra-index-url URL) and run make again."; exit 1; }
	@echo "  3/4 deepspeed, built against it"
	@DS_BUILD_OPS=0 $(PIP) --no-build-isolation --no-deps \
		"$$($(PYTHON) -c "import tomllib; p=tomllib.load(open('pyproject.toml','rb'))['project']; \
		print(next(d for d in p['dependencies'] if d.startswith('deepspeed')))")"
	@echo "  4/4 vllm, ray and the others"
	@DS_BUILD_OPS=0 PYTHONWARNINGS=ignore $(PIP) --no-build-isolation --editable ".[cpu,test]"
	@# Nothing here needs these three, and a build of them for another torch stops transformers from loading.
	@$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec 2>/dev/null
	@rm -f $(VENV)/.set-up-* && touch $@

quickstart: setup
	@$(BIN)/dreamgym quickstart

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# One process for all: files that can share a Ray do (tests/ray/conftest.py); what was skipped, and why, is told at the end.
test: lint
	@$(BIN)/python -m pytest
