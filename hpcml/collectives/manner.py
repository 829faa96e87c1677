"""In what manner a collective is called: at once, bound for many starts, or in the background."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Manner:
    """How a collective is called. keep: its binding goes to the channel's cache, and may come from it.

    agree: at first sight the ranks compare their arguments, for which they wait for each other. native: "auto" may take
    the MPI library's own algorithm, which may get on in its own calls only.
    """

    keep: bool = True
    agree: bool = True
    native: bool = True


BLOCKING = Manner()
PERSISTENT = Manner(keep=False)  # a plan has a binding of its own
PERSISTENT_BACKGROUND = Manner(keep=False, native=False)
NONBLOCKING = Manner(agree=False, native=False)  # must not wait for other ranks
