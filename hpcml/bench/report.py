"""Show measured times: a table, a JSON file with everything, a picture."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hpcml.bench.candidates import AUTO, INTO, NOTHING
from hpcml.bench.measure import Results, bus_factor
from hpcml.bench.rivals import GLOO, LOOPS, NATIVE, is_rival


def progress() -> Callable[[str], None]:
    """Says on a terminal what is being measured."""
    if not sys.stderr.isatty():
        return lambda text: None
    return lambda text: print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def table(results: Results) -> str:
    """One line a size and algorithm: bytes, median, spread, bus bandwidth, ratio to native (median of pairs).

    Where the rate of a link is known, also the ratio of the median to what the bytes take on it at least.
    """
    bounded = results.line_rate is not None
    lines = [
        _heading(results),
        f"{'bytes':>10}  {'algorithm':<44}{'median':>11}{'25%':>11}{'75%':>11}{'bus GB/s':>10}{'/ native':>10}"
        + "   / bound" * bounded,
    ]
    for nbytes in results.sizes():
        for name in results.names_at(nbytes):
            seconds = results.seconds[nbytes, name]
            low, median, high = np.percentile(seconds, [25, 50, 75])
            line = f"{nbytes:>10}  {name:<44}{_microseconds(median)}{_microseconds(low)}{_microseconds(high)}"
            if name != NOTHING:
                bus = bus_factor(results.collective, results.ranks) * nbytes / median / 1e9
                line += f"{bus:>10.2f}{ratio(results, nbytes, name):>10.2f}"
                bound = results.bound(nbytes)
                line += f"{median / bound:>10.2f}" if bound else ""
            lines.append(line)
    lines += [f"left out: {name}: {reason}" for name, reason in results.left_out.items()]
    lines += _best(results)
    lines += [
        "native: the raw mpi4py call. auto: the public function. nothing: an empty call. Others: started plans.",
        "Medians and quartiles of batch means, slowest rank, in microseconds. From 16 KiB on the input is written anew "
        "before each call, which is not counted.",
    ]
    if any(is_rival(name) for name in results.names() if name != NATIVE):
        lines.append(
            "native: ALGORITHM: the same call with the library told to use that algorithm. gloo: torch.distributed. "
            "mpi4py ring: loops in Python."
        )
    return "\n".join(lines)


def _best(results: Results) -> list[str]:
    """The fastest of our algorithms for each size, against native and against the fastest rival."""
    against_native, against_best = [], []
    for nbytes in results.sizes():
        ours = [name for name in results.names_at(nbytes) if not is_rival(name) and name not in (AUTO, INTO, NOTHING)]
        if ours:
            _, fastest = min((ratio(results, nbytes, name), name) for name in ours)
            against_native.append(f"{size_label(nbytes)} {fastest} {ratio(results, nbytes, fastest):.2f}")
        rival, share = best_rival(results, nbytes)
        against_best.append(f"{size_label(nbytes)} {share:.2f} ({rival})")
    lines = [f"best of ours / native: {', '.join(against_native)}"] if against_native else []
    if any(is_rival(name) for name in results.names() if name != NATIVE):
        lines.append(f"best of ours or auto / best rival: {', '.join(against_best)}")
    return lines


def best_rival(results: Results, nbytes: int) -> tuple[str, float]:
    """The fastest that is not ours, and the fastest of ours (auto among them) as a multiple of its median."""
    names = [name for name in results.names_at(nbytes) if name != NOTHING]
    rival = min((n for n in names if is_rival(n)), key=lambda n: results.median(nbytes, n))
    ours = min(results.median(nbytes, n) for n in names if not is_rival(n))
    return rival, ours / results.median(nbytes, rival)


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
        "line_rate": results.line_rate,
        "left_out": results.left_out,
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "hpcml": __version__,
            "mpi": results.library,
            "mpi4py": mpi4py.__version__,
            "numpy": np.__version__,
            "numba": numba.__version__,
            "python": platform.python_version(),
        },
    }
    rows = [
        json.dumps({"bytes": nbytes, "algorithm": name, "ratio": ratio(results, nbytes, name), "seconds": seconds})
        for (nbytes, name), seconds in results.seconds.items()
    ]
    head = json.dumps(record, indent=1).removesuffix("\n}")
    Path(path).write_text(f'{head},\n "seconds": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n")


def is_results(path: Path) -> bool:
    """Whether the file holds timings that `write_json` wrote; other measurements have files of their own kind."""
    record = json.loads(path.read_text())
    return isinstance(record, dict) and {"collective", "seconds", "versions", "ranks"} <= record.keys()


def read_json(path: str | Path) -> Results:
    """What `write_json` wrote."""
    record = json.loads(Path(path).read_text())
    results = Results(
        record["collective"],
        record["dtype"],
        record["op"],
        0,
        record["ranks"],
        record["nodes"],
        record["versions"]["mpi"],
        left_out=record.get("left_out", {}),
        line_rate=record.get("line_rate"),
    )
    for row in record["seconds"]:
        results.seconds[row["bytes"], row["algorithm"]] = row["seconds"]
    return results


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def plot(results: Results, path: str) -> None:
    """Time as a multiple of native's, and bus bandwidth (or, on a known line, time over its bound), over the size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (times, widths) = plt.subplots(1, 2, figsize=(14, 6), layout="constrained")
    factor = bus_factor(results.collective, results.ranks)
    forced = False
    for name in results.names():
        if name == NOTHING:
            continue
        sizes = [n for n in results.sizes() if (n, name) in results.seconds]
        style = _style(name)
        if name.startswith(f"{NATIVE}: "):
            style["label"] = None if forced else f"{NATIVE}, told which"
            forced = True
        times.plot(sizes, [ratio(results, n, name) for n in sizes], **style)
        if results.line_rate:
            widths.plot(sizes, [results.median(n, name) / (results.bound(n) or 1) for n in sizes], **style)
        else:
            widths.plot(sizes, [factor * n / results.median(n, name) / 1e9 for n in sizes], **style)
    right = "time / the line's bound (lower is better)" if results.line_rate else "bus bandwidth, GB/s"
    for axes, title in ((times, "time / native's time (lower is better)"), (widths, right)):
        axes.set_xscale("log", base=2)
        axes.set_xticks(results.sizes(), [size_label(n) for n in results.sizes()], rotation=45, ha="right")
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.set_title(title)
        axes.set_xlabel("bytes")
        axes.grid(alpha=0.3)
    for axes in (times, widths) if results.line_rate else (times,):
        low, high = axes.get_ylim()
        ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20) if low <= t <= high]
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    times.set_ylim(top=min(times.get_ylim()[1], 25))  # what is hopeless at small sizes would flatten all else
    times.legend(fontsize="small")
    figure.suptitle(_heading(results))
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _style(name: str) -> dict:
    """The library's default black, its forced algorithms thin and grey, other rivals dashed, ours with marks."""
    style: dict = {"label": name}
    if name == NATIVE:
        return style | {"color": "black", "linestyle": "--", "zorder": 3}
    if name.startswith(f"{NATIVE}: "):
        return style | {"color": "0.7", "linewidth": 0.8, "zorder": 1}
    if name in (GLOO, LOOPS):
        return style | {"linestyle": ":", "zorder": 2}
    return style | {"marker": "o", "markersize": 4, "linewidth": 2.5 if name == AUTO else 1.5, "zorder": 4}


def size_label(nbytes: int) -> str:
    for unit, size in (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)):
        if nbytes >= size:
            return f"{nbytes / size:.4g} {unit}B"
    return f"{nbytes} B"
