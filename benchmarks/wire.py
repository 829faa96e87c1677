"""What sending less is worth: the time of a step, and of a training to a given loss, for each kind of wire.

    mpiexec -n 4 python benchmarks/wire.py --where "4 hosts at 200 Mbit/s" > benchmarks/results/wire-<where>.txt

Where what counts as several hosts shares the cores of one, set OPENBLAS_NUM_THREADS=1.

First a step of an MLP of 784-1024-1024-10 in float32 whose gradients are there at once: packing, exchange and update.
The wires take turns, so that whatever else the machine does meets all of them; medians with the quartiles, of the
slowest rank. "update alone" exchanges nothing. MB are what a rank sends of gradients by the formulas of the algorithms
that send least: 2(p−1)/p·n for an all-reduce of n bytes, (p−1)/p·n for an all-to-all, (p−1)·n for an all-gather.

Then the same network is trained, on the test images of MNIST in HPCML_TEST_DATA, here training data, or on
scikit-learn's digits, with gradients handed over as they are computed: steps and seconds until the loss, a mean over 20
batches, is at most ``--loss``. Every wire begins with the same parameters and has the same batches and learning rate.
"""

from __future__ import annotations

import argparse
import os
from collections import deque
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import recorded
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml import optim
from hpcml.data import idx
from hpcml.models.threads import own_cores

WIRES = [
    None,
    "float16",
    "bfloat16",
    optim.Int8(),
    optim.PowerSGD(rank=4),
    optim.TopK(share=0.05),
    optim.TopK(share=0.01),
]
HIDDEN = 1024
WINDOW = 20  # batches over which a loss is a mean
COMM = MPI.COMM_WORLD


class Exchange(NamedTuple):
    """An optimizer, and the bytes of gradients that a rank sends in a step."""

    together: optim.Distributed
    nbytes: float


def parameters(inputs: int) -> dict[str, np.ndarray]:
    """At the start, as in He et al. 2015, "Delving deep into rectifiers"."""
    random = np.random.default_rng(0)
    made = {}
    for layer, (n, m) in enumerate([(inputs, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 10)]):
        made[f"w{layer}"] = (random.standard_normal((n, m)) * np.sqrt(2 / n)).astype(np.float32)
        made[f"b{layer}"] = np.zeros(m, np.float32)
    return made


def exchange(wire, inputs: int, rate: float, comm: MPI.Intracomm = COMM) -> Exchange:
    sent = 0.0
    plan, p = hc.plan, comm.size

    def counted(collective, x, **options):
        nonlocal sent
        sent += {"allreduce": 2 * (p - 1) / p, "alltoall": (p - 1) / p, "allgather": p - 1}[collective] * x.nbytes
        return plan(collective, x, **options)

    hc.plan = counted
    try:
        optimizer = optim.SGD(parameters(inputs), lr=rate, momentum=0.9)
        return Exchange(optim.Distributed(optimizer, comm, wire=wire, values=1), sent)
    finally:
        hc.plan = plan


def slowest(seconds: float) -> float:
    return COMM.allreduce(seconds, MPI.MAX)


def steps(turns: int) -> None:
    """Print the time of a step for each wire."""
    contestants = {repr(wire): exchange(wire, 784, 0.0) for wire in WIRES}
    contestants["update alone"] = exchange(None, 784, 0.0, MPI.COMM_SELF)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    random = np.random.default_rng(COMM.rank)
    grads = {name: random.standard_normal(a.shape, np.float32) for name, a in parameters(784).items()}
    for turn in range(turns + 2):
        for name, (together, _) in contestants.items():
            COMM.Barrier()
            start = perf_counter()
            together.step(grads)
            seconds = slowest(perf_counter() - start)
            if turn > 1:
                times[name].append(seconds)
    plain = np.median(times[repr(None)])
    say(f"\na step; median of {turns} turns [quartiles], ms")
    say(f"{'wire':20}{'MB sent':>10}{'ms':>10}{'quartiles':>20}{'None / it':>12}")
    for name, found in times.items():
        low, median, high = np.quantile(found, [0.25, 0.5, 0.75])
        sent = contestants[name].nbytes / 1e6
        say(f"{name:20}{sent:10.3f}{median * 1e3:10.1f}{low * 1e3:10.1f}{high * 1e3:10.1f}{plain / median:12.2f}")


