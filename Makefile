# Two commands do it all: `make triage` and `make test`. Each installs what it needs into .venv.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: triage test lint unit notebooks drills record open bench wheels facts clean

triage: $(READY) ## install, then triage the bundled failing crew against the lab
	@echo "A support desk that answers with other customers' data, at 1 and 10 requests at once."
	@$(BIN)/playbook drill shared-state --report out/report.html || test $$? -eq 1

test: $(READY) lint unit notebooks ## install, then everything that CI runs

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(READY) ## most tests three at a time, then what must have the machine to itself
	$(BIN)/python -m pytest -m 'not slow and not alone' -n 3 --dist worksteal
	$(BIN)/python -m pytest -m 'alone and not slow'

notebooks: $(READY)
	$(BIN)/python -m pytest --nbval notebooks --nbval-sanitize-with tests/nbval-sanitize.cfg \
		--nbval-cell-timeout=300 --timeout=600 -n 3 --dist loadfile

drills: $(READY) ## every drill, triaged over five seeds (hours); goes on where it was stopped
	$(BIN)/python -m pytest -m slow
	$(BIN)/python benchmarks/drills.py

record: $(READY) ## execute every notebook anew and store what it shows
	$(BIN)/python tests/record.py notebooks/*.ipynb notebooks/training/*.ipynb

open: $(READY)
	$(BIN)/playbook open

bench: $(READY) ## every figure that is promised, measured now, beside its bound
	$(BIN)/python benchmarks

wheels: $(READY) ## the built wheel in clean environments: each Python, the newest and the oldest crewai
	$(BIN)/python tests/wheels.py

facts: ## what the kit knows of CrewAI, against the oldest and the newest release it allows
	@for release in 'crewai[anthropic]==1.15.0' 'crewai[anthropic]>=1.15,<2'; do \
		echo "== $$release"; rm -rf out/facts; $(PYTHON) -m venv out/facts && \
		out/facts/bin/python -m pip install --quiet --editable . "$$release" pytest pytest-timeout && \
		out/facts/bin/python -m pytest -q -p no:cacheprovider tests/test_crewai_facts.py || exit 1; \
	done

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "playbook needs Python 3.11, 3.12 or 3.13"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@# pip compiles on one core; left to the imports, each process would where none may be written.
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true # what is no Python stays as it is
	@touch $@

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache
