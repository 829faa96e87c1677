"""A tree as arrays, many of them as longer arrays, and their predictions.

To predict, rows become bins, by the edges of the training, and go down on those: a comparison of bytes a step. Numbers
go left if ``uint8(bin − shift) ≤ limit``: with the shift 0 those up to the split's bin, with the bin of missing values
as the shift these, too. The right child comes after the left one, and a leaf is its own child, so a step is an
addition without a branch, and eight rows go down at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit, uint8, uint64

from hpcml.models.trees.binning import Edges, bins_of_tile, padded_cuts

LEAF = -1
ROWS = 512  # that are binned and go down together: their bins stay in the cache
LANES = 8


@dataclass
class Trees:
    """Trees, node after node, each from its root on. m nodes in all, of t trees; k outputs.

    ``feature`` (m,) int32, `LEAF` for a leaf; ``bin`` (m,) int32: the last that goes left; ``threshold`` (m,) float64:
    the largest number that does; ``missing_left``, ``categorical`` (m,) bool; ``masks`` (m, 4) uint64: the bins that go
    left of a categorical split; ``left`` (m,) int32: the left child, within the tree, and the right one comes after it;
    ``value`` (m, k): what is predicted there, ``gain``, ``weight`` (m,) float64: of the split, and of the rows there;
    ``count`` (m,) int64: those rows. ``starts`` (t + 1,): where trees begin.
    """

    feature: np.ndarray
    bin: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    categorical: np.ndarray
    masks: np.ndarray
    left: np.ndarray
    value: np.ndarray
    gain: np.ndarray
    weight: np.ndarray
    count: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    @staticmethod
    def joined(parts: list[Trees]) -> Trees:
        """All trees of the parts, of which there is at least one."""
        arrays = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Trees)
            if field.name != "starts"
        }
        lengths = np.concatenate([np.diff(part.starts) for part in parts])
        return Trees(**arrays, starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    def first(self, trees: int) -> Trees:
        """The first ones."""
        end = self.starts[trees]
        arrays = {field.name: getattr(self, field.name)[:end] for field in fields(Trees) if field.name != "starts"}
        return Trees(**arrays, starts=self.starts[: trees + 1])

    def arrays(self) -> dict[str, np.ndarray]:
        return {field.name: getattr(self, field.name) for field in fields(Trees)}

    @staticmethod
    def of(arrays: dict[str, Any]) -> Trees:
        return Trees(**{field.name: arrays[field.name] for field in fields(Trees)})

    def depths(self) -> np.ndarray:
        """Of each tree: the splits on its longest way down."""
        return np.array([_depth(self.left[a:b], self.feature[a:b]) for a, b in pairwise(self.starts)])

    def importances(self, features: int) -> np.ndarray:
        """The share of each feature in the gain of all splits (d,); zeros where there are none."""
        split = self.feature >= 0
        gains = np.bincount(self.feature[split], weights=self.gain[split], minlength=features)
        return gains / gains.sum() if gains.any() else gains


@njit(nogil=True, cache=True)
def _depth(left, feature):
    depth, most = np.zeros(len(left), np.int64), 0
    for node in range(len(left)):
        if feature[node] >= 0:
            depth[left[node]] = depth[left[node] + 1] = depth[node] + 1
            most = max(most, depth[node] + 1)
    return most


class Predictor:
    """Trees made ready to predict with the edges of their training.

    outputs: sums (n, k) of the trees' values; with ``turns`` outputs of which tree i adds to number i mod turns.
    """

    def __init__(self, trees: Trees, edges: Edges, turns: int = 1) -> None:
        self.trees, self.edges, self.turns = trees, edges, turns
        last = np.concatenate([edges.bins, [0]])[trees.feature]
        shift = np.where(trees.missing_left, last, 0)
        limit = (trees.bin - shift) & 255
        own = np.arange(len(trees.feature)) - np.repeat(trees.starts[:-1], np.diff(trees.starts))
        is_leaf = trees.feature < 0
        words = [np.where(is_leaf, own, trees.left), np.where(is_leaf, 0, trees.feature)]
        words += [np.where(is_leaf, 0, shift), np.where(is_leaf, 255, limit)]
        nodes = np.zeros(len(own), np.uint64)
        for word, place in zip(words, (40, 16, 8, 0), strict=True):
            nodes |= word.astype(np.uint64) << np.uint64(place)
        self._nodes = nodes
        self._categorical = trees.categorical & ~is_leaf
        self._any = bool(self._categorical.any())

    def sums(self, X: np.ndarray, start: np.ndarray) -> np.ndarray:
        """The scores (n, outputs) of rows X (n, d): ``start`` (outputs,), or (n, outputs), and what the trees add."""
        trees, edges = self.trees, self.edges
        scores = np.empty((len(X), max(self.turns, trees.value.shape[1])))
        scores[:] = start
        tables = edges.cuts, edges.starts, edges.categories
        nodes = self._nodes, trees.starts, trees.value, self._categorical, trees.masks, self._any
        _add_tiles(X, tables, nodes, self.turns, scores)
        return scores

    def leaves(self, bins: np.ndarray) -> np.ndarray:
        """The leaf (n, trees) int32 of rows that are bins (n, d) uint8, as number of a node within its tree."""
        found = np.empty((len(bins), len(self.trees)), np.int32)
        nodes = self._nodes, self.trees.starts, self.trees.value, self._categorical, self.trees.masks, self._any
        _find_leaves(bins, nodes, found)
        return found


@njit(nogil=True, cache=True)
def _add_tiles(X, tables, nodes, turns, scores):
    """Rows tile by tile, trees one after another: sums are in the order of the trees."""
    cuts, starts, categories = tables
    d = X.shape[1]
    padded = padded_cuts(cuts, starts, X.dtype)
    tile = np.empty((ROWS, d), np.uint8)
    places = np.empty(LANES, np.uint64)
    values = nodes[2]
    for low in range(0, len(X), ROWS):
        height = min(ROWS, len(X) - low)
        bins_of_tile(X[low : low + height], padded, starts, categories, tile)
        for t in range(len(nodes[1]) - 1):
            first = nodes[1][t]
            for i in range(0, height, LANES):
                lanes = min(LANES, height - i)
                _descend(tile, i, lanes, nodes, t, places)
                for lane in range(lanes):
                    leaf = first + np.int64(places[lane])
                    if turns > 1:
                        scores[low + i + lane, t % turns] += values[leaf, 0]
                    else:
                        for k in range(values.shape[1]):
                            scores[low + i + lane, k] += values[leaf, k]


@njit(nogil=True, cache=True)
def _find_leaves(bins, nodes, found):
    places = np.empty(LANES, np.uint64)
    for t in range(found.shape[1]):
        for i in range(0, len(bins), LANES):
            lanes = min(LANES, len(bins) - i)
            _descend(bins, i, lanes, nodes, t, places)
            for lane in range(lanes):
                found[i + lane, t] = places[lane]


@njit(nogil=True, inline="always")
def _descend(bins, row, lanes, nodes, t, places):
    """places[lane]: the leaf of tree t for each of some rows."""
    packed, starts, _, categorical, masks, any_categorical = nodes
    first = uint64(starts[t])
    for lane in range(lanes):
        places[lane] = 0
    if any_categorical:
        for lane in range(lanes):
            while True:
                at = first + places[lane]
                node = packed[at]
                b = bins[row + lane, (node >> uint64(16)) & uint64(0xFFFFFF)]
                if categorical[at]:
                    goes_left = (masks[at, b >> 6] >> uint64(b & 63)) & uint64(1) == uint64(1)
                else:
                    goes_left = uint8(b - uint8(node >> uint64(8))) <= uint8(node)
                before = places[lane]
                places[lane] = (node >> uint64(40)) + (uint64(0) if goes_left else uint64(1))
                if places[lane] == before:
                    break
        return
    moved = True
    while moved:
        moved = False
        for lane in range(lanes):
            node = packed[first + places[lane]]
            b = bins[row + lane, (node >> uint64(16)) & uint64(0xFFFFFF)]
            below = (node >> uint64(40)) + uint64(uint8(b - uint8(node >> uint64(8))) > uint8(node))
            moved |= below != places[lane]
            places[lane] = below
