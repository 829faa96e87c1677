"""Collectives of arrays behind ``__cuda_array_interface__``, over a GPU made of host memory (see `device_standin`)."""

import sys

import device_cases
import numpy as np
import pytest
from collective_cases import data, folded
from device_cases import same
from device_standin import standing_in

from hpcml import collectives as hc
from hpcml.collectives.channel import channel_of
from hpcml.collectives.device import awareness, links, wanted, wire
from hpcml.collectives.device.awareness import Verdict

WAYS = ["ipc", "mpi", "staged"]


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(links, "awareness", lambda: Verdict(True, "its memory is the host's"))
    monkeypatch.setattr(wire, "CHUNK", 1000)  # so that short messages have many chunks
    with standing_in() as made:
        yield made


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("layout", "dtype"), [("array", "f"), ("array", "?"), ("strided", "i"), ("strided", "D")])
def test_every_collective(device, fresh, way, layout, dtype):
    with hc.device_transport(way):
        for n in (0, 1, fresh.size + 1, 1001):
            device_cases.each_collective(device, fresh, n, np.dtype(dtype), getattr(device, layout))


@pytest.mark.parametrize("way", ["mpi", "staged"])
@pytest.mark.parametrize("algorithm", [a for a in hc.algorithms("allreduce") if a not in ("auto", "shared")])
def test_every_algorithm(device, fresh, way, algorithm):
    with hc.device_transport(way):
        for n in (1, 1001):
            for op in ("sum", "mean"):
                x = device.array(data(fresh.rank, n, np.dtype("f4"), op))
                same(hc.allreduce(x, op, algorithm, comm=fresh), folded(op, fresh.size, n, np.dtype("f4")))


@pytest.mark.parametrize("way", WAYS)
def test_in_the_background(device, fresh, way):
    with hc.device_transport(way):
        for n in (1, 1001):
            device_cases.in_the_background(device, fresh, n)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_plans(device, fresh, way, background):
    with hc.device_transport(way):
        device_cases.again_and_again(device, fresh, 777, background)


def test_structures(device, fresh):
    device_cases.structures(device, fresh)


def test_special_cases(device, fresh):
    device_cases.special_cases(device, fresh)


def test_memory_without_handles_goes_through_ours(device, fresh):
    device.runtime.has_handles = False
    with hc.device_transport("ipc"):
        device_cases.each_collective(device, fresh, 100, np.dtype("f4"), device.array)


@pytest.mark.parametrize("way", WAYS)
def test_the_callers_stream_is_the_one_that_counts(device, fresh, way):
    """What is pending on his stream comes before, what he puts there afterwards comes behind; other streams do not."""
    stream = device.runtime.new_stream()
    with hc.device_transport(way):
        with device.runtime.on(stream):
            x = device.array(data(fresh.rank, 500, np.dtype("f8")))
        found = hc.allreduce(x, comm=fresh, stream=stream)
        with device.runtime.on(stream):
            x.set(np.zeros(500))  # the collective has read it by then
            same(found, folded("sum", fresh.size, 500, np.dtype("f8")))


def test_a_race_would_show(device, fresh):
    """Without the order of the caller's stream the result is wrong: the stand-in's streams are as late as can be."""
    if fresh.size == 1:
        pytest.skip("one rank has nobody to race with")
    stream = device.runtime.new_stream()
    with device.runtime.on(stream):
        x = device.array(np.ones(500))
    found = hc.allreduce(x, comm=fresh, stream=device.runtime.new_stream())  # on which nothing was put
    with device.runtime.on(stream):
        assert not (found.get() == fresh.size).all()


def test_the_transport_is_explained_and_agreed(device, fresh):
    x = device.array(np.ones(10))
    if fresh.size == 1:
        assert hc.explain("allreduce", x, comm=fresh).path.startswith("local")
        return
    assert "CUDA IPC" in str(hc.explain("allreduce", x, comm=fresh))
    with hc.device_transport("staged"):
        assert "pinned host memory" in hc.explain("allreduce", x, comm=fresh).path
    with hc.device_transport("nccl"), pytest.raises(hc.ArgumentError, match="share a GPU"):
        hc.allreduce(x, comm=fresh)
    with pytest.raises(hc.ArgumentError, match="no device transport 'pigeon'"):
        hc.device_transport("pigeon")
    assert wanted.wanted() == "auto"


def test_ranks_must_agree_on_where_arrays_are(device, fresh):
    if fresh.size == 1:
        pytest.skip("one rank agrees with itself")
    x = device.array(np.ones(4)) if fresh.rank else np.ones(4)
    with pytest.raises(hc.MismatchError, match="in GPU memory"):
        hc.allreduce(x, comm=fresh)
    with pytest.raises(hc.ArgumentError, match="of the host, but the input is in GPU memory"):
        hc.allreduce(device.array(np.ones(4)), out=np.ones(4), comm=fresh)
    with pytest.raises(hc.ArgumentError, match="the result is float64"):
        hc.allreduce(device.array(np.ones(4)), out=device.array(np.ones(5)), comm=fresh)


def test_an_mpi_that_takes_no_gpu_memory_is_found_out_by_others(device, fresh, monkeypatch):
    monkeypatch.setattr(links, "awareness", lambda: Verdict(False, "a trial failed"))
    with hc.device_transport("mpi"):
        if fresh.size > 1:
            with pytest.raises(hc.ArgumentError, match="a trial failed"):
                hc.allreduce(device.array(np.ones(4)), comm=fresh)
    x = device.array(np.ones(4))
    same(hc.allreduce(x, algorithm="ring", comm=fresh), np.full(4, float(fresh.size)))  # staged
    assert channel_of(fresh).links is not None


def test_trial(comm):
    """With memory that MPI can take, and with what ends a process that does."""
    if comm.rank == 0:
        on_the_host = (
            "def make(count, value): return np.full(count, value)\n"
            "def address(a): return a.ctypes.data\n"
            "host = np.asarray\n"
        )
        assert awareness.trial(on_the_host) is None
        nowhere = on_the_host.replace("return a.ctypes.data", "return 4096")
        assert "status" in awareness.trial(nowhere)
    comm.barrier()
    assert sys.executable
