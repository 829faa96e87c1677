"""For pytest: puts the adapter in the place of mpi4py's communicators, and sees to it that the tests run on hpcml.

A test fails where a collective of it fell back to the MPI library: at present none has to, in none of them. hpcml's own
choice of the algorithm "native" counts as that, unless it was asked for. And a test fails where none of its collectives
ran on hpcml, unless it has none.
"""

from __future__ import annotations

import os
import sys
from collections import Counter

import pytest
from mpi4py import MPI
from mpi4py_suite.adapter import ALGORITHMS, DESCRIBED, TALLY, Adapter

import hpcml.collectives.engine  # noqa: F401  (while Numba can be imported)
from hpcml.collectives.native import Native

# Kinds of arrays to keep to, such as "ArrayNumPy DLPackArray" (classes of mpi4py's arrayimpl.py); all if it is unset.
ARRAYS = "HPCML_SUITE_ARRAYS"
WITHOUT_COLLECTIVES = "TestReduceLocal"  # folds on one rank, by an MPI.Op itself

MPI.COMM_WORLD, MPI.COMM_SELF = Adapter(MPI.COMM_WORLD), Adapter(MPI.COMM_SELF)
_bind = Native.bind


def _tell(program: Native, *memory) -> None:
    """Bind a program of the algorithm "native" to its memory, as before, and count it."""
    if "=native" not in os.environ.get(ALGORITHMS, ""):
        TALLY.fell_back["chosen by hpcml"] += 1
    _bind(program, *memory)


Native.bind = _tell  # type: ignore[method-assign]


def pytest_collection(session):
    """Keep mpi4py's tests from arrays in GPU memory, as its own test program does unless it is asked for them."""
    hidden = {name: sys.modules.get(name) for name in ("cupy", "numba")}
    sys.modules.update(dict.fromkeys(hidden))
    sys.path.insert(0, str(session.config.args[0]).rpartition(os.sep)[0])
    try:
        import arrayimpl  # of mpi4py's tests
    finally:
        for name, module in hidden.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    if kept := os.environ.get(ARRAYS, "").split():
        arrayimpl.ArrayBackends[:] = [kind for kind in arrayimpl.ArrayBackends if kind.__name__ in kept]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    carried, fell_back = Counter(TALLY.carried), Counter(TALLY.fell_back)
    result = yield
    if fell_back := TALLY.fell_back - fell_back:
        raise AssertionError(f"calls that fell back to the MPI library: {dict(fell_back)}")
    if not TALLY.carried - carried and WITHOUT_COLLECTIVES not in item.nodeid:
        raise AssertionError("no collective of this test ran on hpcml")
    return result


def pytest_terminal_summary(terminalreporter):
    forms = [(name, "I" + name.lower(), name + "_init") for name in DESCRIBED]
    line = "{:22}{:>10}{:>14}{:>12}{:>12}".format
    terminalreporter.write_line(line("calls on hpcml", "blocking", "non-blocking", "persistent", "fell back"))
    for names in forms:
        counts = [TALLY.carried[name] for name in names]
        terminalreporter.write_line(line(names[0], *counts, sum(TALLY.fell_back[name] for name in names)))
    carried, fell_back = TALLY.carried.total(), TALLY.fell_back.total()
    algorithms, arrays = os.environ.get(ALGORITHMS) or "auto", os.environ.get(ARRAYS) or "all"
    terminalreporter.write_line(f"{carried} calls on hpcml, {fell_back} on the MPI library")
    terminalreporter.write_line(f"algorithms: {algorithms}; kinds of arrays: {arrays}")
