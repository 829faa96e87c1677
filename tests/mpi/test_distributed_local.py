"""optim.Distributed(sync=...): steps of each rank's own, and an average every so many; held against a plain loop."""

import numpy as np
import pytest
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml import optim

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size

#: Weighting, summing over p ≤ 8 ranks and dividing round a few times by 2⁻⁵³ in each average of numbers of order 10.
FLOAT64 = 1e-12


def parameters():
    random = np.random.default_rng(1)
    return {"w": random.normal(size=(30, 4)), "b": random.normal(size=7)}


def gradient(params, step, rank):
    random = np.random.default_rng([step, rank])
    return {name: array - 1 + random.normal(size=array.shape) for name, array in params.items()}


def weight(step, rank):
    return (step + rank) % 3 if SIZE > 1 else 1


def expected_after(rounds, dial, inner=lambda params: optim.Adam(params, lr=0.1)):
    """All ranks in one process; rounds: for each the numbers of the steps that each rank makes in it."""
    common = parameters()
    everyones = [{name: array.copy() for name, array in common.items()} for _ in range(SIZE)]
    optimizers = [inner(params) for params in everyones]
    outer = optim.SGD(common, dial.lr, dial.momentum, nesterov=dial.nesterov)
    for steps in rounds:
        for rank, (params, optimizer) in enumerate(zip(everyones, optimizers, strict=True)):
            for step in steps[rank]:
                if weight(step, rank):
                    optimizer.step(gradient(params, step, rank))
        weights = [float(sum(weight(step, rank) for step in steps[rank])) for rank in range(SIZE)]
        moved = {
            name: np.average([common[name] - params[name] for params in everyones], axis=0, weights=weights)
            for name in common
        }
        outer.step(moved)
        for params in everyones:
            for name, array in common.items():
                params[name][...] = array
    return common


def assert_close(found, expected):
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=FLOAT64, atol=FLOAT64)


DIALS = {
    "average": optim.Local(4),
    "each step": optim.Local(1),
    "outer momentum": optim.Local(4, lr=0.7, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("dial", DIALS.values(), ids=[name.replace(" ", "_") for name in DIALS])
@pytest.mark.parametrize("one_by_one", [False, True])
def test_ranks_step_for_themselves_and_average(dial, one_by_one):
    params = parameters()
    together = optim.Distributed(optim.Adam(params, lr=0.1), sync=dial, values=1)
    seen = []
    for step in range(8):
        grads, own = gradient(params, step, RANK), weight(step, RANK)
        if one_by_one and own:
            for name in params:
                together.ready(name, grads[name], weight=own)
            seen.append(together.step(values=[1.0])[0])
        else:
            seen.append(together.step(grads if own else None, weight=own, values=[1.0])[0])
    turns = dial.steps
    assert seen == [float(SIZE * turns) if (step + 1) % turns == 0 else 0.0 for step in range(8)]
    rounds = [[range(first, first + turns)] * SIZE for first in range(0, 8, turns)]
    assert_close(params, expected_after(rounds, dial))
    for name, array in params.items():
        assert len(set(COMM.allgather(array.tobytes()))) == 1, name


def test_a_number_of_steps_stands_for_a_plain_average():
    params, others = parameters(), parameters()
    for one, sync in ((params, 4), (others, optim.Local(4))):
        together = optim.Distributed(optim.SGD(one, lr=0.1), sync=sync)
        for step in range(4):
            together.step(gradient(one, step, RANK), weight=2)
    for name in params:
        np.testing.assert_array_equal(params[name], others[name])


def test_ranks_that_have_run_out_of_samples_take_part_in_the_averages_of_the_others():
    """Rank r makes 2r + 3 steps: what is left over at its end goes into an average of its own."""
    params = parameters()
    together = optim.Distributed(optim.SGD(params, lr=0.1), sync=2)
    steps = [2 * rank + 3 for rank in range(SIZE)]
    for step in range(steps[RANK]):
        own = weight(step, RANK)
        together.step(gradient(params, step, RANK) if own else None, weight=own)
    together.finish()
    rounds = [[range(first, min(first + 2, steps[rank])) for rank in range(SIZE)] for first in range(0, max(steps), 2)]
    rounds = [turn for turn in rounds if any(weight(s, r) for r, own in enumerate(turn) for s in own)]
    assert_close(params, expected_after(rounds, optim.Local(2), lambda one: optim.SGD(one, lr=0.1)))


def test_16_bit_parameters_are_averaged_in_32_bits():
    params = {"w": np.linspace(1, 2, 50).astype("f2")}
    together = optim.Distributed(optim.SGD(params, lr=1.0), sync=2)
    for _ in range(2):
        together.step({"w": np.full(50, 1e-5 * (RANK + 1), "f4")})
    mean = 2e-5 * np.mean(np.arange(SIZE) + 1)
    master = together.optimizer.state[0]["master"]
    np.testing.assert_allclose(master, np.linspace(1, 2, 50).astype("f2").astype("f4") - mean, rtol=1e-6)
    np.testing.assert_array_equal(params["w"], master.astype("f2"))


def test_a_mistake_of_one_rank_is_an_error_on_all_with_the_next_average():
    params = parameters()
    together = optim.Distributed(optim.SGD(params, lr=0.1), sync=3)
    culprit = SIZE // 2
    for step in range(2):
        wrong = culprit == RANK and step == 0
        together.step({"w": np.ones(3)} if wrong else gradient(params, step, RANK))
    with pytest.raises(hc.CollectiveError, match="missing 'b'"):
        together.step(gradient(params, 2, RANK))


def test_the_state_of_each_rank_goes_on_where_it_was():
    straight, params = parameters(), parameters()
    dial = optim.Local(2, lr=0.7, momentum=0.9)
    one = optim.Distributed(optim.Adam(straight, lr=0.1), sync=dial)
    two = optim.Distributed(optim.Adam(params, lr=0.1), sync=dial)
    for step in range(6):
        one.step(gradient(straight, step, RANK))
        if step == 4:
            again = optim.Distributed(optim.Adam(params, lr=0.1), sync=dial)
            again.load_state_dict(two.state_dict())
            two = again
        two.step(gradient(params, step, RANK))
    for name in params:
        np.testing.assert_array_equal(params[name], straight[name])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(sync=0), "sync=0; expected a number of steps"),
        (dict(sync="now"), "sync='now'"),
        (dict(sync=4, shard=True), "sync=4 goes with neither"),
    ],
)
def test_dials_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(hc.CollectiveError, match=message):
        optim.Distributed(optim.SGD([np.ones(3)], lr=1.0), **arguments)


def test_no_steps_between_averages_are_refused():
    with pytest.raises(ValueError, match="steps=0"):
        optim.Local(0)
