"""A run on a terminal, at one moment: text, from what its directory holds."""

from __future__ import annotations

import time

from hpcml.runs.record import Record

BARS = " ▁▂▃▄▅▆▇█"
MOST_RANKS = 32  # that have a line of their own


def frame(record: Record, width: int = 80) -> str:
    """The run's state, progress, loss, rate, share of communication, the ranks' loads and the last alerts."""
    status = record.status
    lines = [f"{record.state}, {record.config.get('ranks', '?')} ranks{_since(record)}  {record.path}"]
    if "epoch" in status:
        lines.append(_progress(status, width))
    values = [f"loss {status['loss']:.4g}"] if "loss" in status else []
    for name, said in (("accuracy", "accuracy"), ("validation_accuracy", "validation"), ("gap", "gap")):
        if name in status:
            values.append(f"{said} {status[name]:.4g}")
    if "samples_per_second" in status:
        values.append(f"{status['samples_per_second']:,.0f} samples/s")
    if values:
        lines.append("  ".join(values))
    losses = [metric["loss"] for metric in record.metrics if "loss" in metric][-(width - 10) :]
    if len(losses) > 1:
        lines.append(f"losses    {sparkline(losses)}")
    if "communication_share" in status:
        share = status["communication_share"]
        lines.append(f"waiting   {bar(share, 20)} {share:.0%} of the time of steps is communication")
    lines += _ranks(status, width)
    lines += [
        f"{time.strftime('%H:%M:%S', time.localtime(event['time']))}  {event['text']}" for event in record.alerts[-3:]
    ]
    if status.get("error"):
        lines.append(status["error"])
    return "\n".join(line[:width] for line in lines) + "\n"


def _since(record: Record) -> str:
    if record.state != "silent":
        return ""
    return f", for {duration(time.time() - record.status['updated'])}: was it killed?"


def _progress(status: dict, width: int) -> str:
    epochs = status.get("epochs")
    if not epochs:
        return f"iteration {status['epoch']}"
    steps = status.get("steps") or 1
    done = (status["epoch"] - 1 + status.get("step", steps) / steps) / epochs
    text = f"epoch {status['epoch']}/{epochs}"
    text += f"  step {status['step']}/{steps}" if "step" in status else ""
    left = f"  {duration(status['eta_seconds'])} left" if status.get("eta_seconds") is not None else ""
    return f"{text}  {bar(done, max(10, min(30, width - 45)))} {done:.0%}{left}"


def _ranks(status: dict, width: int) -> list[str]:
    loads, late = status.get("loads") or [], status.get("stragglers") or []
    if not loads:
        return []
    most = max(seconds for _, seconds in loads) or 1.0
    slowest = sorted(range(len(loads)), key=lambda rank: -loads[rank][1])[:MOST_RANKS]
    lines = [
        f"rank {rank:<4}{loads[rank][0][:16]:17}{bar(loads[rank][1] / most, 20)} {loads[rank][1] * 1e3:,.3g} ms a step"
        + ("  <- all wait for it" if rank in late else "")
        for rank in sorted(slowest)
    ]
    return lines + ([f"and {len(loads) - len(slowest)} ranks that compute less"] if len(loads) > len(slowest) else [])


def bar(share: float, width: int) -> str:
    """
    >>> bar(0.5, 4)
    '██░░'
    """
    full = round(min(max(share, 0.0), 1.0) * width)
    return "█" * full + "░" * (width - full)


def sparkline(values: list[float]) -> str:
    """
    >>> sparkline([3.0, 2.0, 1.0])
    '█▅▁'
    """
    finite = [value for value in values if value - value == 0]
    if not finite:
        return "?" * len(values)
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    return "".join(BARS[1 + round((v - low) / span * 7)] if v - v == 0 else "?" for v in values)


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
