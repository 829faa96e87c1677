"""Where a run is, from moment to moment: what `hpcml top`, Prometheus and `hpcml runs` show."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpcml.runs.stragglers import stragglers

STATUS = "status.json"
EVERY_SECONDS = 1.0

#: What is taken over from the record of an epoch.
OF_EPOCHS = ("epoch", "loss", "accuracy", "validation_loss", "validation_accuracy", "samples_per_second", "gap")

Fields = dict[str, Any]


class Live:
    """Follows a run on rank 0, and hands its ``fields`` to ``outputs``, once a second at most and at the end.

    fields: state ("running", "finished" or "stopped"), started, updated (seconds since 1970), host, pid, ranks, epoch,
    epochs, step, steps, loss, samples_per_second, learning_rate, communication_share (of the time of steps, on rank 0),
    eta_seconds, loads (host, and seconds of computing a step; by rank), stragglers, and what the last epoch recorded.
    """

    def __init__(self, ranks: int, epochs: int | None, outputs: Sequence[Callable[[Fields], None]]) -> None:
        now = time.time()
        self.fields: Fields = {
            "state": "running",
            "started": now,
            "updated": now,
            "host": platform.node(),
            "pid": os.getpid(),
            "ranks": ranks,
            "epochs": epochs,
        }
        self._outputs = list(outputs)
        self._shown = self._began = time.perf_counter()
        self._done = self._samples = 0
        self._seconds = self._waited = 0.0
        self._totals = {"steps_total": 0, "compute_seconds_total": 0.0, "communication_seconds_total": 0.0}
        self._hand_out()

    def tell(self, **more: Any) -> None:
        """Fields of others."""
        self.fields.update(more)
        self._hand_out()

    def step(self, record: Fields) -> None:
        self._done += 1
        self._samples += record["samples"]
        self._seconds += record["seconds"]
        self._waited += record["communication_seconds"]
        totals = self._totals
        totals["steps_total"] += 1
        totals["compute_seconds_total"] += record["compute_seconds"]
        totals["communication_seconds_total"] += record["communication_seconds"]
        if record.get("loads"):
            self._take_loads(record["loads"])
        now = time.perf_counter()
        if now - self._shown < EVERY_SECONDS:
            return
        fields = self.fields
        fields.update({name: record[name] for name in ("epoch", "step", "steps", "loss", "learning_rate")})
        fields["samples_per_second"] = self._samples / (now - self._shown)
        fields["communication_share"] = self._waited / self._seconds if self._seconds else 0.0
        fields["eta_seconds"] = self._eta(record, now)
        self._samples, self._seconds, self._waited, self._shown = 0, 0.0, 0.0, now
        self._hand_out()

    def epoch(self, record: Fields) -> None:
        now = time.perf_counter()
        if record.get("loads"):
            self._take_loads(record["loads"])
        numbers = {name: value for name, value in record.items() if isinstance(value, (int, float))}
        self.fields.update({name: value for name, value in numbers.items() if name in OF_EPOCHS})
        if "steps" in self.fields:
            self.fields["step"] = self.fields["steps"]
        if record["seconds"] > 0 and "communication_seconds" in record:
            self.fields["communication_share"] = record["communication_seconds"] / record["seconds"]
        epochs = self.fields["epochs"]
        if epochs:
            done = record["epoch"]
            fresh = done - self.fields.setdefault("first_epoch", done) + 1
            self.fields["eta_seconds"] = (now - self._began) / fresh * (epochs - done)
        if now - self._shown >= EVERY_SECONDS:
            self._shown = now
            self._hand_out()

    def close(self, error: BaseException | None = None) -> None:
        self.fields["state"] = "finished" if error is None else "stopped"
        if error is not None:
            self.fields["error"] = " ".join(f"{type(error).__name__}: {error}".split())
        self.fields.pop("eta_seconds", None)
        self._hand_out()

    def _eta(self, record: Fields, now: float) -> float | None:
        if self.fields["epochs"] is None:
            return None
        left = (self.fields["epochs"] - record["epoch"] + 1) * record["steps"] - record["step"]
        return (now - self._began) / self._done * left

    def _take_loads(self, loads: list) -> None:
        self.fields["loads"] = loads
        self.fields["stragglers"] = stragglers([seconds for _, seconds in loads])

    def _hand_out(self) -> None:
        self.fields.update(self._totals, updated=time.time())
        for output in self._outputs:
            with suppress(OSError):  # a full disk is an alert, and no reason to stop a training
                output(self.fields)


def status_file(folder: Path) -> Callable[[Fields], None]:
    """Writes the fields to the run directory, for whoever looks."""
    return lambda fields: replace_text(folder / STATUS, json.dumps(fields) + "\n")


def replace_text(path: Path, text: str) -> None:
    """What a reader sees is the old text or the new one, never half. Not flushed to disk: it is new every second."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
