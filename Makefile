# The commands of the house. Each sets up .venv when it is missing or older than requirements.txt.

# The first of these that is at least 3.11 makes .venv; or name one: make setup PYTHON=/path/to/python3.12
PYTHON ?= python3.11 python3.12 python3.13 python3 python
PORT ?= 5000
BENCHES ?= losses postprocess network loader evaluation imports first_step growth

BIN := .venv/bin
STAMP := .venv/.installed

# An environment without bytecode makes every Ray worker compile torch again.
unexport PYTHONDONTWRITEBYTECODE

# DVC runs its stages as `python -m pipeline.<stage>`: that python is ours.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# None of our commands phones home.
export DVC_NO_ANALYTICS := 1
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A mirror may have a certificate that only the system knows.
export UV_SYSTEM_CERTS ?= true

.DEFAULT_GOAL := help
.PHONY: help setup repro sweep ui serve docs figures test test-fast coverage bench check format schema lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## make .venv with the packages of requirements.txt (the other commands do it when it is missing)

repro: $(STAMP)  ## the whole experiment: every stage whose code, parameters or data changed
	@$(BIN)/dvc repro

sweep: $(STAMP)  ## many variations of params.yaml, compared (PRESET=presets/sweeps/gamma.yaml: one of the paper's tables)
	@$(BIN)/dvc repro --quiet anchor_stats
	@$(BIN)/python -m pipeline.sweep $(if $(PRESET),--preset $(PRESET))

ui: $(STAMP)  ## compare the runs in a browser, http://127.0.0.1:5000 (PORT=5001 for another port)
	@$(BIN)/python -m pipeline ui --port $(PORT)

serve: $(STAMP)  ## models/model.pt over HTTP, with a page for pictures, http://127.0.0.1:8000 (MODEL=models:/cells@champion)
	@$(BIN)/python -m pipeline.serve $(if $(MODEL),--model $(MODEL)) $(if $(filter-out file,$(origin PORT)),--port $(PORT))

docs: $(STAMP)  ## the documentation as a site: site/index.html; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

figures: $(STAMP)  ## the pictures of docs/detector.md, from the data and the model of `make repro`
	@$(BIN)/python -m docs.figures

test: test-fast  ## all tests: the fast ones, then those that start Ray, MLflow or DVC
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --durations=20

test-fast: $(STAMP)  ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n logical --maxprocesses 8 --durations=10

coverage: $(STAMP)  ## the fast tests, with a report of the branches that they leave out
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" -n logical --maxprocesses 8 --cov

bench: $(STAMP)  ## the detector's parts beside torchvision and pycocotools, into bench/RESULTS.md (an hour; BENCHES="losses loader": only these)
	@for name in $(BENCHES); do echo "bench.$$name"; $(BIN)/python -m bench.$$name --write || exit 1; done

check: $(STAMP)  ## lint, format, types, architecture rules and links of the documentation
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py tests/test_chains.py tests/test_tree.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

format: $(STAMP)  ## format the code and mend what the linter can mend
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

schema: $(STAMP)  ## remake the JSON schemas, with which editors complete and check params.yaml and conf/
	$(BIN)/python -m pipeline.params.schema

lock: | $(BIN)/pip  ## remake requirements.txt from pyproject.toml (LOCK=--upgrade takes newer versions)
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --quiet -o requirements.txt $(LOCK)

clean:  ## remove the caches of the tools; results, models, runs and .venv stay
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path './.*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# An empty environment with uv, which installs in seconds what pip does in minutes.
$(BIN)/pip:
	@python=$$(for p in $(PYTHON); do \
		"$$p" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; \
	done); \
	if [ -z "$$python" ]; then \
		echo "No Python of at least 3.11 with the modules venv and ensurepip among: $(PYTHON)." >&2; \
		echo "Install one (Debian and Ubuntu: python3 and python3-venv), or name it: make setup PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	echo "setting up .venv with $$("$$python" --version) (about 1 minute, once)"; \
	"$$python" -m venv .venv
	@$(BIN)/python -m pip install --quiet uv || echo "uv cannot be installed here; pip does its work, more slowly"

# uv does not read pip's configuration, so it is given the index that pip would ask. Where it fails all the same, pip
# does the work, and says what is wrong if it cannot.
$(STAMP): requirements.txt | $(BIN)/pip
	@echo "installing the packages of requirements.txt into .venv"
	@index=$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2>/dev/null)}; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; fi; \
	if ! $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt 2>/dev/null; then \
		echo "uv cannot install from this package index; installing with pip (some minutes)"; \
		$(BIN)/python -m pip install --quiet --require-hashes -r requirements.txt; \
	fi
	@touch $@
