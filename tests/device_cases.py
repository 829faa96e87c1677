"""The matrix of collectives of device arrays: run over the stand-in in tests/mpi, over CuPy in tests/gpu.

A ``device`` makes arrays on the current stream (``array``, ``strided``), and an array's ``get`` gives its values once
that stream has come to them.
"""

import numpy as np
from collective_cases import data, folded

from hpcml import collectives as hc
from hpcml.collectives.ops import OPS


def part(rank, rows, dtype):
    return data(rank, 3 * rows, dtype).reshape(rows, 3)


def same(found, expected):
    assert type(found).__module__ != "numpy", "the result has left the device"
    found = found.get()
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found.view(np.uint8), np.ascontiguousarray(expected).view(np.uint8))


def each_collective(device, comm, n, dtype, make, algorithm="auto"):
    """All of them on arrays of n items, or n rows; ``make``: device.array or device.strided."""
    rank, size = comm.rank, comm.size
    everybody = range(size)
    take = {"comm": comm, "algorithm": algorithm}
    ops = ["sum"] if dtype.kind != "b" else ["lor"]
    ops += ["mean"] if dtype.kind in "fc" else []
    ops += ["max", "bxor"] if dtype.kind in "iu" else ["prod"] if dtype.kind == "f" else []
    for op in ops:
        mine, total = data(rank, n, dtype, op), folded(op, size, n, dtype)
        x = make(mine)
        same(hc.allreduce(x, op=op, **take), total)
        same(x, mine)
        assert hc.allreduce(x, op=op, out=x, **take) is x
        same(x, total)
        found = hc.reduce(make(mine), op=op, root=size - 1, **take)
        assert found is None or rank == size - 1
        if rank == size - 1:
            same(found, total)
        same(hc.reduce_scatter(make(mine), op=op, **take), np.array_split(total, size)[rank])
    op = ops[0]
    below = folded(op, rank + 1, n, dtype)
    same(hc.scan(make(data(rank, n, dtype, op)), op=op, **take), below)
    x = make(data(rank, n, dtype, op))
    hc.scan(x, op=op, out=x, **take)
    same(x, below)
    found = hc.exscan(make(data(rank, n, dtype, op)), op=op, **take)
    if rank:
        same(found, folded(op, rank, n, dtype))
    x = make(data(1, n, dtype) if rank == 0 else np.zeros(n, dtype))
    assert hc.broadcast(x, **take) is x
    same(x, data(1, n, dtype))
    whole = np.concatenate([part(r, n + r, dtype) for r in everybody])
    mine = part(rank, n + rank, dtype)
    same(hc.allgather(make(mine), **take), whole)
    found = hc.gather(make(mine), root=0, **take)
    if rank == 0:
        same(found, whole)
    given = make(whole) if rank == 0 else None
    same(hc.scatter(given, **take), np.array_split(whole, size)[rank])
    counts = [1 + (rank + d) % 3 for d in everybody]
    rows = part(rank, sum(counts), dtype)
    found, came = hc.alltoallv(make(rows), counts, **take)
    pieces = []
    for r in everybody:
        theirs = [1 + (r + d) % 3 for d in everybody]
        at = sum(theirs[:rank])
        pieces.append(part(r, sum(theirs), dtype)[at : at + theirs[rank]])
    same(found, np.concatenate(pieces))
    assert came.tolist() == [len(p) for p in pieces]
    square = part(rank, size, dtype)
    same(hc.alltoall(make(square), **take), np.stack([part(r, size, dtype)[rank] for r in everybody]))


def in_the_background(device, comm, n):
    """Several under way, completed in another order."""
    size, dtype = comm.size, np.dtype("f4")
    xs = [device.array(data(comm.rank, n + i, dtype)) for i in range(3)]
    under_way = [hc.iallreduce(x, comm=comm) for x in xs]
    gathered = hc.iallgather(device.array(part(comm.rank, 2 + comm.rank, dtype)), comm=comm)
    for i in (2, 0, 1):
        same(under_way[i].wait(), folded("sum", size, n + i, dtype))
    same(gathered.wait(), np.concatenate([part(r, 2 + r, dtype) for r in range(size)]))


