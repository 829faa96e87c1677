"""Show a comparison: a table, a JSON file, a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hpcml.paper.comparison import Point
from hpcml.paper.simulation import Machine


def heading(collective: str, machine: Machine) -> str:
    """The machine in words and figures."""
    topology = machine.topology
    lines = [f"{collective} on {topology.describe()}, {machine.per_node} rank{'s' * (machine.per_node > 1)} a node"]
    for level, alpha, beta in zip(topology.levels, topology.alpha, topology.beta, strict=True):
        lines.append(f"  {level:<8}α {duration(alpha):>9}   β {1e-9 / beta:8.4g} GB/s")
    if machine.per_node > 1:
        inside = machine.inside
        lines.append(f"  {'inside':<8}α {duration(inside.alpha):>9}   β {1e-9 / inside.beta:8.4g} GB/s")
    fold = f"{1e-9 / machine.gamma:.4g} GB/s" if machine.gamma else "free"
    lines.append(f"  a further message of a round {duration(machine.overhead)}, folds {fold}")
    return "\n".join(lines)


def table(point: Point) -> str:
    """One line an algorithm: segments, rounds, MB through the busiest rank, time, its parts, ratio to the bound."""
    lines = [
        f"{point.ranks} ranks, {size(point.nbytes)}; no algorithm can take less than {duration(point.bound)}",
        f"{'algorithm':<20}{'segments':>9}{'rounds':>9}{'MB/rank':>10}{'time':>11}"
        f"{'latency':>9}{'bytes':>7}{'fold':>6}{'/ bound':>9}",
    ]
    for e in point.entries:
        line = f"{e.algorithm:<20}{e.segments:>9}{e.rounds:>9}{e.sent / 1e6:>10.4g}"
        if e.prediction is not None:
            whole = e.prediction.seconds or 1.0
            parts = [f"{part / whole:.0%}" for part in e.prediction[1:]]
            ratio = f"{e.seconds / point.bound:.2f}" if point.bound else "–"
            line += f"{duration(e.seconds):>11}{parts[0]:>9}{parts[1]:>7}{parts[2]:>6}{ratio:>9}"
        lines.append(f"{line}  {e.remark}".rstrip())
    return "\n".join(lines)


def series(points: Sequence[Point]) -> str:
    """One line a point, one column an algorithm: the time, the fastest marked."""
    names = [e.algorithm for e in sorted(points[0].entries, key=lambda e: e.algorithm)]
    width = max(12, *(len(name) + 2 for name in names))
    lines = [f"{'ranks':>8}{'bytes':>10}" + "".join(f"{name:>{width}}" for name in [*names, "bound"])]
    for point in points:
        entries = {e.algorithm: e for e in point.entries}
        fastest = point.entries[0].algorithm
        cells = [f"{duration(entries[n].seconds)}{'*' if n == fastest else ' '}" for n in names]
        line = "".join(f"{cell:>{width}}" for cell in [*cells, f"{duration(point.bound)} "])
        lines.append(f"{point.ranks:>8}{size(point.nbytes):>10}{line}")
    return "\n".join(lines)


def explanation(points: Sequence[Point]) -> str:
    """What the columns mean, and what is not modelled."""
    lines = [
        "latency: the share of time with no bytes; bytes, fold: what they add to it. MB/rank: through the busiest",
        "rank, one way. Rounds wait for the slowest rank; rounds of several segments overlap. Not modelled: noise,",
        "late ranks, copies in memory, adaptive routing. The bound is that of the ports, whatever lies behind them.",
    ]
    if any(e.remark == "sampled" for point in points for e in point.entries):
        lines.append(
            "sampled: of rounds that are not alike some were worked out, and those between taken to be like them."
        )
    return "\n".join(lines)


def write_json(collective: str, machine: Machine, points: Sequence[Point], path: str) -> None:
    """Everything, in seconds, bytes and seconds per byte."""
    topology = machine.topology
    record = {
        "collective": collective,
        "topology": topology.describe(),
        "levels": [
            {"level": level, "alpha": alpha, "beta": beta}
            for level, alpha, beta in zip(topology.levels, topology.alpha, topology.beta, strict=True)
        ],
        "overhead": machine.overhead,
        "inside": {"alpha": machine.inside.alpha, "beta": machine.inside.beta},
        "gamma": machine.gamma,
        "ranks_per_node": machine.per_node,
        "points": [
            {
                "ranks": point.ranks,
                "bytes": point.nbytes,
                "bound": point.bound,
                "algorithms": [
                    {
                        "algorithm": e.algorithm,
                        "segments": e.segments,
                        "rounds": e.rounds,
                        "sent": e.sent,
                        **(e.prediction._asdict() if e.prediction else {}),
                        "remark": e.remark,
                    }
                    for e in point.entries
                ],
            }
            for point in points
        ],
    }
    Path(path).write_text(json.dumps(record, indent=1) + "\n")


def plot(collective: str, machine: Machine, points: Sequence[Point], path: str) -> None:
    """Time over bytes or ranks, a line an algorithm; for a single point, a bar an algorithm and its parts."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    if len(points) == 1:
        _bars(axes, points[0])
        title = f"{points[0].ranks:,} ranks, {size(points[0].nbytes)}"
    else:
        title = _lines(axes, points)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.suptitle(f"{collective} on {machine.topology.describe()}: {title}")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _bars(axes, point: Point) -> None:
    entries = [e for e in reversed(point.entries) if e.prediction is not None]
    names = [e.algorithm for e in entries]
    left = [0.0] * len(entries)
    for part, color in (("latency", "#8da0cb"), ("bandwidth", "#66a61e"), ("fold", "#e6ab02")):
        widths = [getattr(e.prediction, part) for e in entries]
        axes.barh(names, widths, left=left, color=color, label={"bandwidth": "bytes"}.get(part, part), height=0.65)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    longest = max(left)
    for at, e in enumerate(entries):
        axes.text(e.seconds + longest * 0.01, at, duration(e.seconds), va="center", fontsize=9)
    axes.axvline(point.bound, color="black", linestyle="--", linewidth=1, label="lower bound")
    axes.set_xlim(0, longest * 1.14)
    axes.set_xlabel("seconds")
    axes.legend(loc="upper right", frameon=False)  # where the shortest bars are


