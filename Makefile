# make study   set up, run the study and print its table      STUDY=quick  SET="corpus=my.txt"  NAME=folder
# make test    set up, run all tests and the linter
# make lab     set up, open JupyterLab on the notebooks
# make address   write the public address (pyproject.toml, [project.urls]) into notebooks and README
# make colab   set up the oldest versions that are supported (tests/colab.txt), run the notebooks' tests on them
PYTHON ?= python3
STUDY ?= quick
SET ?=
NAME ?=
BIN := .venv/bin
NOTEBOOK_TESTS := $(addprefix tests/,notebook/test_notebooks.py notebook/test_notebooks_1_2.py notebook/test_notebook_4.py studies/test_sweep.py notebook/test_sweep_panel.py)

.PHONY: study test lab address colab clean
.DEFAULT_GOAL := study

study: .venv/installed
	$(BIN)/python -m mixkit study $(STUDY) $(if $(SET),--set $(SET)) $(if $(NAME),--name $(NAME))

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadfile

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

address:
	$(PYTHON) notebooks/set_address.py

colab: .venv/colab/installed
	.venv/colab/bin/python -m pytest -W default $(NOTEBOOK_TESTS)

.venv/installed: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements.txt -e .
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
