"""Compressed gradients: exact where they can be, the same bits on every rank, and nothing lost for good.

A reduction is tried by itself where its sums are looked at, and in optim.Distributed where its modes are.
"""

import numpy as np
import pytest
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml import optim
from hpcml.models.threads import own_cores
from hpcml.optim.buckets import buckets
from hpcml.optim.messages import Message

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size

WIRES = [optim.TopK(0.05), optim.Int8(64), optim.PowerSGD(2)]
every_wire = pytest.mark.parametrize("wire", WIRES, ids=repr)
every_dtype = pytest.mark.parametrize("dtype", ["f4", "f8"])
SHAPES = [(40, 30), (7,), (), (0, 4), (5, 6, 20), (3, 3)]


class Sum:
    """The sums of messages of arrays of these shapes, over all ranks."""

    def __init__(self, wire, shapes, dtype="f8", background=False):
        (bucket,) = buckets([np.zeros(shape, dtype) for shape in shapes], 1 << 40)
        self.message, self.shapes = Message(bucket, bucket.dtype), shapes
        self.reduction = wire.reduction(self.message, shapes, COMM, "auto", background)

    def __call__(self, gradients, weight=1.0):
        for member, gradient in enumerate(gradients):
            self.message.pack(member, None if gradient is None else np.asarray(gradient), weight)
        self.reduction.start()
        self.reduction.turn()
        total = self.reduction.wait().copy()
        return [total[start:stop].reshape(self.shapes[i]) for i, start, stop in self.message.bucket.spans()]


def normal(shapes, dtype, *seed):
    random = np.random.default_rng(seed)
    return [np.asarray(random.normal(size=shape), dtype) for shape in shapes]


def whole(shapes, dtype, *seed):
    random = np.random.default_rng(seed)
    return [np.asarray(random.integers(-99, 100, shape), dtype) for shape in shapes]


def everyones(make, *arguments):
    """What ``make`` makes for each rank, added up array by array."""
    return [np.sum(arrays, axis=0) for arrays in zip(*(make(*arguments, r) for r in range(SIZE)), strict=True)]


def flat(arrays):
    return np.concatenate([np.ravel(array) for array in arrays])


def assert_the_same_on_all(arrays):
    assert len(set(COMM.allgather(flat(arrays).tobytes()))) == 1


@every_dtype
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("size", sorted({0, 1, SIZE - 1, SIZE, SIZE + 1, 5000}))
def test_topk_of_all_numbers_is_the_sum(size, background, dtype):
    total = Sum(optim.TopK(share=1.0), [(size,)], dtype, background)
    for step in range(3):
        weights = [(r + step) % 3 for r in range(SIZE)]
        expected = sum(w * whole([(size,)], dtype, step, r)[0] for r, w in enumerate(weights))
        (found,) = total(whole([(size,)], dtype, step, RANK), weights[RANK])
        np.testing.assert_array_equal(found, expected)


@every_dtype
def test_topk_sends_the_largest_and_then_what_it_left_out(dtype):
    total = Sum(optim.TopK(share=0.25), [(8,)], dtype)
    gradient = np.array([1, -8, 2, -7, 3, -6, 4, -5], dtype)
    nothing = np.zeros(8, dtype)
    for gone in ([1, 3], [5, 7], [6, 4], [2, 0]):
        expected = np.zeros(8)
        expected[gone] = SIZE * gradient[gone]
        np.testing.assert_array_equal(total([gradient if gone == [1, 3] else nothing])[0], expected)
    np.testing.assert_array_equal(total([nothing])[0], nothing)


@every_dtype
@pytest.mark.parametrize("values", ["normal", "equal", "two kinds", "of all magnitudes"])
def test_topk_finds_the_largest_whatever_they_are(values, dtype):
    random = np.random.default_rng(5)
    gradient = {
        "normal": random.normal(size=3000),
        "equal": np.full(3000, -1.5),
        "two kinds": random.permutation(np.repeat([1.0, 1.0 + 2**-10], 1500)),
        "of all magnitudes": random.normal(size=3000) * 10.0 ** random.integers(-30, 30, 3000),
    }[values].astype(dtype)
    (found,) = Sum(optim.TopK(share=0.1), [(3000,)], dtype)([gradient])
    expected = SIZE * np.sort(np.abs(gradient))[-300:]
    np.testing.assert_allclose(np.sort(np.abs(found[found != 0])), expected, rtol=SIZE * np.finfo(dtype).eps)


