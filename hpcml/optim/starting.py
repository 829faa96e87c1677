"""The ranks begin with the same optimizer: the same arguments and structure, and what rank 0 has in it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.optim.local import Local
from hpcml.optim.optimizer import Optimizer


def agree(optimizer: Optimizer, arguments: Mapping[str, Any], comm: MPI.Intracomm) -> None:
    """Raise on every rank unless the arguments are right, and these and the structure are those of rank 0."""
    mine = [*(f"{name}={value!r}" for name, value in arguments.items()), *optimizer.described()]
    expected = comm.bcast(mine)
    with hc.all_or_none(comm):
        _check(arguments, comm.size)
        for here, there in zip_longest(mine, expected, fillvalue="nothing"):
            if here != there:
                raise ValueError(
                    f"the optimizer differs from that of rank 0: {here} here, {there} there; every rank must "
                    "make the same optimizer, for the same parameters in the same order"
                )


def _check(arguments: Mapping[str, Any], ranks: int) -> None:
    bucket, values = arguments["bucket"], arguments["values"]
    if (bucket is not None and bucket <= 0) or values < 0:
        raise ValueError(f"bucket={bucket}, values={values}; expected a bucket of at least one byte")
    virtual, accumulate = arguments["reproducible"], arguments["accumulate"]
    if virtual is not None and not (isinstance(virtual, int) and virtual >= ranks):
        raise ValueError(
            f"reproducible={virtual!r} on {ranks} ranks; expected the number of virtual shards that a batch is cut "
            "into, at least one for each rank"
        )
    wire = arguments["wire"]
    if not (wire is None or hasattr(wire, "reduction") or wire in ("float16", "bfloat16")):
        raise ValueError(f"wire={wire!r}; expected None, 'float16', 'bfloat16', or one of optim.TopK and its kin")
    if wire is not None and virtual is not None:
        raise ValueError(f"wire={wire!r} with reproducible={virtual}: what is rounded on the way has no exact sum")
    sync = arguments["sync"]
    if not (isinstance(sync, Local) or (isinstance(sync, int) and sync >= 1)):
        raise ValueError(f"sync={sync!r}; expected a number of steps of at least 1, or optim.Local(...)")
    if sync != 1 and (virtual is not None or arguments["shard"] or arguments["overlap"]):
        raise ValueError(f"sync={sync!r} goes with neither reproducible, shard nor overlap: ranks step for themselves")
    if accumulate is not None and accumulate < 1:
        raise ValueError(f"accumulate={accumulate}; expected a number of at least 1")


def start_as_rank_0(optimizer: Optimizer, comm: MPI.Intracomm) -> None:
    """Parameters, state, step count and hyperparameters become those of rank 0."""
    if comm.size == 1:
        return
    state = [array for slots in optimizer.state for array in slots.values()]
    hc.broadcast([array for _, array in optimizer.pairs] + state, root=0, comm=comm)
    hyperparameters, optimizer.steps, scale = comm.bcast(
        (optimizer.hyperparameters, optimizer.steps, optimizer.loss_scale and optimizer.loss_scale.state_dict())
    )
    optimizer.hyperparameters.update(hyperparameters)
    if optimizer.loss_scale is not None and scale is not None:
        optimizer.loss_scale.load_state_dict(scale)
