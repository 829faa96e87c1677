"""Run directories read back: `hpcml top` and `hpcml runs`."""

import json
import time

import pytest

from hpcml.cli import main
from hpcml.runs.frame import bar, duration, frame, sparkline
from hpcml.runs.record import RecordError, find_records, read_record


def write_run(path, losses, state="finished", updated=None, seed=0, **config):
    """A run directory as `hpcml train` leaves it."""
    path.mkdir(parents=True)
    arguments = {"data": "x/digits.csv", "model": "mlp", "seed": seed, "epochs": 4, "output": str(path)}
    started = f"2026-11-20T10:00:{seed:02}+0000"
    (path / "config.json").write_text(
        json.dumps({"started": started, "arguments": arguments, "ranks": 2, "packages": {"numpy": "2.0"}, **config})
    )
    records = [
        {"epoch": n + 1, "loss": loss, "seconds": 2.0, "samples_per_second": 100.0 + n} for n, loss in enumerate(losses)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + '{"epoch": 9, "lo')
    status = {
        "state": state,
        "updated": updated or time.time(),
        "epoch": len(losses),
        "epochs": 4,
        "step": 5,
        "steps": 10,
    }
    status |= {"loss": losses[-1], "samples_per_second": 1234.0, "communication_share": 0.25, "eta_seconds": 200.0}
    status |= {"loads": [["a", 0.1], ["b", 0.3]], "stragglers": [1]}
    (path / "status.json").write_text(json.dumps(status))
    if state == "finished":
        (path / "summary.json").write_text(json.dumps({"test_accuracy": 1 - losses[-1], "training_seconds": 7.5}))
    return path


def test_a_frame_shows_the_run(tmp_path):
    path = write_run(tmp_path / "r", [1.0, 0.5], "running")
    (path / "alerts.jsonl").write_text(json.dumps({"time": 0, "text": "the disk is full"}) + "\n")
    text = frame(read_record(path), 100)
    assert "running, 2 ranks" in text
    assert "epoch 2/4  step 5/10" in text and "38%  3 min 20 s left" in text
    assert "loss 0.5" in text and "1,234 samples/s" in text and "losses    █▁" in text
    assert "25% of the time of steps is communication" in text
    lines = text.splitlines()
    assert next(line for line in lines if line.startswith("rank 1")).endswith("300 ms a step  <- all wait for it")
    assert lines[-1].endswith("the disk is full")
    assert max(map(len, frame(read_record(path), 40).splitlines())) <= 40


def test_states(tmp_path):
    assert read_record(write_run(tmp_path / "a", [1.0])).state == "finished"
    assert read_record(write_run(tmp_path / "b", [1.0], "running")).state == "running"
    silent = read_record(write_run(tmp_path / "c", [1.0], "running", time.time() - 300))
    assert silent.state == "silent" and "was it killed?" in frame(silent)
    assert read_record(write_run(tmp_path / "d", [1.0], "stopped")).state == "stopped"


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    assert [record["epoch"] for record in read_record(write_run(tmp_path / "r", [1.0, 0.5])).metrics] == [1, 2]


def test_runs_are_listed_and_compared(tmp_path, capsys):
    write_run(tmp_path / "runs" / "one", [1.0, 0.5], seed=1)
    write_run(
        tmp_path / "runs" / "two", [1.0, 0.25], seed=2, packages={"numpy": "1.26"}, git_commit="0123456789-modified"
    )
    assert main(["runs", str(tmp_path / "runs"), "--differences"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["run", "state", "started", "data"]
    assert lines[1].split()[0].endswith("one") and "0.5000" in lines[1]
    assert lines[2].split()[0].endswith("two") and "01234567+" in lines[2] and "0.7500" in lines[2]
    words = [line.split() for line in lines]
    assert ["numpy", "2.0", "1.26"] in words and ["seed", "1", "2"] in words
    assert not any(line.startswith("model ") for line in lines[3:])  # the same in both
    assert main(["runs", str(tmp_path / "runs"), "--sort", "test", "--json"]) == 0
    assert [row["test"] for row in json.loads(capsys.readouterr().out)] == [0.75, 0.5]


def test_a_plot_is_not_overwritten_without_being_asked(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    write_run(tmp_path / "one", [1.0, 0.5])
    plot = tmp_path / "p.svg"
    assert main(["runs", str(tmp_path), "--plot", str(plot)]) == 0
    first = plot.read_bytes()
    assert b"<svg" in first
    assert main(["runs", str(tmp_path), "--plot", str(plot)]) == 2
    assert "is there already" in capsys.readouterr().err and plot.read_bytes() == first
    assert main(["runs", str(tmp_path), "--plot", str(plot), "--overwrite"]) == 0


def test_what_is_no_run_is_told(tmp_path, capsys):
    assert main(["top", str(tmp_path), "--once"]) == 2
    assert "is no run directory" in capsys.readouterr().err
    with pytest.raises(RecordError, match="no run directory, and none in it"):
        find_records([tmp_path])


def test_top_prints_a_frame_of_a_run_that_is_over(tmp_path, capsys):
    assert main(["top", str(write_run(tmp_path / "r", [0.5]))]) == 0
    assert capsys.readouterr().out.count("finished, 2 ranks") == 1


def test_pieces():
    assert bar(2.0, 3) == "███" and bar(0.0, 2) == "░░"
    assert sparkline([1.0, float("nan"), 2.0]) == "▁?█" and sparkline([5.0, 5.0]) == "▁▁"
    assert [duration(s) for s in (5, 200, 7500)] == ["5 s", "3 min 20 s", "2 h 5 min"]
