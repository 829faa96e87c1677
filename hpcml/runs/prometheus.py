"""A run's figures for Prometheus: its text exposition format, over HTTP or in a file for the node exporter.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from hpcml.runs.live import Fields, replace_text

LOOPBACK = "127.0.0.1"

#: Field, kind, help. The metric is called hpcml_<field>.
METRICS = (
    ("epoch", "gauge", "Epoch under way, from 1."),
    ("step", "gauge", "Step of the epoch, from 1."),
    ("steps", "gauge", "Steps of an epoch."),
    ("steps_total", "counter", "Steps made by this process."),
    ("loss", "gauge", "Loss of the last step or epoch."),
    ("accuracy", "gauge", "Accuracy over the training rows, last epoch."),
    ("validation_loss", "gauge", "Loss over the validation rows, last epoch."),
    ("validation_accuracy", "gauge", "Accuracy over the validation rows, last epoch."),
    ("learning_rate", "gauge", "Learning rate of the last step."),
    ("samples_per_second", "gauge", "Samples trained on in a second, over all ranks."),
    ("communication_share", "gauge", "Share of the time of steps that is waiting for communication."),
    ("compute_seconds_total", "counter", "Seconds of computing in steps, on rank 0."),
    ("communication_seconds_total", "counter", "Seconds of waiting for communication in steps, on rank 0."),
    ("eta_seconds", "gauge", "Seconds to the end, estimated."),
    ("ranks", "gauge", "MPI ranks."),
    ("started", "gauge", "When the process began to train, seconds since 1970."),
    ("updated", "gauge", "When these figures were taken, seconds since 1970."),
)


class Target(NamedTuple):
    """Where figures go: a file, or an address to listen on."""

    file: str | None
    host: str = LOOPBACK
    port: int = 0


def target(text: str) -> Target:
    """``9300``, ``HOST:9300`` or ``FILE.prom``. A port alone is one of the loopback interface. Raises ValueError."""
    if text.endswith(".prom"):
        return Target(text)
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise ValueError(f"found {text!r}, expected PORT, HOST:PORT or FILE.prom")
    return Target(None, host.strip("[]") or LOOPBACK, int(port))


def exposition(fields: Fields, run: str) -> str:
    """The figures of a run, whose name is a label of each."""
    label = f'run="{_escaped(run)}"'
    lines = []
    for name, kind, said in METRICS:
        value = fields.get(name)
        if value is not None:
            lines += [
                f"# HELP hpcml_{name} {said}",
                f"# TYPE hpcml_{name} {kind}",
                f"hpcml_{name}{{{label}}} {_number(value)}",
            ]
    if fields.get("loads"):
        lines += ["# HELP hpcml_rank_compute_seconds Seconds that a rank computes in a step."]
        lines += ["# TYPE hpcml_rank_compute_seconds gauge"]
        for rank, (host, seconds) in enumerate(fields["loads"]):
            lines.append(f'hpcml_rank_compute_seconds{{{label},rank="{rank}",host="{_escaped(host)}"}} {seconds!r}')
    if fields.get("alerts"):
        lines += ["# HELP hpcml_alerts_total Alerts of this process.", "# TYPE hpcml_alerts_total counter"]
        lines += [
            f'hpcml_alerts_total{{{label},kind="{kind}"}} {count}' for kind, count in sorted(fields["alerts"].items())
        ]
    lines += ["# HELP hpcml_running Whether the run goes on.", "# TYPE hpcml_running gauge"]
    lines.append(f"hpcml_running{{{label}}} {int(fields['state'] == 'running')}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    if value != value:
        return "NaN"
    return {float("inf"): "+Inf", float("-inf"): "-Inf"}.get(value, repr(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def text_file(path: Path, run: str) -> Callable[[Fields], None]:
    """Writes the figures to a file that the node exporter's textfile collector reads."""
    return lambda fields: replace_text(path, exposition(fields, run))


class Server:
    """Serves ``/metrics`` on a thread of its own. Raises OSError where the port is taken."""

    def __init__(self, where: Target, current: Callable[[], str]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.path.split("?")[0] in ("/metrics", "/")
                body = current().encode() if known else b"the figures are at /metrics\n"
                self.send_response(200 if known else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """No line in the job's log for each time that it is asked."""

        self._http = ThreadingHTTPServer((where.host, where.port), Handler)
        self._http.daemon_threads = True
        self.port: int = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, name="hpcml metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
