# `make demo` does the main job on this machine, `make test` tests it; both set up what they need.
# Paths stay relative, so that a checkout in a folder with spaces works.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := $(VENV)/.tools
INSTALLED := $(VENV)/.installed
CMAKE := $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM="$$(pwd)/$(BIN)/ninja"
CXX_FILES := $(shell find csrc tests/cpp benchmarks/cpp examples -name '*.cpp' -o -name '*.h' -o -name '*.inl' 2>/dev/null)
SOURCES := $(shell find src csrc proto cmake -type f -not -path '*/__pycache__/*')

.DEFAULT_GOAL := help
FUZZ_S ?= 60
FUZZ_UNTIL ?= -max_total_time=$(FUZZ_S)
PYTEST_PROCESSES ?= 2
DEV_FLAGS ?=
ENGINES_S ?= 1800
.PHONY: help setup tools demo test test-cpp test-cpp-asan test-cpp-tsan test-cpp-aarch64 fuzz test-python \
  test-engines instructions coverage-python coverage-cpp tidy docs lint format wheel wheel-aarch64 sbom clean

help:  ## Show this text
	@grep -E '^[a-z0-9-]+:.*##' Makefile | awk -F ':.*## ' '{ printf "  %-17s %s\n", $$1, $$2 }'

setup: $(INSTALLED)  ## Make .venv and install datasentinel from source, with everything the tests need

$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt $(SOURCES) | $(TOOLS)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt ".[cpu,train,dev]"
	touch $(INSTALLED)

tools: $(TOOLS)  ## Make .venv with what the C++ tests need alone

$(TOOLS):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet "cmake>=3.24" "ninja>=1.11"
	touch $(TOOLS)

demo: setup  ## Train, export, serve and produce on real data, end to end
	$(BIN)/datasentinel demo

test: test-cpp test-python  ## Run the whole test suite

test-cpp: tools  ## Build and run the C++ tests
	$(CMAKE) --preset dev $(DEV_FLAGS)
	$(BIN)/cmake --build --preset dev
	$(BIN)/ctest --preset dev

test-cpp-asan: tools  ## The same under AddressSanitizer and UndefinedBehaviorSanitizer
	$(CMAKE) --preset asan
	$(BIN)/cmake --build --preset asan
	$(BIN)/ctest --preset asan

test-cpp-tsan: tools  ## Those of threads under ThreadSanitizer
	$(CMAKE) --preset tsan
	$(BIN)/cmake --build --preset tsan --target test_core test_serving test_streams test_grpc_session
	$(BIN)/ctest --preset tsan

test-cpp-aarch64: tools  ## Those of the kernels for 64-bit Arm under qemu; needs g++-aarch64-linux-gnu, qemu-user
	$(CMAKE) --preset aarch64
	$(BIN)/cmake --build --preset aarch64 --target test_core test_onnx test_fused test_fused_distances test_fused_math
	$(BIN)/ctest --preset aarch64

