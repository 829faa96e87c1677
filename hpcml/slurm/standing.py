"""How far runs are, by their directories, beside the jobs that they belong to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hpcml.runs.directory import read_json
from hpcml.runs.earlier import CONFIG, is_complete
from hpcml.slurm.queue import Entry

COLUMNS = ("job", "name", "state", "epoch", "step", "loss", "rate", "kept", "run")


class Standing(NamedTuple):
    """record: of the last epoch, or empty; kept: the step of the newest checkpoint, or None; job: Slurm's number."""

    path: Path
    job: str | None
    record: dict[str, Any]
    kept: int | None
    is_complete: bool


def standings(folder: Path) -> list[Standing]:
    """Of the runs in a folder, by name."""
    found = []
    for config in sorted(folder.glob(f"*/{CONFIG}")):
        path = config.parent
        steps = [int(name.name.split("-")[1]) for name in path.glob("checkpoints/step-*")]
        found.append(
            Standing(
                path,
                read_json(config).get("slurm_job"),
                last_record(path / "metrics.jsonl"),
                max(steps, default=None),
                is_complete(path),
            )
        )
    return found


def last_record(metrics: Path) -> dict[str, Any]:
    """The last line that is whole; only the end of the file is read."""
    if not metrics.exists():
        return {}
    with open(metrics, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - (1 << 16)))
        lines = file.read().split(b"\n")
    return json.loads(lines[-2]) if len(lines) > 1 else {}


def rows(jobs: Sequence[Entry], runs: Sequence[Standing]) -> list[tuple[str, ...]]:
    """The cells of a table: runs with their jobs, then jobs that have no run."""
    by_number = {entry.number: entry for entry in jobs}
    made: list[tuple[str, ...]] = []
    for one in runs:
        entry = by_number.pop(one.job or "", None)
        state = "complete" if one.is_complete else entry.state if entry is not None else "ended early"
        if entry is not None and entry.restarts:
            state += f", {entry.restarts} restart{'s' * (entry.restarts > 1)}"
        record = one.record
        made.append(
            (
                one.job or "",
                "" if entry is None else entry.name,
                state,
                str(record.get("epoch", "")),
                f"{record['step']:,}" if "step" in record else "",
                f"{record['loss']:.4f}" if "loss" in record else "",
                f"{record['samples_per_second']:,.0f}/s" if "samples_per_second" in record else "",
                "" if one.kept is None else f"{one.kept:,}",
                str(one.path),
            )
        )
    made += [(entry.number, entry.name, entry.state, "", "", "", "", "", "") for entry in by_number.values()]
    return made
