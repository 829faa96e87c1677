"""Find the fastest of the MPI library's own algorithms for each size, and write them as the library's tuning file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.bench import forced, rivals
from hpcml.bench.data import Data, whole_bytes
from hpcml.bench.measure import of_one_size
from hpcml.bench.rules import MPICH_BYTES, Rule, between, mpich_table, mpich_text, open_mpi_text
from hpcml.collectives.ops import find
from hpcml.runs.wholefile import whole_file

COLLECTIVES = ("allreduce", "broadcast", "reduce", "allgather", "reduce_scatter", "alltoall")
SIZES = tuple(64 << step for step in range(0, 20, 2)) + (32 << 20,)  # bytes: 64 B to 16 MiB, and 32 MiB
MARGIN = 0.97  # of the time of the library's own decision: what gains less is not worth a rule
# MPICH's that take a radix, which its file would have to name; measured with the library's default one only.
WITH_RADIX = ("k_", "recexch", "recursive_multiplying", "tree", "pipelined_tree")
LIBRARIES = {"openmpi": "Open MPI", "mpich": "MPICH"}


def export(
    library: str,
    path: str | Path,
    collectives: Sequence[str] = COLLECTIVES,
    sizes: Sequence[int] = SIZES,
    repeat: int = 7,
    comm: MPI.Intracomm | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> str:
    """Measure, write the file for this number of ranks, and return what was chosen and how to use it.

    Called by every rank. The file is written by rank 0, whole or not at all.

    Args:
        library: "openmpi" or "mpich", which has to be the one in use.
        sizes: bytes of the whole array, as in ``hpcml bench``.

    Raises:
        CollectiveError: another library is in use, one rank only, an unknown collective, an MPICH whose built-in
            table is of another kind, a file that cannot be written; on every rank.
    """
    comm = MPI.COMM_WORLD if comm is None else comm
    built_in: dict = {}
    with hc.all_or_none(comm):
        _check(library, collectives, comm)
        if comm.rank == 0 and not (folder := Path(path).resolve().parent).is_dir():  # before minutes are spent
            raise FileNotFoundError(f"{path} cannot be written: there is no folder {folder}")
        if library == "mpich" and comm.rank == 0:
            built_in = mpich_table(library_file().read_bytes())
    choice: dict[str, list[Rule]] = {}
    for collective in collectives:
        choice.update(_winners(collective, sorted(set(sizes)), repeat, comm, progress))
    with hc.all_or_none(comm):
        if comm.rank == 0:
            text = open_mpi_text(choice, comm.size) if library == "openmpi" else mpich_text(choice, comm.size, built_in)
            with whole_file(path) as file:
                file.write(text.encode())
    return _said(library, Path(path), choice, comm.size)


def _check(library: str, collectives: Sequence[str], comm: MPI.Intracomm) -> None:
    if library not in LIBRARIES:
        raise ValueError(f"no tuning file is known for {library!r}: expected openmpi or mpich")
    version = MPI.Get_library_version().splitlines()[0].strip("\0 ")
    if not version.startswith(LIBRARIES[library]):
        raise ValueError(f"a tuning file for {LIBRARIES[library]} has to be measured with it, and this is {version}")
    if comm.size == 1:
        raise ValueError("there is nothing to tune on one rank: start several, as in mpiexec -n 4 hpcml tune")
    if unknown := set(collectives) - set(COLLECTIVES):
        raise ValueError(f"unknown collective {', '.join(sorted(unknown))}: expected some of {', '.join(COLLECTIVES)}")


def library_file() -> Path:
    """The shared library of this process that has MPI_Init."""
    paths = dict.fromkeys(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line)
    for path in map(Path, paths):
        if path.name.startswith("libmpi.so"):
            return path
    raise ValueError("this process has no shared library libmpi.so: MPICH seems to be linked in another way")


def _winners(
    collective: str, sizes: Sequence[int], repeat: int, comm: MPI.Intracomm, progress: Callable[[str], None]
) -> dict[str, list[Rule]]:
    """The rules of each MPI function that does the collective; the same on every rank."""
    op, kind = find("sum"), np.dtype(np.float32)
    admitted, _ = rivals.find(collective, kind, op, comm, ("forced",))
    known = {f"{rivals.NATIVE}: {algorithm.name}": algorithm for algorithm in forced.algorithms(collective)}
    found: dict[str, list[Rule]] = {}
    for function in dict.fromkeys(algorithm.function for algorithm in known.values()):
        own = forced.default(function)
        rows = [r for r in admitted if known[r.name].function == function and _can_be_told(known[r.name])]
        if own is None or function not in MPICH_BYTES or not rows:
            continue
        yardstick = rivals.forced_rival(own, comm)
        by_name = {rival.name: rival for rival in (yardstick, *rows)}
        fastest: list[tuple[int, str]] = []
        for nbytes in dict.fromkeys(whole_bytes(collective, size, kind.itemsize, comm.size) for size in sizes):
            progress(f"{function} {nbytes} B")
            times = of_one_size(list(by_name), Data(collective, nbytes, kind, op, comm), by_name, repeat)
            medians = {name: median(taken) for name, taken in times.items()}
            best = min(medians, key=medians.__getitem__)
            fastest.append((nbytes, best if medians[best] < MARGIN * medians[yardstick.name] else yardstick.name))
        yardstick.close()
        found[function] = rules(fastest, {**known, yardstick.name: own})
    for rival in admitted:
        rival.close()
    return found


def _can_be_told(algorithm: forced.Forced) -> bool:
    """Whether the library's file can name it."""
    of_mpich = any(name.startswith("MPIR_") for name in algorithm.set)
    return not (of_mpich and algorithm.name.removeprefix("block ").startswith(WITH_RADIX))


def rules(fastest: Sequence[tuple[int, str]], known: dict[str, forced.Forced]) -> list[Rule]:
    """Of the fastest at each size, smallest first: one rule for each run of sizes with the same one."""
    made: list[Rule] = []
    before = 0
    for place, (nbytes, name) in enumerate(fastest):
        if place == 0 or name != fastest[place - 1][1]:
            algorithm = known[name]
            plain = algorithm.name.removeprefix("block ").partition(" ")[0]
            made.append(Rule(between(before, nbytes) if place else 0, plain, algorithm.number, algorithm.segment))
        before = nbytes
    return made


def _said(library: str, path: Path, choice: dict[str, list[Rule]], ranks: int) -> str:
    lines = [
        f"{path}: the fastest of {LIBRARIES[library]}'s own algorithms on {ranks} ranks, by bytes of the whole array"
    ]
    for function, found in choice.items():
        parts = [
            f"from {r.start} {r.name or 'its own decision'}" + f" {r.segment >> 10}K" * bool(r.segment) for r in found
        ]
        lines.append(f"  MPI_{function}: {', '.join(parts)}")
    whole = path.resolve()
    settings = {
        "openmpi": (
            "OMPI_MCA_coll_tuned_use_dynamic_rules=1",
            f"OMPI_MCA_coll_tuned_dynamic_rules_filename={whole}",
            f"OMPI_MCA_coll_tuned_priority={forced.FIRST}",
        ),
        "mpich": (f"MPIR_CVAR_COLL_SELECTION_TUNING_JSON_FILE={whole}", "MPIR_CVAR_DEVICE_COLLECTIVES=none"),
    }
    return "\n".join(
        [*lines, "To use it, in the environment of all ranks:", *(f"  export {s}" for s in settings[library])]
    )
