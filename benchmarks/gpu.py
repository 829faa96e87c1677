"""Time collectives, Adam and the perceptron on GPUs; write benchmarks/results/gpu-<GPU>.txt.

    make bench-gpu                                   # or: python benchmarks/gpu.py --ranks 2 4 --mebibytes 1 256

All-reduce of float32, by every transport that can be taken, in one run, taking turns; beside them what a user would do
otherwise: copies to unpinned host memory and MPI's own all-reduce, as an MPI library that takes GPU memory does it, and
mpi4py on CuPy's copies through pinned memory, one after the other. Bus bandwidth is 2(p−1)/p·n over the time. The bound
of p ranks on one GPU: p inputs read and p outputs written, 2·p·n bytes, at the bandwidth of a copy on the device, which
is measured in the same run (bytes read and written).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

INSIDE = "--one-rank"
TURNS = 15


def main() -> None:
    if sys.argv[1:2] == [INSIDE]:
        return collectives([float(n) for n in sys.argv[2:]])
    import recorded

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--mebibytes", type=float, nargs="+", default=[0.0625, 1, 16, 256])
    parser.add_argument("--output", help="a file (default: benchmarks/results/gpu-<GPU>.txt)")
    args = parser.parse_args()
    lines = [machine(), *single()]
    for ranks in args.ranks:
        mpiexec = Path(sys.executable).with_name("mpiexec")
        command = [str(mpiexec), "-n", str(ranks), sys.executable, __file__, INSIDE, *map(str, args.mebibytes)]
        ran = subprocess.run(command, env=recorded.environment(), stdout=subprocess.PIPE, text=True)
        lines.append(ran.stdout if not ran.returncode else f"{ranks} ranks: failed with status {ran.returncode}\n")
    text = f"commit {recorded.commit()}\n" + "\n".join(lines)
    print(text)
    name = machine().partition(",")[0].lower().replace(" ", "-")
    Path(args.output or recorded.RESULTS / f"gpu-{name}.txt").write_text(text)


def machine() -> str:
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(0)
    driver, version = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    return f"{properties['name'].decode()}, driver {driver}, CUDA {version}, CuPy {cupy.__version__}"


def timed(run, warm: int = 3, turns: int = TURNS) -> float:
    """Median seconds of one run, by events on the current stream."""
    import cupy

    for _ in range(warm):
        run()
    seconds = []
    for _ in range(turns):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record()
        run()
        end.record()
        end.synchronize()
        seconds.append(cupy.cuda.get_elapsed_time(begin, end) / 1e3)
    return statistics.median(seconds)


def copy_bandwidth(nbytes: int = 1 << 30) -> float:
    """Bytes a second, read and written, of a copy on the device."""
    import cupy

    source = cupy.random.random(nbytes // 8)
    target = cupy.empty_like(source)
    return 2 * nbytes / timed(lambda: cupy.copyto(target, source))


def single() -> list[str]:
    """What one process measures: the copy, Adam, the perceptron."""
    copy = copy_bandwidth()
    return [f"device copy: {copy / 1e9:.0f} GB/s (bytes read and written)", adam(copy), perceptron()]


def adam(copy: float) -> str:
    """One fused step reads theta, gradient and two moments, and writes three of them: 7 numbers a parameter."""
    import cupy

    from hpcml import optim

    lines = []
    for sizes in ([100_000_000], [1 << 16] * 500):
        params = [cupy.random.random(n, dtype="f4") for n in sizes]
        grads = [cupy.random.random(n, dtype="f4") for n in sizes]
        opt = optim.Adam(params, lr=1e-3)
        seconds = timed(lambda opt=opt, grads=grads: opt.step(grads))
        rate = 7 * 4 * sum(sizes) / seconds
        said = f"Adam, {len(sizes)} arrays, {sum(sizes) / 1e6:.0f} M float32"
        lines.append(f"{said}: {seconds * 1e3:.3f} ms, {rate / 1e9:.0f} GB/s, {rate / copy:.0%} of the copy")
    return "\n".join(lines)


def perceptron(rows: int = 60_000, inputs: int = 784, hidden: tuple[int, ...] = (512, 256), batch: int = 512) -> str:
    """Images a second of training, on data of MNIST's shape; PyTorch's eager loop does the same steps."""
    from hpcml.models import MLPClassifier

    random = np.random.default_rng(0)
    X = random.random((rows, inputs), dtype=np.float32)
    y = random.integers(0, 10, rows)
    model = MLPClassifier(hidden, batch_size=batch, epochs=3, device="cuda").fit(X, y)
    lines = [f"perceptron {inputs}-{'-'.join(map(str, hidden))}-10, batches of {batch}:"]
    lines.append(f"  hpcml    {model.history_[-1]['samples_per_second']:,.0f} images/s")
    try:
        lines.append(f"  PyTorch  {eager(X, y, hidden, batch):,.0f} images/s (eager)")
    except ImportError:
        lines.append("  PyTorch  not installed")
    return "\n".join(lines)


def eager(X: np.ndarray, y: np.ndarray, hidden: tuple[int, ...], batch: int, epochs: int = 3) -> float:
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    for n, m in zip((X.shape[1], *hidden), (*hidden, 10), strict=True):
        layers += [nn.Linear(n, m), nn.ReLU()]
    net = nn.Sequential(*layers[:-1]).cuda()
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0)
    loss = nn.CrossEntropyLoss()
    data, labels = torch.from_numpy(X).cuda(), torch.from_numpy(y).cuda()
    rate = 0.0
    for _ in range(epochs):
        order = torch.randperm(len(X), device="cuda")
        torch.cuda.synchronize()
        began = time.perf_counter()
        total = torch.zeros((), device="cuda", dtype=torch.float64)
        for first in range(0, len(X), batch):
            rows = order[first : first + batch]
            scores = net(data[rows])
            found = loss(scores, labels[rows])
            opt.zero_grad(set_to_none=True)
            found.backward()
            opt.step()
            total += found.detach()
            total.item()  # hpcml knows the loss of each step, too
        torch.cuda.synchronize()
        rate = len(X) / (time.perf_counter() - began)
    return rate


def collectives(mebibytes: list[float]) -> None:
    """All-reduce on the ranks of this program; rank 0 prints."""
    import cupy
    from mpi4py import MPI

    from hpcml import collectives as hc
    from hpcml.collectives.channel import channel_of
    from hpcml.collectives.device.placement import place

    comm = MPI.COMM_WORLD
    place(comm)
    copy = comm.bcast(copy_bandwidth() if comm.rank == 0 else None)
    hc.allreduce(cupy.ones(1, "f4"))
    links = channel_of(comm).links
    verdicts = {"nccl": links.nccl, "ipc": links.ipc, "mpi": links.aware}
    say = print if comm.rank == 0 else lambda *said: None
    say(f"{comm.size} ranks, {MPI.Get_library_version().splitlines()[0][:60]}")
    for name, verdict in verdicts.items():
        say(f"  {name}: {'yes' if verdict.can else 'no'}, {verdict.why}")
    say(f"{'MiB':>10} {'way':>16} {'ms':>10} {'GB/s bus':>10} {'of bound':>10}")
    for size in mebibytes:
        n = max(1, int(size * (1 << 20)) // 4)
        x, out = cupy.random.random(n, dtype="f4"), cupy.empty(n, "f4")
        pinned = [np.frombuffer(cupy.cuda.alloc_pinned_memory(4 * n), np.float32, n) for _ in range(2)]

        def unpinned(x=x, out=out):
            """As an MPI library reduces GPU memory: to memory from malloc, reduced there, and back."""
            host = cupy.asnumpy(x)
            comm.Allreduce(MPI.IN_PLACE, host)
            out.set(host)

        def staged(x=x, out=out, pinned=pinned):
            """mpi4py on copies in pinned memory, made and reduced one after the other."""
            x.get(out=pinned[0])
            comm.Allreduce(pinned[0], pinned[1])
            out.set(pinned[1])

        ways = {"unpinned MPI": unpinned, "pinned mpi4py": staged}
        for name in ("nccl", "ipc", "mpi", "staged"):
            if name == "staged" or verdicts[name].can:
                ways[name] = lambda x=x, out=out: hc.allreduce(x, out=out)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(2 + TURNS):
            for name, run in ways.items():
                with hc.device_transport(name if name in ("nccl", "ipc", "mpi", "staged") else "auto"):
                    cupy.cuda.get_current_stream().synchronize()
                    comm.Barrier()
                    began = time.perf_counter()
                    run()
                    cupy.cuda.get_current_stream().synchronize()
                    took = comm.allreduce(time.perf_counter() - began, MPI.MAX)
                if turn >= 2:
                    seconds[name].append(took)
        bound = 2 * comm.size * 4 * n / copy
        bus = 2 * (comm.size - 1) / comm.size * 4 * n
        for name, found in seconds.items():
            middle = statistics.median(found)
            say(f"{size:>10g} {name:>16} {middle * 1e3:>10.3f} {bus / middle / 1e9:>10.2f} {bound / middle:>10.1%}")


if __name__ == "__main__":
    main()
