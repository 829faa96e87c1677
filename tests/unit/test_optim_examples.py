"""The examples in docstrings say what happens."""

import doctest
from importlib import import_module

import pytest

OPTIM = ("sgd", "adam", "adagrad", "rmsprop", "lars", "lamb", "rates")
MODULES = [*(f"optim.{name}" for name in OPTIM), "data.batches"]


@pytest.mark.parametrize("module", MODULES)
def test_examples(module):
    found = doctest.testmod(import_module(f"hpcml.{module}"))
    assert found.attempted > 0 and found.failed == 0
