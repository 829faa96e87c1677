"""optim.Distributed however it goes about it: overlapped, sharded, accumulated, reproducible; always the same steps.

Gradients are whole numbers, whose sums no order of folding rounds, so steps are compared bit by bit.
"""

import numpy as np
import pytest
from mpi4py import MPI
from optim_cases import CASES, ONE_OF_EACH, Case

from hpcml import collectives as hc
from hpcml import optim
from hpcml.optim.buckets import buckets

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
VIRTUAL = 8  # shards of a batch

ADAM = Case("Adam", {"lr": 0.1})
SPREAD = "sharded, overlapped"  # the mode in which most may go wrong: every rule is tried in it

MODES = {
    "blocking": dict(overlap=False),
    "blocking, small buckets": dict(overlap=False, bucket=5000),
    "overlapped": dict(overlap=True, bucket=5000),
    "sharded": dict(overlap=False, shard=True, bucket=5000),
    "sharded, overlapped": dict(overlap=True, shard=True),
    "reproducible": dict(overlap=False, reproducible=VIRTUAL),
    "reproducible, overlapped": dict(overlap=True, reproducible=VIRTUAL, bucket=5000),
    "reproducible, sharded": dict(overlap=False, reproducible=VIRTUAL, shard=True),
    "reproducible, sharded, overlapped": dict(overlap=True, reproducible=VIRTUAL, shard=True, bucket=5000),
}
every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=[name.replace(" ", "_") for name in MODES])


def parameters() -> dict[str, np.ndarray]:
    """Longer and shorter than a block of norms, one without items, one that is not contiguous."""
    random = np.random.default_rng(3)
    shapes = {"a": (3000,), "b": (5,), "c": (), "d": (0, 4), "e": (40, 60), "f": (2100,), "g": (30, 50)}
    dtypes = {"f": "f4", "b": "f4"}
    made = {name: random.normal(size=shape).astype(dtypes.get(name, "f8")) for name, shape in shapes.items()}
    made["c"] = np.asarray(made["c"])
    made["g"] = np.asfortranarray(made["g"])
    return made


def gradient(params, step, part):
    """Of a part of the batch: whole numbers."""
    random = np.random.default_rng([step, part])
    return {name: random.integers(-9, 10, array.shape).astype(array.dtype) for name, array in params.items()}


def weight(step, part):
    return (step + part) % 3


def expected_after(case, steps, **options):
    """The steps of one process on all parts."""
    params = parameters()
    optimizer = case.optimizer(params, **options)
    for step in range(steps):
        weights = [weight(step, part) for part in range(VIRTUAL)]
        parts = [gradient(params, step, part) for part in range(VIRTUAL)]
        total = {
            name: np.sum([w * grads[name] for w, grads in zip(weights, parts, strict=True)], axis=0, dtype=array.dtype)
            for name, array in params.items()
        }
        optimizer.step(total, scale=1.0 / sum(weights))
    return params, optimizer


def my_parts(step):
    """Parts of the batch, in each step other ones, on some ranks none."""
    owners = np.random.default_rng([7, step]).integers(0, SIZE, VIRTUAL)
    return [part for part in range(VIRTUAL) if owners[part] == RANK]


def train(together, steps, one_by_one=False):
    """One by one: each parameter in turn, in an order that is the rank's own."""
    params = together.params
    for step in range(steps):
        for part in my_parts(step):
            if not weight(step, part):
                together.add(None, weight=0)
            elif one_by_one:
                grads = gradient(params, step, part)
                names = np.random.default_rng([step, RANK]).permutation(list(params))
                for name in names.tolist():
                    together.ready(name, grads[name], weight=weight(step, part))
            else:
                together.add(gradient(params, step, part), weight=weight(step, part))
        if my_parts(step):
            together.step()
        else:
            together.step(None, weight=0)


def assert_same_bits(found, expected):
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)


