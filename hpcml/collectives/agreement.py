"""Whether all ranks say the same: one all-reduce of 24 bytes.

It is how arguments are agreed on when they are seen for the first time, and, where a channel is checked, the message
that goes before every call. Both are the same message, so they meet where one rank is at the one and another at the
other.
"""

from __future__ import annotations

import functools
import hashlib
from struct import Struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hpcml.collectives.channel import Channel

_WORDS = Struct("=3q")


class Agreement:
    """The all-reduce of a channel, bound once. Collective: ranks make it, and use it, in the same order."""

    def __init__(self, channel: Channel):
        from hpcml.collectives.binding import Binding
        from hpcml.collectives.ops import OPS

        given, found = np.zeros(3, np.int64), np.zeros(3, np.int64)
        self._mine, self._largest = given.data, found.data
        # By our own engine: it gives way where ranks share a core.
        binding = Binding(channel, "allreduce", "recursive_doubling", OPS["max"], given.dtype, (3,))
        self._program = binding.program(in_place=False)
        self._program.bind(given, found)

    def compared(self, word: int, failed: bool) -> tuple[bool, bool]:
        """Whether every rank gave the same ``word`` (of 63 bits), and whether any has failed; the same on each."""
        _WORDS.pack_into(self._mine, 0, word, -word, failed)
        self._program.start()
        self._program.wait()
        return verdict(*_WORDS.unpack_from(self._largest))


def verdict(largest: int, minus_smallest: int, any_failed: int) -> tuple[bool, bool]:
    """Whether everybody has the same number, as the largest is also the smallest; and whether anybody has failed."""
    return largest == -minus_smallest, bool(any_failed)


@functools.lru_cache(maxsize=1024)
def fingerprint(text: str) -> int:
    """62 bits that stand for ``text``, the same in every process; a call's number may be added to them."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 2
