# Everything runs in .venv, which the targets make when it is missing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install -q -c constraints.txt

# onnxruntime-web for the page: npm fetches it, or RUNTIME names a folder with the unpacked package
RUNTIME ?=

.PHONY: demo page docs test fuzz bench lint format clean

# what a newcomer types first: encode and decode a sample with the embedded checkpoint
demo: $(VENV)/.demo
	$(BIN)/python scripts/demo.py

# the codec in a browser, as a folder for any web server
page: $(VENV)/.page
	$(BIN)/python -m mimotok page --no-serve --out dist/page $(if $(RUNTIME),--runtime '$(RUNTIME)')

# the pages of docs/ as a site in dist/docs; a warning, such as a link that leads nowhere, ends it
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

# damaged and forged inputs against every reader, SECONDS for each of the eight entry points; SEED gives other inputs
SECONDS ?= 600
SEED ?= 0
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED)

# speed against peers, beside bench/ratios.json; exit code 1 where it fell by more than a tenth
bench: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.guard

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[demo]'
	touch $@

$(VENV)/.page: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[onnx]'
	touch $@

$(VENV)/.docs: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[docs]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[train,align,eval,tokenize,entropy,hf,onnx,dev]'
	touch $@

clean:
	rm -rf $(VENV) demo dist
