"""Whether a checkpoint is whole: all ranks read all of its files, each some of them, and come to one verdict."""

from __future__ import annotations

from pathlib import Path

from mpi4py import MPI

from hpcml.checkpoints import manifest, places, rankfile
from hpcml.checkpoints.checkpoint import Checkpoint
from hpcml.checkpoints.errors import CheckpointError
from hpcml.checkpoints.manifest import Manifest


def verified(folder: Path, comm: MPI.Intracomm) -> Checkpoint:
    """The checkpoint in that folder, every byte of it compared. Collective.

    Raises CheckpointError, the same on every rank, which says what is wrong with which file.
    """
    known: Manifest | str = ""
    if comm.rank == 0:
        try:
            known = manifest.read(folder)
        except (CheckpointError, OSError) as error:
            known = str(error)
    known = comm.bcast(known)
    if isinstance(known, str):
        raise CheckpointError(known)
    indexes: dict[int, rankfile.Index] = {}
    problems: list[str] = []
    for rank in range(comm.rank, known.ranks, comm.size):
        path = places.rank_file(folder, rank, known.ranks)
        try:
            indexes[rank] = rankfile.verified(path)
            places.check_index(indexes[rank], path, rank, known)
        except FileNotFoundError:
            problems.append(f"{path} is missing")
        except (CheckpointError, OSError) as error:
            problems.append(str(error))
    found = comm.allgather((indexes, problems))
    if any(problems for _, problems in found):
        raise CheckpointError("; ".join(problem for _, problems in found for problem in problems))
    indexes = {rank: index for part, _ in found for rank, index in part.items()}
    return Checkpoint(folder, known, [indexes[rank] for rank in range(known.ranks)])
