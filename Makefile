# `make demo` and `make test` set up what they need by themselves, in .venv.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
DOCS_READY := $(VENV)/docs-ready
NOTEBOOKS_READY := $(VENV)/notebooks-ready
RELEASE_READY := $(VENV)/release-ready
TEXT_READY := $(VENV)/text-ready
QUIET := $(shell test -t 2 || echo --quiet) # progress bars on a terminal only
ENGINES := 0.0.19 0.0.20
TOO_OLD := anechoic needs Python 3.11 or newer; name one, as in: make test PYTHON=python3.11

.DEFAULT_GOAL := help
.PHONY: help demo test coverage test-slow test-engines test-readme test-lowest release-check docs paper notebooks fuzz proof load bench-speed bench-index bench-auto bench-all text-judge text-similarity instruments evidence lint format check clean real-size bench-guard

help: ## List what can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## Set up, and run the demo, which writes anechoic-demo.html.
	$(BIN)/anechoic demo -o anechoic-demo.html --overwrite

# two processes of one thread each: files of tests are spread over both cores; what one of the many
# processes that tests start has compiled, the others read
test: $(READY) ## Set up, and run the tests.
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -rfEs -n 2 --dist loadfile

coverage: $(READY) ## The same tests, and which lines of the packages they leave out.
	OMP_NUM_THREADS=1 $(BIN)/pytest -rfEs -n 2 --dist loadfile --cov --cov-report=term

test-slow: $(READY) ## Run the tests that take minutes each.
	$(BIN)/pytest -rfEs -m slow

test-readme: $(READY) ## Run what the README tells a newcomer, pasted in order into a fresh copy.
	$(BIN)/pytest -rfEs -m slow tests/test_readme.py

test-engines: $(addprefix build/engines-,$(addsuffix /ready,$(ENGINES))) ## Run the tests of models of stable-audio-tools on the library itself, in each version.
	for version in $(ENGINES); do \
	  OMP_NUM_THREADS=1 build/engines-$$version/bin/python -m pytest -rfEs -m engines tests/engines || exit 1; \
	done

test-lowest: $(RELEASE_READY) ## Run the tests of the core with the oldest versions that it says it takes.
	$(BIN)/uv venv --clear --python $(BIN)/python build/lowest
	$(BIN)/uv pip install --python build/lowest --resolution lowest-direct -r pyproject.toml -r lab/pyproject.toml -e . -e ./lab "hypothesis>=6.100" "jsonschema>=4.20" "pytest>=9" "pytest-xdist>=3.8"
	OMP_NUM_THREADS=1 build/lowest/bin/pytest -rfEs -n 2 --dist loadfile tests/guidance tests/engine tests/metrics tests/diffusers tests/index tests/embedders tests/test_audio.py

release-check: $(RELEASE_READY) ## Build the distributions, install them afresh, use them, and paste the README.
	$(BIN)/python scripts/release_check.py $(TAG)
	$(MAKE) test-readme

docs: $(DOCS_READY) ## Build the documentation site in build/site; a warning is an error.
	$(BIN)/python scripts/reference.py
	$(BIN)/zensical build --clean --strict

paper: ## Print docs/paper.md as build/paper.tex and build/paper.pdf; needs pandoc and pdflatex.
	mkdir -p build
	pandoc --defaults scripts/paper.yaml docs/paper.md -o build/paper.tex
	cd docs && for pass in 1 2 3; do \
	  pdflatex -interaction=batchmode -halt-on-error -output-directory=../build ../build/paper.tex || exit 1; \
	done

notebooks: $(NOTEBOOKS_READY) ## Run the notebooks of docs/tutorials, cell by cell.
	OMP_NUM_THREADS=1 $(BIN)/pytest -rfEs -m slow tests/test_tutorials.py

fuzz: $(READY) ## Feed 10,000 malformed inputs to all that reads from outside.
	$(BIN)/python scripts/fuzz.py 10000

instruments: $(READY) ## Make the other models to measure guards on; stops and goes on.
	for name in drums flow loops lora; do \
	  $(BIN)/python -m anechoic_lab.instruments.build $$name -o instruments/$$name || exit 1; \
	done

proof: $(READY) ## Protect 10,000 generations, and count what left above the limit (hours; goes on).
	$(BIN)/python benchmarks/proof.py --count 10000 --page docs/evidence/proof.md

