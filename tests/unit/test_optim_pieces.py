"""Updating parameters in pieces, as ranks do that own a part of each, gives the bits of updating them whole."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import ml_dtypes
import numpy as np
import pytest
from optim_cases import CASES

from hpcml import optim
from hpcml.optim.norms import BLOCK

SHAPES = {"long": (5 * BLOCK + 37,), "table": (70, 61), "bias": (7,), "even": (2 * BLOCK,), "empty": (0, 3)}
# Where the second rank's part of each parameter begins: within it, before it, behind it.
CUTS = {"long": 2 * BLOCK, "table": BLOCK, "bias": 0, "even": 2 * BLOCK, "empty": 0}
STEPS = 4


def made(dtype, order="C"):
    random = np.random.default_rng(3)
    return {name: np.asarray(random.uniform(1, 2, shape), dtype, order=order) for name, shape in SHAPES.items()}


def gradients(step, dtype):
    random = np.random.default_rng([4, step])
    return {name: np.asarray(random.normal(0, 1, shape), dtype) for name, shape in SHAPES.items()}


class TwoRanks:
    """Adds up the tables of sums of two threads that update their parts at the same time."""

    def __init__(self):
        self._barrier, self._given = Barrier(2), [None, None]

    def complete(self, rank):
        def add(sums):
            self._given[rank] = sums.copy()
            self._barrier.wait()
            sums[...] = self._given[0] + self._given[1]
            self._barrier.wait()  # before the next sums are given

        return add

    def run(self, work):
        def guarded(rank):
            try:
                return work(rank)
            except BaseException:
                self._barrier.abort()  # the other waits for this one
                raise

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(guarded, (0, 1)))


def in_pieces(case, params, dtype, options):
    """``params`` after some steps of two ranks, and their optimizers."""
    copies = [{name: array.copy(order="K") for name, array in params.items()} for _ in range(2)]
    optimizers = [case.optimizer(copy, **options()) for copy in copies]
    ranges = [[(0, CUTS[name]) for name in params], [(CUTS[name], array.size) for name, array in params.items()]]
    for optimizer, own in zip(optimizers, ranges, strict=True):
        optimizer.restrict(own)
    ranks = TwoRanks()
    for step in range(STEPS):
        flat = [gradient.reshape(-1) for gradient in gradients(step, dtype).values()]
        parts = [[g[start:stop] for g, (start, stop) in zip(flat, own, strict=True)] for own in ranges]

        def update(rank, parts=parts):
            return optimizers[rank].update(parts[rank], scale=0.5, complete=ranks.complete(rank))

        assert ranks.run(update) == [True, True]
    for (name, array), cut in zip(params.items(), CUTS.values(), strict=True):
        flat = [copy[name].reshape(-1) for copy in copies]
        start = array.reshape(-1)
        np.testing.assert_array_equal(flat[0][cut:], start[cut:], err_msg="the part of the other rank")
        np.testing.assert_array_equal(flat[1][:cut], start[:cut], err_msg="the part of the other rank")
        array[...] = np.concatenate([flat[0][:cut], flat[1][cut:]]).reshape(array.shape)
    return optimizers


OPTIONS = {
    "plain": dict,
    "clipped, scaled and grouped": lambda: dict(
        clip_norm=5.0, loss_scale=optim.LossScale(4.0, interval=2), groups=[{"params": ["long"], "weight_decay": 0.2}]
    ),
}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=[text.replace(" ", "_") for text in OPTIONS])
@pytest.mark.parametrize("dtype, order", [("f8", "C"), ("f4", "C"), ("f4", "F"), (ml_dtypes.bfloat16, "C")])
def test_pieces_have_the_bits_of_the_whole(case, options, dtype, order):
    whole, pieces = made(dtype, order), made(dtype, order)
    alone = case.optimizer(whole, **options())
    for step in range(STEPS):
        alone.step(gradients(step, dtype), scale=0.5)
    parts = in_pieces(case, pieces, dtype, options)
    for name, array in whole.items():
        np.testing.assert_array_equal(pieces[name], array)
    states = [part.state_dict()["state"] for part in parts]
    for name, slots in alone.state_dict()["state"].items():
        for slot, array in slots.items():
            joined = np.concatenate([state[name][slot] for state in states])
            np.testing.assert_array_equal(joined, array.reshape(-1))
    assert parts[0].norm == parts[1].norm == alone.norm


def test_a_piece_begins_with_a_block():
    optimizer = optim.LAMB([np.ones(3 * BLOCK)])
    with pytest.raises(ValueError, match="begins within a block"):
        optimizer.restrict([(BLOCK // 2, BLOCK)])
    optimizer.restrict([(BLOCK // 2, BLOCK // 2)])


def test_a_step_that_one_rank_cannot_make_is_made_by_none():
    params = made("f4")
    case = CASES[0]
    copies = [{name: array.copy() for name, array in params.items()} for _ in range(2)]
    optimizers = [case.optimizer(copy, loss_scale=optim.LossScale(8.0)) for copy in copies]
    for optimizer, first in zip(optimizers, (True, False), strict=True):
        optimizer.restrict([(0, CUTS[n]) if first else (CUTS[n], array.size) for n, array in params.items()])
    ranks = TwoRanks()

    def update(rank):
        grads = [np.ones(stop - start, "f4") for start, stop in optimizers[rank].ranges]
        if rank == 1:
            grads[0][-1] = np.inf
        return optimizers[rank].update(grads, complete=ranks.complete(rank))

    assert ranks.run(update) == [False, False]
    for optimizer, copy in zip(optimizers, copies, strict=True):
        assert optimizer.steps == 0 and optimizer.loss_scale.value == 4.0
        for name, array in params.items():
            np.testing.assert_array_equal(copy[name], array)
