"""Ranks that died: how a rank that lives finds out, and what it does to the communicator then.

The MPI library tells by return codes, where it has User-Level Failure Mitigation and was started with it (Open MPI's
``mpiexec --with-ft ulfm``): to who exchanges messages with the dead. The others wait for somebody who has left, so
whoever finds out *revokes* the communicator, and every call on it fails from then on. A rank that waits in shared
memory makes no call that could fail; it asks, now and then, as every long wait does.

Sources: Bland et al. 2013, "Post-failure recovery of MPI communication capability"; MPI Forum, ticket 20.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import sleep
from typing import TYPE_CHECKING, NoReturn

from mpi4py import MPI

from hpcml.collectives.errors import CommunicationError, RankFailed, ranks_phrase
from hpcml.collectives.native_call import mpi_address

if TYPE_CHECKING:
    from hpcml.collectives.channel import Channel

SWITCH = "OMPI_MCA_mpi_ft_enable"  # what ``--with-ft ulfm`` sets for the ranks
EAGER_POLLS = 1000
POLL_SECONDS = 1e-3
NOTICED_SECONDS = 5.0  # within which the library has to know of a process that the system says is gone


@functools.cache
def survivable() -> bool:
    """Whether ranks outlive the death of another here. Elsewhere the launcher ends them all."""
    return MPI.get_vendor()[0] == "Open MPI" and os.environ.get(SWITCH, "").lower() in ("1", "true", "yes", "ulfm")


def is_death(error: BaseException | int) -> bool:
    """Whether an error of MPI, or its code, says that a rank has died, or that the communicator is revoked for it."""
    if isinstance(error, RankFailed):
        return True
    if not survivable() or not isinstance(error, (int, MPI.Exception)):
        return False
    code = error if isinstance(error, int) else error.Get_error_code()
    deaths = MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED
    return MPI.Get_error_class(code) in deaths


def dead_ranks(comm: MPI.Comm) -> tuple[int, ...]:
    """The ranks of ``comm`` that are known here to have died."""
    failed = comm.Get_failed()
    try:
        if not failed.size:
            return ()
        everybody = comm.Get_group()
        try:
            return tuple(sorted(failed.Translate_ranks(None, everybody)))
        finally:
            everybody.Free()
    finally:
        if failed != MPI.GROUP_EMPTY:
            failed.Free()


def speaker() -> int:
    """The rank in MPI.COMM_WORLD that speaks for all: the first that lives."""
    dead = dead_ranks(MPI.COMM_WORLD) if survivable() else ()
    return next(rank for rank in range(MPI.COMM_WORLD.size) if rank not in dead)


def is_broken(comm: MPI.Comm) -> bool:
    """Whether a rank of it is known to have died, or it was revoked."""
    if not survivable():
        return False
    with suppressed_deaths():
        comm.Iprobe(MPI.ANY_SOURCE, 0)  # only a call that communicates lets the library take in the news
    return bool(comm.Is_revoked() or dead_ranks(comm))


@contextmanager
def suppressed_deaths() -> Iterator[None]:
    try:
        yield
    except MPI.Exception as error:
        if not is_death(error):
            raise


@contextmanager
def deaths_of(channel: Channel) -> Iterator[None]:
    """Calls of the MPI library on the channel: raises `RankFailed` where one of them finds a rank dead."""
    try:
        yield
    except MPI.Exception as error:
        if is_death(error):
            lose(channel)
        raise


def look(channel: Channel) -> None:
    """Raise `RankFailed` if the channel is broken. Costs some microseconds."""
    if is_broken(channel.comm):
        lose(channel)


def lose(channel: Channel, doing: str = "") -> NoReturn:
    """Give the channel up, for all its ranks, and raise `RankFailed`. doing: what did not go on, in words."""
    channel.revoke()
    raise found_dead(channel.comm, doing)


def found_dead(comm: MPI.Comm, doing: str = "") -> RankFailed:
    """The error that says which ranks of ``comm`` have died, as far as that is known here."""
    end_without_barrier()
    dead = dead_ranks(comm)
    if dead:
        said = f"{ranks_phrase(list(dead))} of {comm.size} {'has' if len(dead) == 1 else 'have'} died"
    else:
        said = "another rank has found a rank dead, and has revoked the communicator"
    where = f"rank {comm.rank} of {comm.size}" + (f", {doing}" if doing else "")
    return RankFailed(f"{where}: {said}; go on with those that live by hpcml.collectives.resilient", dead)


def await_news(channel: Channel) -> None:
    """After a sign that a rank is gone, of the system's: wait until the library knows, and raise `RankFailed`.

    Returns where it does not know of any before long: then it was something else.
    """
    for _ in range(int(NOTICED_SECONDS / POLL_SECONDS) if survivable() else 0):
        look(channel)
        sleep(POLL_SECONDS)


def complete(request: MPI.Request, comm: MPI.Comm) -> None:
    """Wait for a request on ``comm``, unless a rank is dead: then raises `RankFailed`, whomever it waits for.

    For communicators of which only some ranks may know, so that nobody can revoke them for the others.
    """
    if not survivable():
        request.Wait()
        return
    polls = 0
    try:
        while not request.Test():
            polls += 1
            sleep(0 if polls < EAGER_POLLS else POLL_SECONDS)
            if polls > EAGER_POLLS and is_broken(comm):
                raise found_dead(comm)
    except MPI.Exception as error:
        if is_death(error):
            raise found_dead(comm) from None
        raise


@functools.cache
def end_without_barrier() -> None:
    """A rank has died: let MPI_Finalize not wait for it.

    Open MPI 5.0 begins it with a fence of all processes, and in some runs those that live stay in it for ever (its
    option ``async_mpi_finalize``, which is read when MPI starts, is this variable). Ranks that have to wait for one
    another at the end have done so in `hpcml.collectives.stall.farewell`.
    """
    with suppress(ValueError):  # another version
        ctypes.c_bool.in_dll(ctypes.CDLL(MPI.__file__), "ompi_async_mpi_finalize").value = True


def agree(comm: MPI.Comm, flag: bool) -> bool:
    """Whether ``flag`` is set on all ranks of ``comm`` that live: the same verdict on each, whoever dies meanwhile.

    By the C function: where a rank has died it returns an error, too, and mpi4py would raise it in place of the flag.
    """
    handle = (ctypes.c_void_p if MPI._sizeof(MPI.Comm) == 8 else ctypes.c_int)(comm.handle)
    function = ctypes.CFUNCTYPE(ctypes.c_int, type(handle), ctypes.c_void_p)(mpi_address("MPIX_Comm_agree"))
    verdict = ctypes.c_int(int(flag))
    code = function(handle, ctypes.addressof(verdict))
    if code and not is_death(code):
        raise CommunicationError(f"the ranks cannot agree: {MPI.Get_error_string(code)}")
    return bool(verdict.value)


def shrunk(comm: MPI.Intracomm) -> MPI.Intracomm:
    """A communicator of those ranks of ``comm``, which is broken, that live, in their order. Collective over them.

    It may have ranks that have died since.
    """
    while True:
        made: MPI.Intracomm | None = None
        with suppressed_deaths():
            made = comm.Shrink()  # type: ignore[assignment]
        if agree(comm, made is not None):  # else some have it and some do not
            assert made is not None
            made.Set_errhandler(MPI.ERRORS_RETURN)
            return made
