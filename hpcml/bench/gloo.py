"""PyTorch's CPU collectives: `torch.distributed` with gloo, over the ranks of an MPI communicator."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml.bench.data import Data

COLLECTIVES = ("allreduce", "reduce", "broadcast", "allgather", "reduce_scatter", "alltoall", "barrier")
OPS = {"sum": "SUM", "prod": "PRODUCT", "min": "MIN", "max": "MAX"}


def available(comm: MPI.Intracomm) -> bool:
    """Whether all ranks can import torch."""
    return comm.allreduce(importlib.util.find_spec("torch") is not None, MPI.LAND)


def address(comm: MPI.Intracomm) -> str:
    """At which this rank can be reached by the others."""
    lone = comm.allreduce(MPI.Get_processor_name() == comm.bcast(MPI.Get_processor_name()), MPI.LAND)
    return "127.0.0.1" if lone else socket.gethostbyname(socket.gethostname())


class Gloo:
    """The process group. Made by all ranks; the meeting point is a port that the system gives rank 0."""

    def __init__(self, comm: MPI.Intracomm):
        import torch
        from torch import distributed

        torch.set_num_threads(1)
        self._torch, self._group = torch, distributed
        host = comm.bcast(address(comm))
        port = 0
        if comm.rank == 0:
            store = distributed.TCPStore(host, 0, comm.size, is_master=True, wait_for_workers=False)
            port = store.port
        port = comm.bcast(port)
        if comm.rank:
            store = distributed.TCPStore(host, port, comm.size, is_master=False)
        distributed.init_process_group("gloo", store=store, rank=comm.rank, world_size=comm.size)

    def bind(self, data: Data) -> tuple[Callable[[], object], np.ndarray]:
        """The call, and the array in which it leaves its result: an all-reduce is in place."""
        group, x, out = self._group, self._torch.from_numpy(data.x), self._torch.from_numpy(data.out)
        op: Any = getattr(group.ReduceOp, OPS[data.op.name]) if data.op.name in OPS else None
        if data.collective == "allreduce":
            return lambda: group.all_reduce(x, op), data.x
        if data.collective == "reduce":
            return lambda: group.reduce(x, 0, op), data.x
        if data.collective == "broadcast":
            return lambda: group.broadcast(x, 0), data.x
        if data.collective == "allgather":
            allgather = _named(group, "all_gather_single", "all_gather_into_tensor")
            return lambda: allgather(out, x), data.out
        if data.collective == "reduce_scatter":
            reduce_scatter = _named(group, "reduce_scatter_single", "reduce_scatter_tensor")
            return lambda: reduce_scatter(out, x, op), data.out
        if data.collective == "alltoall":
            return lambda: group.all_to_all_single(out, x), data.out
        return group.barrier, data.out

    def close(self) -> None:
        self._group.destroy_process_group()


def _named(module: Any, name: str, older: str) -> Callable[..., object]:
    """The function of that name; PyTorch has renamed some."""
    return getattr(module, name, None) or getattr(module, older)
