# covidxr: `make` lists the targets. Needs Python 3.10 or newer; everything else goes into .venv/.
.DEFAULT_GOAL := help
.NOTPARALLEL:
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
NOTEBOOKS := $(wildcard notebooks/src/0*.py)
export COVIDXR_DATA ?= $(CURDIR)/data

# Options of run-all; empty means the notebook's own default.
DATASET ?= phantom
DATA_DIR ?=
WEIGHTS ?=
EPOCHS ?=
IMAGE_SIZE ?=
RESUME ?=

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
	@echo
	@echo "run-all takes DATASET=phantom|radiography|cohen|folder DATA_DIR=<folder>"
	@echo "              WEIGHTS=phantom|imagenet|none|<checkpoint> EPOCHS=<n> IMAGE_SIZE=<pixels>"
	@echo "              RESUME=1 to go on at the notebook that failed"

setup: $(READY) ## create .venv and install everything into it

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 10) and \
	f"Python {v[0]}.{v[1]} found, 3.10 or newer needed: make PYTHON=python3.12")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

run-all: $(READY) ## run all notebooks in order into runs/notebooks/<dataset>/
	$(BIN)/python notebooks/run.py "dataset=$(DATASET)" "data_dir=$(DATA_DIR)" \
		"weights=$(WEIGHTS)" "epochs=$(EPOCHS)" "image_size=$(IMAGE_SIZE)" \
		$(if $(RESUME),--resume)

test: lint test-package test-notebooks ## ruff, pytest, and nbval over the stored notebooks

lint: $(READY) ## ruff alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test-package: $(READY) ## pytest alone
	$(BIN)/python -m pytest

test-notebooks: $(READY) ## nbval in one empty folder, against the built wheel
	$(BIN)/python notebooks/check.py

test-alone: $(READY) ## nbval of each notebook in an empty folder of its own
	$(BIN)/python notebooks/check.py --alone

test-faults: $(READY) ## kills at random moments, full disk, vanished data (several minutes)
	$(BIN)/python -m pytest -m faults tests/test_faults.py

fuzz: $(READY) ## coverage-guided fuzzing of image and metadata readers (MINUTES=10 of each)
	$(BIN)/python -m pip install --quiet --requirement fuzz/requirements.txt
	$(BIN)/python fuzz/run.py $(MINUTES)

audit: $(READY) ## look up every installed dependency in the advisory database (needs network)
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --requirement tools/audit-requirements.txt
	.venv-audit/bin/python tools/audit.py \
		"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

test-lowest: ## pytest with the lowest versions that the ranges admit (LOWEST=--own-torch)
	$(PYTHON) tools/lowest.py $(LOWEST)

notebooks: $(READY) ## build and execute the stored notebooks from notebooks/src/
	$(BIN)/python notebooks/build.py $(NOTEBOOKS)

student: $(READY) ## the notebooks without solutions, in build/student/
	$(BIN)/python notebooks/student.py

book: $(READY) ## build the book in build/book/html/ from the stored notebooks and docs/
	$(BIN)/python -m pip install --quiet --requirement docs/book/requirements.txt
	$(BIN)/python docs/book/build.py

slides: $(READY) ## build decks that work offline in build/slides/
	$(BIN)/python -m pip install --quiet --requirement docs/book/requirements.txt
	$(BIN)/python docs/build_slides.py

test-book: book slides ## the book and the slides in headless Chromium (apt-get install chromium)
	$(BIN)/python -m pytest docs/book

bench: $(READY) ## speed against peers and the hardware's limit (DATA_DIR=<folder> for other images)
	$(BIN)/python -m pip install --quiet --requirement benchmarks/requirements.txt
	$(BIN)/python benchmarks/bench.py $(if $(DATA_DIR),--data-dir "$(DATA_DIR)")
	$(BIN)/python benchmarks/agreement.py
	$(BIN)/python docs/build_speed.py

pretrain: $(READY) ## make the shipped weights again, into runs/pretraining/ (about half an hour)
	PYTHONPATH=. $(BIN)/python pretraining/pretrain.py

readme: $(READY) ## write the figures of README, model card and datasheet from docs/results/*.json
	$(BIN)/python docs/build_readme.py
	$(BIN)/python docs/build_comparison.py
	$(BIN)/python docs/build_cards.py
	$(BIN)/python docs/build_weights.py
	$(BIN)/python docs/build_severity.py

format: $(READY) ## let ruff format and fix the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environment and build products; data/ and runs/ stay
	rm -rf .venv build dist *.egg-info

.PHONY: help setup run-all test lint test-package test-notebooks test-alone test-faults fuzz audit \
	test-lowest notebooks student book slides test-book bench pretrain readme format clean