bench-auto: $(READY) ## Measure the guards without settings on all models; stops and goes on.
	$(BIN)/python benchmarks/auto.py --jobs 2

bench-all: $(READY) ## Measure all guards on all models, and write the page of it; stops and goes on.
	$(BIN)/python benchmarks/bench_all.py

text-judge: $(TEXT_READY) ## Fit the map from sounds to sentences, and test it on real sound.
	$(BIN)/python -m anechoic_lab.instruments.text_fit

text-similarity: $(READY) ## Judge guards by text-audio similarity, and write the page; stops and goes on.
	$(BIN)/python benchmarks/text_similarity.py

evidence: $(READY) ## Measure every detector on 29 alterations against three nulls; goes on.
	$(BIN)/python benchmarks/evidence.py

load: $(READY) ## Load the service, ten minutes for each of 1, 8, 32 clients, with faults (or: MINUTES=1).
	$(BIN)/python benchmarks/service.py --minutes $(or $(MINUTES),10) --out docs/evidence/service

bench-speed: $(READY) ## Measure what each guard costs, and cold starts, against their targets.
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/cold_start.py

bench-guard: $(READY) ## Compare what guards cost with the recorded baseline; two minutes.
	$(BIN)/python benchmarks/guard.py

real-size: $(READY) ## Guard Stable Audio Open's real size, random weights, on the CPU (an hour; goes on).
	$(BIN)/python benchmarks/real_size.py --out real-size

bench-index: $(READY) ## Measure a search of half a million vectors, and a build, against targets.
	$(BIN)/python benchmarks/index_search.py --rows 500000
	$(BIN)/python benchmarks/index_build.py

lint: $(READY) ## Check format, style, types and repeated code.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python scripts/duplicates.py 0

format: $(READY) ## Bring the code into format.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

check: ## All that CI runs: lint and test.
	scripts/check

clean: ## Remove .venv and all caches.
	rm -rf $(VENV) build dist src/*.egg-info lab/src/*.egg-info cluster/src/*.egg-info serve/src/*.egg-info studio/src/*.egg-info .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src lab cluster serve studio comfyui tests -name __pycache__ -prune -exec rm -rf {} +

$(RELEASE_READY): $(READY)
	$(BIN)/python -m pip install $(QUIET) -e '.[release]'
	@touch $@

# stable-audio-tools pins versions years old, so it is installed without what it asks for, on top of
# the environment of the tests. torchaudio's own libraries want CUDA; without them it runs in Python.
build/engines-%/ready: $(READY)
	$(PYTHON) -m venv --without-pip build/engines-$*
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
	  > "$$(build/engines-$*/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/tests.pth"
	$(PYTHON) -m pip --python build/engines-$*/bin/python install $(QUIET) --no-deps --ignore-requires-python \
	  stable-audio-tools==$* k-diffusion==0.1.1 alias-free-torch==0.0.6 auraloss einops einops-exts \
	  ema-pytorch lightning-utilities PyWavelets==1.9.0 pytorch-lightning torchaudio==2.11.0 torchmetrics
	rm -f build/engines-$*/lib/python*/site-packages/torchaudio/lib/*.so
	build/engines-$*/bin/python -c "import stable_audio_tools"
	@touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install $(QUIET) -c constraints.txt -e '.[docs]'
	@touch $@

$(NOTEBOOKS_READY): $(READY)
	$(BIN)/python -m pip install $(QUIET) -c constraints.txt -e '.[notebooks]'
	@touch $@

$(TEXT_READY): $(READY)
	$(BIN)/python -m pip install $(QUIET) -c constraints.txt -e './lab[text]'
	@touch $@

# pip is taken from outside and pointed at the environment, as Debian ships venv without ensurepip.
# aisfx comes without what it asks for, which is years old; only its weights are read.
$(READY): pyproject.toml lab/pyproject.toml cluster/pyproject.toml serve/pyproject.toml studio/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(TOO_OLD)")'
	@echo "Installing anechoic and what it needs into $(VENV); this takes a few minutes, once."
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install $(QUIET) pip
	$(BIN)/python -m pip install $(QUIET) -c constraints.txt -e '.[dev]' -e ./lab -e ./cluster -e ./serve -e ./studio
	$(BIN)/python -m pip install $(QUIET) -c constraints.txt --no-deps aisfx
	@touch $@
