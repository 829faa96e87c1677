"""Time of one optimizer step, beside torch.optim's fused and foreach implementations, a compiled triad and a copy.

    python benchmarks/optimizer.py [--parameters 30000000] > benchmarks/results/optimizer.txt

One process, one array, on 1 thread and, for torch, on all; the contestants take turns, so that whatever else the
machine does meets all of them. Medians, with the quartiles. hpcml's kernels use one thread: a rank owns one core.
torch is told to ask for large pages, as NumPy does; without them its steps take longer.

Bytes are what each rule must at least read and write: Adam on float32 reads θ, g, m and v and writes θ, m and v, 28 for
each parameter. The triad a[i] = b[i] + s·c[i] on float32 arrays of the same length counts 12, as in STREAM, though the
processor also reads a before it writes there; the rules write only what they have read, and so can pass its bandwidth.
The triad in place, a[i] = a[i] + s·b[i], counts 12, too, and moves no more.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

import ml_dtypes
import numba
import numpy as np
import torch

from hpcml import optim

FLOAT32, FLOAT16, BFLOAT16 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
NBYTES = {"triad": 12, "triad in place": 12, "copy": 8}  # for each number


class Row(NamedTuple):
    """A rule with its options; ``nbytes`` that a step reads and writes for each parameter; the implementations of
    torch that have it; and the data types of parameters and gradients. With 16-bit parameters a step writes those, 2
    bytes, besides the float32 weights."""

    rule: str
    options: dict
    nbytes: int
    rivals: tuple[str, ...] = ("fused", "foreach")
    parameters: np.dtype = FLOAT32
    gradients: np.dtype = FLOAT32

    def __str__(self) -> str:
        types = "" if self.gradients == FLOAT32 else f" {self.parameters}, gradients {self.gradients}"
        return f"{self.rule}({', '.join(f'{k}={v}' for k, v in self.options.items())}){types}"


ROWS = [
    Row("SGD", {"lr": 0.1}, 12),
    Row("SGD", {"lr": 0.1, "momentum": 0.9}, 20),
    Row("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, 20),
    Row("Adam", {}, 28),
    Row("AdamW", {}, 28),
    Row("Adam", {"amsgrad": True}, 36),
    Row("Adagrad", {}, 20),
    Row("RMSprop", {}, 20, ("foreach",)),
    Row("RMSprop", {"momentum": 0.9, "centered": True}, 36, ("foreach",)),
    Row("LARS", {"lr": 0.1}, 28, ()),
    Row("LAMB", {}, 40, ()),
    Row("SGD", {"lr": 0.1, "momentum": 0.9}, 18, (), FLOAT32, BFLOAT16),
    Row("AdamW", {}, 26, (), FLOAT32, FLOAT16),
    Row("AdamW", {}, 26, (), FLOAT32, BFLOAT16),
    Row("AdamW", {}, 28, (), FLOAT16, FLOAT16),
    Row("AdamW", {}, 28, (), BFLOAT16, BFLOAT16),
]


@numba.njit
def triad(target, left, right, factor):
    for i in range(target.size):
        target[i] = left[i] + factor * right[i]


@numba.njit
def triad_in_place(target, other, factor):
    for i in range(target.size):
        target[i] += factor * other[i]


def steppers(row: Row, parameters: int) -> dict[str, Callable[[], object]]:
    random = np.random.default_rng(0)
    start, gradient = (random.random(parameters, np.float32) for _ in range(2))
    short = gradient.astype(row.gradients)
    ours = getattr(optim, row.rule)([start.astype(row.parameters)], **row.options)
    made: dict[str, Callable[[], object]] = {"hpcml": lambda: ours.step([short])}
    for kind in row.rivals:
        tensor = torch.tensor(start)
        tensor.grad = torch.tensor(gradient)
        made[f"torch {kind}"] = getattr(torch.optim, row.rule)([tensor], **row.options, **{kind: True}).step
    target = start.copy()
    made["triad"] = lambda: triad(target, start, gradient, np.float32(0.5))
    made["triad in place"] = lambda: triad_in_place(target, gradient, np.float32(1e-6))
    made["copy"] = lambda: np.copyto(target, start)
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
    parser.add_argument("--parameters", type=int, default=30_000_000)
    parser.add_argument("--turns", type=int, default=21)
    args = parser.parse_args()
    os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # read by torch when it first allocates
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"# {args.parameters:,} parameters, median of {args.turns} alternating turns [quartiles], ms")
    print(
        f"# {processor()}, {os.cpu_count()} cores; Python {sys.version.split()[0]}, NumPy {np.__version__}, "
        f"Numba {numba.__version__}, torch {torch.__version__}; commit {commit}"
    )
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        print(f"\ntorch on {threads} thread{'s' * (threads > 1)}, hpcml on 1")
        print(f"{'rule':62}{'':16}{'ms':>8}{'quartiles':>17}{'GB/s':>8}{'of triad':>10}{'hpcml / it':>12}")
        for row in ROWS:
            if threads > 1 and not row.rivals:
                continue  # nothing here has threads
            times = alternating(steppers(row, args.parameters), args.turns)
            nbytes = {who: NBYTES.get(who, row.nbytes) for who in times}
            rates = {who: nbytes[who] * args.parameters / np.median(found) / 1e9 for who, found in times.items()}
            title = str(row)
            for who, found in times.items():
                low, median, high = np.quantile(found, [0.25, 0.5, 0.75])
                print(
                    f"{title:62}{who:16}{median * 1e3:8.2f}{low * 1e3:9.2f}{high * 1e3:8.2f}{rates[who]:8.1f}"
                    f"{rates[who] / rates['triad']:10.0%}{np.median(times['hpcml']) / median:12.2f}",
                    flush=True,
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