@pytest.mark.parametrize(
    "case, mode", [*((ADAM, mode) for mode in MODES), *((case, SPREAD) for case in ONE_OF_EACH)], ids=str
)
def test_all_modes_make_the_same_steps(case, mode):
    params = parameters()
    # A bucket is sent when all that may come has come: at the latest with step().
    together = optim.Distributed(case.optimizer(params), **{"accumulate": VIRTUAL, **MODES[mode]})
    train(together, 3)
    expected, alone = expected_after(case, 3)
    assert_same_bits(params, expected)
    assert together.steps == alone.steps
    for name, slots in together.state_dict()["state"].items():
        assert_same_bits(slots, alone.state_dict()["state"][name])


@every_mode
@pytest.mark.parametrize(
    "options", [{"clip_norm": 2.5}, {"loss_scale": 4.0}, {"clip_norm": 1e9, "loss_scale": optim.LossScale}], ids=str
)
def test_what_looks_at_all_gradients_sees_the_same_in_all_modes(mode, options):
    def made():
        return {name: value() if callable(value) else value for name, value in options.items()}

    params = parameters()
    case = CASES[0]
    together = optim.Distributed(case.optimizer(params, **made()), **{"accumulate": VIRTUAL, **mode})
    train(together, 3)
    expected, alone = expected_after(case, 3, **made())
    assert_same_bits(params, expected)
    assert together.optimizer.norm == alone.norm


@every_mode
def test_gradients_come_one_by_one_in_the_ranks_own_order(mode):
    params = parameters()
    together = optim.Distributed(optim.Adam(params, lr=0.1), **{"accumulate": VIRTUAL, **mode})
    train(together, 3, one_by_one=True)
    assert_same_bits(params, expected_after(ADAM, 3)[0])


def test_a_full_bucket_is_under_way_before_the_step(comm):
    params = {"first": np.zeros(2000), "last": np.zeros(2000)}
    together = optim.Distributed(optim.SGD(params, lr=1.0), overlap=True, bucket=16_000)
    assert together._pipeline.sent == 0
    together.ready("last", np.ones(2000))
    assert together._pipeline.sent == 1
    together.ready("first", np.ones(2000))
    assert together._pipeline.sent == 2
    together.step()
    assert (params["first"] == -1).all() and (params["last"] == -1).all()


def test_a_bucket_waits_for_those_before_it(comm):
    params = {"first": np.zeros(2000), "last": np.zeros(2000)}
    together = optim.Distributed(optim.SGD(params, lr=1.0), overlap=True, bucket=16_000)
    together.ready("first", np.ones(2000))
    assert together._pipeline.sent == 0
    together.ready("last", np.ones(2000))
    assert together._pipeline.sent == 2
    together.step()


@pytest.mark.parametrize("mode", ["blocking", "overlapped", "sharded"])
def test_unused_parameters_are_named_or_count_as_zero(mode):
    params = parameters()
    grads = gradient(params, 0, 0)
    strict = optim.Distributed(optim.SGD(params, lr=1.0), **MODES[mode])
    lenient = optim.Distributed(optim.SGD(params, lr=1.0), allow_unused=True, **MODES[mode])
    before = {name: array.copy() for name, array in params.items()}
    last = SIZE - 1
    for together in (strict, lenient):
        for name in params:
            if not (last == RANK and name in ("a", "f")):
                together.ready(name, grads[name], weight=2.0)
        if together is strict:
            with pytest.raises(hc.CollectiveError, match="no gradient came for 'a', 'f'"):
                together.step()
            assert_same_bits(params, before)
    lenient.step()
    optimizer = optim.SGD(before, lr=1.0)
    total = {name: grads[name] * (2.0 * (SIZE - (name in ("a", "f")))) for name in params}
    optimizer.step({name: np.asarray(array, params[name].dtype) for name, array in total.items()}, scale=1 / (2 * SIZE))
    assert_same_bits(params, before)
    strict.step(gradient(params, 1, 0))  # and goes on


