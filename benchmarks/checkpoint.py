"""What a checkpoint costs: the stall of a save beside a copy of the same bytes, the write beside a raw one.

    make environments
    python3 benchmarks/checkpoint.py --ranks 1 2
    python3 benchmarks/checkpoint.py --kills 100

Per rank and in turns, into one folder: a copy from memory to memory that was used before; ``save``; from ``save`` to
the end of ``wait``; the same bytes into one file per rank with ``write`` and ``fsync``, without copy, checksums and
names; the same with the disk put to work while the file is being written, as ``save`` does it. The state is written
anew before each, and files are removed between them, outside the timing. Times are those of the slowest rank. With
--kills it is the program of tests/killed_saves.py that runs. Results:
benchmarks/results/checkpoint-<MPI>-<ranks>.txt and checkpoint-kills-<MPI>.txt.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from time import perf_counter

import recorded

ONE_RANK = "--one-rank"  # how this program calls itself under mpiexec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--mib", type=int, default=256, help="of state on each rank (default: 256)")
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--folder", default="runs/checkpoint-benchmark", help="where to write, removed in the end")
    parser.add_argument("--kills", type=int, help="kill a program that saves, that many times, and look what it left")
    parser.add_argument("--mpi", default="all", help="openmpi, mpich or all (the default)")
    args = parser.parse_args()
    for mpi, tools in recorded.environments(args.mpi):
        if args.kills:
            program = str(recorded.ROOT / "tests" / "killed_saves.py")
            recorded.run([str(tools / "python"), program, "--kills", str(args.kills)], f"checkpoint-kills-{mpi}")
            continue
        for ranks in args.ranks:
            options = [ONE_RANK, str(args.mib), str(args.turns), args.folder]
            command = [str(tools / "mpiexec"), "-n", str(ranks), str(tools / "python"), __file__, *options]
            recorded.run(command, f"checkpoint-{mpi}-{ranks}")


def one_rank(mib: int, turns: int, folder: Path) -> None:
    import numpy as np
    from mpi4py import MPI

    from hpcml import checkpoints
    from hpcml import collectives as hc
    from hpcml.checkpoints.rankfile import BEGIN_NBYTES

    comm = MPI.COMM_WORLD
    random = np.random.default_rng(comm.rank)
    size = (mib << 20) // 4
    mine, copied = random.random(size, np.float32), np.ones(size, np.float32)
    state = {"w": checkpoints.Slice(mine, comm.rank * size, (comm.size, size))}
    store = checkpoints.Store(folder, keep=None)
    raw = folder / f"raw-{comm.rank}"

    def seconds(*calls) -> list[float]:
        """Of each call, one after another, on the slowest rank, from where all ranks are ready."""
        np.add(mine, 1, out=mine)
        hc.barrier(comm=comm)
        begin, times = perf_counter(), []
        for call in calls:
            call()
            times.append(perf_counter() - begin)
        return comm.allreduce(np.array(times), lambda a, b: np.maximum(a, b)).tolist()

    def write_raw(early: bool) -> None:
        data = mine.view(np.uint8).data
        with open(raw, "wb", buffering=0) as file:
            for at in range(0, len(data), BEGIN_NBYTES):
                file.write(data[at : at + BEGIN_NBYTES])
                if early:
                    os.posix_fadvise(file.fileno(), at, BEGIN_NBYTES, os.POSIX_FADV_DONTNEED)
            os.fsync(file.fileno())

    def clear() -> None:
        raw.unlink(missing_ok=True)
        comm.Barrier()
        if comm.rank == 0:
            for path in folder.glob("step-*"):
                shutil.rmtree(path)
            os.sync()
        comm.Barrier()

    taken = []
    for turn in range(turns + 1):
        copy = seconds(lambda: np.copyto(copied, mine))
        saved = seconds(lambda step=turn: store.save(step, state), store.wait)
        clear()
        taken.append([*copy, *saved])
        for early in (False, True):
            taken[-1] += seconds(lambda early=early: write_raw(early))
            clear()
    store.close()
    comm.Barrier()
    if comm.rank == 0:
        shutil.rmtree(folder)
        report(np.array(taken[1:]), mib, comm.size)


def report(taken, mib: int, ranks: int) -> None:
    """``taken``: seconds, shape (turns, 5)."""
    import numpy as np
    from mpi4py import MPI

    library = " ".join(MPI.Get_library_version().splitlines()[0].split(",")[0].strip("\0").split())
    print(
        f"{library}, Python {sys.version.split()[0]}, {ranks} ranks of {mib} MiB; medians of {len(taken)} [quartiles]"
    )
    print(f"{'':24}{'ms':>10}{'quartiles':>20}{'GB/s, all ranks':>18}")
    names = ("copy in memory", "save", "save and wait", "raw write and fsync", "raw, begun early")
    for name, times in zip(names, 1e3 * taken.T, strict=True):
        low, median, high = np.quantile(times, [0.25, 0.5, 0.75])
        print(f"{name:24}{median:10.1f}{f'[{low:.1f}, {high:.1f}]':>20}{ranks * (mib << 20) / median / 1e6:18.2f}")
    copy, save, whole, raw, early = np.median(taken, axis=0)
    print(f"save / copy: {save / copy:.2f}; bandwidth of save and wait / raw: {raw / whole:.2f}, {early / whole:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == [ONE_RANK]:
        one_rank(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
