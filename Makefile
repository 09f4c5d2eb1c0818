# make help lists the targets. Everything is installed into .venv; data and runs stay in data/ and runs/.
PYTHON ?= python3
PROFILE ?= demo
PY := .venv/bin/python
SNAKEMAKE := .venv/bin/snakemake -s workflow/Snakefile --workflow-profile workflow/profiles/local --quiet rules progress host reason
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONWARNINGS := ignore::DeprecationWarning
# Where this is set, every kernel compiles torch's and timm's sources anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help env assets runs pages build-pages book quick test-pages links pdf paper-figures test test-faults lint hooks notebooks lab bench mutants plan data-check open-data clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

env: ## create .venv and install the pinned dependencies
	@$(PYTHON) workflow/setup_env.py book test

assets: env ## fetch the small real files (CT, reports, text and image encoders) by hash
	@$(PY) -m pkd_utils fetch

runs: assets ## run every notebook of PROFILE (default demo) that is not done yet; ONLY=reports/mimic_cxr: a part
	@$(SNAKEMAKE) --config profile=$(PROFILE) $(if $(ONLY),only="$(ONLY)")

pages: env ## build the book from the runs that are there, unless it is built of them already
	@$(PY) -m workflow.publish.unchanged $(PROFILE) || $(MAKE) --no-print-directory build-pages

# From nothing each time: Sphinx keeps the words of pages that are gone in its search index.
build-pages:
	@rm -rf _build
	@$(PY) -m workflow.publish.gate --profile $(PROFILE)
	@$(PY) -m workflow.publish.pages --profile $(PROFILE)
	@.venv/bin/jupyter-book build . --toc book/_generated/_toc.yml -W -n --keep-going -q
	@$(PY) workflow/prune_images.py _build/html
	@$(PY) -m workflow.publish.gate --html _build/html
	@$(PY) -m workflow.publish.unchanged $(PROFILE) --write

book: runs ## run the demo profile and build the book
	@$(MAKE) --no-print-directory pages
	@echo "The book: $(CURDIR)/_build/html/index.html"

quick: ## a first look in minutes: every notebook once, at the size of its tests, and the whole book around them
	@$(MAKE) --no-print-directory book PROFILE=quick

test-pages: env ## look at every page of the built book in Chromium, wide and on a phone; AXE=1: with axe-core, from npm
	@$(PY) -m workflow.browse $(if $(AXE),--axe)

paper-figures: env ## every table of the book as CSV and LaTeX, every figure as PDF and PNG, into _build/paper-figures
	@$(PY) -m workflow.paper_figures --profile $(PROFILE)

pdf: env ## print the built book as _build/book.pdf, with Chromium
	@$(PY) -m workflow.print_book

links: env ## follow the links of the built book to other sites (needs the network)
	@.venv/bin/jupyter-book build . --toc book/_generated/_toc.yml --builder linkcheck -q

lint: env ## ruff check, format check, and the arrows between the rooms
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/lint-imports --no-cache

test: assets lint ## ruff, pytest and nbval
	@$(PY) workflow/run_tests.py

test-faults: assets ## the faults that take minutes to plant: all smoke notebooks without a network
	@$(PY) -m pytest -m faults tests

hooks: env ## check notebooks and style before each commit (pre-commit)
	@$(PYTHON) workflow/setup_env.py book test dev
	@.venv/bin/pre-commit install

notebooks: assets ## run the committed notebooks (NAMES=... for some) with smoke parameters, keep outputs
	@$(PY) workflow/refresh_notebooks.py $(NAMES)

lab: ## open JupyterLab
	@$(PYTHON) workflow/setup_env.py book test lab
	@.venv/bin/jupyter lab --notebook-dir=notebooks

mutants: ## change tokens of the core at random, one at a time, and count those that the tests notice (long)
	@$(PYTHON) workflow/setup_env.py book test mutants
	@$(PY) -m workflow.mutants

bench: assets ## measure speed, and write book/results/benchmark-*.json (long: one writes a tree of 600,000 files)
	@$(PYTHON) workflow/setup_env.py book test bench
	@$(PY) -m benchmarks

plan: env ## what the runs of PROFILE would cost, by notebook: hours, disk, memory; ONLY=...: a part
	@$(PY) -m workflow.plan $(PROFILE) $(ONLY)

data-check: env ## are the data and weights of PROFILE here, whole and readable? ALL=1: decode every image
	@$(PY) -m workflow.data_check $(PROFILE) $(ONLY) $(if $(ALL),--all)

# What about an hour on 2 cores holds: every collection and notebook; of Open-i's texts the whole reports, of BrEaST the biopsied lesions.
AN_HOUR = background mmpkd/openi mmpkd/covid_chestxray mmpkd/cbis_ddsm mmpkd/breast_usg/05-compare/biopsied mmpkd/breast_usg/09 \
  reports/covid_chestxray reports/lung_pet_ct_dx reports/openi/06-distillation-effect/openi_whole
open-data: assets ## run the studies on open real data: make open-data DATA=<folder> [PROFILE=open-data-full]
	@test -n "$(DATA)" || { echo "Say where the data are: make open-data DATA=<folder> (see book/reproduce.md)"; exit 2; }
	@mkdir -p data && ln -sfn "$(abspath $(DATA))" data/open
	@$(SNAKEMAKE) --config profile=open-data $(if $(filter open-data-full,$(PROFILE)),,only="$(AN_HOUR)")

clean: ## remove runs, the built book and the embedded cohort (fetched assets stay)
	rm -rf runs _build .snakemake book/_generated data/embedded data/embedded-smoke data/embedded-mammography data/embedded-inspect data/derived
