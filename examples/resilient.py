"""Least squares by gradient descent that outlives its ranks.

    mpiexec --with-ft ulfm -n 4 python examples/resilient.py

Kill a rank while it runs (``kill -9``): the others go on, with its rows.
"""

import time

import numpy as np

from hpcml import collectives as hc
from hpcml.checkpoints import Neighbours

ROWS, COLUMNS, STEPS = 8000, 20, 400

random = np.random.default_rng(0)
X, truth = random.standard_normal((ROWS, COLUMNS)), random.standard_normal(COLUMNS)  # in earnest: a file
y = X @ truth
copies = Neighbours(every=10)

for attempt in hc.resilient():
    with attempt as comm:
        mine = np.array_split(np.arange(ROWS), comm.size)[comm.rank]
        found = copies.latest(comm)
        step, w = (0, np.zeros(COLUMNS)) if found is None else (found.step, found.read("w"))
        if comm.rank == 0 and attempt.number:
            print(f"lost so far: {attempt.lost}; {comm.size} ranks go on from step {step}", flush=True)
        while step < STEPS:
            gradient = X[mine].T @ (X[mine] @ w - y[mine]) / ROWS
            w -= 0.1 * hc.allreduce(gradient, comm=comm)
            step += 1
            if copies.is_due(step):
                copies.save(comm, step, {"w": w})
            time.sleep(0.01)  # time to kill one

if comm.rank == 0:
    print(f"after {step} steps on {comm.size} ranks: error {np.abs(w - truth).max():.1e}")
