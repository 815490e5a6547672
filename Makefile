# Everything that a user types. `make` alone lists it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(VENV)/.done ## make .venv and install the package with its tools

$(VENV)/.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.12 setup")'
	@echo "setting up $(VENV): torch, transformers and a few pure packages; a minute or two"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m incentive.model.kernels
	@touch $@

r1: setup ## the whole recipe, from a base to R1-Zero, R1 and a small model: the main job, on two cores
	$(call go,r1-mini)

zero: setup ## R1-Zero alone, in the world of base-mini: minutes on two cores
	$(call go,zero-mini)

# run a recipe in its directory: begin, go on where it was stopped, or say that it is done
define go
@run=$(or $(RUN),runs/$(1)); \
if [ -f $$run/done.json ]; then echo "$$run is done: its report is $$run/report.html. For another: make $@ RUN=runs/mine"; \
elif [ -f $$run/run.json ]; then $(BIN)/incentive run $(1) --run $$run --resume; \
else $(BIN)/incentive run $(1) --run $$run; fi
endef

test: setup ## run the tests, on two processes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: setup ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

prove: setup ## rerun the long measurements (hours) and write docs/results.md and docs/r1-results.md
	@$(BIN)/incentive run controls-mini --run runs/prove $$(test -f runs/prove/run.json && echo --resume)
	@cp runs/prove/results.md docs/results.md && mkdir -p docs/results && cp runs/prove/digests/*.json docs/results/
	@$(BIN)/python prove/r1.py
	@$(BIN)/python prove/kills.py
	@$(BIN)/python prove/kills.py --recipe r1-tiny --every-stage
	@$(BIN)/python prove/attacks.py
	@$(BIN)/python prove/fuzz.py
	@$(BIN)/python prove/attacks_sandbox.py
	@$(BIN)/python prove/fuzz_programs.py
	@$(BIN)/python prove/reward_models.py
	@$(BIN)/python prove/bias.py
	@$(BIN)/python prove/safety.py
	@$(BIN)/python prove/limits.py runs/prove/arms/zero-21/zero/model
	@$(BIN)/python prove/generate.py runs/prove/arms/zero-21/zero/model
	@$$($(BIN)/python -c 'from bench.measure import python_of; print(python_of("trl"))') prove/trl_loss.py

bench: setup ## speed and memory beside TRL, transformers and vLLM (hours), for docs/performance.md; BENCH=--quick: minutes
	@$(BIN)/python -m bench $(BENCH)

clean: ## remove .venv and caches; runs stay
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

.PHONY: help setup r1 zero test lint prove bench clean
