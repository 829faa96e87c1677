"""The matrix on a GPU: collectives × data types × sizes × layouts × transports; streams; other libraries' arrays."""

import device_cases
import numpy as np
import pytest
from collective_cases import LARGE, data, folded
from device_cases import same

from hpcml import collectives as hc
from hpcml.collectives.channel import channel_of
from hpcml.collectives.device import awareness

WAYS = ["auto", "ipc", "mpi", "staged", "nccl"]
DTYPES = "?bhilBHILefdFD"


@pytest.fixture(params=WAYS)
def way(request, device, fresh):
    """Each that can be taken here; the others are skipped, with what stands against them."""
    if request.param in ("ipc", "nccl", "mpi") and fresh.size == 1:
        pytest.skip("one rank has nobody to talk to")
    hc.allreduce(device.array(np.ones(1)), comm=fresh)
    links = channel_of(fresh).links
    can = {"ipc": lambda: links.ipc, "nccl": lambda: links.nccl, "mpi": lambda: links.aware}
    if request.param in can and not (verdict := can[request.param]()).can:
        pytest.skip(verdict.why)
    with hc.device_transport(request.param):
        yield request.param


@pytest.mark.parametrize("layout", ["array", "strided"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_collective(device, fresh, way, layout, dtype):
    if way == "nccl":
        pytest.skip("NCCL has not all collectives and data types: see test_nccl")
    for n in (0, 1, fresh.size + 1, LARGE):
        device_cases.each_collective(device, fresh, n, np.dtype(dtype), getattr(device, layout))


@pytest.mark.parametrize("dtype", "bilBILefd")
def test_nccl(device, fresh, way, dtype):
    if way != "nccl":
        pytest.skip("of NCCL alone")
    dtype = np.dtype(dtype)
    for n in (1, fresh.size, LARGE):
        for op in ("sum", "max"):
            x = device.array(data(fresh.rank, n, dtype, op))
            same(hc.allreduce(x, op, comm=fresh), folded(op, fresh.size, n, dtype))
        rows = device.array(device_cases.part(fresh.rank, fresh.rank + n, dtype))
        whole = np.concatenate([device_cases.part(r, r + n, dtype) for r in range(fresh.size)])
        same(hc.allgather(rows, comm=fresh), whole)


@pytest.mark.parametrize("algorithm", [a for a in hc.algorithms("allreduce") if a != "shared"])
def test_every_algorithm(device, fresh, algorithm):
    for way in ("auto", "staged"):
        with hc.device_transport(way):
            for n in (1, LARGE):
                x = device.array(data(fresh.rank, n, np.dtype("f4")))
                same(hc.allreduce(x, algorithm=algorithm, comm=fresh), folded("sum", fresh.size, n, np.dtype("f4")))


def test_in_the_background(device, fresh, way):
    for n in (1, LARGE):
        device_cases.in_the_background(device, fresh, n)


@pytest.mark.parametrize("background", [False, True])
def test_plans(device, fresh, way, background):
    device_cases.again_and_again(device, fresh, LARGE, background)


def test_structures(device, fresh):
    device_cases.structures(device, fresh)


def test_special_cases(device, fresh):
    device_cases.special_cases(device, fresh)


def test_the_callers_stream(device, fresh, way):
    """A long kernel is pending on his stream when the collective is called, and he goes on there at once."""
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    for _ in range(5):
        with stream:
            x = cupy.zeros(1 << 20, "f4")
            busy = cupy.ones((4096, 4096), "f4")
            for _ in range(8):
                busy = busy @ busy / 4096
            x += fresh.rank + 1 + 0 * busy[0, 0]
            total = hc.allreduce(x, comm=fresh)
            x[...] = -1
            assert (total == fresh.size * (fresh.size + 1) / 2).all()
        stream.synchronize()


def test_a_race_would_show(device, fresh):
    """Told another stream than the one with the work, a collective reads what is not there yet."""
    import cupy

    if fresh.size == 1:
        pytest.skip("one rank has nobody to race with")
    stream, other = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
    with stream:
        x = cupy.zeros(1 << 20, "f4")
        busy = cupy.ones((8192, 8192), "f4")
        stream.synchronize()
        for _ in range(20):
            busy = busy @ busy / 8192
        x += 1 + 0 * busy[0, 0]
    total = hc.allreduce(x, comm=fresh, stream=other)
    other.synchronize()
    late = bool((total.get() != fresh.size).any())
    stream.synchronize()
    assert fresh.allreduce(late) > 0


def test_pytorch_and_numba(device, fresh):
    torch = pytest.importorskip("torch")
    cuda = pytest.importorskip("numba.cuda")
    expected = np.full(5, float(sum(range(fresh.size))))
    tensor = torch.full((5,), float(fresh.rank), dtype=torch.float64, device="cuda", requires_grad=True)
    found = hc.allreduce(tensor, comm=fresh)
    assert isinstance(found, torch.Tensor) and found.is_cuda
    np.testing.assert_array_equal(found.cpu().numpy(), expected)
    short = hc.allreduce(torch.ones(9, dtype=torch.bfloat16, device="cuda"), comm=fresh)
    assert short.dtype == torch.bfloat16 and (short == fresh.size).all()
    array = cuda.to_device(np.full(5, float(fresh.rank)))
    found = hc.allreduce(array, comm=fresh)
    np.testing.assert_array_equal(found.copy_to_host(), expected)


def test_a_pool_whose_memory_has_no_handles(device, fresh):
    import cupy

    before = cupy.cuda.get_allocator()
    try:
        pool = cupy.cuda.MemoryAsyncPool()
    except Exception as error:
        pytest.skip(f"no asynchronous pool here: {error}")
    try:
        cupy.cuda.set_allocator(pool.malloc)
        device_cases.each_collective(device, fresh, 1000, np.dtype("f4"), device.array)
    finally:
        cupy.cuda.set_allocator(before)


def test_whether_mpi_takes_gpu_memory_is_known(device, comm):
    verdict = awareness.awareness() if comm.rank == 0 else None
    verdict = comm.bcast(verdict)
    print(f"MPI and GPU memory: {verdict}")
    assert verdict.why
