"""A rank that is computed with now and known later: rounds of a schedule for 65,536 ranks without their arithmetic.

A schedule made for ``Deferred.ranks(size)`` yields its rounds as expressions. Of most of them only a few ranks are ever
looked at, to see whether the round is like one before; the others cost nothing but their making.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Deferred(np.lib.mixins.NDArrayOperatorsMixin):
    """An array with an entry for each rank, as an expression: NumPy's functions and operators make further ones.

    ``np.asarray`` of it computes it for all ranks, `at` for some. It has no truth value and no int.
    """

    __slots__ = ("_apply", "_elementwise", "_everybody", "_inputs", "_known", "_options")

    def __init__(self, everybody: np.ndarray, apply: Callable, inputs: tuple, options: dict):
        self._everybody, self._apply, self._inputs, self._options = everybody, apply, inputs, options
        self._elementwise = apply is np.where or isinstance(getattr(apply, "__self__", None), np.ufunc)
        self._known: list[tuple[np.ndarray, Any]] = []  # for these ranks it is that

    @classmethod
    def ranks(cls, size: int) -> Deferred:
        """What stands for ``np.arange(size)``."""
        return cls(np.arange(size), _own, (), {})

    def at(self, ranks: np.ndarray) -> Any:
        """Its entries for ``ranks``, kept for as long as it lives; the same array object asks for the same again."""
        for asked, value in self._known:
            if asked is ranks:
                return value
        if self._apply is _own:
            value = ranks
        else:
            inputs = [self._computed(x, ranks) for x in self._inputs]
            value = self._apply(*(self._rows(inputs, ranks) if self._elementwise else inputs), **self._options)
        self._known.append((ranks, value))
        return value

    def _computed(self, x: Any, ranks: np.ndarray) -> Any:
        if isinstance(x, Deferred):
            return x.at(ranks)
        if isinstance(x, (tuple, list)):
            return type(x)(self._computed(item, ranks) for item in x)
        return x

    def _rows(self, inputs: list, ranks: np.ndarray) -> list:
        """A schedule may have computed an input for all ranks already, by ``np.asarray``: the rows that are wanted."""
        dimensions = max(np.ndim(x) for x, made in zip(inputs, self._inputs, strict=True) if isinstance(made, Deferred))

        def for_all(x: Any, made: Any) -> bool:
            whole = isinstance(made, np.ndarray) and made.ndim == dimensions > 0
            return whole and len(made) == len(self._everybody)

        return [x[ranks] if for_all(x, made) else x for x, made in zip(inputs, self._inputs, strict=True)]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.at(self._everybody), dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Deferred:
        return Deferred(self._everybody, getattr(ufunc, method), inputs, options)

    def __array_function__(self, function: Callable, types: Any, inputs: tuple, options: dict) -> Deferred:
        return Deferred(self._everybody, function, inputs, options)

    def __getitem__(self, index: Any) -> Deferred:
        return Deferred(self._everybody, _item, (self, _Index(index)), {})

    def __bool__(self) -> bool:
        raise TypeError("a deferred rank has no truth value: a schedule that branches on its rank is not vectorised")


class _Index:
    """An index, kept from being taken for an operand."""

    def __init__(self, index: Any):
        self.index = index


def _own() -> None:
    """Marks the ranks themselves."""


def _item(array: np.ndarray, index: _Index) -> np.ndarray:
    return array[index.index]