@every_dtype
@pytest.mark.parametrize("background", [False, True])
def test_int8_of_multiples_of_a_127th_of_the_largest_is_the_sum(background, dtype):
    random = np.random.default_rng(2)
    pattern = random.integers(-127, 128, 3 * 16 * SIZE)  # three blocks for each rank
    pattern[5::16] = random.choice([-127, 127], 3 * SIZE)
    total = Sum(optim.Int8(block=16), [pattern.shape], dtype, background)
    for step in range(3):
        unit = 1.5 * 2.0**step
        (found,) = total([np.asarray(pattern * unit, dtype)], weight=1 + (RANK + step) % SIZE)
        np.testing.assert_array_equal(found, pattern * unit * SIZE * (SIZE + 1) / 2)


@every_dtype
@pytest.mark.parametrize("size", sorted({0, 1, SIZE - 1, SIZE, SIZE + 1, 64 * SIZE, 5000}))
def test_int8_rounds_to_half_a_127th_of_the_largest(size, dtype):
    (found,) = Sum(optim.Int8(block=64), [(size,)], dtype)(normal([(size,)], dtype, RANK))
    (expected,) = everyones(normal, [(size,)], dtype)
    largest = sum(np.abs(normal([(size,)], dtype, r)[0]).max(initial=0) for r in range(SIZE))
    # Each rank rounds its message, and one the sum, which is itself at most half a 127th longer than the longest.
    np.testing.assert_allclose(found, expected, rtol=0, atol=largest * (2 + 1 / 127) / 254 * (1 + 1e-5))


@every_dtype
@pytest.mark.parametrize("background", [False, True])
def test_powersgd_of_matrices_of_its_rank_is_the_sum(background, dtype):
    """One with more rows, one with more columns, one of lower rank and one of zeros; and what is not compressed."""
    rank = 3
    shapes = [(50, 20), (20, 5, 10), (30, 30), (40, 40), (8,), (), (2, 3), (0, 4)]

    def gradients(r):
        random = np.random.default_rng(1)
        lefts = [random.normal(size=(n, k)) for n, k in ((50, 3), (20, 3), (30, 1), (40, 0))]
        own = np.random.default_rng([2, r])
        rights = [own.normal(size=(k, m)) for k, m in ((3, 20), (3, 50), (1, 30), (0, 40))]
        matrices = [(left @ right).reshape(s) for left, right, s in zip(lefts, rights, shapes[:4], strict=True)]
        return [np.asarray(a, dtype) for a in (*matrices, *whole(shapes[4:], dtype, 3, r))]

    total = Sum(optim.PowerSGD(rank), shapes, dtype, background)
    for _ in range(2):
        found = total(gradients(RANK))
        expected = everyones(gradients)
        for a, b in zip(found[:4], expected[:4], strict=True):
            # Of dot products of at most 50 numbers, as P, Q and their product are.
            scale = sum(np.abs(gradients(r)[0]).max() for r in range(SIZE)) * 50
            np.testing.assert_allclose(a, b, rtol=0, atol=50 * np.finfo(dtype).eps * scale)
        for a, b in zip(found[4:], expected[4:], strict=True):
            np.testing.assert_array_equal(a, b)


@every_wire
@every_dtype
@pytest.mark.parametrize("background", [False, True])
def test_every_rank_has_the_same_bits(wire, dtype, background):
    total = Sum(wire, SHAPES, dtype, background)
    for step in range(4):
        size = 10.0 ** (step * RANK - 2)
        assert_the_same_on_all(total([np.asarray(a * size, dtype) for a in normal(SHAPES, dtype, step, RANK)]))


def longest(wire, shapes, gradients):
    """A bound of what all ranks together may owe, in Euclidean norm, where every step has these gradients.

    A rank that keeps at most (1 − δ) of the square of what it has owes at most √(1−δ)/(1−√(1−δ)) < 2/δ times a message
    (Stich et al. 2018, lemma 3.3). TopK keeps 1 − k/n; the rank r that is best for a matrix 1 − r/min(n, m) at most.
    """
    if isinstance(wire, optim.Int8):
        # Half a 127th of the largest number, of message and debt, on both sides.
        peak = sum(np.abs(flat(one)).max() for one in gradients) * (1 + 1 / 253)
        return 2 * peak / 253 * np.sqrt(flat(gradients[0]).size)
    delta = wire.share if isinstance(wire, optim.TopK) else wire.rank / min(shapes[0][0], shapes[0][1])
    return 2 / delta * sum(np.linalg.norm(flat(one)) for one in gradients)


