"""Error feedback: what was not sent of the messages so far."""

from __future__ import annotations

import numpy as np

from hpcml.optim.ballot import LIMIT


class Owed:
    """What one rank owes the sum: of each number, what it should have sent and did not.

    A message is a gradient times its weight, and a step divides the sum by the weights of all. What is owed therefore
    belongs to the weight of the message that it was left out of, and is multiplied by the ratio when it goes with a
    message of another weight. Otherwise what a batch of 1000 samples owes would be a hundred times too large in a step
    of 10. A rank without samples sends nothing, and owes what it did before.

    Attribute: ``values``, flat, in the units of the last message.
    """

    def __init__(self, size: int, dtype: np.dtype) -> None:
        self.values = np.zeros(size, dtype)
        self._weight = 0.0

    def factor(self, weight: float) -> np.floating:
        """By what the values are multiplied in a message of that weight, which is above 0 and now theirs."""
        ratio = min(weight / self._weight, LIMIT) if self._weight else 0.0
        self._weight = weight
        return self.values.dtype.type(ratio)


def bits_of(values: np.ndarray) -> np.ndarray:
    """Floats as integers. Without their signs these are in the order of magnitudes, then infinity, then NaN."""
    return values.view(np.int32 if values.itemsize == 4 else np.int64)


def unsigned(bits: np.ndarray) -> np.integer:
    """All bits but that of the sign."""
    return bits.dtype.type(np.iinfo(bits.dtype).max)
