# make demo   installs into .venv and explains a sample photo
# make test   lint, types, doctests and tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test docs docs-pictures notebooks screenshots page-types test-slow test-hostile lint types format clean
.PHONY: benchmark results-check benchmark-gpu benchmark-runner benchmark-rex benchmark-matching certificates abductive
.PHONY: table3 table3-forms table4 table5

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

# Below, PHOTOS is a folder of ImageNet photos with the label at the end of each name, or one photo. Rows lie in
# experiments-out/, where what was stopped goes on; with UPDATE=--update those that were asked for are in results/, too.
UPDATE ?=
RUN = OMP_NUM_THREADS=1 $(BIN)/python experiments

# The measured results of the README.
benchmark: .venv/dev
	$(RUN)/explain_photos.py $(PHOTOS) $(UPDATE)

# Against rex-xai, which gets an environment of its own (.venv-rex). About two minutes a photo on one thread. For times of
# one run: REDO=--redo
benchmark-rex: .venv/dev
	$(RUN)/against_rex.py $(PHOTOS) --stability-photos 4 $(REDO) $(UPDATE)

# One row of each file in results/ anew: equal, times apart? It takes some minutes; DATA holds MNIST/raw.
results-check: .venv/dev
	$(RUN)/results_check.py $(PHOTOS) --data $(DATA)

# On a machine with CUDA: equality with the processor, and time; under eight minutes.
benchmark-gpu: .venv/dev
	$(BIN)/python experiments/gpu.py $(PHOTOS) $(UPDATE)

# What `suffice bench` promises of its runner, on toy models: kills, overhead, memory. See also its `ray`.
benchmark-runner: .venv/dev
	$(BIN)/python experiments/benchmark_runner.py kills
	$(BIN)/python experiments/benchmark_runner.py overhead
	$(BIN)/python experiments/benchmark_runner.py memory

# Activation matching in the paper's condition.
benchmark-matching: .venv/dev
	$(RUN)/activation_matching.py photos $(PHOTOS) $(UPDATE)

# What is certified of the explanations of photos, beside the default.
certificates: .venv/dev
	$(RUN)/certificates.py $(PHOTOS) $(UPDATE)

# Section 6.3 of activation matching: proved parts of digits beside other masks; DATA holds MNIST/raw.
abductive: .venv/dev
	PATH=$(BIN):$$PATH $(RUN)/abductive.py all $(DATA) $(UPDATE)

# The site, into build/docs: warnings are errors, and links within it are checked.
docs: .venv/docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	$(BIN)/python -m sphinx -W --keep-going -q -b linkcheck docs build/docs-links
	@echo "build/docs/index.html"

# Its pictures, anew.
docs-pictures: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python experiments/docs_pictures.py
	OMP_NUM_THREADS=1 $(BIN)/python experiments/method_pictures.py

# What the notebooks of the docs show, anew.
notebooks: .venv/docs
	OMP_NUM_THREADS=1 $(BIN)/python experiments/notebooks.py

# The pictures of the page, the report and a notebook in the docs; needs Chromium.
screenshots: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python experiments/screenshots.py

# The types of the page's own script, by TypeScript, which npx fetches.
page-types:
	npx --yes --package typescript tsc --noEmit --allowJs --checkJs --strict --target es2022 --module esnext \
		--moduleResolution bundler --types "" src/suffice/web/static/main.js \
		src/suffice/web/static/audit.js src/suffice/report/parts/slider.js

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml | .venv/bin/python
	@echo "installing into .venv: some minutes; PyTorch is large (README, Install: how to take the one without CUDA)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[demo]"
	@touch $@

.venv/dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@ .venv/demo

.venv/docs: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,docs]"
	@touch $@ .venv/demo .venv/dev

# Tables of MSI-LAX: what is not yet there is trained and scored. DATA holds the data set (MNIST/raw for table 3).
DATA ?= data
table3 table4 table5: .venv/dev
	$(RUN)/msi_lax_tables.py $(@:table%=%) --data $(DATA) $(UPDATE)

# Table 3 on both forms of Synthetic MNIST, `literal` and `black-aware`, with three seeds and a small network.
table3-forms: .venv/dev
	$(RUN)/msi_lax_scenes.py --data $(DATA) $(UPDATE)

clean:
	rm -rf .venv .venv-rex .venv-quantus experiments-out .msi-lax .abductive dist build suffice-out