@every_wire
@every_dtype
def test_what_is_left_out_comes_later(wire, dtype):
    """The mean of T sums of a constant gradient is off by what is owed at the end over T, and that is bounded."""
    shapes, steps = [(40, 30)], 100
    total = Sum(wire, shapes, dtype)
    gradients = [normal(shapes, dtype, r) for r in range(SIZE)]
    mean = sum(flat(total(gradients[RANK])).astype("f8") for _ in range(steps)) / steps
    expected = sum(flat(one).astype("f8") for one in gradients)
    off = np.linalg.norm(mean - expected)
    rounding = 100 * np.finfo(dtype).eps * np.linalg.norm(expected)
    assert off <= longest(wire, shapes, gradients) / steps + rounding
    # And a single sum, which has none of it yet, is further off: what is seen here is the feedback.
    once = flat(Sum(wire, shapes, dtype)(gradients[RANK])).astype("f8")
    assert off < 0.2 * np.linalg.norm(once - expected)


@every_wire
@every_dtype
def test_what_is_owed_has_the_weight_of_the_step_it_goes_with(wire, dtype):
    """What 1024 samples owe does not overwhelm the step of one: powers of two, so that nothing is rounded."""
    heavy, light = Sum(wire, SHAPES, dtype), Sum(wire, SHAPES, dtype)
    for step, weight in enumerate((1024.0, 1.0, 2.0**-4)):
        gradients = normal(SHAPES, dtype, step, RANK)
        found, expected = heavy(gradients, weight), light(gradients, 1.0)
        np.testing.assert_array_equal(flat(found), weight * flat(expected))


def test_a_rank_without_samples_sends_nothing_and_owes_what_it_did():
    total = Sum(optim.TopK(share=0.5), [(2,)])
    np.testing.assert_array_equal(total([np.array([3.0, 2.0])])[0], [3 * SIZE, 0])
    idle = RANK == SIZE - 1
    np.testing.assert_array_equal(total([None if idle else np.zeros(2)], 1.0 - idle)[0], [0, 2 * (SIZE - 1)])
    np.testing.assert_array_equal(total([np.zeros(2)])[0], [0, 2])


@every_wire
def test_ranks_without_samples(wire):
    """Any of them, and all, in turn; then the debts are the same as if the steps without any had not been."""
    total, other = Sum(wire, SHAPES), Sum(wire, SHAPES)
    for step in range(6):
        gradients = normal(SHAPES, "f8", step, RANK)
        weight = 0.0 if step == 3 else float((RANK + step) % 3)
        found = total(gradients if weight else [None] * len(SHAPES), weight)
        assert_the_same_on_all(found)
        if step == 3:
            np.testing.assert_array_equal(flat(found), 0)
        else:
            np.testing.assert_array_equal(
                flat(found), flat(other(gradients if weight else [None] * len(SHAPES), weight))
            )


