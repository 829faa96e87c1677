"""What started this process is known by its environment; several worlds of one rank are found out."""

import pytest

from hpcml.runs.launch import Launch, find_launch, lone_worlds

# As the launchers set them, seen on Slurm 22.05 with Open MPI 5.0 and MPICH 5.0.
SRUN = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}
SRUN_PMI2 = {**SRUN, "PMI_SIZE": "4", "PMI_RANK": "3"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2"}
# Its daemons were started by srun, two of them: that is no number of ranks.
MPICH_IN_A_JOB = {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
    "PMI_SIZE": "4",
    "PMI_RANK": "2",
    "MPI_LOCALNRANKS": "2",
}
OPEN_MPI_IN_A_JOB = {**OPEN_MPI, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    "environment, launch",
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, None),  # the batch script itself
        (SRUN, Launch("srun", 4, 3)),
        (SRUN_PMI2, Launch("srun", 4, 3)),
        (OPEN_MPI, Launch("mpiexec", 4, 2)),
        (MPICH_IN_A_JOB, Launch("mpiexec", 4, 2)),
        (OPEN_MPI_IN_A_JOB, Launch("mpiexec", 4, 2)),
    ],
)
def test_launch_by_its_environment(environment, launch):
    assert find_launch(environment) == launch


OPEN_MPI_LIBRARY = "Open MPI v5.0.11, package: Open MPI user@localhost Distribution"
MPICH_LIBRARY = "MPICH Version:      5.0.2\nMPICH Release date: ...\n"


def test_several_worlds_of_one_rank_are_refused_with_the_right_command():
    said = lone_worlds(Launch("srun", 4, 0), 1, OPEN_MPI_LIBRARY)
    assert "srun started 4 processes" in said and "srun --mpi=pmix" in said and "Open MPI v5.0.11)" in said
    assert "srun --mpi=pmi2" in lone_worlds(Launch("srun", 4, 0), 1, MPICH_LIBRARY)
    assert "mpiexec started 2 processes" in lone_worlds(Launch("mpiexec", 2, 1), 1, MPICH_LIBRARY)


def test_one_world_is_well():
    assert lone_worlds(Launch("srun", 4, 0), 4, OPEN_MPI_LIBRARY) is None
    assert lone_worlds(Launch("srun", 1, 0), 1, OPEN_MPI_LIBRARY) is None