fuzz: tools  ## Fuzz each target for FUZZ_S seconds, 60 by default; needs clang
	$(CMAKE) --preset fuzz
	$(BIN)/cmake --build --preset fuzz --target fuzz_targets
	@set -e; for corpus in tests/cpp/fuzz/corpus/*/; do \
	  subject=$$(basename $$corpus); found=build/fuzz/found/$$subject; mkdir -p $$found; \
	  echo "fuzz_$$subject $(FUZZ_UNTIL)"; \
	  build/fuzz/tests/cpp/fuzz/fuzz_$$subject $(FUZZ_UNTIL) -timeout=10 -rss_limit_mb=2048 \
	    -verbosity=0 -print_final_stats=1 -artifact_prefix=$$found- $$found $$corpus; \
	done

test-python: setup  ## Run the Python tests, PYTEST_PROCESSES at a time, 2 by default
	$(BIN)/python -m pytest --numprocesses $(PYTEST_PROCESSES) --dist loadfile

# moto with Flask is an S3 server, and s3fs what fsspec speaks to one with.
test-engines:  ## Try Ray and Spark in an environment of their own, for ENGINES_S seconds at most; needs Java 17
	test -x build/engines/bin/python || $(PYTHON) -m venv build/engines
	build/engines/bin/python -m pip install --quiet --constraint constraints.txt \
	  ".[bench,cpu,dev,ray,spark]" "moto[s3]>=5" flask flask-cors s3fs
	timeout $(ENGINES_S) build/engines/bin/python -m pytest --run-slow tests/engines

instructions: setup  ## Fail where hot paths take more instructions than recorded; needs valgrind
	PATH="$$(pwd)/$(BIN):$$PATH" $(BIN)/python -m benchmarks.instructions

coverage-python: setup  ## Run the Python tests, and report which branches they never take
	rm -rf build/coverage/python*
	mkdir -p build/coverage
	$(BIN)/coverage run -m pytest --numprocesses $(PYTEST_PROCESSES) --dist loadfile $(PYTEST_ARGUMENTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Clang counts each condition that is written, true and false; GCC each arc between instructions, and most of those lead to
# handlers of exceptions. The counters are files that processes share (%c%m): one that is killed has counted, too. Two tests
# ask for the same bits in every batch, but kernels that count are so slow that `auto` leaves some batches to ONNX Runtime.
COVERAGE := build/coverage-cpp
COVERAGE_FLAGS := -fprofile-instr-generate -fcoverage-mapping -fprofile-update=atomic -mllvm -runtime-counter-relocation
coverage-cpp: setup  ## Run all tests, and report which conditions in csrc never hold, or always; needs clang, llvm
	rm -rf $(COVERAGE)/site $(COVERAGE)/counters $(COVERAGE)/report
	CC=clang CXX=clang++ $(BIN)/python -m pip install --quiet --no-deps --target $(COVERAGE)/site . \
	  --config-settings build-dir=$(COVERAGE)/build --config-settings cmake.build-type=Debug \
	  --config-settings cmake.define.DATASENTINEL_BUILD_TESTS=ON --config-settings cmake.define.CMAKE_UNITY_BUILD=ON \
	  --config-settings cmake.define.CMAKE_CXX_FLAGS="$(COVERAGE_FLAGS)" \
	  --config-settings cmake.define.CMAKE_CXX_FLAGS_DEBUG=-O1
	@export LLVM_PROFILE_FILE="$$(pwd)/$(COVERAGE)/counters/%c%m.profraw"; failed=0; \
	$(BIN)/ctest --test-dir $(COVERAGE)/build --output-on-failure || failed=1; \
	PYTHONPATH="$$(pwd)/$(COVERAGE)/site" $(BIN)/python -m pytest \
	  --numprocesses $(PYTEST_PROCESSES) --dist loadfile --timeout 1800 $(PYTEST_ARGUMENTS) \
	  --deselect tests/unit/tables/test_round_trip.py::test_frames_and_the_estimator \
	  --deselect tests/integration/test_grpc_calls.py::test_a_long_stream_of_small_messages_is_no_attack || failed=1; \
	llvm-profdata merge --output $(COVERAGE)/counts $(COVERAGE)/counters/*.profraw && \
	set -- $(COVERAGE)/site/datasentinel/_native*.so --instr-profile $(COVERAGE)/counts "$$(pwd)/csrc" && \
	llvm-cov show "$$@" --format html --show-branches count --output-dir $(COVERAGE)/report && \
	llvm-cov report "$$@" --show-region-summary=false && exit $$failed

tidy: tools  ## Look for faults in the C++ sources with clang-tidy
	$(BIN)/python -m pip install --quiet clang-tidy==23.1.4 pybind11
	$(CMAKE) --preset dev -B build/tidy -DDATASENTINEL_BUILD_PYTHON=ON -DCMAKE_UNITY_BUILD=OFF \
	  -DPython_EXECUTABLE="$$(pwd)/$(BIN)/python" \
	  -Dpybind11_DIR="$$($(BIN)/pybind11-config --cmakedir)"
	find csrc -name "*.cpp" $(foreach part,neon aarch64 generic,-not -path "*$(part)*") | sort | \
	  xargs -P 2 -n 1 $(BIN)/clang-tidy -p build/tidy --quiet

docs: setup  ## Build the documentation site into build/site; a warning is an error
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --builder html docs build/site

lint: setup  ## Check style, types, and the stubs of the extension
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest datasentinel._native --allowlist .stubtest --mypy-config-file pyproject.toml
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/zizmor --offline --no-progress --quiet .github
	$(BIN)/hadolint docker/Dockerfile

format: setup  ## Rewrite the sources in the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_FILES)

wheel: setup  ## Build the source distribution and the wheel into dist/, and run the demo from the wheel
	rm -f dist/*.tar.gz dist/*_$$(uname -m).whl
	wheel/build.sh
	wheel/check.sh dist/*_$$(uname -m).whl

wheel-aarch64: setup  ## Cross-build the wheel for 64-bit Arm into dist/, and score with it under qemu
	wheel/aarch64.sh

sbom: setup  ## List what the wheel in dist/ brings along, and what the images hold, as CycloneDX
	wheel/sbom.sh dist/*_$$(uname -m).whl
	$(BIN)/python docker/sbom.py dist

clean:  ## Remove everything that was made here
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
