"""The device memory that a bound collective works on, and one run of it; see `hpcml.collectives.arrangement`.

Arrays that are not contiguous are packed, and spread, by kernels on the caller's stream, before and after the work on
the library's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpcml.collectives.arguments import Bound
from hpcml.collectives.arrangement import Arrangement
from hpcml.collectives.device.arrays import CUPY, DeviceArray, new, overlap, taken
from hpcml.collectives.device.links import links_of


@dataclass(frozen=True)
class DeviceArrangement(Arrangement):
    """landing: where ``target`` has to be spread to."""

    landing: DeviceArray | None = None

    def refill(self) -> None:
        if self.fresh is not None:
            self.source.fill_from(self.fresh)  # type: ignore[attr-defined]

    def delivered(self) -> Any:
        if self.landing is not None:
            self.landing.fill_from(self.target.reshaped(self.landing.shape))  # type: ignore[attr-defined]
        return self.result


def arranged(bound: Bound, out: Any, wanted: bool) -> Arrangement:
    """As `hpcml.collectives.arrangement.arranged`."""
    binding, x, shape, dtype = bound[:4]
    nothing: Any = links_of(bound.channel, bound.device).nothing
    given: Any = None if x is None else x
    source = nothing.on(bound.stream) if given is None else given.packed()
    fresh = None if given is None or source is given else given
    if not wanted:
        return DeviceArrangement(binding, source, nothing, None, fresh)
    if out is None:
        kind = CUPY if given is None else given.kind
        target: Any = new(bound.device, shape, dtype, kind, bound.stream)
        return DeviceArrangement(binding, source, target, target.given(), fresh)
    landing = taken(out).on(bound.stream)
    if given is not None and _same_place(given, landing) and binding.may_be_in_place:
        return DeviceArrangement(binding, source, source, out, fresh, landing=landing if fresh is not None else None)
    if landing.flags.c_contiguous and (given is None or not overlap(given, landing)):
        return DeviceArrangement(binding, source, landing, out, fresh)  # type: ignore[arg-type]
    target = new(bound.device, shape, dtype, landing.kind, bound.stream)
    return DeviceArrangement(binding, source, target, out, fresh, landing=landing)


def _same_place(a: DeviceArray, b: DeviceArray) -> bool:
    return (a.pointer, a.shape, a.strides, a.dtype) == (b.pointer, b.shape, b.strides, b.dtype)
