"""In what manner a collective is called: at once, bound for many starts, or in the background."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Manner:
    """How a collective is called. keep: its binding goes to the channel's cache, and may come from it.

    stream: on which the caller works with arrays in GPU memory; None: on the current one.

    agree: at first sight the ranks compare their arguments, for which they wait for each other. native: "auto" may take
    the MPI library's own algorithm, which may get on in its own calls only.
    """

    keep: bool = True
    agree: bool = True
    native: bool = True
    stream: int | None = field(default=None, compare=False)

    def on(self, stream: Any) -> Manner:
        """The same, with that stream: an object of CuPy, PyTorch or Numba, or CUDA's own number."""
        return self if stream is None else replace(self, stream=_number(stream))


def _number(stream: Any) -> int:
    for name in ("ptr", "cuda_stream", "handle"):
        if hasattr(stream, name):
            number = getattr(stream, name)
            return int(getattr(number, "value", number) or 0)
    if not isinstance(stream, int):
        raise TypeError(
            f"stream is a {type(stream).__name__}; expected a stream of CuPy, PyTorch or Numba, or its number"
        )
    return stream


BLOCKING = Manner()
PERSISTENT = Manner(keep=False)  # a plan has a binding of its own
PERSISTENT_BACKGROUND = Manner(keep=False, native=False)
NONBLOCKING = Manner(agree=False, native=False)  # must not wait for other ranks