@every_dtype
def test_no_more_is_sent_than_is_said(dtype, monkeypatch):
    sent = []
    plan = hc.plan

    def watched(collective, x, **options):
        sent.append((collective, x.nbytes))
        return plan(collective, x, **options)

    monkeypatch.setattr(hc, "plan", watched)
    itemsize = np.dtype(dtype).itemsize
    n = 640 * SIZE
    cases = [
        (optim.TopK(0.01), [(n,)], [("allgather", round(n * 0.01) * (4 + itemsize))]),
        # Each rank's part, and what it sends of the sum: a byte for a number, a scale for a block, the weight.
        (optim.Int8(64), [(n,)], [("alltoall", n + n // 64 * 4 + 8 * SIZE), ("allgather", 640 + 40 + 8)]),
        (
            optim.PowerSGD(2),
            [(40, 30), (9,), (5, 6, 20), (3, 3)],
            [("allreduce", itemsize * (2 * 45 + 9 + 9)), ("allreduce", itemsize * 2 * (30 + 120))],
        ),
    ]
    for wire, shapes, expected in cases:
        sent.clear()
        Sum(wire, shapes, dtype)
        assert sent == expected


BAD = {"NaN": (np.nan, 1), "infinity": (np.inf, 1), "minus infinity": (-np.inf, 1), "many NaNs": (np.nan, 500)}


@every_wire
@every_dtype
@pytest.mark.parametrize("bad", BAD, ids=lambda name: name.replace(" ", "_"))
def test_what_is_not_finite_reaches_all_once(wire, dtype, bad):
    """On one rank, in a column of zeros; then in the array that is not a matrix."""
    shapes = [(40, 30), (10,)]
    number, times = BAD[bad]
    total = Sum(wire, shapes, dtype)
    for where in (0, 1):
        total(normal(shapes, dtype, where, RANK))
        gradients = normal(shapes, dtype, 2, where, RANK)
        gradients[0][:, 7] = 0
        if SIZE // 2 == RANK:
            gradients[where].reshape(-1)[7 : 7 + 2 * times : 2] = number
        found = total(gradients)
        assert not np.isfinite(flat(found)).all()
        assert_the_same_on_all([np.isfinite(flat(found))])
        for step in range(3):
            assert np.isfinite(flat(total(normal(shapes, dtype, 3, step, RANK)))).all()


@every_wire
def test_numbers_too_large_or_too_small_for_what_is_sent(wire):
    """The sum is there or not finite; the steps after it are as if it had not been."""
    for size in (1e300, 1e-300, 1e-42):
        total = Sum(wire, [(40, 30)])
        found = total([normal([(40, 30)], "f8", RANK)[0] * size])
        assert_the_same_on_all(found)
        if size < 1:
            assert np.abs(flat(found)).max() < 100 * SIZE * size
        if not isinstance(wire, optim.Int8):  # whose scales are float32
            assert np.isfinite(found[0]).all() and found[0].any()
        for step in range(3):
            assert np.isfinite(flat(total(normal([(40, 30)], "f8", step, RANK)))).all()


@every_wire
def test_loss_scale_sees_it_and_the_step_is_left_out(wire):
    params = {"w": np.ones((40, 30), "f4"), "b": np.ones(5, "f4")}
    together = optim.Distributed(optim.SGD(params, lr=0.1, loss_scale=optim.LossScale(4.0)), wire=wire)
    grads = {"w": np.ones((40, 30), "f4"), "b": np.ones(5, "f4")}
    if RANK == SIZE - 1:
        grads["w"][3, 4] = np.inf
    together.step(grads)
    assert together.optimizer.loss_scale.value == 2.0 and (params["w"] == 1).all()
    grads["w"][3, 4] = 1
    together.step(grads)
    assert np.isfinite(params["w"]).all() and (params["w"] < 1).any()


MODES = {
    "overlapped": dict(overlap=True),
    "sharded": dict(overlap=False, shard=True),
    "sharded, overlapped": dict(overlap=True, shard=True),
}


@every_wire
@pytest.mark.parametrize("bucket", [5000, 1 << 20])
@pytest.mark.parametrize("mode", MODES.values(), ids=[name.replace(" ", "_") for name in MODES])
def test_all_modes_make_the_same_steps(mode, bucket, wire):
    shapes = {"a": (3000,), "b": (5,), "c": (), "d": (0, 4), "e": (40, 60), "f": (2100,), "g": (30, 50), "h": (60, 9)}
    dtypes = {"f": "f4", "b": "f4", "h": "f2"}
    made = []
    for options in (dict(overlap=False), mode):
        params = {name: np.full(shape, 0.5, dtypes.get(name, "f8")) for name, shape in shapes.items()}
        optimizer = optim.Adam(params, lr=0.1)
        # What is chosen for a sum may depend on the mode, and the order of its terms on that.
        together = optim.Distributed(optimizer, algorithm="ring", wire=wire, bucket=bucket, accumulate=2, **options)
        for step in range(4):
            for part in range(2):
                random = np.random.default_rng([step, part, RANK])
                grads = {name: np.asarray(random.normal(size=a.shape), a.dtype) for name, a in params.items()}
                for name in np.random.default_rng([step, part, RANK]).permutation(list(params)).tolist():
                    together.ready(name, grads[name], weight=1 + (RANK + part) % 2)
            together.step()
        assert_the_same_on_all(params.values())
        made.append(params)
    for name, array in made[0].items():
        np.testing.assert_array_equal(made[1][name], array, err_msg=name, strict=True)


def test_one_rank_leaves_out_as_much():
    params = [np.zeros(4)]
    together = optim.Distributed(optim.SGD(params, lr=1.0), MPI.COMM_SELF, wire=optim.TopK(share=0.25))
    together.step([np.array([1.0, 2.0, 3.0, 4.0])])
    np.testing.assert_array_equal(params[0], [0, 0, 0, -4])
    together.step([np.zeros(4)])
    np.testing.assert_array_equal(params[0], [0, 0, -3, -4])


def test_an_array_of_nothing():
    for wire in WIRES:
        params = [np.zeros((0, 3), "f4"), np.zeros(2)]
        together = optim.Distributed(optim.SGD(params, lr=1.0), wire=wire)
        together.step([np.zeros((0, 3), "f4"), np.array([0.0, 1.0])])
        assert params[1][0] == 0 and params[1][1] == pytest.approx(-1)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: optim.TopK(0), r"TopK\(share=0\)"),
        (lambda: optim.TopK(1.01), r"TopK\(share=1.01\)"),
        (lambda: optim.TopK(np.nan), r"TopK\(share=nan\)"),
        (lambda: optim.Int8(0), r"Int8\(block=0\)"),
        (lambda: optim.Int8(2.5), r"Int8\(block=2.5\)"),
        (lambda: optim.PowerSGD(0), r"PowerSGD\(rank=0\)"),
        (lambda: optim.PowerSGD(rank="4"), r"PowerSGD\(rank='4'\)"),
    ],
)
def test_arguments_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.skipif(SIZE == 1, reason="one rank is like itself")
def test_ranks_that_differ_are_told_so():
    with pytest.raises(hc.CollectiveError, match="TopK.share=0.5"):
        optim.Distributed(optim.SGD([np.ones(3)], lr=1.0), wire=optim.TopK(0.5 if RANK else 0.25))


