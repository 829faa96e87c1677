"""The plot of which features a model of trees goes by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpcml.runs.curves import TRAINING
from hpcml.runs.wholefile import whole_file

MOST = 20


def draw_importances(path: Path, names: Sequence[str], shares: np.ndarray, title: str) -> None:
    """Write a bar for each of the most important features to a PNG file. Raises ImportError without matplotlib.

    names: of all features; shares: of each, in what all splits gain.
    """
    from matplotlib.figure import Figure

    order = np.argsort(-shares, kind="stable")[:MOST]
    order = order[shares[order] > 0]
    figure = Figure(figsize=(7, 1.4 + 0.27 * max(len(order), 1)), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots()
    axes.barh(np.arange(len(order)), 100 * shares[order], color=TRAINING, height=0.7)
    axes.set_yticks(np.arange(len(order)), [_short(names[feature]) for feature in order])
    axes.invert_yaxis()
    axes.set(xlabel="share of the gain of all splits, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    if len(order) < np.count_nonzero(shares):
        axes.set_title(f"the first {len(order)} of {np.count_nonzero(shares)} features that are used", fontsize=9)
    with whole_file(path) as file:
        figure.savefig(file, format="png")


def _short(name: str) -> str:
    return name if len(name) <= 40 else name[:39] + "…"
