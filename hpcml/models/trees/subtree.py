"""A whole subtree on one rank, compiled: for nodes of so few rows that sending them is cheaper than summing histograms.

The same splits as `splitter` finds from histograms over all ranks; only features that a node may choose are looked at.
"""

from __future__ import annotations

import numpy as np
from numba import njit, uint64

from hpcml.models.trees import splitter
from hpcml.models.trees.quantisation import mixed
from hpcml.models.trees.splitter import find_split, goes_left, value_of

#: What is known of a node (int64): its feature, or -1; bin, missing left, categorical, left child, count; the masks.
FEATURE, BIN, MISSING_LEFT, CATEGORICAL, LEFT, COUNT, MASKS, FACTS = 0, 1, 2, 3, 4, 5, 6, 10


@njit(nogil=True, cache=True)
def draw(allowed, key, chances, chosen):
    """Fill ``chosen`` (k,) with those of ``allowed`` whose hash is least; ``chances`` (k,) is room for these."""
    found, most = 0, len(chosen)
    for feature in allowed:
        chance = mixed(key + uint64(feature))
        if found == most and chance >= chances[most - 1]:
            continue
        i = min(found, most - 1)
        while i > 0 and chances[i - 1] > chance:
            chances[i], chosen[i] = chances[i - 1], chosen[i - 1]
            i -= 1
        chances[i], chosen[i] = chance, feature
        found = min(found + 1, most)


@njit(nogil=True, cache=True)
def grow_subtree(
    X, values, codes, outputs, bins, width, missing, categorical, allowed, wanted, max_depth, least, key, limits, facts,
    numbers,
):  # fmt: skip
    """Fill ``facts`` (nodes, FACTS) and ``numbers`` (nodes, outputs + 2): values, gain, weight; return how many nodes.

    X (n, d) uint8, below ``width``. values (n, 3) int64: gradient, hessian, 1, and codes (0,); or values (n, 2):
    weight, 1, and codes (n,) of classes. allowed (a,): numbers of the features that may be chosen, ``wanted`` of them
    drawn anew at each node. least: rows of a node that may be split. facts and numbers have room for 2n nodes.
    """
    n = len(X)
    classes = len(codes) > 0
    channels = outputs + 1 if classes else 3
    rows, spare = np.arange(n), np.empty(n, np.int64)
    begins, ends, depths = np.empty(2 * n + 1, np.int64), np.empty(2 * n + 1, np.int64), np.empty(2 * n + 1, np.int64)
    chances, chosen = np.empty(min(wanted, len(allowed)), np.uint64), allowed[:wanted].copy()
    sums = np.zeros((min(wanted, len(allowed)), width, channels), np.int64)
    node_sums = np.empty(outputs + 1, np.int64)
    record = np.zeros(splitter.SUMS + outputs + 1, np.int64)
    table = np.empty(256, np.uint8)
    everywhere = np.ones(len(bins), np.bool_)
    monotone = np.zeros(len(bins), np.int64)
    free = (-np.inf, np.inf)
    begins[0], ends[0], depths[0] = 0, n, 0
    made, node = 1, 0
    while node < made:
        begin, end = begins[node], ends[node]
        node_sums[:] = 0
        for i in range(begin, end):
            r = rows[i]
            if classes:
                node_sums[codes[r]] += values[r, 0]
                node_sums[outputs] += values[r, 0]
            else:
                node_sums[0] += values[r, 0]
                node_sums[1] += values[r, 1]
        weight = float(node_sums[outputs])
        for k in range(outputs):
            numbers[node, k] = value_of(float(node_sums[k]), weight, free, limits)
        numbers[node, outputs] = 0.0
        numbers[node, outputs + 1] = weight * limits.hessian_unit
        facts[node, :] = 0
        facts[node, FEATURE], facts[node, COUNT] = -1, end - begin
        node += 1
        if end - begin < least or depths[node - 1] >= max_depth:
            continue
        drawn = allowed
        if wanted < len(allowed):
            draw(allowed, mixed(uint64(key) + uint64(node)), chances, chosen)
            drawn = np.sort(chosen)
        for f in range(len(drawn)):
            sums[f, : bins[drawn[f]] + 1] = 0  # and what is missing, if anything is
        for i in range(begin, end):
            r = rows[i]
            for f in range(len(drawn)):
                into = sums[f, X[r, drawn[f]]]
                if classes:
                    into[codes[r]] += values[r, 0]
                    into[outputs] += 1
                else:
                    into[0] += values[r, 0]
                    into[1] += values[r, 1]
                    into[2] += 1
        find_split(
            sums, False, classes, node_sums, end - begin, bins, missing, categorical, monotone, everywhere, drawn, free,
            limits, record,
        )  # fmt: skip
        feature = record[splitter.FEATURE]
        if feature == splitter.NOWHERE:
            continue
        goes_left(record, bins[feature], table)
        left, right = begin, 0
        for i in range(begin, end):
            r = rows[i]
            goes = np.int64(table[X[r, feature]])
            rows[left] = r
            spare[right] = r
            left += goes
            right += 1 - goes
        rows[left:end] = spare[:right]
        at = node - 1
        facts[at, FEATURE], facts[at, BIN], facts[at, LEFT] = feature, record[splitter.BIN], made
        facts[at, MISSING_LEFT], facts[at, CATEGORICAL] = record[splitter.MISSING_LEFT], record[splitter.CATEGORICAL]
        for word in range(4):
            facts[at, MASKS + word] = record[splitter.MASK + word] if record[splitter.CATEGORICAL] else 0
        numbers[at, outputs] = record[splitter.GAIN : splitter.GAIN + 1].view(np.float64)[0]
        begins[made], ends[made], depths[made] = begin, left, depths[at] + 1
        begins[made + 1], ends[made + 1], depths[made + 1] = left, end, depths[at] + 1
        made += 2
    return made
