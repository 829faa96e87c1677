"""What the arguments of a call are checked for, how they read in words, and how ranks agree on both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hpcml.collectives import algorithms, shared
from hpcml.collectives.arrays import DEVICE, ON_A_GPU, kind_of
from hpcml.collectives.channel import Channel
from hpcml.collectives.errors import ArgumentError
from hpcml.collectives.manner import Manner


def agree(channel: Channel, manner: Manner, collective: str, said: str, error: Exception | None) -> None:
    if manner.agree or channel.checked:
        channel.agree(collective, said, error)
    elif error is not None:
        raise ArgumentError(f"{collective}: {error}") from error
    else:
        channel.enter(said)


def check_root(root: int, channel: Channel) -> None:
    if isinstance(root, bool) or not isinstance(root, (int, np.integer)):
        raise TypeError(f"root must be a rank (an integer), not {root!r}")
    if not 0 <= root < channel.size:
        raise ValueError(f"root={root} is out of range: the communicator has ranks 0-{channel.size - 1}")


def check_algorithm(collective: str, algorithm: str, manner: Manner) -> None:
    if algorithm == "auto":
        return
    if algorithm not in algorithms.names(collective):
        algorithms.named(collective, algorithm)
    if algorithm == shared.NAME and not manner.native:
        raise ValueError(f"algorithm {algorithm!r} does not get on in the background: use another, or 'auto'")


def checked_counts(channel: Channel, counts: Sequence[int]) -> tuple[int, ...]:
    checked = tuple(map(int, counts))
    if len(checked) != channel.size:
        raise ValueError(f"counts has {len(checked)} entries, the communicator {channel.size} ranks: expected one each")
    if min(checked) < 0:
        raise ValueError(f"counts={list(checked)}: expected numbers of rows, none below 0")
    return checked


def plain(root: Any) -> Any:
    """NumPy's integers as Python's: what the ranks say to each other must read the same."""
    return int(root) if isinstance(root, np.integer) else root


def rows_in_words(x: Any) -> str:
    return f"{x.dtype}[rows{''.join(f', {n}' for n in x.shape[1:])}]" + ON_A_GPU * (kind_of(x) == DEVICE)


def options_in_words(**options: Any) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)
