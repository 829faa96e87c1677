"""optim.Distributed: p ranks on shards make the steps of one rank on the whole, and fail together."""

import numpy as np
import pytest
from mpi4py import MPI
from optim_cases import ONE_OF_EACH, gradients, parameters

from hpcml import collectives as hc
from hpcml import optim
from hpcml.optim.ballot import joined, split

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size

every_case = pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)

# Per step, weighting, summing over p ≤ 8 ranks and dividing round some p + 3 times by 2⁻⁵³ in float64, of
# numbers of order 10; 20 steps of these problems, which multiply a deviation by at most 1.2 each, stay far
# below:
FLOAT64 = 1e-12
FLOAT32 = 1e-4


def samples(params, step):
    """23 single-sample gradients, different in each step."""
    return [gradients(params, 1000 * step + sample) for sample in range(23)]


def mean(chosen):
    return {name: np.mean([grads[name] for grads in chosen], axis=0, dtype=chosen[0][name].dtype) for name in chosen[0]}


def shard(everything, step):
    """This rank's samples: uneven, other ones in each step, on some ranks none."""
    owners = np.random.default_rng([5, step]).integers(0, SIZE, len(everything))
    if SIZE > 1:
        owners[owners == step % SIZE] = (step + 1) % SIZE
    return [grads for grads, owner in zip(everything, owners, strict=True) if owner == RANK]


@every_case
@pytest.mark.parametrize("dtype, bound", [("f8", FLOAT64), ("f4", FLOAT32)])
def test_shards_make_the_steps_of_the_whole(case, dtype, bound):
    whole, mine = parameters(dtype), parameters(dtype)
    alone, together = case.optimizer(whole), optim.Distributed(case.optimizer(mine))
    for step in range(20):
        alone.step(mean(samples(whole, step)))
        own = shard(samples(mine, step), step)
        together.step(mean(own) if own else None, weight=len(own))
        for name in whole:
            np.testing.assert_allclose(mine[name], whole[name], rtol=bound, atol=bound)


@every_case
def test_every_rank_has_the_same_bits(case):
    params = parameters()
    together = optim.Distributed(case.optimizer(params))
    for step in range(5):
        own = shard(samples(params, step), step)
        together.step(mean(own) if own else None, weight=len(own))
    for name, array in params.items():
        assert len(set(COMM.allgather(array.tobytes()))) == 1, name


@every_case
def test_one_rank_makes_the_steps_of_the_optimizer_alone(case):
    whole, mine = parameters(), parameters()
    alone, together = case.optimizer(whole), optim.Distributed(case.optimizer(mine), comm=MPI.COMM_SELF)
    for step in range(5):
        alone.step(gradients(whole, step))
        together.step(gradients(mine, step), weight=7)
    for name in whole:
        np.testing.assert_array_equal(mine[name], whole[name])


