# make demo [ONCE=1]   the whole walk, from a simulated marketplace to live answers
# make test            all tests
# make audit [LONG=1]  the auditor's tests T1 to T28: target, figure, verdict
# make check           format, lint, types, import contracts

PYTHON ?= python3
BIN := .venv/bin
# The same versions next year: every install, and every build within it, is held to the lock.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test audit check clean

demo: .venv/serving
	$(BIN)/sectionfour demo $(if $(ONCE),--once)

test: .venv/everything
	$(BIN)/pytest -n 2 --dist loadfile -q

audit: .venv/everything
	.venv/bin/python tests/audit.py $(if $(LONG),--long)

check: .venv/everything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/serving: .venv/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install -q -e '.[training]'
	@touch $@

.venv/everything: .venv/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install -q -e '.[dev]'
	@touch $@ .venv/serving

clean:
	rm -rf .venv
