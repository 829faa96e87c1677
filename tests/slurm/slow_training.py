"""A training of a user's own, on all ranks of a job, that takes its time: `python slow_training.py DIR SECONDS STEPS`.

It writes a checkpoint every STEPS steps, and what it ends with to DIR/end.npz; SECONDS is how long a step rests.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

from hpcml.models import Checkpoints, MLPClassifier
from hpcml.runs.interruption import STATUS, Interrupted, Interruption

EPOCHS, ROWS, BATCH = 20, 240, 24  # 10 steps an epoch


class Rest:
    """Notes each step, with the life of the job that it was made in."""

    def __init__(self, path, seconds):
        self.path, self.seconds = path, seconds
        self.life = os.environ.get("SLURM_RESTART_COUNT", "0")

    def step(self, record):
        time.sleep(self.seconds)
        if MPI.COMM_WORLD.rank == 0:
            with open(self.path, "a") as file:
                file.write(f"{self.life} {(record['epoch'] - 1) * record['steps'] + record['step']}\n")

    def epoch(self, record):
        pass


def main(folder, seconds, steps):
    comm = MPI.COMM_WORLD
    X = np.random.default_rng(0).normal(size=(ROWS, 6))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    mine = np.array_split(np.arange(ROWS), comm.size)[comm.rank]
    model = MLPClassifier((8,), batch_size=BATCH, epochs=EPOCHS, learning_rate=0.01, random_state=1, reproducible=4)
    with Interruption() as interruption:
        there = Checkpoints(folder / "checkpoints", steps, interruption=interruption)
        try:
            model.fit(X[mine], y[mine], monitor=Rest(folder / "steps", seconds), checkpoints=there)
        except Interrupted as ended:
            if comm.rank == 0:
                print(ended, flush=True)
            comm.barrier()
            return STATUS
    if comm.rank == 0:
        np.savez(folder / "end.npz", **model.parameters_)
        print(f"trained on {comm.size} ranks", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
