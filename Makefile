# make demo   installs into .venv and explains a sample photo
# make test   lint, types, doctests and tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-hostile lint types format benchmark benchmark-gpu benchmark-runner benchmark-rex benchmark-matching certificates abductive screenshots page-types table3 table4 table5 clean

demo: .venv/demo
	$(BIN)/suffice explain sample:coffee --out suffice-out

test: lint types
	$(BIN)/python -m pytest

test-slow: .venv/dev
	$(BIN)/python -m pytest -m slow

# Ten thousand calls with hostile input; some ten minutes on two cores.
test-hostile: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m hostile tests/hostile

lint: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: .venv/dev
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# The measured results of the README. Give PHOTOS, a folder of ImageNet photos with the label at the end of each name.
benchmark: .venv/dev
	$(BIN)/python experiments/explain_photos.py $(PHOTOS) --csv results/explain-photos.csv

# Against rex-xai, which gets an environment of its own (.venv-rex). About two minutes a photo on one thread; it goes on
# where it was stopped. For a table from one run: make benchmark-rex PHOTOS=FOLDER REDO=--redo
benchmark-rex: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python experiments/against_rex.py $(PHOTOS) --stability-photos 4 $(REDO)

# On a machine with CUDA: equality with the processor, and time; under eight minutes.
benchmark-gpu: .venv/dev
	$(BIN)/python experiments/gpu.py $(PHOTOS) --csv results/gpu.csv

# What `suffice bench` promises of its runner, on toy models: kills, overhead, memory. See also its `ray`.
benchmark-runner: .venv/dev
	$(BIN)/python experiments/benchmark_runner.py kills
	$(BIN)/python experiments/benchmark_runner.py overhead
	$(BIN)/python experiments/benchmark_runner.py memory

# Activation matching in the paper's condition; goes on where it was stopped.
benchmark-matching: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python experiments/activation_matching.py photos $(PHOTOS)

# What is certified of the explanations of photos, beside the default; goes on where it was stopped.
certificates: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python experiments/certificates.py $(PHOTOS)

# Section 6.3 of activation matching: proved parts of digits beside other masks; DATA holds MNIST/raw. Goes on where it
# was stopped.
abductive: .venv/dev
	PATH=$(BIN):$$PATH OMP_NUM_THREADS=1 $(BIN)/python experiments/abductive.py all $(DATA)

# The pictures of the page in the docs; needs Chromium.
screenshots: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python experiments/screenshots.py

# The types of the page's own script, by TypeScript, which npx fetches.
page-types:
	npx --yes --package typescript tsc --noEmit --allowJs --checkJs --strict --target es2022 --module esnext \
		--moduleResolution bundler --types "" src/suffice/web/static/main.js

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[demo]"
	@touch $@

.venv/dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@ .venv/demo

# Tables of MSI-LAX: what is not yet there is trained and scored. DATA holds the data set (MNIST/raw for table 3).
DATA ?= data
table3 table4 table5: .venv/dev
	$(BIN)/python experiments/msi_lax_tables.py $(@:table%=%) --data $(DATA)

clean:
	rm -rf .venv .venv-rex .venv-quantus .against-rex .msi-lax .abductive dist build suffice-out
