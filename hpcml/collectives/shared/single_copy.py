"""One copy instead of two: a process reads and writes the private memory of another (Linux: cross memory attach).

Through a slot, data are copied in and out again. The system copies them at once, at the price of a system call and of
looking up each page, so it pays for long messages. It is how MPI libraries send those inside a node.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numba import carray, njit

from hpcml.collectives.native_call import call_long, int64_at

if TYPE_CHECKING:
    from hpcml.collectives.channel import Channel

_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_SET_PTRACER, _ANY = 0x59616D61, -1  # PR_SET_PTRACER, PR_SET_PTRACER_ANY


@njit
def transfer(function, vectors, pid, here, there, nbytes):
    """Copy ``nbytes`` between ``here`` and ``there``, in the memory of process ``pid``; whether that went well.

    function: the address of process_vm_readv or process_vm_writev. vectors: that of four words.
    """
    words = carray(int64_at(vectors), 4)
    done = 0
    while done < nbytes:
        words[0], words[2] = here + done, there + done
        words[1] = words[3] = nbytes - done
        moved = call_long(function, (pid, vectors, 1, vectors + 16, 1, 0))
        if moved <= 0:
            return False
        done += moved
    return True


def reachable(channel: Channel) -> tuple[int, ...]:
    """The ranks' processes, if those of a node can read each other's memory here, else empty: it is tried once.

    Collective over the channel.
    """
    # Whoever is among these has tried it together with all of these, so the verdict is the same on every rank.
    known = next((ids for ids in _tried() if channel.members <= ids.keys()), None)
    if known is None:
        _let_others_in()
        word = np.array([channel.token])
        said = "memory of other ranks"
        told = channel.agree(said, said, tell=[os.getpid(), word.ctypes.data, channel.token]).tolist()
        here = channel.machine.ranks_of_node(channel.rank)
        reached = all(_reads(*told[rank]) for rank in here)
        everywhere = channel.agree(said, said, tell=[int(reached)]).all()
        ids = [pid if everywhere else 0 for pid, _, _ in told]
        known = dict(zip(channel.processes, ids, strict=True))
        _tried().append(known)
    found = tuple(known[process] for process in channel.processes)
    return found if all(found) else ()


@functools.cache
def _tried() -> list[dict[Hashable, int]]:
    """What was tried, by whom: the ids of processes, 0 where it did not go well."""
    return []


def _let_others_in() -> None:
    """Where the system lets only parents look into a process (Yama), say that its siblings may, as MPI libraries do."""
    if _YAMA.exists() and _YAMA.read_text().strip() == "1":
        ctypes.CDLL(None).prctl(_SET_PTRACER, ctypes.c_long(_ANY), 0, 0, 0)


def _reads(pid: int, address: int, expected: int) -> bool:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "process_vm_readv"):
        return False
    found = np.zeros(1, np.int64)
    here, there = ((ctypes.c_size_t * 2)(at, found.nbytes) for at in (found.ctypes.data, address))
    iovec, count = ctypes.c_void_p, ctypes.c_ulong
    libc.process_vm_readv.argtypes = [ctypes.c_int, iovec, count, iovec, count, ctypes.c_ulong]
    return libc.process_vm_readv(pid, here, 1, there, 1, 0) == found.nbytes and int(found[0]) == expected
