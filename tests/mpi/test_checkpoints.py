"""Checkpoints: saved on p ranks, restored on q; whole or passed over; what goes wrong on one rank is raised on all."""

import json
import os
import re
import resource
import threading
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from collective_cases import DTYPES
from mpi4py import MPI

from hpcml import checkpoints
from hpcml import collectives as hc
from hpcml.checkpoints import Slice, manifest, places

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
LAST = SIZE - 1


@contextmanager
def ranks_before(count):
    """A communicator of the first ``count`` ranks, None on the others."""
    comm = COMM.Split(0 if count > RANK else MPI.UNDEFINED)
    yield comm if comm != MPI.COMM_NULL else None
    if comm != MPI.COMM_NULL:
        comm.Free()
    COMM.barrier()


def on_rank_0(change):
    """Make a change to the files while the others wait."""
    if RANK == 0:
        change()
    COMM.barrier()


def names_in(folder):
    COMM.barrier()
    names = sorted(os.listdir(folder))
    COMM.barrier()
    return names


def warned(caught):
    """What was said on rank 0; the others say nothing."""
    said = COMM.allgather([str(warning.message) for warning in caught])
    assert not any(said[1:])
    return said[0]


def latest(store):
    """What the store finds, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = store.latest()
    return found, warned(caught)


def state_of(step):
    """Arrays of every dtype, of all bits that it has, in several shapes and layouts; the same on every rank."""
    random = np.random.default_rng(step)
    state = {}
    for dtype in DTYPES:
        for shape in ((), (0, 3), (13,), (9, 5, 4)):
            size = int(np.prod(shape))
            if dtype.kind == "b":
                array = random.integers(0, 2, size).astype(bool)
            else:
                array = np.frombuffer(random.bytes(size * dtype.itemsize), dtype)
            state[f"{dtype}{shape}"] = array.reshape(shape)
    state["F"] = np.asfortranarray(random.normal(size=(40, 30)))
    state["strided"] = random.normal(size=(40, 30))[::3, ::2]
    return state


def spread(step, comm):
    """Arrays of which each rank has a slice: sizes differ, some ranks have none. And what they are together."""
    random = np.random.default_rng([step, comm.size])
    whole = {"tall": random.normal(size=(61, 7)), "flat": random.normal(size=900_001).astype("f4")}
    slices = {}
    for name, array in whole.items():
        edges = np.sort(random.integers(0, array.size + 1, comm.size - 1))
        edges = [0, *edges.tolist(), array.size]
        order = random.permutation(comm.size).tolist()  # which part is whose
        start, stop = edges[order[comm.rank]], edges[order[comm.rank] + 1]
        slices[name] = Slice(array.ravel()[start:stop], start, array.shape)
    whole["one's"] = np.arange(11.0)
    if comm.rank == comm.size - 1:
        slices["one's"] = Slice(whole["one's"], 0, (11,))
    return slices, whole


def assert_same(found, name, array):
    assert found.shape(name) == array.shape and found.dtype(name) == array.dtype
    read = found.read(name)
    assert read.shape == array.shape and read.dtype == array.dtype
    assert read.tobytes() == array.tobytes(), name


@pytest.mark.parametrize("savers", range(1, SIZE + 1))
def test_saved_on_p_ranks_restored_on_q(folder, savers):
    step, expected = 10 * savers, {}
    with ranks_before(savers) as comm:
        if comm is not None:
            with checkpoints.Store(folder, comm=comm) as store:
                slices, expected = spread(step, comm)
                store.save(step, {**state_of(step), **slices}, {"seen": 5 * step, "nested": [1, {"a": None}]})
    expected = {**COMM.bcast(expected), **state_of(step)}
    for readers in {1, max(1, SIZE // 2), SIZE}:
        with ranks_before(readers) as comm:
            if comm is None:
                continue
            found = checkpoints.Store(folder, comm=comm).latest()
            assert found.step == step and found.names == sorted(expected)
            assert found.facts == {"seen": 5 * step, "nested": [1, {"a": None}]}
            for name, array in expected.items():
                assert_same(found, name, array)
                start, stop = (array.size * part // comm.size for part in (comm.rank, comm.rank + 1))
                out = np.empty(stop - start, array.dtype)
                assert found.read(name, out=out, start=start, stop=stop) is out
                assert out.tobytes() == array.ravel()[start:stop].tobytes()


def test_a_folder_without_checkpoints_has_no_latest(folder):
    with checkpoints.Store(folder / "deep" / "store") as store:
        assert latest(store) == (None, [])
        on_rank_0(lambda: (store.folder / "step-1").mkdir())
        assert latest(store) == (None, [])


def test_training_may_go_on_at_once(folder):
    state = {"w": np.arange(100_000.0), "mine": Slice(np.full(1000, 1.0), 1000 * RANK, (SIZE, 1000))}
    with checkpoints.Store(folder) as store:
        go = threading.Event()
        store._writer.submit(go.wait)  # nothing is written yet when save is back
        store.save(1, state)
        assert names_in(folder / "step-0000000001") == []
        state["w"] += 1
        state["mine"].data[:] = 2
        go.set()
        found = store.latest()
        np.testing.assert_array_equal(found.read("w"), np.arange(100_000.0))
        assert (found.read("mine") == 1).all()


def test_each_rank_writes_its_part_once(folder):
    with checkpoints.Store(folder) as store:
        store.save(1, {"w": np.zeros(1_000_000, "f4")})
        store.wait()
        files = [places.rank_file(folder / "step-0000000001", rank, SIZE) for rank in range(SIZE)]
        for file in files:
            assert 0 <= file.stat().st_size - 4_000_000 / SIZE < 1000
    assert names_in(folder / "step-0000000001") == ["manifest.json", *(file.name for file in files)]


@pytest.mark.parametrize("keep", [1, 2, None])
def test_the_last_whole_ones_are_kept_and_nothing_of_others_is_touched(folder, keep):
    others = ["notes.txt", "step-0000000002x"]
    on_rank_0(lambda: [(folder / name).mkdir() for name in others])
    with checkpoints.Store(folder, keep=keep) as store:
        for step in range(1, 6):
            store.save(step, {"w": np.full(1000, step)})
        store.wait()
        kept = [f"step-000000000{step}" for step in range(1 if keep is None else 6 - keep, 6)]
        assert names_in(folder) == sorted([*others, *kept])
    with checkpoints.Store(folder, keep=1) as store:  # those that are there already count, too
        on_rank_0(lambda: (folder / "step-0000000005" / "notes.txt").touch())
        store.save(6, {"w": np.full(1000, 6)})
    assert names_in(folder) == sorted([*others, "step-0000000005", "step-0000000006"])
    assert names_in(folder / "step-0000000005") == ["notes.txt"]


def test_leftovers_go_once_a_newer_one_is_whole(folder):
    with checkpoints.Store(folder, keep=3) as store:
        for step in (10, 20, 30):
            store.save(step, {"w": np.full(1000, step)})
    on_rank_0(lambda: (folder / "step-0000000020" / manifest.NAME).unlink())
    on_rank_0(lambda: (folder / "step-0000000040").mkdir())
    on_rank_0(lambda: (folder / "step-0000000040" / ".rank-00000-of-00001.bin.77").write_text("half"))
    with checkpoints.Store(folder, keep=3) as store:
        found, said = latest(store)
        assert found.step == 30 and len(said) == 1 and "step-0000000040 is not whole" in said[0]
        assert len(names_in(folder)) == 4, "finding removes nothing"
        store.save(35, {"w": np.full(1000, 35)})
        store.wait()
        assert names_in(folder) == [f"step-00000000{step}" for step in (10, 30, 35, 40)]
        store.save(41, {"w": np.full(1000, 41)})
    assert names_in(folder) == [f"step-00000000{step}" for step in (30, 35, 41)]


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "data": (
        lambda path: flip(path / f"rank-{LAST:05d}-of-{SIZE:05d}.bin", 100),
        f"rank-{LAST:05d}.* is damaged: byte",
    ),
    "a file that is gone": (lambda path: (path / f"rank-{SIZE // 2:05d}-of-{SIZE:05d}.bin").unlink(), "bin is missing"),
    "a file cut short": (
        lambda path: os.truncate(path / f"rank-00000-of-{SIZE:05d}.bin", 900),
        "is damaged, cut short",
    ),
    "the manifest": (lambda path: flip(path / manifest.NAME, 60), "manifest.json is damaged"),
    "no manifest": (lambda path: (path / manifest.NAME).unlink(), "manifest.json is missing"),
    "a file of another step": (
        lambda path: os.replace(
            path.with_name("step-0000000001") / f"rank-{LAST:05d}-of-{SIZE:05d}.bin",
            path / f"rank-{LAST:05d}-of-{SIZE:05d}.bin",
        ),
        "belongs elsewhere",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_latest_goes_back_to_one_that_is_whole_and_says_why(folder, what):
    damage, message = DAMAGES[what]
    with checkpoints.Store(folder, keep=3) as store:
        for step in (1, 2, 3):
            store.save(step, {"w": np.full(10_000, step)}, {"at": step})
    on_rank_0(lambda: damage(folder / "step-0000000003"))
    with checkpoints.Store(folder, keep=2) as store:
        found, said = latest(store)
        assert found.step == 2 and found.facts == {"at": 2} and (found.read("w") == 2).all()
        assert len(said) == 1
        assert re.search(message, said[0])
        # Going on from there, a damaged one does not count among those that are kept.
        store.save(4, {"w": np.full(10_000, 4)})
        store.wait()
        assert {"step-0000000002", "step-0000000004"} <= set(names_in(folder))
        assert latest(store)[0].step == 4


def test_a_step_may_be_saved_again(folder):
    with checkpoints.Store(folder, keep=2) as store:
        for number in range(3):
            store.save(7, {"w": np.full(10, number)})
        found, said = latest(store)
        assert said == [] and (found.read("w") == 2).all()
        on_rank_0(lambda: (folder / "step-0000000007-3" / manifest.NAME).unlink())
        assert (latest(store)[0].read("w") == 1).all()


def test_steps_may_go_back(folder):
    """As where somebody removes the newer ones by hand while the store is open, or counts anew."""
    with checkpoints.Store(folder, keep=1) as store:
        for step in (30, 20, 10):
            store.save(step, {"w": np.full(10, step)})
        store.wait()
        assert latest(store)[0].step == 30
        on_rank_0(lambda: places.remove(folder / "step-0000000030"))
        store.save(20, {"w": np.full(10, 21)})
        assert (latest(store)[0].read("w") == 21).all()
    assert names_in(folder) == ["step-0000000020-2"]


def test_a_smaller_state_and_a_larger_one_after_it(folder):
    with checkpoints.Store(folder) as store:
        for step, size in enumerate((1000, 10, 0, 300_000), start=1):
            store.save(step, {"w": np.arange(size)})
            assert_same(store.latest(), "w", np.arange(size))
        store.save(5, {})
        assert store.latest().names == []


W = np.zeros(10)
BAD_SAVES = {
    "step": (dict(step=-1), "step is -1; expected a whole number"),
    "arrays": (dict(arrays=[W]), "arrays is a list"),
    "objects": (dict(arrays={"w": np.array([{}])}), "'w' holds Python objects"),
    "facts": (dict(facts={"a": {1, 2}}), "facts cannot be written as JSON: set"),
    "facts that are no dict": (dict(facts=[1]), "facts is a list"),
    "a slice that sticks out": (dict(arrays={"w": Slice(W, 1, (10,))}), "does not lie within"),
}
OTHER_SAVES = {
    "step": (dict(step=6), "the ranks differ in step: rank"),
    "facts": (dict(facts={"a": 2}), "the ranks differ in facts: rank"),
    "names": (dict(arrays={"v": W}), "'v' is an array on rank"),
    "shapes": (dict(arrays={"w": W[:3]}), "the ranks have different arrays 'w'"),
    "dtypes": (dict(arrays={"w": W.astype("f4")}), "the ranks have different arrays 'w'"),
}


def refused(store, fields, message):
    """A save with other fields on the last rank is an error on all; the store is usable after it."""
    good = dict(step=5, arrays={"w": W}, facts={"a": 1})
    store.save(**good)
    with pytest.raises(hc.CollectiveError, match=message) as caught:
        store.save(**{**good, **(fields if RANK == LAST else {})})
    if SIZE > 1:
        assert f"rank {LAST}" in str(caught.value) or "rank 0" in str(caught.value)
    store.save(**good)
    assert store.latest().step == 5


@pytest.mark.parametrize("what", BAD_SAVES)
def test_a_bad_argument_on_one_rank_is_an_error_on_all(folder, what):
    with checkpoints.Store(folder) as store:
        refused(store, *BAD_SAVES[what])


@pytest.mark.skipif(SIZE == 1, reason="one rank agrees with itself")
@pytest.mark.parametrize("what", OTHER_SAVES)
def test_arguments_that_differ_are_an_error_on_every_rank(folder, what):
    with checkpoints.Store(folder) as store:
        refused(store, *OTHER_SAVES[what])


def test_slices_that_leave_a_gap_are_an_error_on_every_rank(folder):
    with checkpoints.Store(folder) as store:
        for shape, message in (((SIZE, 11), "in the slice of no rank"), ((SIZE, 10), None)):
            arrays = {"w": Slice(W, shape[1] * RANK, shape)}
            if message is None:
                store.save(1, arrays)
                continue
            with pytest.raises(hc.CollectiveError, match=message):
                store.save(1, arrays)
        assert store.latest().shape("w") == (SIZE, 10)


def test_facts_take_numpy_numbers_and_the_state_of_a_generator(folder):
    generator = np.random.default_rng(3)
    with checkpoints.Store(folder) as store:
        store.save(
            np.int64(1), {}, {"loss": np.float32(0.5), "rows": np.int64(7), "random": generator.bit_generator.state}
        )
        facts = store.latest().facts
    again = np.random.default_rng()
    again.bit_generator.state = facts["random"]
    assert again.random() == generator.random()
    assert (facts["loss"], facts["rows"]) == (0.5, 7)


@contextmanager
def files_of_at_most(nbytes):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("notice", ["wait", "save", "latest", "close"])
def test_a_write_that_fails_on_one_rank_is_an_error_on_all(folder, notice):
    state = {"w": np.zeros(500_000 * SIZE)}
    store = checkpoints.Store(folder)
    store.save(1, state)
    store.wait()
    calls = {"save": lambda: store.save(3, state)}
    with files_of_at_most(3_000_000 if RANK == LAST else resource.RLIM_INFINITY):
        store.save(2, state)
        with pytest.raises(
            hc.CollectiveError, match=f"rank-{LAST:05d}-of.* cannot be written: File too large"
        ) as caught:
            calls.get(notice, getattr(store, notice))()
    if SIZE > 1:
        assert str(caught.value).startswith(f"rank {LAST}: ")
    assert names_in(folder) == ["step-0000000001"], "nothing is left of what failed"
    if notice == "close":
        store = checkpoints.Store(folder)
    assert store.latest().step == 1
    store.save(4, state)
    assert store.latest().step == 4
    store.close()


def test_a_folder_that_cannot_be_made_is_an_error_on_every_rank(folder):
    on_rank_0(lambda: (folder / "file").touch())
    for path in (folder / "file", folder / "file" / "store", "/proc/store"):
        with pytest.raises(hc.CollectiveError, match=f"the checkpoint folder {path} cannot be made or written to"):
            checkpoints.Store(path)
    with pytest.raises(hc.CollectiveError, match="keep is 0"):
        checkpoints.Store(folder, keep=0)
    assert names_in(folder) == ["file"]


@pytest.mark.skipif(SIZE == 1, reason="one rank shares with itself")
def test_a_folder_that_is_not_shared_is_an_error_on_every_rank(folder, monkeypatch):
    monkeypatch.setattr("hpcml.checkpoints.sharing.APPEARS_WITHIN_SECONDS", 0.2)
    with pytest.raises(
        hc.CollectiveError, match="does not show what rank 0 has written to it: name the same"
    ) as caught:
        checkpoints.Store(folder / ("of rank 0" if RANK == 0 else "of the others"))
    assert str(caught.value).startswith("rank 1: " if SIZE == 2 else f"ranks 1-{LAST}: ")
    assert names_in(folder) == ["of rank 0"] and names_in(folder / "of rank 0") == []


def test_relative_paths_hold_when_the_working_directory_changes(folder, monkeypatch):
    monkeypatch.chdir(folder)
    store = checkpoints.Store("store")
    monkeypatch.chdir("/")
    store.save(1, {"w": W})
    store.close()
    assert names_in(folder) == ["store"]


def test_a_closed_store_says_so(folder):
    with checkpoints.Store(folder) as store:
        store.save(1, {"w": W})
    store.close()
    for call in (lambda: store.save(2, {"w": W}), store.wait, store.latest):
        with pytest.raises(ValueError, match="the store of .* is closed"):
            call()


def test_after_an_exception_what_was_saved_is_on_disk(folder):
    with pytest.raises(ZeroDivisionError), checkpoints.Store(folder) as store:
        store.save(1, {"w": W})
        raise ZeroDivisionError
    COMM.barrier()
    assert checkpoints.Store(folder).latest().step == 1


def test_manifest_is_plain_json(folder):
    with checkpoints.Store(folder) as store:
        store.save(3, {"w": np.zeros((2, 3), "f4")}, {"rate": 0.1})
    text = (folder / "step-0000000003" / manifest.NAME).read_text()
    assert json.loads(text)["checkpoint"] == {
        "format": "hpcml checkpoint",
        "version": 1,
        "step": 3,
        "ranks": SIZE,
        "arrays": {"w": {"dtype": "<f4", "shape": [2, 3]}},
        "facts": {"rate": 0.1},
    }
