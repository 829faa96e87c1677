"""Whether the MPI library may be called by several threads at once."""

from __future__ import annotations

from collections.abc import Sequence

from hpcml.doctor.finding import Finding, fine, warning
from hpcml.doctor.place import Facts, Place, World

LEVELS = ("single", "funneled", "serialized", "multiple")


def look(place: Place) -> Facts:
    from mpi4py import MPI

    numbers = [getattr(MPI, f"THREAD_{level.upper()}") for level in LEVELS]
    return {"level": LEVELS[numbers.index(MPI.Query_thread())]}


def judge(world: World) -> Sequence[Finding]:
    lower = [rank for rank, facts in enumerate(world.facts) if facts["level"] != "multiple"]
    if not lower:
        return [fine("MPI_THREAD_MULTIPLE")]
    level = world.facts[lower[0]]["level"]
    return [
        warning(
            f"MPI gives MPI_THREAD_{level.upper()} on {world.on(lower)}",
            "non-blocking collectives and --overlap get on only while somebody waits for them, and HPCML_TIMEOUT "
            "cannot ask other ranks where they stand",
            "unset MPI4PY_RC_THREAD_LEVEL and leave mpi4py.rc.thread_level at 'multiple'; if it is, this MPI was "
            "built without threads: ask for one built with --enable-mpi-threads=multiple, or load another module",
        )
    ]
