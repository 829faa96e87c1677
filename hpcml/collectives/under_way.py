"""Programs of this process that were started and are not complete.

They are kept, whoever has forgotten them, because MPI and other ranks still work on their memory. And they are given a
turn while this rank waits for one of them: another rank may wait for another first.
"""

from __future__ import annotations

import functools
from typing import Protocol

TAKE_TURNS = 500  # polls for a message between two turns of the others


class Advancing(Protocol):
    def advance(self) -> None:
        """Do what can be done at once."""


@functools.cache
def under_way() -> set[Advancing]:
    """All of them."""
    return set()


def others_advance(*me: Advancing) -> bool:
    """Give all but ``me`` a turn; whether there are any."""
    others = [program for program in list(under_way()) if program not in me]
    for program in others:
        program.advance()
    return bool(others)
