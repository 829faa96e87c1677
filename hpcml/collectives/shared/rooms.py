"""The rooms of bindings: small ones side by side in memory that was shared once.

To share memory costs two rounds of agreement and a dozen system calls on each rank; a small room is cut from what is
left of the memory before, without a message, as ranks make their bindings in the same order. What was cut is not cut
again, so that a room begins as zeros. The memory goes when the last binding in it is gone and it is used up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpcml.collectives.shared.mapping import PAGE, Mapping, shared_memory

if TYPE_CHECKING:
    from hpcml.collectives.channel import Channel

HALL = 1 << 20  # bytes shared at once for small rooms; the system gives memory to what is written alone
LARGEST = HALL // 4  # a larger room is shared by itself


class Rooms:
    """Those of one channel."""

    def __init__(self) -> None:
        self._hall: Mapping | None = None
        self._used = 0

    def take(self, channel: Channel, said: str, nbytes: int, line: int, giver: int) -> tuple[Mapping, int]:
        """A new room of ``nbytes``, the same memory on every rank of a node, and its address here.

        Collective over the channel; every node makes one of as many bytes. It begins on a page, or, if it is shorter,
        on a multiple of ``line`` bytes. It lives as long as the mapping. giver: the rank of this node whose memory it
        is, always the same. said: the call that needs it, in words.

        Raises:
            CollectiveError: a rank cannot make or map memory; on every rank.
        """
        if nbytes > LARGEST:
            own = _shared(channel, said, nbytes, giver)
            return own, own.address
        unit = PAGE if nbytes >= PAGE else line
        start = -(-self._used // unit) * unit
        if self._hall is None or start + nbytes > HALL:
            self._hall, start = _shared(channel, said, HALL, giver), 0
        self._used = start + nbytes
        return self._hall, self._hall.address + start


def _shared(channel: Channel, said: str, nbytes: int, giver: int) -> Mapping:
    return shared_memory(channel, said, nbytes if channel.rank == giver else 0)[giver]
