"""The plot of a run: loss and accuracy by epoch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpcml.runs.wholefile import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAINING, VALIDATION, TEST = "#1f5fa8", "#d9541e", "#3a3a3a"


def draw_curves(path: Path, records: list[dict], title: str, test_accuracy: float | None) -> None:
    """Write the plot as a PNG file. Raises ImportError without matplotlib."""
    figure = figure_of(records, title, test_accuracy)
    with whole_file(path) as file:
        figure.savefig(file, format="png")


def figure_of(records: list[dict], title: str, test_accuracy: float | None) -> Figure:
    """Two panels, loss and accuracy of training and validation, with the test accuracy as a dashed line; the duality
    gap in place of an accuracy that is not known of each iteration.

    records: the epoch records of a fit, with or without validation; a line for each problem, where they have a pair.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=12)
    records = [record for record in records if "pair" in record] or records
    problems = stretches(records)
    epochs = [record["epoch"] for record in records]
    marker = "o" if len(records) < 30 else None
    second = "accuracy" if all("accuracy" in record for record in records) or "gap" not in records[0] else "gap"
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", second), strict=True):
        for prefix, name, colour in (("", "training", TRAINING), ("validation_", "validation", VALIDATION)):
            if all(prefix + quantity in record for record in records):
                values = [record[prefix + quantity] for record in records]
                for first, last in problems:
                    axes.plot(
                        epochs[: last - first],
                        values[first:last],
                        color=colour,
                        marker=marker,
                        markersize=3.5,
                        alpha=1 if len(problems) == 1 else 0.4,
                        label=None if first else name if len(problems) == 1 else f"{name}, each pair of classes",
                    )
        if quantity == "accuracy" and test_accuracy is not None:
            label = f"test, at the end: {test_accuracy:.4f}"
            axes.axhline(test_accuracy, color=TEST, linestyle="--", linewidth=1, label=label)
        axes.set(xlabel="iteration" if {"gap", "leaves", "nodes"} & records[0].keys() else "epoch", ylabel=quantity)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.axes[0].set_ylim(bottom=0)
    if second == "gap":
        figure.axes[1].set(yscale="log", ylabel="relative duality gap")
    return figure


def stretches(records: list[dict]) -> list[tuple[int, int]]:
    """Where each problem's records begin and end: those of a pair of classes, of one after the other."""
    cuts = [at for at in range(1, len(records)) if records[at].get("pair") != records[at - 1].get("pair")]
    return list(zip([0, *cuts], [*cuts, len(records)], strict=True))
