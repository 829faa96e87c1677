"""Work that goes on when a rank dies: pass by pass, each on the ranks that are left."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from types import TracebackType

from mpi4py import MPI

from hpcml.collectives.channel import known_channel
from hpcml.collectives.errors import CommunicationError
from hpcml.collectives.failures import agree, end_without_barrier, is_broken, is_death, shrunk, survivable
from hpcml.collectives.stall import open_channels


class Attempt:
    """One pass, on the ranks that lived when it began. A context manager that gives their communicator.

    Attributes: ``number`` of the pass, from 0; ``comm``; ``lost``, the ranks of the first communicator that have died
    so far, and ``just_lost`` those of them that ended the pass before; ``since``, by `time.monotonic`, when this rank
    learned of that (of pass 0: when it began).
    """

    def __init__(self, comm: MPI.Intracomm, names: tuple[int, ...]):
        self.comm, self.number = comm, 0
        self.lost: tuple[int, ...] = ()
        self.just_lost: tuple[int, ...] = ()
        self.since = self._noticed = monotonic()
        self.done = False
        self._names = names  # of the ranks: what they were in the first communicator

    def __enter__(self) -> MPI.Intracomm:
        return self.comm

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None and not self._by_death(error):
            return False
        if not survivable():
            self.done = True
            return False
        self._noticed = monotonic()
        if error is not None:
            if (channel := known_channel(self.comm)) is not None:
                channel.revoke()
            self.comm.Revoke()
        # Who is through with its work waits here for those that may not be.
        self.done = agree(self.comm, error is None)
        return True

    def after(self) -> Attempt:
        """The next pass, on those that live. Collective over them."""
        end_without_barrier()
        comm = shrunk(self.comm)
        old, new = self.comm.Get_group(), comm.Get_group()
        places = old.Translate_ranks(None, new)
        old.Free()
        new.Free()
        following = Attempt(comm, tuple(n for n, at in zip(self._names, places, strict=True) if at != MPI.UNDEFINED))
        following.number, following.since = self.number + 1, self._noticed
        following.just_lost = tuple(n for n, at in zip(self._names, places, strict=True) if at == MPI.UNDEFINED)
        following.lost = tuple(sorted((*self.lost, *following.just_lost)))
        for channel in list(open_channels()):  # nobody may wait on them, be it for those that live
            if is_broken(channel.comm):
                channel.revoke()
        self.comm.Free()
        return following

    def _by_death(self, error: BaseException) -> bool:
        if is_death(error):
            return True
        return isinstance(error, (CommunicationError, MPI.Exception)) and is_broken(self.comm)


def resilient(comm: MPI.Intracomm | None = None) -> Iterator[Attempt]:
    """Passes over some work, until it has been done by ranks that all lived through it. Collective over ``comm``.

    Each pass has a communicator of its own, a duplicate of ``comm`` (None: MPI.COMM_WORLD) at first. Where a rank dies
    in a pass, the others are torn out of what they wait for on it, by `RankFailed` (in calls of the MPI library's own,
    by MPI.Exception); at the end of the block they meet, agree on who is left, and begin the next pass. A rank
    that is through with its work waits there for the verdict. Any other exception ends the passes.

    What the work needs of the pass before it has to keep outside of the block: see `hpcml.checkpoints.Neighbours`.
    Communicators that the work makes itself have to be made anew in each pass, from that of the pass.

    It needs Open MPI, started by ``mpiexec --with-ft ulfm``. Elsewhere the launcher ends all ranks when one dies, and
    there is one pass.

    Example, on every rank::

        for attempt in hc.resilient():
            with attempt as comm:
                total = hc.allreduce(x, comm=comm)        # over those that are left
    """
    comm = MPI.COMM_WORLD if comm is None else comm
    own = comm.Dup()
    own.Set_errhandler(MPI.ERRORS_RETURN)
    attempt = Attempt(own, tuple(range(own.size)))
    while True:
        yield attempt
        if attempt.done:
            return
        attempt = attempt.after()
