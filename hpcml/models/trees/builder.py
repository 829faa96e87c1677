"""The nodes of a tree in the making."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpcml.models.trees import splitter
from hpcml.models.trees.splitter import Limits
from hpcml.models.trees.tree import LEAF, Trees

if TYPE_CHECKING:
    from hpcml.models.trees.grower import Node


class Builder:
    """The nodes of a tree in the making, numbered as they come; children in pairs."""

    def __init__(self, outputs: int) -> None:
        self._outputs = outputs
        self._nodes: list[dict[str, Any]] = []  # of the tree; those of subtrees come behind them
        self._subtrees: list[tuple[int, Trees]] = []

    def add(self) -> int:
        self._nodes.append(
            {
                "feature": LEAF,
                "bin": 0,
                "threshold": 0.0,
                "missing_left": False,
                "categorical": False,
                "masks": (0, 0, 0, 0),
                "left": 0,
                "gain": 0.0,
                "value": (0.0,) * self._outputs,
                "weight": 0.0,
                "count": 0,
            }
        )
        return len(self._nodes) - 1

    def split(self, parent: Node, record: np.ndarray, edges: Any, limits: Limits) -> int:
        """Make a node's split, and return the number of its left child."""
        left = self.add()
        self.add()
        feature, b = int(record[splitter.FEATURE]), int(record[splitter.BIN])
        categorical = bool(record[splitter.CATEGORICAL])
        cuts = edges.of(feature)
        self._nodes[parent.number].update(
            feature=feature,
            bin=b,
            threshold=float(cuts[b]) if not categorical and b < len(cuts) else np.inf,
            missing_left=bool(record[splitter.MISSING_LEFT]),
            categorical=categorical,
            masks=tuple((record[splitter.MASK : splitter.MASK + 4].view(np.uint64) * np.uint64(categorical)).tolist()),
            left=left,
            gain=parent.gain,
        )
        self.leaf(parent, limits)
        return left

    def leaf(self, node: Node, limits: Limits) -> None:
        """Give a node its value."""
        sums = [float(number) for number in node.sums]
        self._nodes[node.number].update(
            value=[splitter.value_of(g, sums[-1], node.bounds, limits) for g in sums[:-1]],
            weight=sums[-1] * limits.hessian_unit,
            count=node.count,
        )

    def attach(self, number: int, subtree: Trees) -> None:
        """Put a tree in the place of that node; the nodes below its root come behind all that are there."""
        self._subtrees.append((number, subtree))

    def tree(self) -> Trees:
        made = self._nodes

        def column(name: str, dtype: Any) -> np.ndarray:
            return np.array([node[name] for node in made], dtype)

        own = {
            "feature": column("feature", np.int32),
            "bin": column("bin", np.int32),
            "threshold": column("threshold", np.float64),
            "missing_left": column("missing_left", np.bool_),
            "categorical": column("categorical", np.bool_),
            "masks": column("masks", np.uint64).reshape(-1, 4),
            "left": column("left", np.int32),
            "value": column("value", np.float64).reshape(-1, self._outputs),
            "gain": column("gain", np.float64),
            "weight": column("weight", np.float64),
            "count": column("count", np.int64),
        }
        parts: dict[str, list[np.ndarray]] = {name: [array] for name, array in own.items()}
        nodes = len(made)
        for number, subtree in self._subtrees:
            arrays = subtree.arrays()
            left = arrays["left"] + np.where(arrays["feature"] == LEAF, 0, nodes - 1)
            arrays["left"] = left.astype(np.int32)
            for name, part in parts.items():
                own[name][number] = arrays[name][0]
                part.append(arrays[name][1:])
            nodes += len(left) - 1
        joined = {name: np.concatenate(part) for name, part in parts.items()}
        return Trees(**joined, starts=np.array([0, nodes], np.int64))
