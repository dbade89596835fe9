SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DOCS_INSTALLED := .venv/.installed-docs
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt

DEMO_STEPS ?= 600000
ifndef DEMO_NAME
DEMO_NAME := demo-$(shell date +%Y%m%d-%H%M%S)
endif
PYTEST_ARGS ?=
# Processes that run tests, a Ray each; 0: none but pytest itself, as a debugger wants it.
TEST_PROCESSES ?= 2
# Files go in their order: xdist's own, by their number of tests, leaves long files for one process at the end.
PARALLEL := -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

export OMP_NUM_THREADS ?= 1

##@ Use

setup: $(INSTALLED) ## install everything into .venv

demo: setup ## train a PID-Lagrangian agent on SafetyPointGoal1-v0 (DEMO_STEPS=600000) and plot its curves
	$(BIN)/quadriga train pid-lagrangian --env SafetyPointGoal1-v0 --steps $(DEMO_STEPS) \
		--env-runners 2 --envs-per-runner 4 --seed 0 --name $(DEMO_NAME)
	$(BIN)/quadriga plot $(DEMO_NAME) -o runs/$(DEMO_NAME)/curves.png
	@echo
	@echo "run folder   runs/$(DEMO_NAME)"
	@echo "curves       runs/$(DEMO_NAME)/curves.png"
	@echo
	@echo "What next:"
	@echo "  $(BIN)/quadriga evaluate $(DEMO_NAME) --episodes 20 --video runs/$(DEMO_NAME)/agent.mp4"
	@echo "  $(BIN)/quadriga train --resume $(DEMO_NAME) --steps $$(( 2 * $(DEMO_STEPS) ))"
	@echo "  $(BIN)/quadriga train ppo --env SafetyPointGoal1-v0 --steps $(DEMO_STEPS) --env-runners 2 --envs-per-runner 4 --name unconstrained"
	@echo "  $(BIN)/quadriga plot $(DEMO_NAME) unconstrained -o comparison.png"

##@ Develop

test: setup ## run the tests but the slow ones, in two processes (TEST_PROCESSES=2)
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL) $(PYTEST_ARGS)

test-slow: setup ## run the slow tests, likewise
	$(BIN)/python -m pytest -m slow $(PARALLEL) $(PYTEST_ARGS)

test-programs: ## install Debian's chromium, prometheus and shellcheck, without which some tests are skipped
	apt-get install --yes --no-install-recommends chromium prometheus shellcheck

coverage: setup ## run the tests but the slow ones and say which lines they leave out
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL) --cov --cov-report=term:skip-covered --cov-report=html:build/coverage $(PYTEST_ARGS)

lint: setup ## ruff's rules and format, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory typecheck

# mypy does not see through the finder of an editable install: it is shown the folders by their package names.
typecheck: setup ## mypy on the packages
	@rm -rf .typecheck && mkdir -p .typecheck/quadriga
	@for folder in platform policies metalearn codegen clusters; do \
		if [ -d $$folder ]; then ln -s ../../$$folder .typecheck/quadriga/$$folder; fi; \
	done
	MYPYPATH=.typecheck $(BIN)/mypy --package quadriga

bench: setup ## measure speed against peers, one after the other
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/metalearn.py
	$(BIN)/python benchmarks/codegen.py
	$(BIN)/python benchmarks/finetuning.py

docs: $(DOCS_INSTALLED) ## build the pages into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

clean: ## remove caches and what was built; keeps .venv and runs
	rm -rf .coverage* build dist site .typecheck .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./.venv/*" -prune -exec rm -rf {} +

help: ## show this
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch goes first, for it decides about the largest files; then what pip resolves; then packages whose own
# pins conflict with ours; then this one.
$(INSTALLED): pyproject.toml requirements/torch.txt requirements/base.txt requirements/no-deps.txt \
		requirements/dev.txt requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing torch"
	@$(PIP_INSTALL) -r requirements/torch.txt
	@echo "installing Ray, MuJoCo and the rest"
	@$(PIP_INSTALL) -r requirements/base.txt -r requirements/dev.txt
	@$(PIP_INSTALL) --no-deps -r requirements/no-deps.txt
	@$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED) requirements/docs.txt
	@$(PIP_INSTALL) -r requirements/docs.txt
	@touch $@

.PHONY: setup demo test test-slow test-programs coverage lint typecheck bench docs clean help
