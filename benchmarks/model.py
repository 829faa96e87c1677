"""Hold the cost model against measurement: probe the links, predict every algorithm, time it, report the error.

    mpiexec -n 4 python benchmarks/model.py --label "4 hosts, 100 Mbit/s"

The figures of the model (latency α, β per byte, o of a further message, γ of a folded byte) come from probes in which
all ranks take part: messages to the right neighbour, messages that two ranks send to each other, bursts of short ones,
folds in memory. Nothing is fitted to the collectives themselves. Then started plans of every algorithm are timed one
call at a time from a barrier on, the slowest rank, the algorithms taking turns. Results, beside this file in results:
a table (.txt), every figure with machine and versions (.json), a picture (.png).

The model knows links of one kind here: run it with one rank a host, or on one host.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
from mpi4py import MPI

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hpcml import __version__  # noqa: E402
from hpcml import collectives as hc  # noqa: E402
from hpcml.collectives import choice, cost  # noqa: E402
from hpcml.collectives.algorithms import of  # noqa: E402
from hpcml.collectives.channel import channel_of  # noqa: E402
from hpcml.commands.numbers import byte_sizes  # noqa: E402
from hpcml.paper.report import duration, size  # noqa: E402

COMM = MPI.COMM_WORLD
PROBED = [8, 256, 4 << 10, 64 << 10, 256 << 10, 1 << 20]  # bytes of a message
BURST = 16
FOLDED = 1 << 18  # bytes: in cache, as segments are


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--collectives", default="allreduce,broadcast")
    parser.add_argument("--bytes", type=byte_sizes, default="1K,16K,256K,1M,4M,16M")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--label", default="", help="what to call the network in the results")
    parser.add_argument("--output", help="results without their suffix (default: results/model-LIBRARY-RANKS)")
    args = parser.parse_args()
    network, probes = probe()
    rows = []
    for collective in args.collectives.split(","):
        for nbytes in args.bytes:
            rows += measure(collective, nbytes, network, args.repeat)
    if COMM.rank == 0:
        library = channel_of(COMM).machine.library
        stem = args.output or f"{ROOT}/benchmarks/results/model-{library.partition('-')[0]}-{COMM.size}"
        text = report(rows, network, f"{COMM.size} ranks, {args.label or platform.node()}, {library}")
        print(text)
        Path(f"{stem}.txt").write_text(text + "\n")
        versions = {"hpcml": __version__, "mpi": library, "numpy": np.__version__, "python": platform.python_version()}
        record = {"label": args.label, "ranks": COMM.size, "versions": versions, "probes": probes, "rows": rows}
        Path(f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n")
        plot(rows, f"{COMM.size} ranks, {args.label or platform.node()}, {library}", f"{stem}.png")


def probe() -> tuple[cost.Network, dict]:
    """The network, and the seconds it was read from; the same on every rank."""
    right, left = (COMM.rank + 1) % COMM.size, (COMM.rank - 1) % COMM.size
    partner = COMM.rank ^ 1 if COMM.rank < COMM.size - COMM.size % 2 else MPI.PROC_NULL
    # Two ranks are each other's neighbours on both sides; what goes one way only is half a round trip.
    one_way = {n: seconds_of(round_trip(n)) / 2 for n in PROBED} if COMM.size == 2 else {}
    shifts = one_way or {n: seconds_of(exchange(n, right, left)) for n in PROBED}
    pairs = {n: seconds_of(exchange(n, partner, partner)) for n in PROBED}
    burst = seconds_of(exchange(PROBED[0], right, left, BURST))
    alpha, beta = fitted(shifts)
    _, mutual = fitted(pairs)
    a, b = np.ones(FOLDED // 4, np.float32), np.ones(FOLDED // 4, np.float32)
    fold = seconds_of(lambda: np.add(a, b, out=a))
    further = min(alpha, max(0.0, (burst - shifts[PROBED[0]]) / (BURST - 1)))
    network = cost.Network(cost.Level(alpha, beta, further, max(beta, mutual)), fold / FOLDED)
    return network, {"shifts": shifts, "pairs": pairs, "burst": burst, "fold": fold}


def exchange(nbytes: int, dest: int, source: int, messages: int = 1) -> Callable[[], None]:
    sent, received = np.zeros(nbytes, np.uint8), np.empty((messages, nbytes), np.uint8)

    def once() -> None:
        requests = [COMM.Irecv(row, source) for row in received]
        requests += [COMM.Isend(sent, dest) for _ in range(messages)]
        MPI.Request.Waitall(requests)

    return once


def round_trip(nbytes: int) -> Callable[[], None]:
    """There and back between two ranks."""
    buffer = np.zeros(nbytes, np.uint8)
    steps = (COMM.Send, COMM.Recv) if COMM.rank == 0 else (COMM.Recv, COMM.Send)

    def once() -> None:
        for step in steps:
            step(buffer, 1 - COMM.rank)

    return once


def seconds_of(once: Callable[[], object]) -> float:
    """Median over turns of the mean of a batch, of the slowest rank."""
    once()
    batch, taken = 1, 0.0
    while taken < 5e-3 and batch < 256:
        batch *= 2
        taken = COMM.allreduce(timed(once, batch) * batch, MPI.MAX)
    times = np.array([timed(once, batch) for _ in range(7)])
    return statistics.median(hc.allreduce(times, "max").tolist())


def timed(once: Callable[[], object], batch: int = 1) -> float:
    COMM.Barrier()
    start = perf_counter()
    for _ in range(batch):
        once()
    return (perf_counter() - start) / batch


def fitted(seconds: dict[int, float]) -> tuple[float, float]:
    """α and β of α + nβ: β from the longest message, α such that the relative errors of the others are least."""
    longest = max(seconds)
    shortest = seconds[min(seconds)]
    beta = (seconds[longest] - shortest) / longest
    others = [(n, t) for n, t in seconds.items() if n != longest]
    weights = np.array([1 / t for _, t in others])
    rests = np.array([t - n * beta for n, t in others])
    return float(max(shortest / 2, (rests * weights**2).sum() / (weights**2).sum())), beta


def measure(collective: str, nbytes: int, network: cost.Network, repeat: int) -> list[dict]:
    """Predicted and measured seconds of each algorithm."""
    machine = channel_of(COMM).machine
    x = np.ones(nbytes // 4, np.float32)
    plans = {row.name: hc.plan(collective, x, algorithm=row.name) for row in of(collective)}
    times: dict[str, list[float]] = {name: [] for name in plans}
    for turn in range(repeat + 1):
        for name, plan in plans.items():
            x[...] = 1
            taken = timed(lambda plan=plan: (plan.start(), plan.wait()))
            if turn:  # the first call warms up
                times[name].append(taken)
    found = []
    for row in of(collective):
        plans[row.name].close()
        segments = choice.segments(machine, collective, row.name, nbytes)
        slowest = hc.allreduce(np.array(times[row.name]), "max").tolist()
        predicted = cost.seconds(row, COMM.size, nbytes, network, segments)
        measured = statistics.median(slowest)
        names = {"collective": collective, "bytes": nbytes, "algorithm": row.name, "segments": segments}
        found.append({**names, "predicted": predicted, "measured": measured, "times": slowest})
    return found


def error(row: dict) -> float:
    return row["predicted"] / row["measured"] - 1


def groups(rows: list[dict]) -> dict[tuple[str, int], list[dict]]:
    """Rows of the same collective and size."""
    found: dict[tuple[str, int], list[dict]] = {}
    for row in rows:
        found.setdefault((row["collective"], row["bytes"]), []).append(row)
    return found


def report(rows: list[dict], network: cost.Network, heading: str) -> str:
    port = network.between
    rates = [1e-6 / second for second in (port.beta, port.beta_mutual or port.beta, network.gamma)]
    lines = [
        f"the cost model against measurement: {heading}",
        f"probed: α {duration(port.alpha)}, o {duration(port.further())}, β {rates[0]:.4g} MB/s "
        f"({rates[1]:.4g} MB/s where two ranks send to each other), γ {rates[2]:.4g} MB/s",
        "",
        f"{'collective':<12}{'bytes':>9}  {'algorithm':<20}{'segments':>9}"
        f"{'predicted':>12}{'measured':>12}{'error':>8}",
    ]
    for (collective, nbytes), alike in groups(rows).items():
        for row in sorted(alike, key=lambda row: row["measured"]):
            lines.append(
                f"{collective:<12}{size(nbytes):>9}  {row['algorithm']:<20}{row['segments']:>9}"
                f"{duration(row['predicted']):>12}{duration(row['measured']):>12}{error(row):>+8.0%}"
            )
    lines += ["", *summary(rows)]
    lines.append("error: predicted / measured − 1. choice: time of what the model takes to be fastest, over the least.")
    return "\n".join(lines)


def summary(rows: list[dict]) -> list[str]:
    lines = []
    for collective in dict.fromkeys(row["collective"] for row in rows):
        mine = [row for row in rows if row["collective"] == collective]
        worst = max(mine, key=lambda row: abs(error(row)))
        regrets = []
        for alike in groups(mine).values():
            chosen = min(alike, key=lambda row: row["predicted"])
            regrets.append(chosen["measured"] / min(row["measured"] for row in alike))
        lines.append(
            f"{collective}: error {statistics.median(abs(error(row)) for row in mine):.0%} in the median, "
            f"{error(worst):+.0%} at worst ({worst['algorithm']}, {size(worst['bytes'])}); "
            f"choice {statistics.geometric_mean(regrets):.2f} on average, {max(regrets):.2f} at worst"
        )
    return lines


def plot(rows: list[dict], heading: str, path: str) -> None:
    """Predicted over measured time, a panel for each collective."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    collectives = list(dict.fromkeys(row["collective"] for row in rows))
    figure, panels = plt.subplots(1, len(collectives), figsize=(5.6 * len(collectives), 5.4), layout="constrained")
    for axes, collective in zip(np.atleast_1d(panels), collectives, strict=True):
        mine = [row for row in rows if row["collective"] == collective]
        seconds = [row[which] for row in mine for which in ("measured", "predicted")]
        ends = np.array([min(seconds) / 1.5, max(seconds) * 1.5])
        axes.fill_between(ends, ends / 1.25, ends * 1.25, color="#e4e7eb", label="within 25 %", zorder=0)
        axes.plot(ends, ends, color="#52606d", lw=1, zorder=1)
        for at, name in enumerate(dict.fromkeys(row["algorithm"] for row in mine)):
            points = [(row["measured"], row["predicted"]) for row in mine if row["algorithm"] == name]
            axes.plot(*zip(*points, strict=True), "osD^vP*X"[at % 8], ms=6, label=name, alpha=0.85)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, title=collective, xlabel="measured, s")
        axes.set_ylabel("predicted, s")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"the cost model against measurement: {heading}", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
