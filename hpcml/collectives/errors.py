"""What goes wrong on one rank is known on every rank, with the same verdict, and ends every rank.

A rank that raises alone leaves the others waiting in their next collective for ever. So checks and file reads that may
fail on some ranks only are wrapped in `all_or_none`, and an exception that nobody catches aborts the whole program.
"""

from __future__ import annotations

import functools
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mpi4py import MPI


class CollectiveError(RuntimeError):
    """An error that every rank of a communicator raises at the same place, with the same message."""


class ArgumentError(CollectiveError, ValueError, TypeError):
    """A collective was called with arguments that it cannot take, on every rank."""


class MismatchError(ArgumentError):
    """The ranks called one collective with arguments that do not fit together, or different collectives.

    ``in_flight``: it was found out when data were under way already.
    """

    def __init__(self, message: str, in_flight: bool = False):
        super().__init__(message)
        self.in_flight = in_flight


class CommunicationError(RuntimeError):
    """The MPI library reported an error in the middle of a collective; its result is undefined."""


class RankFailed(CommunicationError):
    """A rank has died; its communicator is of no use any more. See `resilient`.

    ``ranks``: those of the communicator that are known here to have died. None, where another rank has found out.
    """

    def __init__(self, message: str, ranks: tuple[int, ...] = ()):
        super().__init__(message)
        self.ranks = ranks


def ranks_phrase(ranks: list[int]) -> str:
    """Ranks as text: ``"rank 3"``, ``"ranks 0-2, 5"``."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    spans = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {spans}"


@contextmanager
def all_or_none(comm: MPI.Comm | None = None) -> Iterator[None]:
    """Run a block of local work on every rank of ``comm``; if it fails on any, raise `CollectiveError` on all.

    Where all that went wrong are ValueErrors and TypeErrors, it is an `ArgumentError`, which is both.

    Every rank must enter the block. The block itself must not communicate over ``comm``: a rank that fails there
    would leave the others waiting. Costs one small all-reduce where nothing fails.

    Example::

        with all_or_none(comm):
            rows = np.load(path)        # may be missing on one node only
    """
    comm = MPI.COMM_WORLD if comm is None else comm
    error: BaseException | None = None
    try:
        yield
    except Exception as caught:  # re-raised below, on every rank
        error = caught
    raise_together(error, comm)


def raise_together(error: BaseException | None, comm: MPI.Comm) -> None:
    """Raise on every rank if ``error`` is set on any. Collective over ``comm``."""
    from hpcml.collectives.channel import channel_of

    if not channel_of(comm).any("all_or_none", error is not None):
        return
    mine = None if error is None else (_sentence(error), isinstance(error, (ValueError, TypeError)))
    said = comm.allgather(mine)
    ranks_by_message: dict[str, list[int]] = {}
    for rank, found in enumerate(said):
        if found is not None:
            message = found[0]
            ranks_by_message.setdefault(message, []).append(rank)
    lines = [
        message if len(ranks) == comm.size else f"{ranks_phrase(ranks)}: {message}"
        for message, ranks in ranks_by_message.items()
    ]
    of_arguments = all(found is None or found[1] for found in said)
    raise (ArgumentError if of_arguments else CollectiveError)("\n".join(lines)) from error


def _sentence(error: BaseException) -> str:
    """One line for errors that state what a user did; the type in front where the text alone would not tell."""
    if isinstance(error, (CollectiveError, ValueError, OSError, TypeError)) and str(error):
        return str(error)
    return "".join(traceback.format_exception_only(type(error), error)).strip()


@functools.cache
def abort_on_uncaught() -> None:
    """From now on an exception that nobody catches ends every rank of the program, not this one alone.

    Without it the rank that failed waits in MPI_Finalize for the others, and they in their collective for it.
    Installed when `hpcml.collectives` is imported, as a rank may fail before its first collective; it does nothing in a
    program of one rank. A `CollectiveError` is raised on all ranks, so they
    leave by themselves and only rank 0 prints it.
    """
    previous = sys.excepthook

    def hook(kind, error, trace):
        if not MPI.Is_initialized() or MPI.Is_finalized() or MPI.COMM_WORLD.size == 1:
            previous(kind, error, trace)
            return
        rank = MPI.COMM_WORLD.rank
        if issubclass(kind, CollectiveError):
            from hpcml.collectives.failures import speaker

            if rank == speaker():
                previous(kind, error, trace)
            if getattr(error, "in_flight", False):  # MPI_Finalize might wait for messages that nobody will take
                sys.stderr.flush()
                time.sleep(rank and 1)  # rank 0 speaks first
                MPI.COMM_WORLD.Abort(1)
            return
        print(f"hpcml: rank {rank} of {MPI.COMM_WORLD.size} ended by an uncaught exception:", file=sys.stderr)
        previous(kind, error, trace)
        sys.stderr.flush()
        sys.stdout.flush()
        time.sleep(0.2)  # a launcher may drop what it has not passed on when it is told to abort
        MPI.COMM_WORLD.Abort(1)

    sys.excepthook = hook