def _lines(axes, points: Sequence[Point]) -> str:
    over_bytes = len({point.nbytes for point in points}) > 1
    xs = [point.nbytes if over_bytes else point.ranks for point in points]
    for at, name in enumerate(sorted(e.algorithm for e in points[0].entries)):
        times = [next(e.seconds for e in point.entries if e.algorithm == name) for point in points]
        axes.plot(xs, times, marker="osD^vP*X"[at % 8], markersize=4, linewidth=1.5, label=name)
    axes.plot(xs, [point.bound or float("nan") for point in points], "k--", linewidth=1, label="lower bound")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(xs, [size(x) if over_bytes else f"{x:,}" for x in xs], rotation=45, ha="right")
    axes.minorticks_off()
    axes.set_xlabel("bytes" if over_bytes else "ranks")
    axes.set_ylabel("predicted seconds")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    return f"{points[0].ranks:,} ranks" if over_bytes else size(points[0].nbytes)


def duration(seconds: float) -> str:
    """``1.23 ms``, with three figures."""
    if seconds == float("inf"):
        return "–"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale * 0.9995:
            return f"{seconds / scale:.3g} {unit}" if seconds < 999.5 * scale else f"{seconds / scale:.0f} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def size(nbytes: int) -> str:
    """``100 MB``, ``64 KiB``: in the units that make it a round number."""
    for unit, scale in (
        ("GiB", 1 << 30),
        ("GB", 10**9),
        ("MiB", 1 << 20),
        ("MB", 10**6),
        ("KiB", 1 << 10),
        ("kB", 10**3),
    ):
        if nbytes >= scale and nbytes % scale == 0:
            return f"{nbytes // scale} {unit}"
    return f"{nbytes} B"
