"""A wait for another rank's flag, in the words of `hpcml.collectives.stall`: as a table of messages.

A flag counts as a message to everybody. Only the first in a call tells who has come to it; later ones count as one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcml.collectives import table as t
from hpcml.collectives.shared import state as p


def as_messages(state: np.ndarray, ranks: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """Rows of sends (flags raised) and receives (flags awaited), and the row of the wait that the program is in.

    ranks: those that take part, as the channel numbers them.
    """
    first = state[p.PHASE] == p.ARRIVALS and state[p.CHUNK] == 0 and not (state[p.TELLS] and state[p.TOLD])
    flags, peer = 1 if first else 2, [ranks[state[p.PEER]]]
    rows = np.concatenate([_rows(t.SEND, ranks, flags), _rows(t.RECV, peer, flags), _rows(t.WAIT, peer, 1)])
    rows[-flags - 1 :, t.SLOT] = [*range(1, flags + 1), flags]
    return rows, len(rows) - 1


def all_messages(ranks: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """The same of a program that is through; no row is waited in."""
    rows = np.concatenate([_rows(t.SEND, ranks, 2), _rows(t.RECV, ranks, 2)])
    return rows, len(rows)


def _rows(code: int, peers: Sequence[int], times: int) -> np.ndarray:
    rows = np.zeros((len(peers) * times, t.COLUMNS), np.int64)
    rows[:, t.CODE], rows[:, t.PEER] = code, np.tile(peers, times)
    return rows