@pytest.mark.parametrize("nbytes", [1, 100, 1 << 20])
@pytest.mark.parametrize("kind", [dict, list])
def test_bucket_size_and_structure_change_nothing(nbytes, kind):
    # Whole numbers below 2²⁴ are summed exactly, so the mean does not depend on the order of folding.
    shapes = [(3,), (2, 5), (), (0, 4), (40,), (7,)]
    dtypes = ["f4", "f8", "f4", "f8", "f4", "f4"]
    arrays = [np.zeros(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    wrap = list if kind is list else lambda made: dict(zip("abcdef", made, strict=True))
    together = optim.Distributed(optim.SGD(wrap(arrays), lr=1.0), bucket=nbytes)
    for step in range(1, 4):
        grads = [np.full_like(array, step * (RANK + 1) + i) for i, array in enumerate(arrays)]
        together.step(wrap(grads), weight=RANK + 1)
    weights = SIZE * (SIZE + 1) // 2
    for i, array in enumerate(arrays):
        expected = sum(sum((r + 1) * (step * (r + 1) + i) for r in range(SIZE)) for step in (1, 2, 3)) / weights
        np.testing.assert_allclose(array, -expected, rtol=1e-6 if array.dtype == "f4" else 1e-15)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("big", [2**24 + 1, 2**40 + 3])
def test_sample_counts_beyond_the_dtype_are_exact(dtype, big):
    # In float32 a plain sum of the counts would lose the odd one: 2²⁴ + 1 is no float32.
    params = [np.zeros(1, dtype)]
    together = optim.Distributed(optim.SGD(params, lr=1.0))
    seen = []
    together.optimizer.step = lambda grads, scale=1.0: seen.append(scale)
    together.optimizer.apply = lambda i, gradient, scale: seen.append(scale)
    together.step([np.ones(1, dtype)], weight=big)
    assert seen == [1.0 / (big * SIZE) if SIZE > 1 else 1.0]


@pytest.mark.parametrize("weight", [0.0, 1, 0.3, 4095, 4096, 4096.25, 2**24 + 1, 2**48 - 1])
def test_a_weight_that_is_split_joins_again(weight):
    digits = split(weight)
    assert all(0 <= digit < 4096 for digit in digits)
    assert joined(digits) == weight
    assert joined([4096.0 * digit for digit in digits]) == 4096 * weight, "digits carry"


def test_fractional_weights_count():
    params = [np.zeros(3)]
    weights = np.linspace(0.1, 0.9, SIZE)
    optim.Distributed(optim.SGD(params, lr=1.0)).step([np.full(3, float(RANK))], weight=weights[RANK])
    np.testing.assert_allclose(params[0], -np.average(np.arange(SIZE), weights=weights), rtol=1e-14)


def test_everything_starts_as_on_rank_0():
    own = np.random.default_rng(RANK)
    params = {"w": own.normal(size=(4, 3)), "t": np.asfortranarray(own.normal(size=(2, 5)))[:, ::2]}
    expected = {name: COMM.bcast(array) for name, array in params.items()}
    optimizer = optim.Adam(params, lr=0.1 * (RANK + 1))
    if RANK == 0:
        optimizer.step({name: np.ones_like(array) for name, array in params.items()})
        expected = {name: array.copy() for name, array in params.items()}
    expected = COMM.bcast(expected)
    together = optim.Distributed(optimizer)
    for name, array in params.items():
        np.testing.assert_array_equal(array, expected[name])
    assert together.lr == 0.1 and together.steps == 1
    state = together.state_dict()["state"]
    np.testing.assert_array_equal(state["w"]["mean"], np.full((4, 3), 1 - 0.9))


def test_values_are_summed():
    together = optim.Distributed(optim.SGD([np.zeros(2)], lr=1.0), values=2)
    sums = together.step([np.ones(2)], weight=1, values=(RANK + 1, 0.5))
    assert sums.tolist() == [SIZE * (SIZE + 1) / 2, 0.5 * SIZE]
    assert together.step([np.ones(2)], weight=1).tolist() == [0, 0]


def test_a_rank_without_samples_may_hold_anything():
    params = [np.zeros(2)]
    together = optim.Distributed(optim.SGD(params, lr=1.0))
    last = RANK == SIZE - 1
    together.step([np.full(2, 3.0 if last else np.nan)], weight=1 if last else 0)
    assert params[0].tolist() == [-3, -3]


def test_time_in_communication_is_counted():
    together = optim.Distributed(optim.SGD([np.zeros(2)], lr=1.0))
    assert together.communication_seconds == 0
    together.step([np.ones(2)])
    first = together.communication_seconds
    together.step([np.ones(2)])
    assert (0 < first < together.communication_seconds) if SIZE > 1 else first == 0


BAD_STEPS = {
    "a missing gradient": (
        dict(grads={"w": np.ones(3)}),
        "gradients do not match the parameters: missing 'b'",
    ),
    "a wrong shape": (dict(grads={"w": np.ones(4), "b": np.ones(2)}), r"'w' has shape \(4,\)"),
    "a wrong dtype": (dict(grads={"w": np.ones(3, "f4"), "b": np.ones(2)}), "'w' has dtype float32"),
    "a negative weight": (dict(weight=-1), "weight is -1"),
    "a weight that is no number": (dict(weight=float("nan")), "weight is nan"),
    "an infinite weight": (dict(weight=float("inf")), "weight is inf"),
    "no gradients with a weight": (dict(grads=None, weight=2), "grads is None with weight 2"),
    "too many values": (dict(values=[1.0]), "1 values given"),
    "values that are no numbers": (dict(values=["x"]), "could not convert"),
}


@pytest.mark.parametrize("wrong", BAD_STEPS, ids=lambda text: text.replace(" ", "_"))
def test_a_mistake_on_one_rank_is_an_error_on_all_and_changes_nothing(wrong):
    spoilt, message = BAD_STEPS[wrong]
    params = {"w": np.ones(3), "b": np.ones(2)}
    together = optim.Distributed(optim.Adam(params, lr=1.0))
    good = dict(grads={"w": np.ones(3), "b": np.ones(2)}, weight=1)
    culprit = SIZE // 2
    with pytest.raises(hc.CollectiveError, match=message) as caught:
        together.step(**{**good, **(spoilt if culprit == RANK else {})})
    if SIZE > 1:
        assert f"rank {culprit}" in str(caught.value)
    assert all((array == 1).all() for array in params.values()) and together.steps == 0
    together.step(**good)
    assert all((array < 1).all() for array in params.values()), "the next step finds the optimizer usable"


def test_weights_that_are_all_zero_are_an_error_on_every_rank():
    params = [np.ones(2)]
    together = optim.Distributed(optim.SGD(params, lr=1.0))
    for grads in ([np.ones(2)], None):
        with pytest.raises(hc.CollectiveError, match="weights of all ranks are 0"):
            together.step(grads, weight=0)
    assert params[0].tolist() == [1, 1]


DIFFERENCES = {
    "shape": (lambda: optim.SGD({"w": np.ones(4)}, 0.1), r"'w', float64 of shape \(4,\) here"),
    "dtype": (lambda: optim.SGD({"w": np.ones(3, "f4")}, 0.1), "'w', float32"),
    "name": (lambda: optim.SGD({"v": np.ones(3)}, 0.1), "'v', float64"),
    "count": (lambda: optim.SGD({"w": np.ones(3), "x": np.ones(1)}, 0.1), "'x'.* here, nothing there"),
    "rule": (lambda: optim.Adam({"w": np.ones(3)}), "Adam here, SGD there"),
    "clipping": (lambda: optim.SGD({"w": np.ones(3)}, 0.1, clip_norm=1.0), "clip_norm=1.0 here, clip_norm=None there"),
    "loss scale": (lambda: optim.SGD({"w": np.ones(3)}, 0.1, loss_scale=2.0), "here, no loss_scale there"),
    "group": (
        lambda: optim.SGD({"w": np.ones(3)}, 0.1, groups=[{"params": ["w"], "lr": 0.2}]),
        r"groups {'w': {'lr': '2.0·lr'}} here, groups {} there",
    ),
}


@pytest.mark.skipif(SIZE == 1, reason="one rank agrees with itself")
@pytest.mark.parametrize("what", DIFFERENCES)
def test_optimizers_that_differ_are_an_error_on_every_rank(what):
    make, message = DIFFERENCES[what]
    optimizer = make() if RANK == SIZE - 1 else optim.SGD({"w": np.ones(3)}, 0.1)
    with pytest.raises(hc.CollectiveError, match=message) as caught:
        optim.Distributed(optimizer)
    assert f"rank {SIZE - 1}" in str(caught.value)


def test_buckets_that_differ_are_an_error_on_every_rank():
    params = [np.ones(3)]
    with pytest.raises(hc.CollectiveError, match="bucket"):
        optim.Distributed(optim.SGD(params, 0.1), bucket=0 if RANK == 0 else -RANK)
