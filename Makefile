# The front door. Python 3.11 or newer, make and pip are all it needs: each target makes its own environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out

.PHONY: help dream test oracle fuzz lint bench test-gpu bench-gpu docs size clean

help:
	@echo "make dream     one look at what minidnn does: a picture in $(OUT)/"
	@echo "make test      all tests (make test ARGS='-k conv' for some)"
	@echo "make oracle    install PyTorch too: the tests then compare every layer with it"
	@echo "make fuzz      20,000 damaged weight files, each converted or refused"
	@echo "make lint      style and types"
	@echo "make bench     timings against PyTorch"
	@echo "make test-gpu  all tests, CuPy among the devices (a card and CUDA=12 or 13)"
	@echo "make bench-gpu timings against PyTorch on that card"
	@echo "make docs      run every example in the documentation"
	@echo "make size      lines in every room"

dream: $(BIN)/.plot
	@$(BIN)/python -m minidnn dream --output $(OUT)/dream.png

test: $(BIN)/.dev
	@$(BIN)/python -m pytest $(ARGS)

lint: $(BIN)/.dev
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

oracle: $(BIN)/.oracle

CASES ?= 20000
fuzz: $(BIN)/.dev
	@$(BIN)/python -m tests.fuzz --cases $(CASES) $(ARGS)

bench: $(BIN)/.bench
	@$(BIN)/python -m benchmarks

CUDA ?= 13
test-gpu: $(BIN)/.dev
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[cuda$(CUDA)]'
	@$(BIN)/python -m tests.onacard $(ARGS)

bench-gpu: $(BIN)/.bench
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[cuda$(CUDA)]'
	@$(BIN)/python -m benchmarks gpu $(ARGS)

docs: $(BIN)/.dev
	@$(BIN)/python -m pytest tests/test_docs.py

size:
	@for room in minidnn/*.py minidnn/*/; do echo "$$(find $$room -name '*.py' -exec cat {} + | wc -l) $$room"; done

clean:
	rm -rf $(VENV) $(OUT) build *.egg-info

$(BIN)/python:
	@echo "making an environment in $(VENV)/"
	@$(PYTHON) -m venv $(VENV)

# What is installed, one mark for each set: fresh whenever the list of needs has changed.
$(BIN)/.plot: pyproject.toml | $(BIN)/python
	@echo "installing minidnn"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[plot]' && touch $@

$(BIN)/.dev: pyproject.toml | $(BIN)/python
	@echo "installing minidnn and its tools"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,plot]' && touch $@

$(BIN)/.oracle: pyproject.toml $(BIN)/.dev
	@echo "installing PyTorch to compare with"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[oracle]' && touch $@

$(BIN)/.bench: pyproject.toml $(BIN)/.dev
	@echo "installing what the benchmarks race against"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]' && touch $@
