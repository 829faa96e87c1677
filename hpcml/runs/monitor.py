"""What `fit` reports to while it runs: rank 0 records every epoch and shows the progress."""

from __future__ import annotations

import json
from os import SEEK_END
from pathlib import Path
from typing import Protocol

from hpcml.runs.stragglers import stragglers


class Follower(Protocol):
    """Shows a run to a person or a program, on rank 0. `close` comes at its end, with the error that ended it."""

    def step(self, record: dict) -> None: ...

    def epoch(self, record: dict) -> None: ...

    def close(self, error: BaseException | None = None) -> None: ...


class Monitor:
    """Hands step and epoch records on to followers, and appends the epochs to ``metrics.jsonl``.

    A line is written at once and flushed, so a run that is killed keeps the epochs that it finished; one that goes on
    from before writes the epochs that it does again in place of what was there. Use as a context manager. On ranks
    other than 0 there is neither path nor follower, and nothing is done.
    """

    def __init__(self, path: Path | None, *followers: Follower | None) -> None:
        self.file = None if path is None else open(path, "a+", encoding="utf-8")  # noqa: SIM115
        self.followers = [follower for follower in followers if follower is not None]
        self._first = True

    def step(self, record: dict) -> None:
        for follower in self.followers:
            follower.step(record)

    def epoch(self, record: dict) -> None:
        if record.get("loads"):
            record = {**record, "stragglers": stragglers([seconds for _, seconds in record["loads"]])}
        if self.file is not None:
            if self._first:
                self._drop_from(record["epoch"])
            self._first = False
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        for follower in self.followers:
            follower.epoch(record)

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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        for follower in self.followers:
            follower.close(error)
        if self.file is not None:
            self.file.close()
