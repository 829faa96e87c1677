"""The plot shows what was recorded."""

import struct

import pytest

from hpcml.runs.curves import draw_curves, figure_of

pytest.importorskip("matplotlib")

RECORDS = [
    {
        "epoch": e,
        "loss": 1 / e,
        "accuracy": 1 - 1 / (e + 1),
        "validation_loss": 1.1 / e,
        "validation_accuracy": 0.5,
    }
    for e in range(1, 8)
]


def test_curves_hold_the_records():
    loss, accuracy = figure_of(RECORDS, "title", 0.875).axes
    assert [line.get_ydata().tolist() for line in loss.lines] == [
        [r["loss"] for r in RECORDS],
        [r["validation_loss"] for r in RECORDS],
    ]
    assert accuracy.lines[0].get_ydata().tolist() == [r["accuracy"] for r in RECORDS]
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == [
        "training",
        "validation",
        "test, at the end: 0.8750",
    ]
    assert (loss.get_xlabel(), loss.get_ylabel(), accuracy.get_ylabel()) == ("epoch", "loss", "accuracy")


def test_curves_without_validation_and_test():
    records = [{key: r[key] for key in ("epoch", "loss", "accuracy")} for r in RECORDS]
    assert [len(axes.lines) for axes in figure_of(records, "title", None).axes] == [1, 1]


def test_problems_of_pairs_lie_over_each_other_with_their_gaps():
    records = [
        {"epoch": 1, "pair": [0, 1], "loss": 1.0, "gap": 1.0},
        {"epoch": 2, "pair": [0, 1], "loss": 0.5, "gap": 0.1},
        {"epoch": 3, "pair": [0, 2], "loss": 1.0, "gap": 1.0},
        {"epoch": 4, "pair": [0, 2], "loss": 0.4, "gap": 0.2},
        {"epoch": 5, "pair": [0, 2], "loss": 0.2, "gap": 0.01},
        {"epoch": 6, "loss": 0.35, "gap": 0.1, "accuracy": 0.9},
    ]
    loss, gap = figure_of(records, "title", 0.5).axes
    assert [line.get_xydata().tolist() for line in loss.lines] == [[[1, 1], [2, 0.5]], [[1, 1], [2, 0.4], [3, 0.2]]]
    assert [line.get_ydata().tolist() for line in gap.lines] == [[1.0, 0.1], [1.0, 0.2, 0.01]]
    assert gap.get_ylabel() == "relative duality gap"


def test_curves_are_written_as_png(tmp_path):
    draw_curves(tmp_path / "curves.png", RECORDS, "title", 0.875)
    head = (tmp_path / "curves.png").read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">2I", head[16:]) == (1200, 504)
