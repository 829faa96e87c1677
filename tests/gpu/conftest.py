"""Tests that need a GPU, CuPy and NVRTC; skipped, with the reason, where one of them is missing.

`make test-gpu` runs them at 1, 2 and 4 ranks, which share the GPUs that there are.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("mpi_conftest", HERE.parent / "mpi" / "conftest.py")
_mpi = importlib.util.module_from_spec(_spec)
sys.modules["mpi_conftest"] = _mpi
_spec.loader.exec_module(_mpi)
comm, folder, fresh = _mpi.comm, _mpi.folder, _mpi.fresh
pytest_configure = _mpi.pytest_configure
pytest_runtest_makereport, pytest_runtest_protocol = _mpi.pytest_runtest_makereport, _mpi.pytest_runtest_protocol


def missing() -> str:
    """Why there is no GPU to be had; empty where there is one."""
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed"
    try:
        (cupy.zeros(1) + 1).item()
    except Exception as error:
        return f"CUDA does not work here: {type(error).__name__}: {error}".splitlines()[0]
    return ""


def pytest_collection_modifyitems(items):
    mine = [item for item in items if HERE in item.path.parents]
    if mine and (reason := missing()):
        for item in mine:
            item.add_marker(pytest.mark.skip(reason=reason))


class Device:
    """What `device_cases` makes arrays with: those of CuPy."""

    def array(self, values):
        import cupy

        return cupy.asarray(values)

    def strided(self, values):
        """Every second item of the last axis, the axes in reverse."""
        import cupy

        room = cupy.zeros((*values.shape[::-1][:-1], 2 * values.shape[0]), values.dtype)
        view = room[..., ::2].T
        view[...] = cupy.asarray(values)
        return view


@pytest.fixture
def device():
    from hpcml.collectives.device.placement import place

    place()
    return Device()
