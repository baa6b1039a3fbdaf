# Each target makes what it needs first: a virtual environment in .venv with the pinned packages of constraints.txt.
# Nothing is installed outside the repository, except Kafka's jars (~/.cache/batchmill).

VENV := .venv
BIN := $(VENV)/bin
PIP_VERSION := 26.3
ARGS ?=
# In three parts: what needs nothing but a processor; what brings a broker, a browser or a database along, file by file in
# two processes; what strikes at a moment, which passes when there is other work, and so has the machine for itself.
LARGE := kafka or alone
# Newest last: not every package has wheels for a Python that has just come out.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench exactness money trust story kafka constraints clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: $(VENV)/.run ## real records through a real Kafka while a worker is killed; ends with a report
	@$(BIN)/batchmill demo $(ARGS)

test: $(VENV)/.dev ## every test but the long fault runs, exactly as CI (ARGS="-k name" picks some)
ifeq ($(strip $(ARGS)),)
	@$(BIN)/pytest -n 2 -m "not ($(LARGE) or chaos)"; first=$$?; \
		$(BIN)/pytest -n 2 --dist loadfile -m "($(LARGE)) and not (timed or chaos)"; second=$$?; \
		$(BIN)/pytest -m "timed and not chaos" && exit $$((first | second))
else
	@$(BIN)/pytest -m "not chaos" $(ARGS)
endif

check: $(VENV)/.dev ## lint, formatting, types, import rules, schema compatibility
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m batchmill.schemas.compat

format: $(VENV)/.dev ## put the code into the agreed form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## records per second and peak memory, end to end and per stage
	@$(BIN)/python -m tests.bench $(ARGS)

exactness: $(VENV)/.dev ## 20,000 records, many kill -9, and a count that must come out even (ARGS="--quick" for less)
	@$(BIN)/python -m tests.chaos $(ARGS)

money: $(VENV)/.dev ## every submission fault at every provider: what was paid twice, lost, wasted (ARGS="--only openai")
	@$(BIN)/python -m tests.money $(ARGS)

trust: $(VENV)/.dev ## 1,700 real addresses, a model that is often wrong, and where each kind of answer came to rest
	@$(BIN)/python -m tests.trust $(ARGS)

story: $(VENV)/.dev ## three versions of a job: a gate, a promotion, a replay, a rollback (ARGS="--records N"; else 10,000)
	@$(BIN)/python -m tests.story $(ARGS)

kafka: $(VENV)/.run ## a local Kafka in the foreground (ARGS="--port 9092"), until Ctrl-C
	@$(BIN)/python -m batchmill.agents.kafka $(ARGS)

constraints: ## resolve every dependency anew and pin what came out in constraints.txt
	@$(MAKE) --no-print-directory $(VENV)/.python
	rm -rf build/constraints && $(BIN)/python -m venv build/constraints
	build/constraints/bin/python -m pip install --quiet "pip==$(PIP_VERSION)"
	build/constraints/bin/python -m pip install --quiet -e '.[local,parquet,postgres]' --group dev
	@{ sed '/^[^#]/,$$d' constraints.txt; \
		build/constraints/bin/python -m pip freeze --exclude-editable --exclude pip | sort -f; } > build/constraints.txt
	mv build/constraints.txt constraints.txt && rm -rf build/constraints

clean: ## remove the virtual environment, caches and local data (not Kafka's jars)
	rm -rf $(VENV) .batchmill build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What follows makes the virtual environment, in three steps that are each done once.

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "batchmill needs Python 3.11 or newer and found none on PATH."; \
		echo "Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python@3.13;"; \
		echo "or name one: make PYTHON=/path/to/python3.12"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: its modules venv and ensurepip are missing."; \
		echo "Debian, Ubuntu: apt-get install $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; \
		exit 1; } >&2
	@echo "making $(VENV) with $$($(PYTHON) --version)" >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip==$(PIP_VERSION)"
	@touch $@

$(VENV)/.run: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing batchmill and what it needs to run" >&2
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[local]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "installing what its tests need" >&2
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[local,parquet,postgres]' --group dev
	@touch $@
