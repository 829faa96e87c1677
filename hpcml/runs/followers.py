"""Who follows a run, as asked for on the command line: the live status, metrics, alerts, a board. All on rank 0."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcml.runs.live import Fields
    from hpcml.runs.monitor import Follower


def followers(args: argparse.Namespace, path: Path, ranks: int) -> list[Follower]:
    """Those of the run in directory ``path``. Local, on rank 0.

    args: of ``hpcml train``. Raises OSError where a port is taken, ImportError without the library of a board.
    """
    from hpcml.runs import alerts, live, prometheus, rules

    senders = [alerts.to_log, alerts.to_file(path / "alerts.jsonl")]
    if args.alert_command:
        senders.append(alerts.to_command(args.alert_command))
    if args.alert_webhook:
        senders.append(alerts.to_webhook(args.alert_webhook))
    watched: list[rules.Rule] = [rules.NotFinite(), rules.Diverging(), rules.Slowing(), rules.Lagging()]
    watched += [rules.DiskFilling(path), rules.TimeRunningOut(rules.end_of_job())]
    watch = alerts.Alerts(str(path), watched, senders)
    outputs: list[Callable[[Fields], None]] = [live.status_file(path)]
    where = prometheus.target(args.metrics) if args.metrics else None
    if where and where.file:
        outputs.append(prometheus.text_file(Path(where.file), str(path)))
    standing = live.Live(ranks, None if args.exact else args.epochs, outputs)
    standing.tell(alerts=watch.counts)
    found: list[Follower] = [watch, standing]  # the watch first, so that the status tells of its alerts
    if where and not where.file:
        server = prometheus.Server(where, lambda: prometheus.exposition(dict(standing.fields), str(path)))
        standing.tell(metrics=f"http://{where.host}:{server.port}/metrics")
        found.append(Ending(server.close))
    if args.tensorboard:
        from hpcml.runs.tensorboard import Board

        found.append(Board(path / "tensorboard"))
    return found


class Ending:
    """Follows nothing; is called when the run is over."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close

    def step(self, record: dict) -> None: ...

    def epoch(self, record: dict) -> None: ...

    def close(self, error: BaseException | None = None) -> None:
        self._close()
