"""A wait for another rank's flag, in the words of `hpcml.collectives.stall`: as a table of messages.

A flag counts as a message to everybody. Only the first in a call tells who has come to it; later ones count as one.
"""

from __future__ import annotations

import numpy as np

from hpcml.collectives import table as t
from hpcml.collectives.shared import protocol as p


def as_messages(state: np.ndarray) -> tuple[np.ndarray, int]:
    """Rows of sends (flags raised) and receives (flags awaited), and the row of the wait that the program is in."""
    first = state[p.PHASE] == p.ARRIVALS and state[p.CHUNK] == 0 and not (state[p.TELLS] and state[p.TOLD])
    flags, size = 1 if first else 2, int(state[p.SIZE])
    rows = np.zeros((flags * (size + 1) + 1, t.COLUMNS), np.int64)
    sends, receives, wait = rows[: flags * size], rows[flags * size : -1], rows[-1]
    sends[:, t.CODE], sends[:, t.PEER] = t.SEND, np.tile(np.arange(size), flags)
    receives[:, t.CODE], receives[:, t.PEER], receives[:, t.SLOT] = t.RECV, state[p.PEER], np.arange(1, flags + 1)
    wait[t.CODE], wait[t.PEER], wait[t.SLOT] = t.WAIT, state[p.PEER], flags
    return rows, len(rows) - 1
