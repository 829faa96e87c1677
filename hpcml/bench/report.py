"""Show measured times: a table, a JSON file with everything, a picture."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hpcml.bench.measure import AUTO, NATIVE, NOTHING, Results, bus_factor


def progress() -> Callable[[str], None]:
    """Says on a terminal what is being measured."""
    if not sys.stderr.isatty():
        return lambda text: None
    return lambda text: print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def table(results: Results) -> str:
    """One line a size and algorithm: bytes, median, spread, bus bandwidth, ratio to native (median of pairs)."""
    lines = [
        _heading(results),
        f"{'bytes':>10}  {'algorithm':<20}{'median':>11}{'25%':>11}{'75%':>11}{'bus GB/s':>10}{'/ native':>10}",
    ]
    for nbytes in results.sizes():
        for name in results.names():
            seconds = results.seconds[nbytes, name]
            low, median, high = np.percentile(seconds, [25, 50, 75])
            bus = bus_factor(results.collective, results.ranks) * nbytes / median / 1e9
            lines.append(
                f"{nbytes:>10}  {name:<20}{_microseconds(median)}{_microseconds(low)}{_microseconds(high)}"
                + (f"{bus:>10.2f}{ratio(results, nbytes, name):>10.2f}" if name != NOTHING else "")
            )
    lines.append(_best(results))
    lines.append(
        "native: the raw mpi4py call. auto: the public function. nothing: an empty call. Others: started plans."
    )
    lines.append("Medians and quartiles of batch means, slowest rank, in microseconds.")
    return "\n".join(lines)


def _best(results: Results) -> str:
    """The fastest of our algorithms for each size."""
    ours = [name for name in results.names() if name not in (NATIVE, AUTO, NOTHING)]
    parts = []
    for nbytes in results.sizes():
        _, fastest = min((ratio(results, nbytes, name), name) for name in ours)
        parts.append(f"{_label(nbytes)} {fastest} {ratio(results, nbytes, fastest):.2f}")
    return f"best of ours / native: {', '.join(parts)}"


def ratio(results: Results, nbytes: int, name: str) -> float:
    """Median over the timings of time by native's time taken in the same turn."""
    mine, native = (np.array(results.seconds[nbytes, n]) for n in (name, NATIVE))
    return float(np.median(mine / native))


def _heading(results: Results) -> str:
    where = f"{results.ranks} ranks on {results.nodes} node{'s' * (results.nodes != 1)}"
    return f"{results.collective}, {results.dtype}, {where}, {results.library.partition(',')[0]}"


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:>11.2f}"


def write_json(results: Results, path: str) -> None:
    """Every timing, with what it was taken on."""
    import mpi4py
    import numba

    from hpcml import __version__

    record = {
        "collective": results.collective,
        "dtype": results.dtype,
        "op": results.op,
        "ranks": results.ranks,
        "nodes": results.nodes,
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "hpcml": __version__,
            "mpi": results.library,
            "mpi4py": mpi4py.__version__,
            "numpy": np.__version__,
            "numba": numba.__version__,
            "python": platform.python_version(),
        },
        "seconds": [
            {"bytes": nbytes, "algorithm": name, "ratio": ratio(results, nbytes, name), "seconds": seconds}
            for (nbytes, name), seconds in results.seconds.items()
        ],
    }
    Path(path).write_text(json.dumps(record, indent=1) + "\n")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def plot(results: Results, path: str) -> None:
    """Time as a multiple of native's, and bus bandwidth, over the size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (times, widths) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    sizes = results.sizes()
    for name in results.names():
        if name == NOTHING:
            continue
        style = {"color": "black", "linestyle": "--"} if name == NATIVE else {"marker": "o", "markersize": 4}
        times.plot(sizes, [ratio(results, n, name) for n in sizes], label=name, **style)
        factor = bus_factor(results.collective, results.ranks)
        widths.plot(sizes, [factor * n / results.median(n, name) / 1e9 for n in sizes], label=name, **style)
    for axes, title in ((times, "time / native's time (lower is better)"), (widths, "bus bandwidth, GB/s")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [_label(n) for n in sizes], rotation=45, ha="right")
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.set_title(title)
        axes.set_xlabel("bytes")
        axes.grid(alpha=0.3)
    ticks = [
        t for t in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20) if times.get_ylim()[0] <= t <= times.get_ylim()[1]
    ]
    times.set_yticks(ticks, [f"{t:g}" for t in ticks])
    times.legend()
    figure.suptitle(_heading(results))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _label(nbytes: int) -> str:
    for unit, size in (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)):
        if nbytes >= size:
            return f"{nbytes / size:g} {unit}B"
    return f"{nbytes} B"
