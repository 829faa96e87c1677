"""Torch models trained over ranks end where one process ends with the whole batch."""

import copy

import numpy as np
import pytest
from mpi4py import MPI

from hpcml import collectives as hc

torch = pytest.importorskip("torch", reason="torch is not in this environment")

from hpcml.optim.pytorch import DistributedOptimizer  # noqa: E402

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
BATCHES, ROWS = 6, 24

OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "AdamW with groups": lambda parameters: torch.optim.AdamW(
        [{"params": parameters[:2], "lr": 0.02}, {"params": parameters[2:]}], lr=0.01
    ),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, centered=True),
}


def model(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(9, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).to(dtype)


def batch(step, dtype=torch.float64):
    random = np.random.default_rng(step)
    return torch.tensor(random.normal(size=(ROWS, 9))).to(dtype), torch.tensor(random.integers(0, 3, ROWS))


def mine(step):
    """This rank's rows of a batch: uneven, none now and then."""
    cuts = np.sort(np.random.default_rng([3, step]).integers(0, ROWS + 1, SIZE - 1)).tolist()
    ends = [0, *cuts, ROWS]
    return slice(ends[RANK], ends[RANK + 1])


def loss(net, X, y):
    return torch.nn.functional.cross_entropy(net(X), y)


def whole_batches(make, dtype=torch.float64, batches=BATCHES):
    net = model(dtype=dtype)
    optimizer = make(list(net.parameters()))
    for step in range(batches):
        optimizer.zero_grad()
        loss(net, *batch(step, dtype)).backward()
        optimizer.step()
    return net


def assert_close(net, other, bound):
    for (name, here), there in zip(net.named_parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(here.detach(), there.detach(), rtol=bound, atol=bound, err_msg=name)


def same_on_all_ranks(net):
    return all(len(set(COMM.allgather(p.detach().numpy().tobytes()))) == 1 for p in net.parameters())


@pytest.mark.parametrize("options", [{}, {"overlap": True, "bucket": 500}], ids=["blocking", "overlapped"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
# float64: sums over rows and ranks in another order, some 50 roundings of 2⁻⁵³ a step. float32: likewise with 2⁻²⁴.
@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=["float64", "float32"])
def test_uneven_shares_end_where_one_process_ends(make, options, dtype, bound):
    net = model(RANK, dtype)  # other weights on each rank, until those of rank 0 are everybody's
    optimizer = DistributedOptimizer(make(list(net.parameters())), net, **options)
    for step in range(BATCHES):
        optimizer.zero_grad()
        X, y = (part[mine(step)] for part in batch(step, dtype))
        optimizer.weight = len(X)
        if len(X):
            loss(net, X, y).backward()
        optimizer.step()
    assert same_on_all_ranks(net)
    assert_close(net, whole_batches(make, dtype), bound)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_steps_in_parts_have_the_bits_of_whole_ones(make, monkeypatch):
    found = []
    for enough in (1, 1 << 18):
        monkeypatch.setattr("hpcml.optim.pytorch.ENOUGH", enough)
        net = model()
        optimizer = DistributedOptimizer(make(list(net.parameters())), net, overlap=True, bucket=500)
        for step in range(BATCHES):
            optimizer.zero_grad()
            loss(net, *batch(step)).backward()
            optimizer.step()
        found.append([part.detach().clone() for p in net.parameters() for part in (p, p.grad)])
    assert all(map(torch.equal, *found))


def test_a_hook_sees_all_gradients_at_once(monkeypatch):
    monkeypatch.setattr("hpcml.optim.pytorch.ENOUGH", 1)
    net, seen = model(), []
    optimizer = DistributedOptimizer(OPTIMIZERS["SGD"](list(net.parameters())), net, overlap=True)
    optimizer.register_step_pre_hook(lambda *_: seen.append([p.grad is not None for p in net.parameters()]))
    loss(net, *batch(0)).backward()
    optimizer.step()
    assert seen == [[True] * len(list(net.parameters()))]


def test_one_rank_has_the_bits_of_torch_alone():
    net = model()
    optimizer = DistributedOptimizer(OPTIMIZERS["Adam"](list(net.parameters())), net, MPI.COMM_SELF)
    for step in range(BATCHES):
        optimizer.zero_grad()
        loss(net, *batch(step)).backward()
        optimizer.step()
    for here, there in zip(net.parameters(), whole_batches(OPTIMIZERS["Adam"]).parameters(), strict=True):
        assert torch.equal(here, there)


@pytest.mark.parametrize("clear", [True, False])
def test_gradients_of_several_backward_passes_make_one_step(clear):
    net = model()
    optimizer = DistributedOptimizer(OPTIMIZERS["SGD"](list(net.parameters())), net, accumulate=2, overlap=True)
    for step in range(BATCHES):
        X, y = batch(step)
        own = np.array_split(np.arange(ROWS), 2 * SIZE)[2 * RANK : 2 * RANK + 2]
        for rows in own:
            if clear or rows is own[0]:
                optimizer.zero_grad()
            optimizer.weight = len(rows)
            loss(net, X[rows], y[rows]).backward()
        optimizer.step()
    assert_close(net, whole_batches(OPTIMIZERS["SGD"]), 1e-12)


def test_a_scheduler_takes_it_and_state_goes_on():
    net, other = model(), model()
    alone = OPTIMIZERS["SGD"](list(other.parameters()))
    optimizer = DistributedOptimizer(OPTIMIZERS["SGD"](list(net.parameters())), net)
    laws = [torch.optim.lr_scheduler.StepLR(one, 2, 0.5) for one in (optimizer, alone)]
    for step in range(BATCHES):
        if step == 3:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer.load_state_dict(saved)
        for one, it in ((net, optimizer), (other, alone)):
            it.zero_grad()
            loss(one, *batch(step)).backward()
            it.step()
        for law in laws:
            law.step()
    assert_close(net, other, 1e-12)
    assert isinstance(optimizer, torch.optim.SGD)


def test_ranks_run_out_of_batches():
    net = model()
    optimizer = DistributedOptimizer(OPTIMIZERS["SGD"](list(net.parameters())), net)
    for step in range(RANK + 1):
        optimizer.zero_grad()
        loss(net, *batch(step)).backward()
        optimizer.step()
    optimizer.finish()
    assert same_on_all_ranks(net)
    assert_close(net, whole_batches(OPTIMIZERS["SGD"], batches=SIZE), 1e-12)


def test_unused_parameters_are_named():
    net = torch.nn.ModuleDict({"used": torch.nn.Linear(3, 2), "idle": torch.nn.Linear(3, 2)})
    optimizer = DistributedOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), net)
    net["used"](torch.ones(4, 3)).sum().backward()
    with pytest.raises(hc.CollectiveError, match="no gradient came for 'idle.bias', 'idle.weight'"):
        optimizer.step()


def test_16_bit_gradients_of_bfloat16_parameters():
    net = model(dtype=torch.bfloat16)
    optimizer = DistributedOptimizer(torch.optim.SGD(net.parameters(), lr=0.5), net)
    before = [p.detach().float().clone() for p in net.parameters()]
    for number, parameter in enumerate(net.parameters()):
        (parameter * (RANK + 1) * 2.0**-number).sum().backward()
    optimizer.step()
    for number, (old, new) in enumerate(zip(before, net.parameters(), strict=True)):
        mean = (SIZE + 1) / 2 * 2.0**-number
        np.testing.assert_allclose(new.detach().float(), old - 0.5 * mean, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("wire, digits", [("float16", 11), ("bfloat16", 8)])
def test_16_bits_on_the_wire_round_once_for_each_sum(wire, digits):
    net = torch.nn.Linear(50, 40, bias=False)
    optimizer = DistributedOptimizer(torch.optim.SGD(net.parameters(), lr=1.0), net, wire=wire)
    before = net.weight.detach().clone()
    X = torch.rand(8, 50) + 0.5
    optimizer.weight = 3 * (RANK + 1)
    (net(X) * 1000).sum().backward()
    everyones = COMM.allgather((net.weight.grad.numpy().astype("f8"), optimizer.weight))
    optimizer.step()
    mean = np.average([grad for grad, _ in everyones], axis=0, weights=[weight for _, weight in everyones])
    moved = before.double() - net.weight.detach().double()
    np.testing.assert_allclose(moved, mean, rtol=(SIZE + 1) * 2.0**-digits)


def test_buffers_become_those_of_rank_0():
    net = torch.nn.BatchNorm1d(4)
    net.running_mean += RANK
    DistributedOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), net)
    assert (net.running_mean == 0).all()


def test_what_cannot_be_is_refused():
    net = model()
    with pytest.raises(TypeError, match="takes no shard"):
        DistributedOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), net, shard=True)
    optimizer = DistributedOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), net)
    with pytest.raises(TypeError, match="closure"):
        optimizer.step(lambda: None)


@pytest.mark.skipif(SIZE == 1, reason="one rank agrees with itself")
def test_modules_that_differ_are_an_error_on_every_rank():
    net = torch.nn.Linear(3, 2 if RANK else 1)
    with pytest.raises(hc.CollectiveError, match="the module differs from that of rank 0"):
        DistributedOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), net)
