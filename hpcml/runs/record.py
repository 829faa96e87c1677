"""A run directory, read: what was asked for, where it ran, what came of it. It is not changed; no MPI is needed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcml.runs.live import STATUS

SILENT_SECONDS = 60.0  # after which a run that says it goes on is not believed


class RecordError(ValueError):
    """A folder that is no run directory."""


@dataclass(frozen=True)
class Record:
    """config: as `hpcml train` wrote it. metrics: the records of epochs. status: of the moment; summary: of the end;
    checkpoints: after which steps there are some."""

    path: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: tuple[int, ...] = ()
    has_model: bool = False

    @property
    def state(self) -> str:
        """ "finished", "running", "silent" (it says it runs, and has said nothing for a minute), "stopped"."""
        if self.summary:
            return "finished"
        state = self.status.get("state", "stopped")
        if state == "running" and time.time() - self.status["updated"] > SILENT_SECONDS:
            return "silent"
        return "stopped" if state == "finished" else state  # trained, but not judged and saved


def read_record(path: Path) -> Record:
    """Raises RecordError where there is no run."""
    config = _json(path / "config.json")
    if config is None or "arguments" not in config:
        raise RecordError(f"{path} is no run directory: it has no config.json of 'hpcml train'")
    checkpoints = sorted(int(found.name.split("-")[1]) for found in (path / "checkpoints").glob("step-*"))
    return Record(
        path,
        config,
        _lines(path / "metrics.jsonl"),
        _json(path / STATUS) or {},
        _json(path / "summary.json") or {},
        _lines(path / "alerts.jsonl"),
        tuple(checkpoints),
        (path / "model.npz").is_file(),
    )


def find_records(folders: list[Path]) -> list[Record]:
    """The runs at and directly under the folders, the oldest first. Raises RecordError where a folder has none."""
    found = []
    for folder in folders:
        inside = [folder] if (folder / "config.json").is_file() else sorted(folder.glob("*/config.json"))
        paths = [path if path == folder else path.parent for path in inside]
        if not paths:
            raise RecordError(f"{folder}: there is no run directory, and none in it")
        found += [read_record(path) for path in paths]
    return sorted(found, key=lambda record: record.config.get("started", ""))


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _lines(path: Path) -> list[dict[str, Any]]:
    """A JSON object a line; a last line that is being written is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
