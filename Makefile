# Each target is one command that a person could type. `make run` and `make test` are all that a new user needs.

VENV ?= .venv
# The newest Python that the pins are made for and that is on the PATH; any from 3.11 on: make PYTHON=/path/to/python run
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
RECIPE ?= glyphs
ARGS ?=
# The image: which engine builds it (docker, or podman), with torch for what (cpu, or cuda), what its name begins with
# (registry.example/team), and more for the engine.
DOCKER ?= docker
TARGET ?= cpu
REGISTRY ?=
BUILD_ARGS ?=
IMAGE_NAME = $(if $(REGISTRY),$(REGISTRY)/)$(shell $(PYTHON) docker/image_name.py $(TARGET))
# The time is that of the commit: what is equal looks equal, whenever it was built.
COMMIT = $(shell git rev-parse HEAD 2>/dev/null)$(shell test -z "$$(git status --porcelain 2>/dev/null)" || echo -changed)
COMMIT_TIME = $(shell git log -1 --format=%cI 2>/dev/null)
# Tests run side by side with a thread each, one process more than there are cores, up to four, for some tests wait for servers;
# a file's tests stay together, for they share what is slow to make. Compiled modules are kept, also where the environment
# says otherwise: each of the many processes would compile all of them anew.
WORKERS = $(shell $(BIN)/python -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')
PYTEST = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help setup run test long-test quick-test check audit format ui docs wheel image image-name image-test clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready ## Make the virtual environment (once; a few minutes)

$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Expected Python 3.11 or newer on the PATH, found none; install it or say make PYTHON=/path/to/python." >&2; exit 2; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version); this happens once and takes a few minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt pip setuptools wheel cython
	@echo "  the project and its dependencies ..."
	@$(PIP) install -c constraints.txt -e ".[meta-training,tracking,storage,pipelines,test,dev,docs]"
	@echo "  learn2learn, compiled from source (its released C files need regenerating on this Python) ..."
	@$(PIP) install -c constraints.txt --no-build-isolation --no-deps \
		--config-settings=--global-option=build_ext learn2learn==0.2.0 \
		|| { echo "learn2learn did not compile: it needs a C compiler and Python's headers (gcc, python3-dev)." >&2; exit 2; }
	@touch $@

$(VENV)/.test-ready: $(VENV)/.ready
	@echo "Adding neural-tangents, the tests' reference for infinite width (without the TensorFlow that it asks for) ..."
	@$(PIP) install -c constraints.txt -e ".[theory]"
	@$(PIP) install -c constraints.txt --no-deps neural-tangents==0.6.5
	@touch $@

run: setup ## Search, meta-train, evaluate and register on the embedded dataset (RECIPE=glyphs)
	@$(BIN)/metantk run $(RECIPE) $(ARGS)

test: $(VENV)/.test-ready ## Run the tests, but for those that take long
	@$(PYTEST) -m "not minutes" $(ARGS)

long-test: $(VENV)/.test-ready ## Run those that take long
	@$(PYTEST) -m minutes $(ARGS)

quick-test: $(VENV)/.test-ready ## Run the tests that take no more than seconds
	@$(PYTEST) -m "not slow and not minutes" $(ARGS)

check: setup ## Format, lint, types, import contracts
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/pyright && $(BIN)/lint-imports

# In an environment of its own, for it pins what the project uses. It asks pypi.org, and fails where that can't be reached.
audit: ## Ask whether pinned dependencies have known vulnerabilities
	@test -x $(VENV)-audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)-audit \
		&& $(VENV)-audit/bin/python -m pip --disable-pip-version-check -qq install pip-audit; }
	@$(VENV)-audit/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt $(ARGS)

format: setup ## Format and repair what can be repaired
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

ui: setup ## Open the MLflow UI on the runs of this folder
	@$(BIN)/metantk ui

docs: setup ## Build the documents as a site (site/index.html)
	@$(BIN)/zensical build --strict --clean

wheel: setup ## Build the package, dist/metantk-VERSION-py3-none-any.whl
	@rm -rf build dist && $(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist . && ls dist/metantk-*.whl

image: ## Build the image of the steps, named by what goes into it (TARGET=cpu|cuda, REGISTRY=registry.example/team)
	@name="$(IMAGE_NAME)" && test -n "$$name" && $(DOCKER) build --file docker/Dockerfile --tag "$$name" \
		--build-arg TARGET=$(TARGET) --build-arg IMAGE="$$name" \
		--build-arg VERSION=$$($(PYTHON) docker/image_name.py $(TARGET) --version) \
		--build-arg REVISION=$(COMMIT) --build-arg CREATED=$(COMMIT_TIME) $(BUILD_ARGS) . && echo "$$name"

image-name: ## Print the name of that image
	@name="$(IMAGE_NAME)" && test -n "$$name" && echo "$$name"

image-test: $(VENV)/.ready ## Build the image and run the pipeline in it (asks for a Docker engine, or root to start one)
	@IMAGE_TEST=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m image tests/image -v -rP $(ARGS)

clean: ## Remove the virtual environment (results in runs/ stay)
	rm -rf $(VENV) $(VENV)-audit build dist site *.egg-info
