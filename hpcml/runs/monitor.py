"""What `fit` reports to while it runs: rank 0 records every epoch and shows the progress."""

from __future__ import annotations

import json
from os import SEEK_END
from pathlib import Path
from typing import Protocol


class Display(Protocol):
    """Shows progress to a person; see `hpcml.runs.progress`."""

    def step(self, record: dict) -> None: ...

    def epoch(self, record: dict) -> None: ...

    def close(self) -> None: ...


class Monitor:
    """Hands step and epoch records on to a display, and appends the epochs to ``metrics.jsonl``.

    A line is written at once and flushed, so a run that is killed keeps the epochs that it finished; one that goes on
    from before writes the epochs that it does again in place of what was there. Use as a context manager. On ranks
    other than 0 there is neither path nor display, and nothing is done.
    """

    def __init__(self, path: Path | None, display: Display | None) -> None:
        self.file = None if path is None else open(path, "a+", encoding="utf-8")  # noqa: SIM115
        self.display = display
        self._first = True

    def step(self, record: dict) -> None:
        if self.display is not None:
            self.display.step(record)

    def epoch(self, record: dict) -> None:
        if self.file is not None:
            if self._first:
                self._drop_from(record["epoch"])
            self._first = False
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        if self.display is not None:
            self.display.epoch(record)

    def _drop_from(self, epoch: int) -> None:
        """Forget what is there of this epoch and later ones, and a line that was cut short."""
        assert self.file is not None
        self.file.seek(0)
        while line := self.file.readline():
            if not line.endswith("\n") or json.loads(line)["epoch"] >= epoch:
                self.file.truncate(self.file.tell() - len(line.encode()))
                self.file.seek(0, SEEK_END)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        if self.display is not None:
            self.display.close()
        if self.file is not None:
            self.file.close()
