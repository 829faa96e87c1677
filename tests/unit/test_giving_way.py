"""Who waits gives way: how early, and how."""

import ctypes
import os

import pytest
from numba import njit

from hpcml.collectives.giving_way import (
    LEAST_NAP,
    LONGEST_NAP,
    LOOKS_PER_NAP,
    MESSAGE_BYTES,
    NAP_MICROSECONDS,
    NAPS_PER_MESSAGE,
    SPINS_CROWDED,
    give_way,
    nap_for,
    naps,
    pace,
)


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
    wanted = [bool(looks_per_nap) and look % looks_per_nap == 0 for look in range(1, 10)]
    assert done == [NAP_MICROSECONDS if nap else "offer" for nap in wanted]


def test_over_a_slow_link_naps_are_a_share_of_the_messages_time():
    beta = 4e-8  # seconds a byte: 200 Mbit/s
    per_mebibyte, longest = naps(beta)
    assert longest == int(1e6 * beta * MESSAGE_BYTES / NAPS_PER_MESSAGE)
    assert nap_for(MESSAGE_BYTES, 0, per_mebibyte, longest) == pytest.approx(longest, abs=1)
    assert nap_for(10 * MESSAGE_BYTES, 0, per_mebibyte, longest) == longest
    assert nap_for(8, 0, per_mebibyte, longest) == 0  # it may be there soon
    assert nap_for(8, 4 * LEAST_NAP, per_mebibyte, longest) == LEAST_NAP
    assert nap_for(8, 1_000_000, per_mebibyte, longest) == longest


@pytest.mark.parametrize("beta", [8e-11, 8e-10])  # 100 and 10 Gbit/s
def test_over_a_fast_link_there_are_no_naps(beta):
    assert naps(beta) == (0, 0)
    assert nap_for(1 << 30, 1_000_000, *naps(beta)) == 0


def test_no_nap_is_longer_than_the_limit():
    assert naps(1e-5)[1] == LONGEST_NAP
