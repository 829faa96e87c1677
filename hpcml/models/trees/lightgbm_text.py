"""Boosted trees as a text file that LightGBM reads, and what else reads its models (treelite, SHAP, ONNX converters).

Version 4 of the format: a header, the trees, and how it came about. Of a tree its splits are numbered, and its leaves,
both in the order of `Trees`; a leaf i as somebody's child is −i − 1. What a split does with a value is in the bits of
its decision type: 1, it is a category; 2, missing values go left; 8, NaN is what is missing. The set of the categories
that go left is words of 32 bits; there NaN and unknown ones always go right, so a split of ours that sends them left is
written with its children exchanged. The scores before the first tree are added to the leaves of the first ones.

Floating-point numbers are written so that they come back bit for bit. LightGBM adds up trees in the same order, and
its scores are then the same. It knows categories by their codes, their positions in ``model.columns_``, and of a data
frame with columns of the dtype category by the categories themselves, which are listed at the end of the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from hpcml.models.trees.boosting import Boosting, GradientBoostingClassifier
from hpcml.models.trees.tree import Trees
from hpcml.runs.wholefile import whole_file

IS_CATEGORICAL, DEFAULT_LEFT, MISSING_IS_NAN = 1, 2, 8
OBJECTIVES = {"squared_error": "regression", "absolute_error": "regression_l1", "quantile": "quantile"}


def export_lightgbm(path: str | os.PathLike[str], model: Boosting) -> None:
    """Write a fitted gradient boosting model as LightGBM's text model to ``path``, whole or not at all.

    Local: call it on one rank, for the model is the same on all. Names of columns get "_" for white space, which the
    format does not allow.

    Example::

        export_lightgbm("model.txt", model)
        lightgbm.Booster(model_file="model.txt").predict(X)     # as model.predict_proba(X)[:, 1]

    Raises TypeError for another kind of model and NotFittedError for one that is not fitted; then no file is written.
    """
    if not isinstance(model, Boosting):
        raise TypeError(
            f"a {type(model).__name__} is no gradient boosting, the one model that LightGBM has a format for"
        )
    model._require_fitted()
    text = _text(model)
    with whole_file(os.fspath(path)) as file:
        file.write(text.encode())


def _text(model: Boosting) -> str:
    outputs = len(model.start_)
    trees = [_tree(model.trees_, t, model.start_[t] if t < outputs else 0.0, model) for t in range(len(model.trees_))]
    sections = [f"Tree={t}\n{tree}\n\n" for t, tree in enumerate(trees)]
    header = {
        "version": "v4",
        "num_class": outputs,
        "num_tree_per_iteration": outputs,
        "label_index": 0,
        "max_feature_idx": model.n_features_in_ - 1,
        "objective": _objective(model),
        "feature_names": _words(_names(model)),
        "feature_infos": _words(_infos(model)),
        "tree_sizes": _words(len(section.encode()) for section in sections),
    }
    parameters = {
        "boosting": "gbdt",
        "objective": _objective(model).split()[0],
        "num_iterations": model.n_estimators_,
        "learning_rate": model.learning_rate,
        "num_leaves": model.max_leaf_nodes or -1,
        "max_depth": model.max_depth or -1,
        "num_class": outputs,
    }
    categories = [found for _, found in sorted(model.columns_.categories.items())]
    return (
        f"tree\n{_lines(header)}\n\n{''.join(sections)}end of trees\n\nfeature_importances:\n{_importances(model)}\n"
        + "parameters:\n"
        + "".join(f"[{name}: {value}]\n" for name, value in parameters.items())
        + f"end of parameters\n\npandas_categorical:{json.dumps(categories or None)}\n"
    )


def _objective(model: Boosting) -> str:
    if isinstance(model, GradientBoostingClassifier):
        many = len(model.classes_)
        return "binary sigmoid:1" if many == 2 else f"multiclass num_class:{many}"
    return OBJECTIVES[model.loss]  # type: ignore[attr-defined]


def _names(model: Boosting) -> list[str]:
    given = getattr(model, "feature_names_in_", None)
    if given is None:
        return [f"Column_{f}" for f in range(model.n_features_in_)]
    return ["_".join(name.split()) for name in given]


def _infos(model: Boosting) -> Iterable[str]:
    """Of each column its codes, or the outermost of its edges: the range of its values is not kept."""
    edges = model.edges_
    for f in range(edges.features):
        cuts = edges.of(f)
        if edges.categories[f]:
            yield ":".join(map(str, range(edges.categories[f])))
        else:
            yield f"[{cuts[0]}:{cuts[-1]}]" if len(cuts) else "none"


def _importances(model: Boosting) -> str:
    """How many splits each column has, the most first; those without any are left out."""
    splits = np.bincount(model.trees_.feature[model.trees_.feature >= 0], minlength=model.n_features_in_)
    names = _names(model)
    return "".join(f"{names[f]}={splits[f]}\n" for f in np.argsort(-splits, kind="stable") if splits[f])


def _tree(trees: Trees, t: int, start: float, model: Boosting) -> str:
    nodes = slice(trees.starts[t], trees.starts[t + 1])
    feature, left = trees.feature[nodes], trees.left[nodes]
    value, weight, count = trees.value[nodes, 0] + start, trees.weight[nodes], trees.count[nodes]
    leaf, split = feature < 0, feature >= 0
    number = np.where(leaf, -np.cumsum(leaf, dtype=np.int64), np.cumsum(split, dtype=np.int64) - 1)
    children = np.stack([number[left[split]], number[left[split] + 1]])
    threshold = trees.threshold[nodes][split].tolist()
    decision = MISSING_IS_NAN + DEFAULT_LEFT * trees.missing_left[nodes][split].astype(int)
    sets: list[list[int]] = []
    for i in np.flatnonzero(trees.categorical[nodes][split]):
        many = int(model.edges_.categories[feature[split][i]])
        goes_left = _bits(trees.masks[nodes][split][i])
        if goes_left[many]:  # what is missing does
            goes_left = ~goes_left
            children[:, i] = children[::-1, i]
        decision[i], threshold[i] = IS_CATEGORICAL + MISSING_IS_NAN, len(sets)
        sets.append(np.packbits(goes_left[:many].tolist() + [0] * (-many % 32), bitorder="little").view("<u4").tolist())
    fields: dict[str, Any] = {
        "num_leaves": int(leaf.sum()),
        "num_cat": len(sets),
        "split_feature": _words(feature[split]),
        "split_gain": _words(trees.gain[nodes][split].tolist()),
        "threshold": _words(threshold),
        "decision_type": _words(decision),
        "left_child": _words(children[0]),
        "right_child": _words(children[1]),
        "leaf_value": _words(value[leaf].tolist()),
        "leaf_weight": _words(weight[leaf].tolist()),
        "leaf_count": _words(count[leaf]),
        "internal_value": _words(value[split].tolist()),
        "internal_weight": _words(weight[split].tolist()),
        "internal_count": _words(count[split]),
    }
    if sets:
        fields["cat_boundaries"] = _words(np.cumsum([0, *map(len, sets)]))
        fields["cat_threshold"] = _words(word for words in sets for word in words)
    return _lines({**fields, "is_linear": 0, "shrinkage": model.learning_rate})


def _bits(mask: np.ndarray) -> np.ndarray:
    """A mask's (4,) uint64 bits (256,) bool."""
    return np.unpackbits(mask.astype("<u8").view(np.uint8), bitorder="little").astype(bool)


def _words(items: Iterable[Any]) -> str:
    return " ".join(map(str, items))


def _lines(fields: dict[str, Any]) -> str:
    return "".join(f"{name}={value}\n" for name, value in fields.items())
