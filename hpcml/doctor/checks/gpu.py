"""GPUs: does the MPI library take their pointers, and has each rank one of its own?"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from hpcml.doctor.finding import Finding, fine, warning
from hpcml.doctor.place import Facts, Place, World


def look(place: Place) -> Facts:
    devices = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    return {
        "devices": devices,
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "aware": _cuda_aware(),
    }


def _cuda_aware() -> bool | None:
    """What the library itself says; None where it does not say."""
    from mpi4py import MPI

    library = ctypes.CDLL(MPI.__file__)
    if hasattr(library, "MPIX_Query_cuda_support"):  # Open MPI, and MPICH with GPUs
        return bool(library.MPIX_Query_cuda_support())
    if hasattr(library, "MPIX_GPU_query_support"):  # MPICH; 0 is MPIX_GPU_SUPPORT_CUDA
        supported = ctypes.c_int(0)
        return library.MPIX_GPU_query_support(0, ctypes.byref(supported)) == 0 and bool(supported.value)
    return None


def judge(world: World) -> Sequence[Finding]:
    with_gpus = [rank for rank, facts in enumerate(world.facts) if facts["devices"]]
    if not with_gpus:
        aware = {True: "yes", False: "no", None: "it does not say"}[world.facts[0]["aware"]]
        return [fine(f"no NVIDIA GPU here; CUDA-aware MPI: {aware}")]
    findings = []
    deaf = [rank for rank in with_gpus if world.facts[rank]["aware"] is False]
    if deaf:
        findings.append(
            warning(
                f"there are GPUs, and the MPI library of {world.on(deaf)} is not CUDA-aware",
                "arrays on a GPU are copied to host memory and back around each message",
                "load a CUDA-aware MPI (Open MPI with UCX: ompi_info | grep cuda; Cray: MPICH_GPU_SUPPORT_ENABLED=1)",
            )
        )
    for node, ranks in enumerate(world.nodes):
        gpus = len(world.facts[ranks[0]]["devices"])
        alike = {world.facts[rank]["visible"] for rank in ranks}
        if gpus and len(ranks) > gpus:
            findings.append(
                warning(
                    f"{len(ranks)} ranks on {world.host(node)} share {gpus} GPU{'s' * (gpus > 1)}",
                    "they take turns on it, and NCCL refuses two ranks on one",
                    f"one rank per GPU: --ntasks-per-node={gpus}",
                )
            )
        elif len(ranks) > 1 and len(alike) == 1 and len((alike.pop() or "").split(",")) == 1 and _named(world, ranks):
            findings.append(
                warning(
                    f"all ranks on {world.host(node)} see the same single GPU",
                    "the others of the node idle",
                    "--gpus-per-node with selection by local rank, not one CUDA_VISIBLE_DEVICES for all",
                )
            )
    return findings or [fine(f"{len(world.facts[with_gpus[0]]['devices'])} GPUs on a node, CUDA-aware MPI")]


def _named(world: World, ranks: Sequence[int]) -> bool:
    return all(world.facts[rank]["visible"] for rank in ranks)