@pytest.mark.parametrize("mode", MODES)
def test_ranks_that_have_run_out_of_samples_take_part_to_the_end(mode):
    if "reproducible" in mode and SIZE > VIRTUAL:
        pytest.skip("more ranks than virtual shards")
    params = parameters()
    together = optim.Distributed(optim.Adam(params, lr=0.1), **MODES[mode])
    for step in range(RANK + 1):  # rank r has r + 1 batches
        grads = gradient(params, step, RANK)
        for _ in together.shards or [0]:
            together.add(grads, weight=RANK + 1)
        together.step()
    together.finish()
    assert together.steps == SIZE
    alone = parameters()
    optimizer = optim.Adam(alone, lr=0.1)
    shards = [len(part) if "reproducible" in mode else 1 for part in np.array_split(np.arange(VIRTUAL), SIZE)]
    for step in range(SIZE):
        there = range(step, SIZE)
        total = {
            name: np.sum([shards[r] * (r + 1) * gradient(alone, step, r)[name] for r in there], axis=0, dtype=a.dtype)
            for name, a in alone.items()
        }
        optimizer.step(total, scale=1.0 / sum(shards[r] * (r + 1) for r in there))
    assert_same_bits(params, alone)


@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("overlap", [False, True])
def test_reproducible_steps_have_the_same_bits_on_any_number_of_ranks(shard, overlap):
    """Gradients of all magnitudes, whose sums depend on their order; on one rank, and spread over all."""
    if SIZE > VIRTUAL:
        pytest.skip("more ranks than virtual shards")

    def grads(params, step, part):
        random = np.random.default_rng([step, part])
        return {
            name: (random.normal(size=array.shape) * 10.0 ** random.integers(-6, 7, array.shape)).astype(array.dtype)
            for name, array in params.items()
        }

    found = []
    for comm in (MPI.COMM_SELF, COMM):
        params = parameters()
        together = optim.Distributed(
            optim.Adam(params, lr=0.1), comm, reproducible=VIRTUAL, shard=shard, overlap=overlap
        )
        for step in range(3):
            for part in together.shards:
                together.add(grads(params, step, part), weight=1 + part % 3)
            together.step()
        found.append(params)
    assert_same_bits(found[1], found[0])


def test_state_of_a_sharded_optimizer_goes_to_another_and_back():
    case = ADAM
    straight, _ = expected_after(case, 4)
    params = parameters()
    together = optim.Distributed(case.optimizer(params), shard=True, accumulate=VIRTUAL)
    train(together, 2)
    state = together.state_dict()
    again = optim.Distributed(case.optimizer(params), shard=True, bucket=5000, accumulate=VIRTUAL)
    again.load_state_dict(state)
    _continue(again, 2, 4)
    assert_same_bits(params, straight)


def _continue(together, first, last):
    params = together.params
    for step in range(first, last):
        for part in my_parts(step):
            together.add(gradient(params, step, part) if weight(step, part) else None, weight=weight(step, part))
        together.step(*(() if my_parts(step) else (None, 0)))


def test_each_rank_keeps_its_part_of_the_state_only():
    params = parameters()
    together = optim.Distributed(optim.Adam(params, lr=0.1), shard=True)
    kept = sum(array.nbytes for slots in together.optimizer.state for array in slots.values())
    whole = 2 * sum(array.nbytes for array in params.values())
    assert COMM.allreduce(kept) == whole
    if SIZE > 1:
        assert kept < whole


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("wire, digits", [("float16", 11), ("bfloat16", 8)])
def test_16_bits_on_the_wire_round_and_neither_overflow_nor_vanish(wire, digits, shard, overlap):
    """Gradients of any size that a 16-bit number has, whatever the weights: large counts would take them beyond it."""
    params = {"w": np.zeros((60, 50), "f4"), "b": np.zeros(70, "f8")}
    together = optim.Distributed(optim.SGD(params, lr=1.0), wire=wire, shard=shard, overlap=overlap, bucket=8000)
    for step, size in enumerate((1e-3, 1.0, 1e3)):
        grads = {name: np.random.default_rng([step, RANK]).uniform(1, 2, a.shape) * size for name, a in params.items()}
        grads = {name: np.asarray(grad, params[name].dtype) for name, grad in grads.items()}
        before = {name: array.copy() for name, array in params.items()}
        weights = 5000.0 * (1 + np.arange(SIZE))
        together.step(grads, weight=weights[RANK])
        for name, array in params.items():
            everyone = COMM.allgather(grads[name].astype("f8"))
            mean = np.average(everyone, axis=0, weights=weights)
            # Each rank rounds its own, and each of up to p − 1 sums is rounded; of numbers that are all positive.
            np.testing.assert_allclose(before[name] - array, mean, rtol=(SIZE + 1) * 2.0**-digits)
            assert len(set(COMM.allgather(array.tobytes()))) == 1