def again_and_again(device, comm, n, background):
    """A plan, started after its input has changed."""
    dtype = np.dtype("f8")
    x = device.array(np.zeros(n, dtype))
    with hc.plan("allreduce", x, comm=comm, background=background) as plan:
        for turn in range(3):
            x.set(data(comm.rank, n, dtype) + turn)
            plan.start()
            same(plan.wait(), folded("sum", comm.size, n, dtype) + turn * comm.size)


def structures(device, comm):
    rank, size = comm.rank, comm.size
    tree = {"w": device.array(np.ones((3, 4), "f4") * rank), "b": [device.array(np.arange(4) + rank), np.array([2.0])]}
    found = hc.allreduce(tree, comm=comm)
    same(found["w"], np.full((3, 4), sum(range(size)), "f4"))
    same(found["b"][0], np.arange(4) * size + sum(range(size)))
    assert found["b"][1].tolist() == [2.0 * size]
    hc.broadcast(tree, root=size - 1, comm=comm)
    same(tree["w"], np.full((3, 4), size - 1, "f4"))
    means = hc.allreduce([device.array(np.arange(3) + rank), device.array(np.ones(2, "f4"))], "mean", comm=comm)
    same(means[0], np.arange(3) + np.mean(range(size)))
    same(means[1], np.ones(2, "f4"))
    parts = hc.allgather([device.array(np.full((1, 2), rank)), device.array(np.full(2, rank, "f4"))], comm=comm)
    same(parts[0], np.repeat(np.arange(size), 2).reshape(size, 2))
    same(parts[1], np.repeat(np.arange(size, dtype="f4"), 2))
    given = (device.array(np.arange(size)), device.array(np.arange(2.0 * size))) if rank == 0 else None
    one, two = hc.scatter(given, comm=comm)
    same(one, np.array([rank]))
    same(two, np.arange(2.0 * size)[2 * rank : 2 * rank + 2])


def special_cases(device, comm):
    """Folds along an axis, exact sums, means of integers, ops of one's own, native."""
    from mpi4py import MPI

    rank, size = comm.rank, comm.size
    rows = np.arange(15.0).reshape(5, 3) + rank
    columns, ranks = np.array([30.0, 35.0, 40.0]), np.mean(range(size))
    same(hc.allreduce(device.array(rows), axis=0, comm=comm), size * (columns + 5 * ranks))
    same(hc.allreduce(device.strided(rows), "mean", axis=0, comm=comm), columns / 5 + ranks)
    x = np.random.default_rng(rank).normal(size=1000)
    exact = hc.allreduce(x, reproducible=True, comm=comm)
    same(hc.allreduce(device.array(x), reproducible=True, comm=comm), exact)
    out = device.array(np.zeros(1000))
    assert hc.allreduce(device.strided(x), reproducible=True, out=out, comm=comm) is out
    same(out, exact)
    same(hc.allreduce(device.array(np.arange(5) + rank), "mean", comm=comm), np.arange(5) + np.mean(range(size)))

    def larger(a, b, datatype):
        np.maximum(np.frombuffer(a, "f8"), np.frombuffer(b, "f8"), out=np.frombuffer(b, "f8"))

    own = MPI.Op.Create(larger, commute=True)
    same(hc.allreduce(device.array(np.arange(4.0) * rank), own, comm=comm), np.arange(4.0) * (size - 1))
    own.Free()
    found = hc.iallreduce(device.array(np.arange(9.0)), algorithm="native", comm=comm)
    same(found.wait(), np.arange(9.0) * size)
    assert "host" in hc.explain("allreduce", out, algorithm="native", comm=comm).path
    assert set(OPS) >= {"sum"}
