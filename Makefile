# Two commands do it all: `make triage` and `make test`. Each installs what it needs into .venv.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: triage test lint unit e2e notebooks drill lab open bench clean

triage: $(READY) ## install, then triage the bundled failing crew against the lab
	@echo "A support desk that answers with other customers' data, at 1 and 10 requests at once."
	@$(BIN)/playbook drill shared-state --report out/report.html || test $$? -eq 1

test: $(READY) lint unit notebooks ## install, then everything that CI runs

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest

notebooks: $(READY)
	$(BIN)/python -m pytest --nbval notebooks --nbval-sanitize-with tests/nbval-sanitize.cfg \
		--nbval-cell-timeout=300 --timeout=600

open: $(READY)
	$(BIN)/playbook open

bench: $(READY) ## time to verdict of the bundled incident; the lab beside others, its memory, its fidelity
	$(BIN)/python benchmarks/time_to_verdict.py
	$(BIN)/python benchmarks/lab_throughput.py
	$(BIN)/python benchmarks/lab_memory.py
	$(BIN)/python benchmarks/lab_fidelity.py

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "playbook needs Python 3.11, 3.12 or 3.13"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache
