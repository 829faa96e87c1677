"""On which device a model is trained: the processor, with NumPy, or a GPU, with CuPy, which has NumPy's functions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mpi4py import MPI

DEVICES = ("cpu", "cuda", "auto")


def settle(device: str, comm: MPI.Intracomm) -> Any:
    """The module of arrays for that device: NumPy, or CuPy with this rank's GPU as the current one. Collective.

    "auto" is CUDA where every rank has a GPU and CuPy.

    Raises:
        CollectiveError: "cuda", and a rank has no GPU or no CuPy; on every rank.
    """
    if device == "cpu":
        return np
    from hpcml import collectives as hc

    has = bool(hc.allreduce(np.array(_gpus() > 0), "land", comm=comm))
    if device == "auto" and not has:
        return np
    with hc.all_or_none(comm):
        try:
            import cupy
        except ImportError as error:
            raise ValueError(
                "device='cuda' needs CuPy: pip install 'hpcml[cuda]', or cupy-cuda12x for CUDA 12"
            ) from error
        if not _gpus():
            raise ValueError("device='cuda', but CUDA finds no GPU here; device='auto' takes the processor then")
    from hpcml.collectives.device.placement import place

    place(comm)
    return cupy


def module_of(array: Any) -> Any:
    """NumPy or CuPy, whose array that is."""
    return np if isinstance(array, np.ndarray) else sys.modules["cupy"]


def to_host(array: Any) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else sys.modules["cupy"].asnumpy(array)


def _gpus() -> int:
    """GPUs that this rank can see; 0 also where CuPy or the driver is missing."""
    try:
        import cupy

        return cupy.cuda.runtime.getDeviceCount()
    except Exception:  # an ImportError, or one of CUDA's own, which there is no name for without CuPy
        return 0
