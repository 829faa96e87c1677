"""Runs a table (see `hpcml.collectives.table`) on the device, with kernels for the folds and a wire for the messages.

Folds and copies are put on the library's stream as soon as their messages are there, and the host goes on to the next
row. So wire and arithmetic overlap by the segments of the schedule, and nothing waits for the device but a message
whose bytes it has not made yet.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpcml.collectives import table as t
from hpcml.collectives.channel import Channel
from hpcml.collectives.device import kernels
from hpcml.collectives.device.links import Links
from hpcml.collectives.device.scripted import Scripted
from hpcml.collectives.device.wire import Direct, Message, Pinned, Rooms, Wire
from hpcml.collectives.ops import Op


class Walk(Scripted):
    """direct: MPI takes device pointers; else messages go through pinned memory."""

    def __init__(
        self, channel: Channel, links: Links, table: t.Table, tag: int, op: Op | None, dtype: np.dtype, direct: bool
    ):
        super().__init__(channel, links, tag)
        self._rows = self._table = table.rows.tolist()
        self._op, self._dtype = op, dtype
        self._scratch = self._runtime.empty(table.scratch, self._stream)
        longest = max((row[t.COUNT] for row in self._table if row[t.CODE] in (t.SEND, t.RECV)), default=0)
        self._rooms = None if direct else Rooms(self._runtime, longest)

    def _script(self, tag: int, background: bool) -> Iterator[None]:
        wire = self._wire(tag)
        messages: dict[int, Message] = {}
        buffers = self._source.pointer, self._target.pointer, self._scratch.pointer
        for at, row in enumerate(self._table):
            self._at = at
            code, slot, count = row[t.CODE], row[t.SLOT], row[t.COUNT]
            to, a, b = (buffers[row[i]] + row[i + 1] for i in (t.DST, t.A, t.B))
            if code == t.SEND:
                messages[slot] = wire.send(row[t.PEER], a, count)
            elif code == t.RECV:
                messages[slot] = wire.receive(row[t.PEER], to, count)
            elif code == t.WAIT:
                while not messages[slot].clear():
                    wire.advance()
                    if not messages[slot].clear():
                        yield
            elif code == t.COPY:
                self._runtime.copy(to, a, count, self._stream)
            else:
                assert self._op is not None
                parts, divisor = ([a, b], 0) if code == t.FOLD else ([a], self.channel.size)
                kernels.fold(self._runtime, self._op, self._dtype, [to], parts, count, self._stream, divisor)
        self._at = len(self._table)
        while not wire.advance():
            yield

    def _wire(self, tag: int) -> Wire:
        streams, comm = self._links.streams, self.channel.comm
        if self._rooms is None:
            return Direct(self._runtime, streams, comm, tag)
        return Pinned(self._runtime, streams, comm, tag, self._rooms)
