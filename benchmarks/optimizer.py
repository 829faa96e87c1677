"""Time of one optimizer step, beside torch.optim's fused and foreach implementations and a plain copy.

    python benchmarks/optimizer.py [--parameters 10000000] > benchmarks/results/optimizer.txt

One process, one array of float32, on 1 thread and, for torch, on all; the contestants take turns, so that whatever
else the machine does meets all of them. Medians, with the quartiles; bytes are what each rule must at least read and
write. hpcml's kernels use one thread: a rank owns one core.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter

import numba
import numpy as np
import torch

from hpcml import optim

# (rule, options, arrays of the parameters' size that a step reads and writes)
RULES = [
    ("SGD", {"lr": 0.1}, 3),
    ("SGD", {"lr": 0.1, "momentum": 0.9}, 5),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, 5),
    ("Adam", {}, 7),
    ("AdamW", {}, 7),
    ("Adam", {"amsgrad": True}, 9),
]


def steppers(name: str, options: dict, parameters: int) -> dict[str, Callable[[], object]]:
    random = np.random.default_rng(0)
    start, gradient = (random.random(parameters, np.float32) for _ in range(2))
    ours = getattr(optim, name)([start.copy()], **options)
    made: dict[str, Callable[[], object]] = {"hpcml": lambda: ours.step([gradient])}
    for kind in ("fused", "foreach"):
        tensor = torch.tensor(start)
        tensor.grad = torch.tensor(gradient)
        made[f"torch {kind}"] = getattr(torch.optim, name)([tensor], **options, **{kind: True}).step
    source, target = start.copy(), start.copy()
    made["copy"] = lambda: np.copyto(target, source)
    return made


def alternating(contestants: dict[str, Callable[[], object]], turns: int) -> dict[str, np.ndarray]:
    """Seconds of each call, after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(turns + 1):
        for name, call in contestants.items():
            start = perf_counter()
            call()
            if turn:
                times[name].append(perf_counter() - start)
    return {name: np.array(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--turns", type=int, default=21)
    args = parser.parse_args()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"# {args.parameters:,} float32 parameters, median of {args.turns} alternating turns [quartiles], ms")
    print(
        f"# {processor()}, {os.cpu_count()} cores; Python {sys.version.split()[0]}, NumPy {np.__version__}, "
        f"Numba {numba.__version__}, torch {torch.__version__}; commit {commit}"
    )
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        print(f"\ntorch on {threads} thread{'s' * (threads > 1)}, hpcml on 1")
        print(f"{'rule':62}{'':14}{'ms':>8}{'quartiles':>17}{'GB/s':>8}{'hpcml / it':>12}")
        for name, options, arrays in RULES:
            times = alternating(steppers(name, options, args.parameters), args.turns)
            own = np.median(times["hpcml"])
            title = f"{name}({', '.join(f'{k}={v}' for k, v in options.items())})"
            for who, found in times.items():
                low, median, high = np.quantile(found, [0.25, 0.5, 0.75])
                rate = (2 if who == "copy" else arrays) * 4 * args.parameters / median / 1e9
                print(
                    f"{title:62}{who:14}{median * 1e3:8.2f}{low * 1e3:9.2f}{high * 1e3:8.2f}{rate:8.1f}"
                    f"{own / median:12.2f}"
                )
                title = ""


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