def digits():
    """Images of 8 × 8, float32 with mean 0, and one-hot labels."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    return (x / 16 - 0.3).astype("f4"), np.eye(10, dtype="f4")[y]


def loss_and_gradients(params, x, t):
    """Of a network with one hidden layer of rectified sums: mean cross entropy."""
    hidden = np.maximum(x @ params["w"] + params["b"], 0)
    scores = hidden @ params["v"] + params["c"]
    scores -= scores.max(axis=1, keepdims=True)
    odds = np.exp(scores)
    odds /= odds.sum(axis=1, keepdims=True)
    error = (odds - t) / len(x)
    back = (error @ params["v"].T) * (hidden > 0)
    gradients = {"w": x.T @ back, "b": back.sum(axis=0), "v": hidden.T @ error, "c": error.sum(axis=0)}
    return -float(np.mean(np.log((odds * t).sum(axis=1) + 1e-30))), gradients


def trained(wire, overlap):
    x, t = digits()
    random = np.random.default_rng(1)
    params = {
        "w": (random.normal(size=(64, 128)) / 8).astype("f4"),
        "b": np.zeros(128, "f4"),
        "v": (random.normal(size=(128, 10)) / 11).astype("f4"),
        "c": np.zeros(10, "f4"),
    }
    together = optim.Distributed(optim.SGD(params, lr=0.05, momentum=0.9), wire=wire, overlap=overlap, bucket=1 << 15)
    with own_cores(COMM):
        for step in range(300):
            batch = np.random.default_rng([2, step]).choice(len(x), 96, replace=False)
            mine = np.array_split(batch, SIZE)[RANK]
            together.step(loss_and_gradients(params, x[mine], t[mine])[1], weight=len(mine))
        return loss_and_gradients(params, x, t)[0]


@pytest.mark.parametrize(
    "wire, times", [(optim.TopK(0.05), 1.1), (optim.Int8(), 1.01), (optim.PowerSGD(4), 1.05)], ids=str
)
def test_training_gets_as_far(wire, times):
    """On scikit-learn's digits, in as many steps: at most so many times the loss of the uncompressed training."""
    plain = trained(None, False)
    assert plain < 0.1
    assert trained(wire, True) <= times * plain
