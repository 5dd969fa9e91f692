# make study   set up, run the study and print its table      STUDY=quick  SET="corpus=my.txt"  NAME=folder
# make check   set up, run ruff, import-linter, deptry, pyright and the fast tests, in a minute
# make test    set up, run the linters and all tests
# make lab     set up, open JupyterLab on the notebooks
# make address write the public address (pyproject.toml, [project.urls]) into the notebooks and the README
# make colab   set up the oldest supported versions (tests/colab.txt), run the notebooks' tests on them
PYTHON ?= python3
STUDY ?= quick
SET ?=
NAME ?=
PYTEST_ARGS ?=
BIN := .venv/bin

.PHONY: study check lint types fast test lab address colab clean
.DEFAULT_GOAL := study

study: .venv/installed
	$(BIN)/python -m mixkit study $(STUDY) $(if $(SET),--set $(SET)) $(if $(NAME),--name $(NAME))

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry .

types: .venv/installed-test
	$(BIN)/pyright --pythonpath $(BIN)/python

fast: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not browser"

check: .venv/installed-test
	$(MAKE) --no-print-directory -j 2 types fast

test: lint
	$(BIN)/pyright --project tests/pyright.json --pythonpath $(BIN)/python
	MIXKIT_CHECK_SHAPES=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lab: .venv/installed
	$(BIN)/jupyter lab notebooks --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate

address:
	$(PYTHON) notebooks/set_address.py

colab: .venv/colab/installed
	.venv/colab/bin/python -m pytest -W default tests/notebook tests/studies/test_sweep.py -m "not browser" --ignore tests/notebook/test_browser.py

.venv/installed: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .[notebooks,mauve]
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .[test]
	touch $@

.venv/colab/installed: requirements.txt tests/colab.txt pyproject.toml
	$(PYTHON) -m venv .venv/colab
	.venv/colab/bin/pip install --quiet --disable-pip-version-check -c tests/colab.txt -r requirements.txt -e . pytest
	touch $@

clean:
	rm -rf .venv runs
