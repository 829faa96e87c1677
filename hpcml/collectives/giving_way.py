"""How a rank that waits gives way to others: what compiled waits do between two looks.

It looks again at once for a while, as what it waits for mostly comes soon; then it offers its processor to others
before each look. Where ranks share processors it does so early, and naps now and then. An offer alone leaves it among
those that want the processor, where it stands in the way of the ranks that it waits for; and Linux makes who offers
wait for whole turns (milliseconds) of any other program that computes, while one that naps is let in again soon.
"""

from __future__ import annotations

import os

import numpy as np
from numba import njit

from hpcml.collectives.native_call import call

SPINS_CROWDED = 20  # looks before the processor is offered to others, where these are sure to want it
LOOKS_PER_NAP = 256  # rarely: a nap lasts longer than most waits, which costs where no other program computes
NAP_MICROSECONDS = 1  # at least: the system's timers make it some 50


def pace(ranks: int, spins: int) -> tuple[int, int]:
    """For a wait among so many ranks of a node: looks before the first offer, and from one nap to the next (0: none).

    spins: the former, where each rank has a processor.
    """
    crowded = ranks > (os.cpu_count() or 1)
    return (SPINS_CROWDED, LOOKS_PER_NAP) if crowded else (spins, 0)


@njit(inline="always")
def give_way(looks, looks_per_nap, offer, nap):
    """Between two looks. looks_per_nap: 0 for no naps. offer, nap: addresses of ``sched_yield`` and ``usleep``."""
    if looks_per_nap > 0 and looks % looks_per_nap == 0:
        call(nap, (np.uint32(NAP_MICROSECONDS),))
    else:
        call(offer, ())
