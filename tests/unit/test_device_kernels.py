"""The kernels of collectives, compiled for the processor, against NumPy; and for the GPU, if its compiler is here."""

import shutil
import subprocess

import ml_dtypes
import numpy as np
import pytest
from device_standin import standing_in

from hpcml.collectives.device import kernels
from hpcml.collectives.device.arrays import straight_strides, taken
from hpcml.collectives.ops import OPS, check_dtype, fold

DTYPES = [np.dtype(c) for c in "?bhilBHILefdFD"] + [np.dtype(ml_dtypes.bfloat16)]


def defined(op, dtype):
    try:
        check_dtype(op, dtype)
    except TypeError:
        return False
    return True


@pytest.fixture
def device():
    with standing_in() as made:
        yield made


def numbers(dtype, n, seed):
    """Of every kind, NaNs and the largest included."""
    bits = np.random.default_rng(seed).integers(0, 256, n * dtype.itemsize, np.uint8)
    if dtype.kind == "b":
        return bits.astype(bool)
    if dtype.kind in "iu":
        return bits.view(dtype)
    values = np.random.default_rng(seed).normal(size=n) * 10.0 ** np.random.default_rng(seed).integers(-3, 4, n)
    values[::17] = np.nan
    values[::13] = 0
    return (values + 1j * values[::-1] if dtype.kind == "c" else values).astype(dtype)


def same(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found.view(np.uint8) if found.dtype.kind == "V" else found, expected)


def differing(found, expected):
    """Places where they are not the same number, NaN being one."""
    wide = np.complex128 if found.dtype.kind == "c" else np.float64 if found.dtype.kind in "fV" else None
    a, b = (x if wide is None else x.astype(wide) for x in (found, expected))
    return np.flatnonzero(~((a == b) | ((a != a) & (b != b))))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 8, 1003])
def test_fold_is_numpys_in_rank_order(device, dtype, n):
    for op in OPS.values():
        if not defined(op, dtype) or (op.name not in ("sum", "max") and dtype.char not in "?ifFE"):
            continue
        for sources in (2, 3, 9):
            given = [numbers(dtype, n, seed) for seed in range(sources)]
            expected = given[0].copy()
            with np.errstate(all="ignore"):
                for right in given[1:]:
                    fold(op, expected, right, expected)
                if op.finishes:
                    parts = expected.view(expected.real.dtype) if dtype.kind == "c" else expected
                    parts[:] = parts / parts.dtype.type(sources)
            arrays = [device.array(a) for a in given]
            scratch, targets = device.array(given[0]), [device.array(np.zeros(n, dtype)) for _ in range(9)]
            kernels.fold(
                device.runtime,
                op,
                dtype,
                [t.pointer for t in targets],
                [a.pointer for a in arrays],
                n,
                device.runtime.current,
                sources if op.finishes else 0,
                scratch.pointer,
            )
            for target in targets:
                found = target.get()
                if dtype.kind == "c" and op.name == "prod":  # NumPy's rounds once where this rounds twice
                    np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == "F" else 1e-14)
                else:
                    assert not len(differing(found, expected)), (op.name, sources)


def test_fold_of_what_is_not_aligned(device):
    a, b = device.array(np.arange(103.0)), device.array(np.arange(103.0) * 7)
    out = device.array(np.zeros(103))
    places = [x.pointer + 8 for x in (a, b)]
    kernels.fold(device.runtime, OPS["sum"], np.dtype("f8"), [out.pointer], places, 102, device.runtime.current)
    same(out.get(), np.append(np.arange(1.0, 103) * 8, 0))


@pytest.mark.parametrize("dtype", "?hfdD")
@pytest.mark.parametrize("shape", [(6,), (3, 4), (2, 3, 4), (5, 1, 2, 3), (0, 3), (2, 1, 2, 1, 2, 1, 2, 1, 2)])
def test_arrays_of_any_layout_are_packed_and_spread(device, dtype, shape):
    values = (np.arange(np.prod(shape)) % 7).reshape(shape).astype(dtype)
    given = device.strided(values)
    packed = taken(given).packed()
    assert packed.strides == straight_strides(shape, values.itemsize) or not values.size
    same(packed.to_host(), values)
    other = device.strided(np.zeros(shape, dtype))
    taken(other).fill_from(packed)
    same(other.get(), values)
    third = device.strided(np.zeros(shape, dtype))
    taken(third).fill_from(taken(other))
    same(third.get(), values)


@pytest.mark.parametrize("dtype", "?bhilBHIL")
def test_means_of_integers_are_those_of_float64(device, dtype):
    values = numbers(np.dtype(dtype), 1001, 3)
    same(taken(device.array(values)).as_double().to_host(), values.astype(np.float64))


def test_axes_are_merged():
    assert kernels.merged((4, 5, 6), (120, 24, 4)) == ([30, 4], [4, 120]) or kernels.merged(
        (4, 5, 6), (120, 24, 4)
    ) == ([120], [4])
    assert kernels.merged((2, 3), (4, 8)) == ([3, 2], [8, 4])
    assert kernels.merged((1, 7, 1), (999, 8, 999)) == ([7], [8])


NVCC = shutil.which("nvcc")


@pytest.mark.skipif(NVCC is None, reason="nvcc, the GPU's compiler, is not here")
@pytest.mark.parametrize(
    "options",
    [
        ("-DITEM=f4", "-DOP=sum"),
        ("-DITEM=f2", "-DOP=max"),
        ("-DITEM=bf2", "-DOP=prod"),
        ("-DITEM=c16", "-DOP=prod"),
        ("-DITEM=b1", "-DOP=lxor"),
        ("-DITEM=w16",),
        ("-DITEM=i2", "-DINTEGER"),
    ],
    ids=" ".join,
)
def test_the_gpus_compiler_takes_them(tmp_path, options):
    source = tmp_path / "kernels.cu"
    source.write_text(kernels.code(kernels.SOURCE))
    command = [NVCC, "-arch=sm_80", "-std=c++17", "-ptx", *options, "-o", tmp_path / "made.ptx", source]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ".entry" in (tmp_path / "made.ptx").read_text()
