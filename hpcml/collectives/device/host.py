"""A collective of device arrays by the host's own program: copied to pinned memory, done there, and copied back.

For what there are no kernels for: an `MPI.Op` of the user's own, a data type that they do not know; and for
``algorithm="native"``, as an MPI library that reduces device pointers would copy them too, through memory that is not
pinned.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpcml.collectives.channel import Channel
from hpcml.collectives.device.links import Links
from hpcml.collectives.device.scripted import Scripted
from hpcml.collectives.program import Program


class ThroughHost(Scripted):
    """program: of the host, for input and output that are not in one place."""

    def __init__(self, channel: Channel, links: Links, tag: int, program: Program, dtype: np.dtype):
        super().__init__(channel, links, tag)
        self._program, self._dtype = program, dtype
        self._buffers: list[np.ndarray] = []

    def _script(self, tag: int, background: bool) -> Iterator[None]:
        runtime, stream = self._runtime, self._stream
        source, target = self._source, self._target
        if not self._buffers:
            self._buffers = [runtime.pinned(max(a.nbytes, 1))[: a.nbytes] for a in (source, target)]
        sent, came = (buffer.view(self._dtype) for buffer in self._buffers)
        for array, buffer in ((source, sent), (target, came)):  # what is not written of the output stays as it is
            if array.nbytes:
                runtime.copy(buffer.ctypes.data, array.pointer, array.nbytes, stream)
        copied = runtime.record(stream)
        while not copied.done():
            yield
        if background:
            self._program.bind(sent, came)
            self._program.launch(tag)
            while not self._program.test():
                yield
            self._program.release()
        else:
            self._program.run(sent, came)
        if target.nbytes:
            runtime.copy(target.pointer, came.ctypes.data, target.nbytes, stream)
            landed = runtime.record(stream)
            while not landed.done():  # the buffer is ours again
                yield
