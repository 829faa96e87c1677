"""Dispatch by kind of array, and what is not an array that MPI can carry."""

import numpy as np
import pytest

from hpcml.collectives.arrays import DEVICE, HOST, as_array, check_out, kind_of, new, packed
from hpcml.collectives.memory import HUGE_PAGE, IDLE_BYTES, Pool


class OnDevice:
    """Looks like memory of a GPU, as CuPy's arrays do."""

    __cuda_array_interface__ = {"shape": (3,), "typestr": "<f4", "data": (0, False), "version": 3}


def test_kind():
    assert kind_of(OnDevice()) == DEVICE
    assert kind_of(np.ones(3)) == HOST and kind_of(3.0) == HOST


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (OnDevice(), "in GPU memory (need CuPy|, but CUDA)"),
        (np.array([None]), "Python objects"),
        (np.ma.array([1.0], mask=[True]), "mask would be lost"),
    ],
)
def test_what_cannot_be_sent_is_refused(x, message):
    with pytest.raises(TypeError, match=message):
        as_array(x)


def test_out():
    x = np.ones((2, 3))
    assert check_out(x, (2, 3), np.dtype("f8")) is x
    x.flags.writeable = False
    for out, message in ((x, "read-only"), (np.ones(6), r"float64\[6\]"), ([1.0], "must be a NumPy array, not list")):
        with pytest.raises((TypeError, ValueError), match=message):
            check_out(out, (2, 3), np.dtype("f8"))


def test_packed_copies_only_where_it_must():
    x = np.arange(6.0).reshape(2, 3)
    assert packed(x) is x
    assert packed(x.T).flags.c_contiguous and (packed(x.T) == x.T).all()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (3 << 20,), (1024, 1025)])
def test_new_arrays_are_arrays_like_any(shape):
    for dtype in ("f4", "c16", "?"):
        x = new(shape, np.dtype(dtype))
        assert x.shape == shape and x.dtype == np.dtype(dtype) and x.flags.carray
        assert x.nbytes < HUGE_PAGE or x.ctypes.data % HUGE_PAGE == 0
        x[...] = 1
        assert x.all()


def test_memory_is_used_again_but_never_while_anything_looks_at_it():
    x = new((1 << 20,), np.dtype("f8"))
    address, view = x.ctypes.data, x[5:9]
    view[:] = 7
    del x
    other = new((1 << 20,), np.dtype("f8"))
    assert other.ctypes.data != address
    other[:] = 0
    assert (view == 7).all()
    del view
    assert new((1 << 20,), np.dtype("f8")).ctypes.data == address


def test_idle_memory_is_bounded_and_the_oldest_goes_first():
    pool = Pool()
    size = IDLE_BYTES // 4 - HUGE_PAGE
    taken = [pool.take(size) for _ in range(5)]
    addresses = [memory.ctypes.data for memory in taken]
    while taken:
        memory = taken.pop(0)
        pool.give_back(memory, memory.ctypes.data)
    again = [pool.take(size) for _ in range(4)]
    assert [memory.ctypes.data for memory in again] == addresses[:0:-1]
