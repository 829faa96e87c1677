"""Programs of this process that were started and are not complete.

They are kept, whoever has forgotten them, because MPI and other ranks still work on their memory. And they are given a
turn while this rank waits for one of them: another rank may wait for another first.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hpcml.collectives.channel import Channel

TAKE_TURNS = 500  # polls for a message between two turns of the others


class Advancing(Protocol):
    @property
    def channel(self) -> Channel: ...

    def advance(self) -> bool:
        """Do what can be done at once; whether it gets on at such turns only, and not by itself."""


@functools.cache
def under_way() -> set[Advancing]:
    """All of them."""
    return set()


def others_advance(*me: Advancing) -> bool:
    """Give all but ``me`` a turn; whether there are any that need more of them."""
    return any([program.advance() for program in list(under_way()) if program not in me])
