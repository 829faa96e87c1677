"""The memory in which gradients of a bucket are put together, on the device; as `hpcml.optim.messages`."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcml.collectives.arrays import as_array
from hpcml.collectives.device import kernels
from hpcml.collectives.device.arrays import DeviceArray, new_like
from hpcml.optim.buckets import Bucket
from hpcml.optim.device.updates import SOURCE
from hpcml.optim.messages import Message


class DeviceMessage(Message):
    """One row; numbers that ride along do not ride here."""

    def __init__(self, bucket: Bucket, like: Any) -> None:
        super().__init__(bucket._replace(size=0), bucket.dtype)
        self.bucket = bucket
        self._flat = new_like(as_array(like), (bucket.size,), bucket.dtype)
        self._options = f"-DREAL={kernels.item(bucket.dtype)}"
        self._places = {member: (start, stop) for member, start, stop in bucket.spans()}

    @property
    def flat(self) -> Any:
        return self._flat

    @property
    def nbytes(self) -> int:
        return self._flat.nbytes

    def pack(self, member: int, gradient: Any, weight: float) -> None:
        times = self.times[member]
        self.times[member] += 1
        self._weights[member] += weight
        if gradient is None or weight == 0:
            if times == 0:
                self._zero(member)
            return
        given: DeviceArray = as_array(gradient).packed()
        self._weigh(member, given, weight, times == 0)

    def close(self) -> np.ndarray:
        self.weight = max(self._weights.values())
        for member, times in self.times.items():
            if times == 0:
                self._zero(member)
            self.times[member], self._weights[member] = 0, 0.0
        return self.rows

    def _zero(self, member: int) -> None:
        start, stop = self._places[member]
        self._flat.part(start, (stop - start,)).fill_from_host(np.zeros(stop - start, self._flat.dtype))

    def _weigh(self, member: int, given: DeviceArray, weight: float, fresh: bool) -> None:
        start, stop = self._places[member]
        place = self._flat.part(start, (stop - start,))
        options = self._options, f"-DGRAD={kernels.item(given.dtype)}"
        arguments = place.pointer, given.pointer, place.size, float(weight), int(fresh)
        given.runtime.launch(SOURCE, options, "weigh", place.size, arguments, given.callers_stream())