def data() -> tuple[str, np.ndarray, np.ndarray]:
    """Name; images (n, pixels), float32 from −1 to 1; labels (n,)."""
    folder = Path(os.environ.get("HPCML_TEST_DATA", "."))
    images, labels = (folder / f"t10k-{name}-ubyte.gz" for name in ("images-idx3", "labels-idx1"))
    if images.exists():
        n = idx.read_header(str(images))[1][0]
        x = idx.read_rows(str(images), 0, n).reshape(n, -1).astype(np.float32) / 127.5 - 1
        return f"{n} images of MNIST", x, idx.read_rows(str(labels), 0, n).astype(int)
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return f"{len(x)} digits of scikit-learn", (x / 8 - 1).astype(np.float32), y


def backward(together: optim.Distributed, x: np.ndarray, y: np.ndarray) -> float:
    """Hand over the gradients of the mean cross entropy, the last layer's first; returns the loss."""
    params = together.params
    layers = len(params) // 2
    inputs = [x]
    for layer in range(layers):
        scores = inputs[-1] @ params[f"w{layer}"] + params[f"b{layer}"]
        inputs.append(np.maximum(scores, 0) if layer < layers - 1 else scores)
    scores -= scores.max(axis=1, keepdims=True)
    odds = np.exp(scores)
    odds /= odds.sum(axis=1, keepdims=True)
    rows = np.arange(len(x))
    loss = -float(np.log(odds[rows, y] + 1e-30).mean())
    odds[rows, y] -= 1
    error = odds / len(x)
    for layer in reversed(range(layers)):
        together.ready(f"b{layer}", error.sum(axis=0), weight=len(x))
        together.ready(f"w{layer}", inputs[layer].T @ error, weight=len(x))
        if layer:
            error = (error @ params[f"w{layer}"].T) * (inputs[layer] > 0)
    return loss


def train(wire, x: np.ndarray, y: np.ndarray, args: argparse.Namespace) -> tuple[int, float, float]:
    """Steps, seconds and the loss at the end."""
    together, _ = exchange(wire, x.shape[1], args.rate)
    recent: deque[float] = deque(maxlen=WINDOW)
    random = np.random.default_rng(1)
    COMM.Barrier()
    start = perf_counter()
    made = 0
    while made < args.steps:
        mine = np.array_split(random.choice(len(x), args.batch, replace=False), COMM.size)[COMM.rank]
        loss = backward(together, x[mine], y[mine])
        recent.append(float(together.step(values=[loss * len(mine)])[0]) / args.batch)
        made += 1
        if len(recent) == WINDOW and np.mean(recent) <= args.loss:
            break
    return made, slowest(perf_counter() - start), float(np.mean(recent))


def trainings(args: argparse.Namespace) -> None:
    """Print the way to the loss for each wire."""
    name, x, y = data()
    say(f"\n{name}, batches of {args.batch}, rate {args.rate}, momentum 0.9, to a loss of {args.loss}")
    say(f"{'wire':20}{'steps':>8}{'loss':>8}{'seconds':>10}{'ms a step':>12}{'None / it':>12}")
    plain = None
    for wire in WIRES:
        made, seconds, loss = train(wire, x, y, args)
        plain = plain or seconds
        reached = f"{plain / seconds:12.2f}" if loss <= args.loss else f"{'not reached':>12}"
        say(f"{wire!r:20}{made:8}{loss:8.3f}{seconds:10.2f}{seconds / made * 1e3:12.1f}{reached}")


def say(line: str) -> None:
    if COMM.rank == 0:
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=400, help="at most so many in a training")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--loss", type=float, default=0.2)
    parser.add_argument("--where", default="", help="what the ranks are joined by, for the first line")
    args = parser.parse_args()
    library = MPI.Get_library_version().partition(",")[0].splitlines()[0].strip()
    say(f"# {COMM.size} ranks, {args.where or 'this machine'}; {os.cpu_count()} cores; commit {recorded.commit()}")
    say(f"# {library}, NumPy {np.__version__}")
    with own_cores(COMM):
        steps(args.turns)
        trainings(args)


if __name__ == "__main__":
    main()
