# make demo | run | test | check | bench | proto | test-gpu | bench-gpu
# Each target makes its own virtual environment first; PYTHON names the interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The pinned files are complete, so nothing is left to resolve: pip 23.2 fails in resolving an extra of a pinned package.
INSTALL_PINNED = $(INSTALL) --no-deps --require-hashes -r

.PHONY: demo run test check bench proto test-gpu bench-gpu requirements clean

demo: $(VENV)/.cpu
	$(BIN)/octavo demo

run: $(VENV)/.cpu
	$(BIN)/octavo up

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal --cov=service --cov-report=term:skip-covered -m "not gpu"

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

# The messages of gRPC. A descriptor pool of their own lets them live beside the stubs that a client brings along, which
# bear the same names.
PROTO = service/rpc
proto: $(VENV)/.dev
	mkdir -p $(PROTO)/generated
	$(BIN)/python -m grpc_tools.protoc -I $(PROTO) --python_out=$(PROTO)/generated --pyi_out=$(PROTO)/generated \
	  $(PROTO)/inference.proto
	sed -i.bak 's/_descriptor_pool.Default()/_descriptor_pool.DescriptorPool()/' $(PROTO)/generated/inference_pb2.py
	rm $(PROTO)/generated/inference_pb2.py.bak
	touch $(PROTO)/generated/__init__.py

# Both say what is missing, and exit with 2, where there is no NVIDIA GPU; its packages are installed only where one is.
test-gpu: $(VENV)/$(if $(shell command -v nvidia-smi),.gpu,.dev)
	$(BIN)/python -m tests.gpu

bench-gpu: $(VENV)/$(if $(shell command -v nvidia-smi),.gpu,.dev)
	$(BIN)/python -m benchmarks --gpu

requirements:
	requirements/compile.sh

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.cpu: requirements/cpu.txt requirements/build.txt pyproject.toml | $(VENV)/bin/python
	$(INSTALL_PINNED) requirements/build.txt
	$(INSTALL_PINNED) requirements/cpu.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

# Its packages take the place of the CPU's ONNX Runtime. Both share a folder, so that removing either breaks the other.
$(VENV)/.gpu: requirements/gpu.txt $(VENV)/.dev
	$(BIN)/python -m pip uninstall --quiet --yes onnxruntime onnxruntime-gpu
	$(INSTALL_PINNED) requirements/gpu.txt
	touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.cpu
	$(INSTALL_PINNED) requirements/dev.txt
	touch $@
