"""Who waits gives way: how early, and how."""

import ctypes
import os

import pytest
from numba import njit

from hpcml.collectives.giving_way import LOOKS_PER_NAP, NAP_MICROSECONDS, SPINS_CROWDED, give_way, pace


@njit
def _wait(looks, looks_per_nap, offer, nap):
    for look in range(1, looks + 1):
        give_way(look, looks_per_nap, offer, nap)


@pytest.mark.parametrize("processors", [1, 2, 16, None])  # None: not known
def test_naps_only_where_ranks_share_processors(monkeypatch, processors):
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    enough = processors or 1
    assert pace(enough, 200) == (200, 0)
    assert pace(enough + 1, 200) == (SPINS_CROWDED, LOOKS_PER_NAP)


@pytest.mark.parametrize("looks_per_nap", [0, 1, 4])
def test_every_so_many_looks_a_nap(looks_per_nap):
    done = []
    offer = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: done.append("offer") or 0)
    nap = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint)(lambda length: done.append(length) or 0)
    _wait(9, looks_per_nap, *(ctypes.cast(f, ctypes.c_void_p).value for f in (offer, nap)))
    naps = [bool(looks_per_nap) and look % looks_per_nap == 0 for look in range(1, 10)]
    assert done == [NAP_MICROSECONDS if nap else "offer" for nap in naps]
