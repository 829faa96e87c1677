"""Saves that are killed: a program that saves in a loop, and one that kills it with SIGKILL at random moments.

    .venv-mpich/bin/python tests/killed_saves.py --kills 100

After each kill the newest whole checkpoint has to be there, with the arrays that it was saved with, and not to be older
than the last one that the program had waited for. The next loop goes on from it, on another number of ranks.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LOOP = "--loop"  # how this program calls itself under mpiexec
RANKS = (1, 2, 3)
LONGEST_SECONDS = 0.4
MOMENTS_ELEMENTS = 400_000


class Outcome(NamedTuple):
    """After one kill: the step found, the last that the program had waited for, folders that were passed over."""

    found: int
    waited_for: int
    passed_over: int


def kill_once(folder: Path, ranks: int, seconds: float) -> Outcome:
    """Let the loop run on that many ranks, kill them all after some ``seconds``, and look what is there."""
    sys.path.insert(0, str(ROOT / "tools"))
    from environment import ALLOWANCES

    mpiexec = Path(sys.executable).parent / "mpiexec"
    environment = {**ALLOWANCES, **os.environ, "PYTHONPATH": str(ROOT)}
    command = [str(mpiexec), "-n", str(ranks), sys.executable, __file__, LOOP, str(folder)]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **streams) as program:
        begun = program.stdout.readline().split()
        assert begun[:1] == ["processes"], program.stderr.read()
        time.sleep(seconds)
        for pid in begun[1:]:
            with suppress(ProcessLookupError):  # mpiexec ends the others when it has seen one die
                os.kill(int(pid), signal.SIGKILL)
        said = program.communicate()[0].splitlines()
    found, passed_over = look(folder)
    waited_for = max((int(line.split()[1]) for line in said if line.startswith("saved ")), default=0)
    return Outcome(found, waited_for, passed_over)


def look(folder: Path) -> tuple[int, int]:
    """The step of the newest checkpoint, whose arrays are those of that step; how many were passed over."""
    from mpi4py import MPI

    from hpcml import checkpoints

    with checkpoints.Store(folder, comm=MPI.COMM_SELF) as store, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return intact_step(store.latest()), len(caught)


def intact_step(found) -> int:
    """The step of a checkpoint of the loop, 0 where there is none; AssertionError where its arrays are another's."""
    import numpy as np

    if found is None:
        return 0
    assert found.facts == {"step": found.step}
    assert (found.read("weights") == found.step).all()
    assert (found.read("moments") == np.arange(MOMENTS_ELEMENTS) + found.step).all()
    return found.step


def save_in_a_loop(folder: str) -> None:
    import numpy as np
    from mpi4py import MPI

    from hpcml import checkpoints

    comm = MPI.COMM_WORLD
    start, stop = (MOMENTS_ELEMENTS * part // comm.size for part in (comm.rank, comm.rank + 1))
    store = checkpoints.Store(folder, keep=2)
    step = intact_step(store.latest())
    processes = comm.gather(os.getpid())
    if comm.rank == 0:
        print("processes", *processes, flush=True)
    while True:
        step += 1
        moments = np.arange(start, stop) + float(step)
        arrays = {
            "weights": np.full((300, 1000), step, "f4"),
            "moments": checkpoints.Slice(moments, start, (MOMENTS_ELEMENTS,)),
        }
        store.save(step, arrays, {"step": step})
        if step % 3 == 0:
            store.wait()
            if comm.rank == 0:
                print("saved", step, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    moments = random.Random(args.seed)
    on: Counter[int] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = []
        for kill in range(args.kills):
            ranks = RANKS[kill % len(RANKS)]
            outcomes.append(kill_once(Path(folder), ranks, moments.uniform(0, LONGEST_SECONDS)))
            on[ranks] += 1
            assert outcomes[-1].found >= outcomes[-1].waited_for, outcomes[-1]
    partly = sum(outcome.passed_over > 0 for outcome in outcomes)
    print(
        f"{args.kills} kills ({', '.join(f'{n} of {ranks}' for ranks, n in on.items())} ranks), at step "
        f"{outcomes[-1].found} in the end. After each the newest whole checkpoint was found, with the right arrays; "
        f"after {partly} of them a newer one was there in part, and passed over."
    )


if __name__ == "__main__":
    save_in_a_loop(sys.argv[2]) if sys.argv[1:2] == [LOOP] else main()
