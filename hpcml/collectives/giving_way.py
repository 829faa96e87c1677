"""How a rank that waits gives way to others: what compiled waits do between two looks.

It looks again at once for a while, as what it waits for mostly comes soon; then it offers its processor to others
before each look. Where ranks share processors it does so early, and naps now and then. An offer alone leaves it among
those that want the processor, where it stands in the way of the ranks that it waits for; and Linux makes who offers
wait for whole turns (milliseconds) of any other program that computes, while one that naps is let in again soon.

Over a slow link nothing comes sooner for being looked for all the time, and a look costs a call of the system. There it
looks some times in what a message takes on the wire, and naps in between.
"""

from __future__ import annotations

import os

import numpy as np
from numba import njit

from hpcml.collectives.native_call import call

SPINS_CROWDED = 20  # looks before the processor is offered to others, where these are sure to want it
LOOKS_PER_NAP = 256  # rarely: a nap lasts longer than most waits, which costs where no other program computes
NAP_MICROSECONDS = 1  # at least: the system's timers make it some 50
# Over slow links:
NAPS_PER_MESSAGE = 4  # so it is late by an eighth of the message's time, which the messages before and after it hide
MESSAGE_BYTES = 32 << 10  # as long as segments are over TCP: naps for longer ones are no longer
LEAST_NAP = 50  # microseconds that are worth it, given those timers
LONGEST_NAP = 1000
LOOK_MICROSECONDS = 4  # that a look takes, about, where what is waited for says nothing about how long that may be


def pace(ranks: int, spins: int) -> tuple[int, int]:
    """For a wait among so many ranks of a node: looks before the first offer, and from one nap to the next (0: none).

    spins: the former, where each rank has a processor.
    """
    crowded = ranks > (os.cpu_count() or 1)
    return (SPINS_CROWDED, LOOKS_PER_NAP) if crowded else (spins, 0)


def naps(seconds_per_byte: float) -> tuple[int, int]:
    """On a link of that speed: microseconds of nap for a MiB of the message that is waited for, and of the longest nap.

    Zeros where no message takes long enough for a nap.
    """
    per_mebibyte = seconds_per_byte * 1e6 * (1 << 20) / NAPS_PER_MESSAGE
    longest = int(per_mebibyte * MESSAGE_BYTES / (1 << 20))
    return (int(per_mebibyte), min(longest, LONGEST_NAP)) if longest >= LEAST_NAP else (0, 0)


@njit(inline="always")
def nap_for(nbytes, waited, per_mebibyte, longest):
    """Microseconds for which a message of so many bytes can be left alone, after so many; 0: it is soon to be there.

    How long a short one takes is another rank's affair: it naps for a quarter of what it has waited so far.
    """
    nap = min(max(nbytes * per_mebibyte >> 20, waited >> 2), longest)
    return nap if nap >= LEAST_NAP else 0


@njit(inline="always")
def give_way(looks, looks_per_nap, offer, nap):
    """Between two looks. looks_per_nap: 0 for no naps. offer, nap: addresses of ``sched_yield`` and ``usleep``."""
    if looks_per_nap > 0 and looks % looks_per_nap == 0:
        call(nap, (np.uint32(NAP_MICROSECONDS),))
    else:
        call(offer, ())
