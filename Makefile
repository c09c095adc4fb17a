# make demo    set up .venv, fit a bundled photograph, say where the pictures lie
# make demo-scene    set up .venv, train the bundled capture for two minutes, say where the report lies
# make test    set up .venv, run the whole test suite
# make lint    ruff and mypy        make bench   the measurements of docs/benchmarks.md        make clean
# make cuda-report    what each CUDA kernel needs: registers, spills, occupancy (nvcc and python3, no GPU, no .venv)
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
SOURCES := $(shell find cuda_ext -type f) setup.py pyproject.toml

.PHONY: demo demo-scene test lint bench cuda-report clean

# Build isolation would fetch another torch, so the build's own needs are installed first.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet "setuptools>=77" wheel
	touch $@

$(VENV)/.installed: $(VENV)/.torch $(SOURCES)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/splat fit-image scenes/photos/kodim23.png -o out/demo -n 10000 --anim

demo-scene: $(VENV)/.installed
	rm -rf out/demo-scene
	$(BIN)/splat train-scene scenes/saharov -o out/demo-scene --time 100

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 tests

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict splat

bench: $(VENV)/.dev
	$(BIN)/python scripts/bench.py
	$(BIN)/python scripts/bench_train.py

cuda-report:
	$(PYTHON) scripts/cuda_report.py

clean:
	rm -rf $(VENV) .venv-ci build out *.egg-info splat/_C.abi3.so
