"""The memory a bound collective works on, and one run of it.

A program wants C-contiguous memory that does not overlap; what the caller passed is packed and spread where it is
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcml.collectives.arguments import Bound
from hpcml.collectives.arrays import new, packed
from hpcml.collectives.binding import Binding
from hpcml.collectives.program import Program

NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Arrangement:
    """A bound collective: run ``binding`` from ``source`` to ``target``; ``result`` is what the caller gets.

    fresh: the array to pack into ``source`` anew before each run, if it is not ``source`` itself. spread: whether
    ``target`` is temporary and has to be copied to ``result``.
    """

    binding: Binding
    source: np.ndarray
    target: np.ndarray
    result: Any
    fresh: np.ndarray | None = None
    spread: bool = False

    @property
    def in_place(self) -> bool:
        return self.source is self.target

    def run(self) -> Any:
        self.binding.run(self.source, self.target)
        return self.delivered()

    def refill(self) -> None:
        """Pack the caller's array again: it may have changed since the last run."""
        if self.fresh is not None:
            self.source.reshape(self.fresh.shape)[...] = self.fresh

    def delivered(self) -> Any:
        if self.spread:
            self.result[...] = self.target.reshape(self.result.shape)
        return self.result


class Flight:
    """One run of an arrangement in the background; several of one binding may be under way."""

    def __init__(self, arrangement: Arrangement, tag: int):
        self._arrangement = arrangement
        self._program: Program | None = None
        self._program = arrangement.binding.launch(arrangement.source, arrangement.target, tag)

    def test(self) -> bool:
        """Whether it is complete. Does not wait."""
        if self._program is not None and self._program.test():
            self._end()
        return self._program is None

    def wait(self) -> Any:
        """Complete it; return what the caller gets."""
        if self._program is not None:
            self._program.wait()
            self._end()
        return self._arrangement.delivered()

    def __del__(self) -> None:
        if self._program is not None:
            self._program.forget()

    def _end(self) -> None:
        assert self._program is not None
        self._arrangement.binding.landed(self._program, self._arrangement.in_place)
        self._program = None


def arranged(bound: Bound, out: np.ndarray | None, wanted: bool = True) -> Arrangement:
    """The memory for a result in ``out`` (which fits; None: a new array). wanted: whether this rank gets the result."""
    if bound.device is not None:
        from hpcml.collectives.device.arrangement import arranged as arranged_on_device

        return arranged_on_device(bound, out, wanted)
    binding, x, shape, dtype = bound[:4]
    source = NOTHING if x is None else packed(x)
    fresh = None if x is None or source is x else x
    if not wanted:
        return Arrangement(binding, source, NOTHING, None, fresh)
    if out is None:
        result = new(shape, dtype)
        return Arrangement(binding, source, result, result, fresh)
    if out is x and binding.may_be_in_place:  # on the packed copy where x is not contiguous
        return Arrangement(binding, source, source, out, fresh, spread=fresh is not None)
    if out.flags.c_contiguous and not np.may_share_memory(NOTHING if x is None else x, out):
        return Arrangement(binding, source, out, out, fresh)
    return Arrangement(binding, source, new(shape, dtype), out, fresh, spread=True)


def kept_in_place(bound: Bound) -> Arrangement:
    """The memory for a broadcast: the caller's own array, before and after."""
    return arranged(bound, bound.x)
