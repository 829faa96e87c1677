"""Which GPU a rank uses: by its number on its node, among those that it can see."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mpi4py import MPI

LOCAL_RANKS = (
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "PALS_LOCAL_RANKID",
    "SLURM_LOCALID",
)


def local_rank(environment: Mapping[str, str] = os.environ) -> int | None:
    """This rank's number on its node as the launcher says it; None where it does not."""
    found = (environment.get(name, "") for name in LOCAL_RANKS)
    return next((int(number) for number in found if number.isdecimal()), None)


def device_for(local: int, visible: int) -> int:
    """The GPU of the rank of that number, among so many that it can see; several ranks may share one.

    Where a scheduler lets each rank see its own GPU alone (``srun --gpus-per-task=1``), that is the one.
    """
    if visible < 1:
        raise RuntimeError(
            "no GPU can be seen here: is there one, and does CUDA_VISIBLE_DEVICES "
            f"({os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}) leave it?"
        )
    return local % visible


def place(comm: MPI.Comm | None = None) -> int:
    """Make this rank's GPU CuPy's current device, and return its number. Collective over ``comm``.

    ``CUDA_VISIBLE_DEVICES`` is honoured, as CUDA numbers what it leaves.

    Raises:
        CollectiveError: a rank has no GPU; on every rank.
    """
    import cupy

    from hpcml.collectives.errors import all_or_none

    comm = MPI.COMM_WORLD if comm is None else comm
    local = local_rank()
    if local is None:
        node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        local = node.rank
        node.Free()
    with all_or_none(comm):
        try:
            visible = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise RuntimeError(f"CUDA finds no GPU: {error}") from error
        device = device_for(local, visible)
        cupy.cuda.Device(device).use()
    return device
