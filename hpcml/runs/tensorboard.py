"""A run's figures as TensorBoard reads them."""

from __future__ import annotations

import time
from pathlib import Path

EVERY_SECONDS = 1.0  # a loss of a step is written no more often


class Board:
    """Follows a run on rank 0. Raises ImportError without tensorboardX, which the extra ``tensorboard`` brings."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ImportError("--tensorboard needs tensorboardX: pip install 'hpcml[tensorboard]'") from None

        self._writer = SummaryWriter(str(folder))
        self._written = 0.0

    def step(self, record: dict) -> None:
        now = time.perf_counter()
        if now - self._written < EVERY_SECONDS:
            return
        self._written = now
        at = (record["epoch"] - 1) * record["steps"] + record["step"]
        for name in ("loss", "learning_rate"):
            self._writer.add_scalar(f"step/{name}", record[name], at)

    def epoch(self, record: dict) -> None:
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != "epoch":
                self._writer.add_scalar(f"epoch/{name}", value, record["epoch"])
        for rank, (_, seconds) in enumerate(record.get("loads") or []):
            self._writer.add_scalar(f"rank/{rank}/compute_seconds", seconds, record["epoch"])
        self._writer.flush()

    def close(self, error: BaseException | None = None) -> None:
        self._writer.close()
