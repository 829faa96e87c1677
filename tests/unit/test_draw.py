"""Schedules spelt out and drawn: every message is there once, labels are right, what is left out is said."""

import numpy as np
import pytest

from hpcml.cli import main
from hpcml.collectives.algorithms import CATALOGUE, named
from hpcml.paper.diagram import LARGEST, draw, shown
from hpcml.paper.messages import steps

BY_NAME = {"ids": lambda a: f"{a.collective}-{a.name}"}


def blocks_in(label):
    """How many blocks a label names; 1 where the schedule has one only."""
    if label.endswith(" blocks"):
        return int(label.split()[0])
    ends = [part.split("–") for part in label.split(", ")] if label else [["0"]]
    return sum(int(run[-1]) - int(run[0]) + 1 for run in ends)


@pytest.mark.parametrize("algorithm", CATALOGUE, **BY_NAME)
def test_messages_add_up_to_what_the_catalogue_says(algorithm):
    for size in (1, 2, 3, 8, 13):
        for segments in (1, 3) if algorithm.segmented else (1,):
            found = steps(algorithm, size, 0, segments)
            assert [step.number for step in found] == list(range(algorithm.rounds(size, segments)))
            through = np.zeros((2, size), int)
            for message in (m for step in found for m in step.messages):
                through[0, message.source] += blocks_in(message.blocks)
                through[1, message.dest] += blocks_in(message.blocks)
            assert through.max() == algorithm.volume(size, segments)


def test_the_ring_by_hand():
    found = steps(named("allreduce", "ring"), 4)
    assert [(m.source, m.dest, m.blocks) for m in found[0].messages] == [
        (0, 1, "3"), (1, 2, "0"), (2, 3, "1"), (3, 0, "2")]  # fmt: skip
    assert [m.wraps for m in found[0].messages] == [False, False, False, True]
    assert [step.messages[0].folds for step in found] == [True] * 3 + [False] * 3
    assert [step.finished for step in found] == [(), (), (0, 1, 2, 3), (), (), ()]
    assert [m.lane for m in steps(named("allreduce", "ring"), 2, 0, 2)[0].messages] == [0, 0, 1, 1]
    assert [m.lane for m in steps(named("gather", "direct"), 4)[0].messages] == [0, 1, 2]  # one after the other


def test_runs_of_blocks_are_named_by_their_ends():
    halving = steps(named("allreduce", "rabenseifner"), 8)[0].messages
    assert (halving[0].blocks, halving[4].blocks) == ("4–7", "0–3")
    assert not any(m.wraps for m in halving)
    round_the_end = steps(named("broadcast", "scatter_allgather"), 8, root=5)[1].messages
    assert "7, 0" in [m.blocks for m in round_the_end]
    assert {m.blocks for m in steps(named("broadcast", "binomial"), 8)[0].messages} == {""}
    many = steps(named("alltoall", "bruck"), 16)[0].messages
    assert many[0].blocks == "8 blocks"


def test_a_long_schedule_shows_its_ends():
    found = steps(named("allreduce", "ring"), 20)
    above, below = shown(found)
    assert 9 <= len(above) + len(below) < len(found)
    assert above == found[: len(above)] and below == found[-len(below) :]
    short = found[:5]
    assert shown(short) == (short, [])


@pytest.mark.parametrize(
    "name, size, suffix, magic",
    [
        ("ring", 5, ".svg", b"<?xml"),
        ("ring", 13, ".png", b"\x89PNG"),
        ("rabenseifner", 7, ".pdf", b"%PDF"),
        ("recursive_doubling", 20, ".png", b"\x89PNG"),
        ("ring", 1, ".png", b"\x89PNG"),
    ],
)
def test_pictures(tmp_path, name, size, suffix, magic):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"picture{suffix}"
    left_out = draw(named("allreduce", name), size, str(path))
    assert path.read_bytes().startswith(magic)
    assert [step.number for step in left_out] == ([17, 18] if size == 13 else [])


def test_the_same_schedule_is_the_same_file(tmp_path):
    pytest.importorskip("matplotlib")
    paths = [tmp_path / name for name in ("a.svg", "b.svg")]
    for path in paths:
        draw(named("broadcast", "binomial"), 4, str(path))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_command(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert main(["draw", "broadcast", "--algorithm", "chain", "--ranks", "4", "--segments", "40"]) == 0
    assert (tmp_path / "broadcast-chain.svg").exists()
    said = capsys.readouterr().out
    assert "wrote broadcast-chain.svg" in said and "rounds 17 to 36 are left out" in said


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["allreduce", "--algorithm", "rang"], "allreduce has no algorithm 'rang'"),
        (["broadcast", "--algorithm", "chain", "--root", "8"], "found root 8 of 8 ranks, expected 0 … 7"),
        (["allreduce", "--algorithm", "ring", "--output", "r.gif"], "expected a name that ends in .svg"),
        (["allreduce", "--algorithm", "ring", "--output", "/not/there.svg"], "there is no folder /not"),
        (["allreduce", "--algorithm", "ring", "--ranks", "65"], f"expected at most {LARGEST}"),
    ],
)
def test_wrong_arguments_are_refused(arguments, said, capsys):
    assert main(["draw", *arguments]) == 2
    assert said in capsys.readouterr().err
