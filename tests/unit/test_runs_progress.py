"""What a person sees while a model trains: a bar on a terminal, lines in a log."""

import io
import json
import re

import pytest

from hpcml.runs import progress
from hpcml.runs.monitor import Monitor
from hpcml.runs.progress import Bar, Lines, choose_display

EPOCH = {
    "epoch": 3,
    "step": 30,
    "loss": 0.21125,
    "accuracy": 0.9412,
    "validation_loss": 0.248,
    "validation_accuracy": 0.9333,
    "samples_per_second": 48120.4,
    "seconds": 2.0,
    "communication_seconds": 0.18,
    "learning_rate": 1e-3,
}
STEP = {"epoch": 3, "step": 21, "steps": 10, "loss": 0.5, "samples": 32, "learning_rate": 1e-3}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_per_epoch():
    log = io.StringIO()
    display = choose_display("auto", 20, log)
    display.step(STEP)
    display.epoch(EPOCH)
    assert log.getvalue() == (
        "epoch  3/20  loss 0.2112  accuracy 0.9412  validation loss 0.2480  accuracy 0.9333"
        "  48,120 samples/s  9% communication\n"
    )


def test_a_line_without_validation():
    log = io.StringIO()
    record = {name: value for name, value in EPOCH.items() if not name.startswith("validation")}
    choose_display("lines", 5, log).epoch(record)
    assert "validation" not in log.getvalue()


def test_a_bar_on_a_terminal(monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.0)
    terminal = Terminal()
    display = choose_display("auto", 4, terminal)
    assert isinstance(display, Bar)
    for step in range(30):
        display.step({**STEP, "step": step + 1})
    last = re.split(r"[\r\n]", terminal.getvalue())[-1]
    assert "epoch 3/4" in last and "loss 0.5000" in last and "samples/s" in last and " 75%" in last
    display.epoch(EPOCH)
    last = re.split(r"[\r\n]", terminal.getvalue())[-1]
    assert "accuracy 0.9333" in last and "48,120 samples/s" in last
    display.close()


def test_a_terminal_may_have_lines_and_a_log_nothing():
    assert isinstance(choose_display("lines", 4, Terminal()), Lines)
    assert choose_display("none", 4, io.StringIO()) is None


def test_monitor_records_each_epoch_at_once(tmp_path):
    log = io.StringIO()
    with Monitor(tmp_path / "metrics.jsonl", Lines(4, log)) as monitor:
        for epoch in (1, 2):
            monitor.step(STEP)
            monitor.epoch({**EPOCH, "epoch": epoch})
            lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line)["epoch"] for line in lines] == list(range(1, epoch + 1))
    assert json.loads(lines[0]) == {**EPOCH, "epoch": 1}
    assert log.getvalue().count("\n") == 2


def test_monitor_of_another_rank_does_nothing():
    with Monitor(None, None) as monitor:
        monitor.step(STEP)
        monitor.epoch(EPOCH)
