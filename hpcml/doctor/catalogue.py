"""The checks of `hpcml doctor`, in the order in which they are made. Another is one module and one row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hpcml.doctor.checks import (
    binding,
    clocks,
    gpu,
    launcher,
    library,
    links,
    math_threads,
    numba_cache,
    shared_memory,
    sharing,
    software,
    storage,
    thread_level,
)
from hpcml.doctor.finding import Finding
from hpcml.doctor.place import Facts, Place, World


class Check(NamedTuple):
    """look: on every rank, collective or not. judge: of all ranks' facts, on rank 0. needs_mpi: cannot look without."""

    name: str
    title: str
    look: Callable[[Place], Facts]
    judge: Callable[[World], Sequence[Finding]]
    needs_mpi: bool


CATALOGUE = (
    Check("library", "MPI library", library.look, library.judge, True),
    Check("launcher", "launcher", launcher.look, launcher.judge, True),
    Check("software", "software", software.look, software.judge, False),
    Check("thread-level", "threads in MPI", thread_level.look, thread_level.judge, True),
    Check("binding", "cores", binding.look, binding.judge, False),
    Check("math-threads", "threads of BLAS", math_threads.look, math_threads.judge, False),
    Check("shared-memory", "/dev/shm", shared_memory.look, shared_memory.judge, False),
    Check("numba-cache", "Numba's cache", numba_cache.look, numba_cache.judge, False),
    Check("gpu", "GPUs", gpu.look, gpu.judge, True),
    Check("clocks", "clocks", clocks.look, clocks.judge, True),
    Check("storage", "working directory", storage.look, storage.judge, False),
    Check("links", "links", links.look, links.judge, True),
    Check("sharing", "memory of a node", sharing.look, sharing.judge, True),
)
