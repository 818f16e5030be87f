# Two commands for a fresh machine: `make demo` and `make test`. Needs Python >= 3.11, make and a compiler.
# PYTHON=/path/to/python3 chooses the interpreter; JOBS=n the processes of the test run.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
RUNS := runs/demo
JOBS ?= $(shell nproc)

# Float32 and bf16 through oneDNN, ATen's vector code and inductor's; float64 convolutions use none of oneDNN.
COMPUTING := $(addprefix tests/,models/test_convolutions.py models/test_resnet.py losses/test_losses.py \
	equivalence/test_compiled.py equivalence/test_step.py kernels/test_separation.py training/test_methods.py) \
	-k "not trajectories and not planted and not short_run and not perturbed"

.PHONY: help install demo test test-avx2 check docs bench clean

help:
	@echo "make demo   train ce and srat-ldam on handwritten digits, print the table (two minutes on two cores)"
	@echo "make test   all tests; where there is AVX-512, what computes runs again without it (make test-avx2)"
	@echo "make check  ruff and mypy"
	@echo "make docs   the documentation, built strictly into site/"
	@echo "make bench  benchmarks (pytest benchmarks/ --benchmark-only)"
	@echo "make clean  remove the environment, the demo's runs and site/"

install: $(VENV)/.installed

# The interpreter is looked for by running it: a name on PATH may be a stub for a version that is not there.
$(VENV)/.installed: pyproject.toml constraints.txt .ci/install .ci/ffcv
	@bash .ci/install $(VENV)
	@touch $@

# Side by side with one thread each: these networks are too small for two threads to help one another.
demo: install
	@rm -rf $(RUNS)
	@$(MAKE) --no-print-directory -j 2 $(RUNS)/ce $(RUNS)/srat-ldam
	$(BIN)/srat-fast report $(RUNS)

$(RUNS)/%: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/srat-fast train --dataset digits --imbalance exp --ratio 10 --method $* --out $@ | cat

# One thread a process: two processes that each spin two threads on two cores stand in each other's way.
test: install
	@bash .ci/chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n $(JOBS) --dist worksteal
	@if grep -qs avx512 /proc/cpuinfo; then $(MAKE) --no-print-directory test-avx2; fi

# What computes with torch once more, as on a processor without AVX-512: other kernels, other faults.
test-avx2: install
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 OPENBLAS_CORETYPE=Haswell OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest $(COMPUTING) -n $(JOBS) --dist worksteal

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: install
	$(BIN)/python -m pytest benchmarks --benchmark-only

clean:
	rm -rf $(VENV) $(RUNS) site
