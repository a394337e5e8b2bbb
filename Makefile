# `make` alone prints this help. Each target is one command, which it shows.
VENV ?= .venv
REPOSITORY ?= model_repository
PROFILE ?=
CHECKPOINT ?=
PYTHON_IN_VENV = $(VENV)/bin/python
# Many processes import the same packages; without what Python keeps of them, PyTorch's alone take
# each of them seconds. Container images like to forbid that.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo up serve gateway test test-long test-distributions images test-images quick check audit export bench load chaos cost gpu-visit train quality clean

help:  ## this text
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24
	@echo "Variables: VENV=.venv REPOSITORY=model_repository PROFILE=cpu|gpu|gpu_multi CHECKPOINT=DIR QUICK=1 INT8=1 ONNX_LLAMA=1 PRECISION=half|int8|full"

setup:  ## virtual environment with the pinned requirements; nothing to do a second time
	@tools/setup.sh $(VENV)

demo: setup  ## a two-speaker script through a real server: out/demo.wav, .srt, .png
	$(PYTHON_IN_VENV) -m benchmarks.demo

up: setup  ## the demo's two voices, a gateway and its page in the browser: prints the address [PORT=8080]
	$(PYTHON_IN_VENV) -m benchmarks.demo.up $(if $(PORT),--port $(PORT))

serve: setup  ## tritonserver in the foreground [REPOSITORY=DIR] [PROFILE=cpu]
	$(PYTHON_IN_VENV) -m launch.serve --repository "$(REPOSITORY)" $(if $(PROFILE),--profile $(PROFILE))

gateway: setup  ## OpenAI's speech API in front of `make serve`: http://127.0.0.1:8080/v1
	$(PYTHON_IN_VENV) -m gateway

export: setup  ## a Fish-Speech checkpoint into a servable repository: CHECKPOINT=DIR [REPOSITORY=DIR] [INT8=1] [ONNX_LLAMA=1]
	@test -n "$(CHECKPOINT)" || { echo "export: which checkpoint? make export CHECKPOINT=DIR" >&2; exit 1; }
	$(PYTHON_IN_VENV) -m export run "$(CHECKPOINT)" --repository "$(REPOSITORY)" $(if $(INT8),--int8) $(if $(ONNX_LLAMA),--onnx-llama)

check: setup  ## ruff, pyright, and contract == config.pbtxt == artefacts
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/pyright --pythonpath $(PYTHON_IN_VENV)
	$(PYTHON_IN_VENV) -m ensemble.check --repository "$(REPOSITORY)"

audit:  ## known vulnerabilities of the pinned packages, or that no database can be reached
	python3 tools/audit.py

test: setup  ## all tests that need no GPU and no real weights, against a real tritonserver
	$(PYTHON_IN_VENV) -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not gpu and not weights and not root and not long"

test-long: setup  ## what `make test` leaves out: the same at more shapes, and for longer; 10 minutes
	$(PYTHON_IN_VENV) -m pytest -n 2 --dist loadfile -m long

test-distributions:  ## `make demo` in bare Debian 12 and 13; needs root and debootstrap, 30 minutes
	$(PYTHON_IN_VENV) -m pytest -s -m root tests/tools

images:  ## the images of deploy/, with docker [PIP_EXTRA_INDEX_URL=URL: of CPU builds of torch]
	docker compose -f deploy/compose.yaml --profile cpu build

test-images:  ## the CPU and gateway image, built and heard, and compose where Docker is; needs root, debootstrap, buildah
	$(PYTHON_IN_VENV) -m pytest -s -m root tests/deploy

quick:  ## the fast tests, without a server, one to two minutes: for the inner loop
	$(PYTHON_IN_VENV) -m pytest -n 2 --dist loadfile -m "not server and not gpu and not weights and not root and not slow and not long"

bench: setup  ## the brief's workload against upstream, full size [QUICK=1: tiny] [PRECISION=int8]
	$(PYTHON_IN_VENV) -m benchmarks.bench $(if $(QUICK),--quick) $(if $(PRECISION),--precision $(PRECISION))

load: setup  ## perf_analyzer from one caller to many: benchmarks/results/report.md [REPOSITORY=DIR] [QUICK=1] [MINUTES=11] [RESUME=1]
	$(PYTHON_IN_VENV) -m benchmarks.load $(if $(QUICK),--quick,--repository "$(REPOSITORY)") $(if $(MINUTES),--minutes $(MINUTES)) $(if $(RESUME),--resume)

chaos: setup  ## every fault against a real server, in one table: killed processes, floods, full disks, a soak [MINUTES=3] [ONLY=kill,flood] [REPOSITORY=DIR]
	PYTHONPATH=tests:client $(PYTHON_IN_VENV) -m support.chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(ONLY),--only $(ONLY)) $(if $(filter-out model_repository,$(REPOSITORY)),--repository "$(REPOSITORY)")

cost: setup  ## wall time and memory against size, on a tiny endless checkpoint, into the same report
	$(PYTHON_IN_VENV) -m benchmarks.load.cost

gpu-visit: setup  ## pack what a bare machine with a GPU needs to be measured, and say how that goes [PACK=build/gpu-visit]
	$(PYTHON_IN_VENV) -m benchmarks.gpu_visit --pack $(or $(PACK),build/gpu-visit)

train: setup  ## the demo voice, from nothing to assets/demo; needs espeak-ng [MINUTES=60] [WITHIN=5]
	$(PYTHON_IN_VENV) -m pip install --quiet --no-deps --requirement training/requirements.txt
	$(PYTHON_IN_VENV) -m training all $(if $(MINUTES),--minutes $(MINUTES)) $(if $(WITHIN),--within $(WITHIN))

quality: setup  ## words and voice of a checkpoint, heard by a recogniser; needs espeak-ng: CHECKPOINT=DIR [PRECISION=full] [JOINED=2]
	@test -n "$(CHECKPOINT)" || { echo "quality: which checkpoint? make quality CHECKPOINT=DIR" >&2; exit 1; }
	$(PYTHON_IN_VENV) -m pip install --quiet --no-deps --requirement training/requirements.txt
	$(PYTHON_IN_VENV) -m benchmarks.quality --checkpoint "$(CHECKPOINT)" $(if $(PRECISION),--precision $(PRECISION)) $(if $(JOINED),--joined $(JOINED))

clean:  ## remove what was built, not the virtual environment nor exported artefacts
	rm -rf build out .pytest_cache .ruff_cache .hypothesis
