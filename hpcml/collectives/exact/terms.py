"""What is summed, for whom, and what becomes of the sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcml.collectives.channel import Channel
from hpcml.collectives.ops import Op

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
# The bits of floats, as numbers.
INTEGERS: dict[int, np.dtype] = {2: np.dtype(np.int16), 4: np.dtype(np.int32), 8: np.dtype(np.int64)}


def real(dtype: np.dtype) -> np.dtype:
    """The data type of the parts of complex numbers; others are their own."""
    return np.empty(0, dtype).real.dtype if dtype.kind == "c" else dtype


def working(dtype: np.dtype) -> np.dtype | None:
    """The format in which sums of ``dtype`` are computed: itself, or float32 for shorter ones. None: there is none.

    Of complex numbers, that of their parts.
    """
    one = real(dtype)
    if one == np.float16 or one.name == "bfloat16":
        return SINGLE
    return one if one in (SINGLE, DOUBLE) and one.isnative else None


@dataclass(frozen=True)
class Terms:
    """The terms of a sum, or mean, of floats of type ``dtype``, over the ranks of a channel.

    collective: "allreduce", or "reduce" to ``root``. rows_differ: ranks may have any number of rows to sum; otherwise
    each has one.
    """

    channel: Channel
    collective: str
    op: Op
    dtype: np.dtype
    root: int
    rows_differ: bool

    @property
    def wanted(self) -> bool:
        """Whether this rank gets the result."""
        return self.collective == "allreduce" or self.channel.rank == self.root

    @property
    def works(self) -> np.dtype:
        found = working(self.dtype)
        assert found is not None
        return found

    @property
    def odd(self) -> bool:
        """Whether sums are to be rounded to odd first, because `finished` rounds them to a shorter format.

        Not for a mean, which is rounded to the working format, divided, and rounded to the shorter format.
        """
        return real(self.dtype) != self.works and not self.op.finishes

    def finished(self, sums: np.ndarray, rows: int) -> np.ndarray:
        """From sums of that many rows, rounded once, to results. May overwrite ``sums``."""
        if rows == 0:
            sums[...] = np.nan if self.op.finishes else 0
        elif self.op.finishes:
            np.divide(sums, sums.dtype.type(rows), out=sums)
        with np.errstate(over="ignore"):  # infinity is the right result
            return sums.astype(real(self.dtype), copy=False)
