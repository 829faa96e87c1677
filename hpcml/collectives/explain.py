"""What a call would run, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpi4py import MPI

from hpcml.collectives import choice, ops, shared
from hpcml.collectives.arguments import OpLike
from hpcml.collectives.arrays import DEVICE, as_array, describe, kind_of
from hpcml.collectives.binding import chosen
from hpcml.collectives.bounds import lower_bound
from hpcml.collectives.channel import Channel, channel_of
from hpcml.collectives.contracts import CONTRACTS
from hpcml.collectives.errors import ArgumentError
from hpcml.collectives.machine import Machine
from hpcml.collectives.program import path


@dataclass(frozen=True)
class Explanation:
    """What would run. ``print`` it, or read the fields.

    path: who moves and folds the data. seconds: expected, measured or by the model; None where neither knows. bound: no
    algorithm is faster on these links, by the model [s]. others: (seconds, algorithm), the fastest first.
    """

    call: str
    machine: str
    algorithm: str
    segments: int
    path: str
    why: str
    seconds: float | None
    bound: float
    others: tuple[tuple[float, str], ...]
    source: str

    def __str__(self) -> str:
        cut = f" in {self.segments} segments" if self.segments > 1 else ""
        lines = [
            f"{self.call} on {self.machine}",
            f"  algorithm   {self.algorithm}{cut}",
            f"  why         {self.why}",
            f"  path        {self.path}",
            f"  predicted   {_time(self.seconds)} ({self.source})",
            f"  bound       {_time(self.bound)} (latency and bandwidth that no algorithm goes below, by the model)",
            "  others      " + ", ".join(f"{name} {_time(seconds)}" for seconds, name in self.others),
        ]
        return "\n".join(lines)


def explain(
    collective: str, x: Any = None, op: OpLike = "sum", algorithm: str = "auto", comm: MPI.Comm | None = None
) -> Explanation:
    """What ``collective`` of ``x`` would run on ``comm``: algorithm, path, predicted time, lower bound, and why.

    Nothing is sent, but the first use of a communicator is collective. For scatter, gather and allgather pass the
    whole array.

    Raises:
        ArgumentError: an unknown collective, op or algorithm.

    Example::

        print(hc.explain("allreduce", gradient))
    """
    channel = channel_of(comm)
    machine = channel.machine
    try:
        if collective not in CONTRACTS:
            raise ValueError(f"unknown collective {collective!r}: expected one of {', '.join(CONTRACTS)}")
        array = as_array([] if x is None else x)
        found = ops.find(op) if collective in ops.REDUCTIONS else None
        if found is not None:
            ops.check_dtype(found, array.dtype)
        taken: Any
        if kind_of(array) == DEVICE:
            taken = _on_device(channel, collective, algorithm, found, array)
        else:
            taken = chosen(machine, collective, algorithm, found, array.dtype, array.nbytes)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"explain: {error}") from error
    others = choice.predicted(machine, collective, array.nbytes)
    measured = machine.tuning is not None and collective in machine.tuning.seconds
    seconds = next((seconds for seconds, name in others if name == taken.algorithm), taken.seconds)
    network = choice.network(machine)
    total = array.nbytes * (machine.size if collective == "alltoall" else 1)
    options = f", op={found.name!r}" if found is not None else ""
    return Explanation(
        f"{collective}({describe(array)}{options})",
        _said(machine),
        taken.algorithm,
        1 if choice.is_staged(machine, collective, taken.algorithm) else taken.segments,
        _path(machine, collective, taken, found, array),
        taken.why,
        seconds,
        lower_bound(collective, machine.size, total, network).seconds,
        tuple(others),
        "measured" if measured else "by the model" + ("" if machine.network else ", with figures of a usual node"),
    )


def _on_device(channel: Channel, collective: str, algorithm: str, op: ops.Op | None, x: Any) -> Any:
    """The way that an array in GPU memory takes."""
    from hpcml.collectives.device.links import links_of
    from hpcml.collectives.device.transport import taken

    links = links_of(channel, x.runtime)
    counts = (x.size,)
    return taken(channel, links, collective, algorithm, op, x.dtype, counts, x.nbytes, 0)


def _path(machine: Machine, collective: str, taken: Any, op: ops.Op | None, x: Any) -> str:
    """Who moves and folds the data."""
    from hpcml.collectives.fold import has_kernel

    algorithm = taken.algorithm
    if kind_of(x) == DEVICE:
        from hpcml.collectives.device.transport import WAYS

        return f"{taken.way}: {WAYS[taken.way]}, on {x.runtime.name}"
    if algorithm == shared.NAME:
        compiled = op is None or has_kernel(op, x.dtype)
        return "memory that the ranks of the node share, without messages" + ", folded by Python" * (not compiled)
    if not choice.is_staged(machine, collective, algorithm):
        return path(algorithm, op, x.dtype)
    lane = choice.lane_choice(machine, collective, -(-x.nbytes // machine.lanes))
    cut = f" in {lane.segments} segments" if lane.segments > 1 else ""
    by = path(lane.algorithm, op, x.dtype)
    return (
        f"memory that the ranks of a node share, and {machine.lanes} lanes between nodes: {lane.algorithm}{cut} by {by}"
    )


def _said(machine: Machine) -> str:
    nodes = f"{machine.nodes} nodes" if machine.nodes > 1 else "1 node"
    said = f"{machine.size} ranks, {nodes}, {machine.library}"
    if machine.network is not None:
        link = machine.network.between
        said += f", {link.alpha * 1e6:.1f} µs and {1e-6 / link.beta:.0f} MB/s between nodes"
        if link.beta_mutual and link.beta_mutual > 1.3 * link.beta:
            said += f" (two that send to each other: {1e-6 / link.beta_mutual:.0f} MB/s)"
    return said


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    return (
        f"{seconds * 1e6:.3g} µs"
        if seconds < 1e-3
        else f"{seconds * 1e3:.3g} ms"
        if seconds < 1
        else f"{seconds:.3g} s"
    )
