"""Runs beside one another: a table of what came of them, and in what they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpcml.runs.record import Record
from hpcml.runs.wholefile import whole_file

#: Facts of the place that a difference may come from.
PLACE = ("ranks", "mpi", "python", "hpcml", "git_commit", "slurm_job")
#: Arguments by which nothing is computed.
ASIDE = ("output", "progress", "resume", "metrics", "tensorboard", "alert_command", "alert_webhook")


def row(record: Record) -> dict[str, Any]:
    """What the table shows of a run, and what ``--json`` prints; None where it is not known."""
    arguments, summary = record.config["arguments"], record.summary
    last = record.metrics[-1] if record.metrics else {}
    rates = [metric["samples_per_second"] for metric in record.metrics if "samples_per_second" in metric]
    return {
        "run": str(record.path),
        "state": record.state,
        "started": record.config.get("started", "")[:16].replace("T", " "),
        "data": Path(str(arguments.get("data"))).name,
        "model": arguments.get("model"),
        "ranks": record.config.get("ranks"),
        "epochs": last.get("epoch", 0),
        "loss": last.get("loss"),
        "validation": summary.get("validation_accuracy") or last.get("validation_accuracy"),
        "test": summary.get("test_accuracy"),
        "seconds": summary.get("training_seconds") or sum(metric.get("seconds", 0.0) for metric in record.metrics),
        "samples_per_second": sorted(rates)[len(rates) // 2] if rates else None,
        "seed": arguments.get("seed"),
        "git": (record.config.get("git_commit") or "")[:8]
        + ("+" * str(record.config.get("git_commit")).endswith("-modified")),
        "checkpoints": len(record.checkpoints),
        "alerts": len(record.alerts),
        "model_sha256": summary.get("model_sha256"),
    }


COLUMNS = {
    "run": "run",
    "state": "state",
    "started": "started",
    "data": "data",
    "model": "model",
    "ranks": "ranks",
    "epochs": "epochs",
    "loss": "loss",
    "validation": "valid.",
    "test": "test",
    "seconds": "seconds",
    "samples_per_second": "samples/s",
    "seed": "seed",
    "git": "git",
    "alerts": "alerts",
}


def table(rows: list[dict[str, Any]]) -> str:
    """One line a run."""
    cells = [list(COLUMNS.values()), *([_cell(name, row[name]) for name in COLUMNS] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(COLUMNS))]
    left = ("run", "state", "started", "data", "model", "git")
    return "".join(
        "  ".join(
            text.ljust(width) if name in left else text.rjust(width)
            for name, text, width in zip(COLUMNS, line, widths, strict=True)
        ).rstrip()
        + "\n"
        for line in cells
    )


def _cell(name: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    if name in ("loss", "validation", "test"):
        return f"{value:.4f}"
    if name in ("seconds", "samples_per_second"):
        return f"{value:,.1f}" if name == "seconds" else f"{value:,.0f}"
    return str(value)


def differences(records: list[Record]) -> str:
    """Arguments and facts of the place that are not the same in all runs, a line each; empty for one run."""
    facts = [_facts(record) for record in records]
    names = [name for name in dict.fromkeys(name for found in facts for name in found)]
    lines = []
    for name in names:
        values = [found.get(name) for found in facts]
        if any(value != values[0] for value in values):
            lines.append(f"{name:20}" + "  ".join(f"{_short(value):>14}" for value in values))
    if not lines:
        return ""
    head = f"{'differences':20}" + "  ".join(f"{record.path.name[-14:]:>14}" for record in records)
    return "\n".join([head, *lines]) + "\n"


def _facts(record: Record) -> dict[str, Any]:
    config = record.config
    found = {name: value for name, value in config["arguments"].items() if name not in ASIDE}
    found |= {name: config.get(name) for name in PLACE}
    found |= config.get("packages", {})
    return found | {name: value for name, value in config.get("environment", {}).items()}


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 14 else text[:13] + "…"


def plot(records: list[Record], path: Path) -> None:
    """The losses of the runs, by epoch and by time. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    by_epoch, by_time = figure.subplots(1, 2, sharey=True)
    for record in records:
        shown = [metric for metric in record.metrics if "loss" in metric]
        losses = [metric["loss"] for metric in shown]
        seconds, total = [], 0.0
        for metric in shown:
            total += metric.get("seconds", 0.0)
            seconds.append(total)
        by_epoch.plot([metric["epoch"] for metric in shown], losses, marker="o", markersize=3, label=record.path.name)
        by_time.plot(seconds, losses, marker="o", markersize=3, label=record.path.name)
    by_epoch.set(xlabel="epoch", ylabel="training loss")
    by_time.set(xlabel="seconds")
    for axes in (by_epoch, by_time):
        axes.grid(alpha=0.3)
    by_time.legend(frameon=False, fontsize=8)
    with whole_file(path) as file:
        figure.savefig(file, format=path.suffix[1:] or "png")
