"""The examples in docstrings say what happens."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("module", ["optim.sgd", "optim.adam", "optim.rates", "data.batches"])
def test_examples(module):
    found = doctest.testmod(import_module(f"hpcml.{module}"))
    assert found.attempted > 0 and found.failed == 0
