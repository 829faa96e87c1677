"""Every algorithm that the MPI library itself has for a collective, each forced at run time, in one process.

Open MPI looks at its variables when a communicator is made: each algorithm gets a duplicate of its own, on which the
component `tuned`, which alone can be told, comes before all others. MPICH looks at its variables in each call: they are
set while the algorithm is timed and put back after; its device's own collectives are off as long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from mpi4py import MPI

from hpcml.bench import variables
from hpcml.bench.library import FUNCTIONS

# Algorithms that send in segments, and do not unless told how long. Open MPI's own decisions take 32 KiB to 128 KiB.
SEGMENTED = {
    "allreduce": ("segmented_ring",),
    "bcast": ("chain", "pipeline", "split_binary_tree", "binary_tree"),
    "reduce": ("chain", "pipeline", "binary"),
}
SEGMENTS = (32 << 10, 128 << 10)
# MPICH's that are no rivals: smp asks for itself once more inside each node, and for ever; ccl is for GPUs;
# noncommutative ends the program where ranks are no power of two.
NO_RIVALS = ("auto", "smp", "ccl", "noncommutative")
FIRST, MPICH_NO_DEVICE, MPICH_ERROR = 100, 1, 0


@dataclass(frozen=True)
class Forced:
    """One algorithm of the library: mpi4py's ``function`` with these control variables ``set``.

    number: the library's own for it. segment: bytes, 0 where it has none.
    """

    name: str
    function: str
    number: int
    segment: int
    set: Mapping[str, int]


def algorithms(collective: str) -> list[Forced]:
    """Those of the library in use; none where it is not known here, or cannot be told for this collective."""
    library = MPI.Get_library_version()
    list_of = _open_mpi if library.startswith("Open MPI") else _mpich if library.startswith("MPICH") else None
    if list_of is None:
        return []
    found = list_of(FUNCTIONS[collective])
    if collective == "reduce_scatter":
        found = [Forced(f"block {f.name}", *_rest(f)) for f in found] + list_of("Reduce_scatter")
    return found


def default(function: str) -> Forced | None:
    """The library's own decision, under the same conditions as its forced algorithms: their yardstick.

    Open MPI's is that of `tuned`, MPICH's that without its device's own collectives.
    """
    library = MPI.Get_library_version()
    if library.startswith("Open MPI"):
        return Forced("", function, 0, 0, {"coll_tuned_use_dynamic_rules": 0, "coll_tuned_priority": FIRST})
    if library.startswith("MPICH"):
        return Forced("", function, 0, 0, {"MPIR_CVAR_DEVICE_COLLECTIVES": MPICH_NO_DEVICE})
    return None


def _rest(forced: Forced) -> tuple[str, int, int, Mapping[str, int]]:
    return forced.function, forced.number, forced.segment, forced.set


def _open_mpi(function: str) -> list[Forced]:
    collective = function.lower()
    prefix = f"coll_tuned_{collective}_algorithm"
    choice = variables.find(prefix)
    if choice is None or variables.find("coll_tuned_use_dynamic_rules") is None:
        return []
    found = []
    for name, number in choice.values.items():
        if number == 0:  # "ignore"
            continue
        segments = SEGMENTS if name in SEGMENTED.get(collective, ()) else (0,)
        for segment in segments:
            settings = {"coll_tuned_use_dynamic_rules": 1, "coll_tuned_priority": FIRST, prefix: number}
            if variables.find(f"{prefix}_segmentsize") is not None:
                settings[f"{prefix}_segmentsize"] = segment
            label = f"{name} {segment >> 10}K" if segment else name
            found.append(Forced(label, function, number, segment, settings))
    return found


def _mpich(function: str) -> list[Forced]:
    prefix = f"MPIR_CVAR_{function.upper()}"
    choice = variables.find(f"{prefix}_INTRA_ALGORITHM")
    if choice is None:
        return []
    found = []
    for number, name in enumerate(values_in(choice.description)):
        if name in NO_RIVALS:
            continue
        settings = {f"{prefix}_INTRA_ALGORITHM": number, "MPIR_CVAR_DEVICE_COLLECTIVES": MPICH_NO_DEVICE}
        found.append(Forced(name, function, number, 0, settings))
        if name == "pipelined_tree":  # with one child each it is a chain, the best there is for long messages
            for chunk in SEGMENTS:
                chain = {f"{prefix}_TREE_KVAL": 1, f"{prefix}_TREE_PIPELINE_CHUNK_SIZE": chunk}
                label = f"{name} k=1 {chunk >> 10}K"
                found.append(Forced(label, function, number, chunk, {**settings, **chain}))
    return found


def values_in(description: str) -> list[str]:
    """The names of a variable's values, in the order of their numbers, from MPICH's text: it gives no enumeration."""
    return re.findall(r"^\s*(\w+)\s+- ", description, re.MULTILINE)


@contextmanager
def held(settings: Mapping[str, int]) -> Iterator[None]:
    """These control variables have these values inside the block, and their old ones after it."""
    found = {name: variables.find(name) for name in settings}
    if missing := [name for name, variable in found.items() if variable is None]:
        raise OSError(f"this MPI library has no control variable {', '.join(missing)}")
    before = [(variable, variable.read()) for variable in found.values() if variable is not None]
    try:
        for name, variable in found.items():
            if variable is not None:
                variable.write(settings[name])
        yield
    finally:
        for variable, value in before:
            variable.write(value)


def strict() -> dict[str, int]:
    """What makes the library say so where a forced algorithm cannot do what is asked, rather than take another."""
    name = "MPIR_CVAR_COLLECTIVE_FALLBACK"
    return {name: MPICH_ERROR} if variables.find(name) else {}
