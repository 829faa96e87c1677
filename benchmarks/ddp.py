"""A torch MLP trained by hpcml's DistributedOptimizer and by PyTorch's DistributedDataParallel on gloo.

    mpiexec -n 4 python benchmarks/ddp.py --label "4 hosts, 200 Mbit/s" > benchmarks/results/ddp-<where>.txt

One process a rank does both, in turn, on the same model, rows and optimizer (SGD with momentum), one thread of torch:
forward, backward and step, from a barrier on. Medians of the slowest rank, with the quartiles. "alone" is the same
without communication, "line" the gradients' 2(p−1)/p·n bytes at ``--line-rate`` bytes a second.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from mpi4py import MPI
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hpcml import optim  # noqa: E402
from hpcml.bench.gloo import Gloo  # noqa: E402
from hpcml.optim.pytorch import DistributedOptimizer  # noqa: E402

COMM = MPI.COMM_WORLD
WIRES = {
    "hpcml": None,
    "hpcml, bfloat16": "bfloat16",
    "hpcml, float16": "float16",
    "hpcml, int8": "Int8",
    "hpcml, PowerSGD(4)": "PowerSGD",
    "hpcml, top 1%": "TopK",
}


def wire(name: str | None) -> object:
    made = {"Int8": lambda: optim.Int8(), "PowerSGD": lambda: optim.PowerSGD(4), "TopK": lambda: optim.TopK(0.01)}
    return made[name]() if name in made else name


def network(width: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(784, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, 10),
    )


def sgd(net: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)


def stepper(net: torch.nn.Module, optimizer: torch.optim.Optimizer, rows: int) -> Callable[[], None]:
    random = np.random.default_rng(COMM.rank)
    X = torch.tensor(random.normal(size=(rows, 784)), dtype=torch.float32)
    y = torch.tensor(random.integers(0, 10, rows))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(X), y).backward()
        optimizer.step()

    return step


def steppers(width: int, rows: int) -> dict[str, Callable[[], None]]:
    alone = network(width)
    made = {"alone": stepper(alone, sgd(alone), rows)}
    net = DistributedDataParallel(network(width))
    made["DDP on gloo"] = stepper(net, sgd(net), rows)
    for name, kind in WIRES.items():
        net = network(width)
        made[name] = stepper(net, DistributedOptimizer(sgd(net), net, wire=wire(kind), overlap=True), rows)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--label", default="", help="what to call the network in the results")
    parser.add_argument("--width", type=int, default=1024, help="units of each hidden layer (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=64, help="of each rank in a step (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=15, help="(default: %(default)s)")
    parser.add_argument("--line-rate", type=float, help="bytes a second of a host's link")
    args = parser.parse_args()
    gloo = Gloo(COMM)
    made = steppers(args.width, args.rows)
    times: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(args.turns + 5):  # the first few find out what communication takes alone
        for name, step in made.items():
            COMM.Barrier()
            start = perf_counter()
            step()
            seconds = COMM.allreduce(perf_counter() - start, MPI.MAX)
            if turn >= 5:
                times[name].append(seconds)
    if COMM.rank == 0:
        numbers = sum(p.numel() for p in network(args.width).parameters())
        report(args, {name: np.array(found) for name, found in times.items()}, numbers)
    gloo.close()


def report(args: argparse.Namespace, times: dict[str, np.ndarray], numbers: int) -> None:
    p, library = COMM.size, " ".join(MPI.Get_library_version().split()[:3]).strip(",")
    print(
        f"{args.label}: {p} ranks, {library}, torch {torch.__version__}; {numbers:,} float32, {args.rows} rows a rank"
    )
    line = 2 * (p - 1) / p * 4 * numbers / args.line_rate if args.line_rate else None
    print(f"{'':22}{'ms':>9}{'quartiles':>20}{'samples/s':>12}{'/ DDP':>8}{'/ bound':>9}")
    compute, ddp = np.median(times["alone"]), times["DDP on gloo"]
    for name, seconds in times.items():
        low, median, high = 1e3 * np.percentile(seconds, [25, 50, 75])
        rate = p * args.rows / (median / 1e3)
        share = f"{median / 1e3 / max(compute, line):9.2f}" if line else ""
        faster = np.median(ddp / seconds)
        print(f"{name:22}{median:9.1f}{low:11.1f}{high:9.1f}{rate:12,.0f}{faster:8.2f}{share}")
    print("/ DDP: its time over this one's, median of pairs (above 1: faster than DDP).")
    if line:
        print(f"bound: the larger of computing alone and the line's {1e3 * line:.1f} ms for float32.")


if __name__ == "__main__":
    main()
