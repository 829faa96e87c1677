"""Where blocks lie on a rank: what it holds, or gets, is side by side in the order of the blocks."""

from __future__ import annotations

import numpy as np

from hpcml.collectives.contracts import CONTRACTS
from hpcml.collectives.table import Layout


def layout(
    collective: str,
    rank: int,
    size: int,
    counts: tuple[int, ...],
    blocks: int,
    itemsize: int,
    root: int = 0,
    in_place: bool = False,
) -> Layout:
    """The layout of ``blocks`` blocks on that rank.

    counts: as for a `hpcml.collectives.binding.Binding`; parts are cut further where there are several blocks a rank.
    """
    items = [n for part in counts for n in even(part, blocks // len(counts))]
    sizes = np.array(items, np.int64) * itemsize
    contract = CONTRACTS[collective]

    def places(held: np.ndarray) -> np.ndarray:
        return np.where(held, np.cumsum(sizes * held) - sizes, -1)

    before = contract.before(rank, size, blocks, root)
    after = contract.after(rank, size, blocks, root)
    return Layout(sizes, places(before), places(after), in_place)


def even(count: int, parts: int) -> list[int]:
    """Items in each of so many parts, as even as can be."""
    short, longer = divmod(count, parts)
    return [short + (part < longer) for part in range(parts)]
