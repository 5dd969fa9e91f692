# make study   set up, run the study and print its table      STUDY=quick  SET="corpus=my.txt"  NAME=folder
# make test    set up, run all tests and the linter
# make lab     set up, open JupyterLab on the notebooks
PYTHON ?= python3
STUDY ?= quick
SET ?=
NAME ?=
BIN := .venv/bin

.PHONY: study test lab clean
.DEFAULT_GOAL := study

study: .venv/installed
	$(BIN)/python -m mixkit study $(STUDY) $(if $(SET),--set $(SET)) $(if $(NAME),--name $(NAME))

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

.venv/installed: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .[test]
	touch $@

clean:
	rm -rf .venv runs