MISTAKES = {
    "an unknown name": (lambda d: d.ready("x", np.ones(3)), "there is no parameter 'x'; there are 'v', 'w'"),
    "a wrong shape": (lambda d: d.ready("w", np.ones(4)), r"'w' has shape \(4,\)"),
    "once too often": (
        lambda d: [d.ready("w", np.ones(3)) for _ in range(2)],
        "the gradient of 'w' came more than 1 times before step",
    ),
    "another weight": (
        lambda d: (d.ready("v", np.ones(3), 1.0), d.ready("w", np.ones(3), 2.0)),
        "weight is 2.0 here and was 1.0",
    ),
}


@pytest.mark.parametrize("wrong", MISTAKES, ids=lambda text: text.replace(" ", "_"))
def test_a_mistake_before_the_step_is_an_error_of_the_step_on_every_rank(wrong):
    act, message = MISTAKES[wrong]
    params = {"v": np.ones(3), "w": np.ones(3)}
    together = optim.Distributed(optim.SGD(params, lr=1.0), overlap=True, bucket=24)
    culprit = SIZE // 2
    if culprit == RANK:
        act(together)
    with pytest.raises(hc.CollectiveError, match=message):
        together.step({"v": np.ones(3), "w": np.ones(3)} if culprit != RANK else None, weight=float(culprit != RANK))
    assert (params["w"] == 1).all() and together.steps == 0
    together.step({"v": np.ones(3), "w": np.ones(3)})
    assert (params["w"] == 0).all()


@pytest.mark.skipif(SIZE > VIRTUAL, reason="more ranks than virtual shards")
def test_a_wrong_number_of_virtual_shards_is_an_error_on_every_rank():
    params = [np.ones(3)]
    together = optim.Distributed(optim.SGD(params, lr=1.0), reproducible=VIRTUAL)
    for _ in together.shards[(RANK == SIZE - 1) :]:
        together.add([np.ones(3)])
    if not together.shards[(RANK == SIZE - 1) :]:
        together.add(None, weight=0)
        together.add(None, weight=0)
    found = VIRTUAL - 1 if len(np.array_split(np.arange(VIRTUAL), SIZE)[-1]) > 1 else VIRTUAL + 1
    with pytest.raises(hc.CollectiveError, match=f"gradients of {found} virtual shards"):
        together.step()
    assert (params[0] == 1).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(reproducible=0), "reproducible=0"),
        (dict(reproducible=1.5), "reproducible=1.5"),
        (dict(accumulate=0), "accumulate=0"),
        (dict(wire="float8"), "wire='float8'; expected None, 'float16'"),
        (dict(wire="float16", reproducible=8), "wire='float16' with reproducible=8"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(hc.CollectiveError, match=message):
        optim.Distributed(optim.SGD([np.ones(3)], lr=1.0), **arguments)


def test_a_bucket_holds_no_more_than_its_bytes_and_one_dtype():
    arrays = [np.zeros(n) for n in (10, 10, 30, 5, 5)] + [np.zeros(3, "f4")]
    found = buckets(arrays, 160)
    assert [one.members for one in found] == [(5,), (3, 4), (2,), (0, 1)]
    assert [one.size for one in found] == [3, 10, 30, 20]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8, 64])
def test_cuts_are_nearly_even_and_go_through_no_block(ranks):
    (bucket,) = buckets([np.zeros(n) for n in (5000, 3, 0, 1024, 9999)], 1 << 30)
    cuts = bucket.cuts(ranks)
    assert cuts[0] == 0 and cuts[-1] == bucket.size and cuts == sorted(cuts) and len(cuts) == ranks + 1
    for cut in cuts[:-1]:
        within = [start for _, start, stop in bucket.spans() if start <= cut < stop]
        assert cut == bucket.size or (cut - within[0]) % 1024 == 0
    assert all(abs(cut - r * bucket.size / ranks) <= 1024 for r, cut in enumerate(cuts))
