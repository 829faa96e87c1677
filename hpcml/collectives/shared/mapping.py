"""Memory that processes of one node share: a file without a name, mapped by each.

The file (memfd_create) lives as long as somebody has it mapped, so nothing is left behind by a process that crashes,
and nobody has to wait for others to free it. It is not limited by the size of /dev/shm.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import weakref
from collections.abc import Hashable
from typing import TYPE_CHECKING

from hpcml.collectives.errors import CollectiveError, ranks_phrase

if TYPE_CHECKING:
    from hpcml.collectives.channel import Channel

PAGE = mmap.PAGESIZE
HUGE_PAGE = 2 << 20
_CLOSE_ON_EXEC = 1  # MFD_CLOEXEC
_REMOVE, _HUGE_PAGES = 9, 14  # MADV_REMOVE, MADV_HUGEPAGE


class Mapping:
    """Shared memory of ``nbytes`` at ``address``; unmapped when nothing refers to it any more.

    ``numpy.asarray`` of it is an array of bytes that keeps it. number: how its owner calls it.
    """

    def __init__(self, fd: int, nbytes: int, number: int):
        address = _libc().mmap(None, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
        if address == ctypes.c_void_p(-1).value:
            raise _last_error()
        self.address, self.nbytes, self.number = address, nbytes, number
        self.__array_interface__ = {"version": 3, "shape": (nbytes,), "typestr": "|u1", "data": (address, False)}
        weakref.finalize(self, _libc().munmap, address, nbytes).atexit = False
        if nbytes >= HUGE_PAGE:  # a wish; the system may not grant it
            _libc().madvise(address, nbytes, _HUGE_PAGES)


def give_back(address: int, nbytes: int) -> None:
    """Free a mapping's memory, whoever else has it mapped: they read zeros from now on."""
    _libc().madvise(address, nbytes, _REMOVE)


def shared_memory(channel: Channel, said: str, nbytes: int, number: int = 0) -> dict[int, Mapping]:
    """Memory of ``nbytes`` made by this rank (0: none), and that of all ranks of its node, mapped here; by rank.

    Collective over the channel; ranks may ask for different sizes. said: the call that needs it, in words.

    Raises:
        CollectiveError: a rank cannot make or map memory; on every rank.
    """
    fd, code = -1, 0
    here = channel.machine.ranks_of_node(channel.rank)
    mappings: dict[int, Mapping] = {}
    try:
        try:
            if nbytes:
                fd = _file(nbytes)
                mappings[channel.rank] = Mapping(fd, nbytes, number)
        except OSError as error:
            code = error.errno or 1
        told = channel.agree(said, said, tell=[os.getpid(), max(fd, 0), nbytes, number, code])
        _raise_together(told[:, 4].tolist(), "made")
        neighbours = told[list(here)].tolist()
        try:
            for rank, (pid, theirs, size, given, _) in zip(here, neighbours, strict=True):
                if size and rank != channel.rank:
                    mappings[rank] = _opened(pid, theirs, size, given)
        except OSError as error:
            code = error.errno or 1
        _raise_together(channel.agree(said, said, tell=[code])[:, 0].tolist(), "mapped")
    finally:
        if fd >= 0:
            os.close(fd)
    return mappings


def can_share(channel: Channel) -> bool:
    """Whether the ranks of a node can map each other's memory here: it is tried once. Collective over the channel."""
    # Whoever is among these has tried it together with all of these, so the verdict is the same on every rank.
    known = next((shares for tried, shares in _tried().items() if channel.members <= tried), None)
    if known is None:
        try:
            first = channel.machine.ranks_of_node(channel.rank)[0]
            shared_memory(channel, "shared memory", PAGE if channel.rank == first else 0)
            known = True
        except CollectiveError:
            known = False
        _tried()[channel.members] = known
    return known


@functools.cache
def _tried() -> dict[frozenset[Hashable], bool]:
    return {}


def _file(nbytes: int) -> int:
    libc = _libc()
    if not hasattr(libc, "memfd_create"):
        raise OSError(38, "this system has no memfd_create")
    fd = libc.memfd_create(b"hpcml", _CLOSE_ON_EXEC)
    if fd < 0:
        raise _last_error()
    try:
        os.ftruncate(fd, nbytes)
    except OSError:
        os.close(fd)
        raise
    return fd


def _opened(pid: int, theirs: int, nbytes: int, number: int) -> Mapping:
    fd = os.open(f"/proc/{pid}/fd/{theirs}", os.O_RDWR | os.O_CLOEXEC)
    try:
        return Mapping(fd, nbytes, number)
    finally:
        os.close(fd)


def _raise_together(codes: list[int], done: str) -> None:
    failed = {rank: code for rank, code in enumerate(codes) if code}
    if failed:
        why = "; ".join(sorted({os.strerror(code) for code in failed.values()}))
        raise CollectiveError(
            f"shared memory cannot be {done} on {ranks_phrase(list(failed))}: {why}. It needs Linux, memory, and "
            "leave to open /proc/PID/fd of the node's other ranks; ordinary arrays and algorithms need nothing of this"
        )


def _last_error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


@functools.cache
def _libc() -> ctypes.CDLL:
    """The C library. Python's mmap module would keep a file descriptor open for each mapping."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
