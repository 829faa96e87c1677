"""A training that was cut short goes on from its newest checkpoint, on any number of ranks, to the same end."""

import numpy as np
import pytest
from mpi4py import MPI
from test_models_reproducible import problem, uneven

from hpcml import collectives as hc
from hpcml import optim
from hpcml.checkpoints import Store
from hpcml.models import Checkpoints, MLPClassifier
from hpcml.optim import saving

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
VIRTUAL = 8


class Cut(Exception):
    """Ends a training on every rank."""


class CutAfter:
    """A monitor that does so after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def step(self, record):
        self.left -= 1
        if not self.left:
            raise Cut

    def epoch(self, record):
        pass


def model(comm, **options):
    settings = {"batch_size": 50, "epochs": 4, "learning_rate": 0.01, "reproducible": VIRTUAL, **options}
    return MLPClassifier((17, 9), comm=comm, **settings)


def rows_of(comm):
    X, y = problem()
    mine = uneven(len(X)) if comm == COMM else np.array_split(np.arange(len(X)), comm.size)[comm.rank]
    return X[mine], y[mine]


def assert_same_bits(found, expected):
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)


@pytest.mark.skipif(SIZE > VIRTUAL, reason="more ranks than virtual shards")
@pytest.mark.parametrize("options", [{}, {"shard": True}, {"optimizer": "momentum", "clip_norm": 1.0}], ids=str)
@pytest.mark.parametrize("cut", [5, 19])  # in the midst of the first epoch, and of a later one: an epoch has 9 steps
def test_it_ends_with_the_bits_of_one_that_was_not_cut_short_on_fewer_and_on_more_ranks(folder, options, cut):
    straight = model(COMM, **options).fit(*rows_of(COMM))
    half = COMM.Split(RANK < (SIZE + 1) // 2, RANK)  # the first half of the ranks is one of the two
    for number, (before, after) in enumerate([(COMM, half), (half, COMM), (COMM, COMM)]):
        there = Checkpoints(folder / str(number), steps=2)
        if before == COMM or RANK < (SIZE + 1) // 2:
            with pytest.raises(Cut):
                model(before, **options).fit(*rows_of(before), monitor=CutAfter(cut), checkpoints=there)
        COMM.barrier()
        if after == COMM or RANK < (SIZE + 1) // 2:
            other = {"shard": False} if "shard" in options else {"overlap": True}  # which changes no bits
            resumed = model(after, **{**options, **other}).fit(*rows_of(after), checkpoints=there)
            assert_same_bits(resumed.parameters_, straight.parameters_)
            assert [r["epoch"] for r in resumed.history_] == [1, 2, 3, 4]
            for here, there_ in zip(resumed.history_, straight.history_, strict=True):
                assert here["loss"] == pytest.approx(there_["loss"], rel=1e-12)
        COMM.barrier()
    half.Free()


def test_a_finished_training_is_not_done_again(folder):
    there = Checkpoints(folder, steps=9)
    first = model(COMM).fit(*rows_of(COMM), checkpoints=there)
    again = model(COMM).fit(*rows_of(COMM), checkpoints=there, monitor=CutAfter(1))
    assert_same_bits(again.parameters_, first.parameters_)
    assert again.history_ == first.history_


@pytest.mark.parametrize("different", [{"learning_rate": 0.02}, {"optimizer": "sgd"}, {"random_state": 1}], ids=str)
def test_checkpoints_of_another_training_are_refused(folder, different):
    there = Checkpoints(folder, steps=2)
    with pytest.raises(Cut):
        model(COMM).fit(*rows_of(COMM), monitor=CutAfter(4), checkpoints=there)
    name = next(iter(different))
    with pytest.raises(hc.CollectiveError, match=f"of a training with {name}="):
        model(COMM, **different).fit(*rows_of(COMM), checkpoints=there)


@pytest.mark.parametrize("before, after", [(False, True), (True, False), (True, True)])
def test_the_state_of_an_optimizer_goes_from_shards_to_a_whole_and_back(folder, before, after):
    def made(shard):
        params = {"w": np.linspace(1, 2, 5000), "h": np.linspace(1, 2, 70).astype("f2"), 3: np.ones((2, 3), order="F")}
        scale = optim.LossScale(8.0, interval=2)
        return optim.Distributed(optim.Adam(params, betas=(0.8, 0.9), loss_scale=scale), shard=shard)

    def grads(step):
        return {"w": np.full(5000, 1.0 + step), "h": np.full(70, 2.0 + step, "f4"), 3: np.full((2, 3), 1.0)}

    one, two = made(before), made(after)
    for step in range(3):
        one.step(grads(step))
    with Store(folder) as store:
        store.save(3, saving.arrays(one), {"optimizer": saving.facts(one)})
        found = store.latest()
        saving.restore(two, found, found.facts["optimizer"])
        assert two.optimizer.loss_scale.value == one.optimizer.loss_scale.value == 16.0
        for step in range(3, 5):
            one.step(grads(step))
            two.step(grads(step))
        assert_same_bits(two.params, one.params)
        for name, slots in two.state_dict()["state"].items():
            assert_same_bits(slots, one.state_dict()["state"][name])
        assert two.steps == 5
        other = optim.Distributed(optim.SGD({"w": np.ones(3)}, lr=0.1))
        with pytest.raises(hc.CollectiveError, match="is of Adam .* the optimizer is SGD"):
            saving.restore(other, found, found.facts["optimizer"])
        other = optim.Distributed(optim.Adam({"w": np.ones(3)}, lr=0.1))
        with pytest.raises(hc.CollectiveError, match="differ in 'parameter/3', 'parameter/h'"):
            saving.restore(other, found, found.facts["optimizer"])
        other = optim.Distributed(optim.Adam({**two.params, "w": np.ones(3)}, lr=0.1))
        with pytest.raises(hc.CollectiveError, match=r"'parameter/w' .* is float64 of shape \(5000,\)"):
            saving.restore(other, found, found.facts["optimizer"])


def test_states_that_differ_between_ranks_are_not_saved():
    local = optim.Distributed(optim.SGD({"w": np.ones(3)}, lr=0.1), sync=4)
    with pytest.raises(ValueError, match="each rank has a state of its own"):
        saving.arrays(local)
