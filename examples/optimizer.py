"""A training loop of one's own, on any number of ranks: one's own gradient, hpcml's all-reduce and optimizer.

mpiexec -n 4 python examples/optimizer.py
"""

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml import optim

comm = MPI.COMM_WORLD

# A line to find, and on each rank other points near it, as if each had read its own part of a file.
true = np.array([2.0, -1.0, 0.5])
random = np.random.default_rng(comm.rank)
X = random.normal(size=(1000 + 100 * comm.rank, 3))
y = X @ true + 3.0 + 0.1 * random.normal(size=len(X))

# Distributed gives every rank the parameters of rank 0.
params = {"w": random.normal(size=3), "b": np.zeros(1)}
opt = optim.Distributed(optim.Adam(params, lr=0.1))

for epoch in range(20):
    opt.lr = 0.1 * optim.rates.cosine(epoch, 20)
    order = random.permutation(len(X))
    loss = 0.0
    # 20 steps on every rank, of uneven batches: their sizes are the weights of the mean gradient.
    for rows in np.array_split(order, 20):
        error = X[rows] @ params["w"] + params["b"] - y[rows]
        loss += 0.5 * error @ error
        grads = {"w": X[rows].T @ error / len(rows), "b": error.mean(keepdims=True)}
        opt.step(grads, weight=len(rows))
    total_loss, total_rows = hc.allreduce(np.array([loss, len(X)]))
    if comm.rank == 0:
        print(f"epoch {epoch + 1:2}: loss {total_loss / total_rows:.5f}")

if comm.rank == 0:
    print(f"w = {params['w'].round(3)}, b = {params['b'].round(3)}; expected {true}, [3.]")
    print(f"{opt.communication_seconds * 1e3:.1f} ms in communication")
