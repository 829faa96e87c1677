"""Models in files: one .npz with a JSON header, no pickle, so that loading runs no code.

The header (array "header", UTF-8 bytes) holds ``format`` ("hpcml model"), ``version``, ``class``,
``parameters`` (the constructor's, without ``comm``), ``n_features_in``, ``feature_names`` (or null), ``facts`` and
``metadata``. "array/<name>" are arrays that the caller gave along; facts and the other arrays are what the estimator
has learnt, as its class knows them (for classifiers "classes" are among them).
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from hpcml import models
from hpcml.models.estimator import Estimator
from hpcml.runs.wholefile import whole_file

FORMAT, VERSION = "hpcml model", 1
PAIRS = "pairs"  # how a parameter's mapping is told from what else there is


def save(
    path: str | os.PathLike[str],
    model: Estimator,
    *,
    metadata: Any = None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a fitted model to ``path``, whole or not at all: beside it first, flushed to disk, then renamed.

    Local: call it on one rank, for the model is the same on all. ``metadata`` (anything that JSON holds) and
    ``arrays`` (by name) are kept with it and come back from ``read``.

    Raises NotFittedError for a model that is not fitted, TypeError for metadata that JSON does not hold and
    for arrays of objects; then no file is written.
    """
    model._require_fitted()
    facts, learnt = model._saved()
    names = getattr(model, "feature_names_in_", None)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "class": type(model).__name__,
        "parameters": {name: plain(value) for name, value in model.get_params().items() if name != "comm"},
        "n_features_in": model.n_features_in_,
        "feature_names": None if names is None else list(names),
        "facts": facts,
        "metadata": metadata,
    }
    contents = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8), **learnt}
    contents.update({f"array/{name}": np.asarray(array) for name, array in (arrays or {}).items()})
    for name, array in contents.items():
        if array.dtype.hasobject:
            raise TypeError(f"{name} holds Python objects; a model file holds numbers and strings only")
    with whole_file(os.fspath(path)) as file:
        np.savez(file, **contents)  # type: ignore[arg-type]


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays of a model file, by the names in it: those given to ``save`` as "array/<name>".

    Raises FileNotFoundError, and ValueError for a file that is damaged, no model, or of a later version.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as contents:
            arrays = {name: contents[name] for name in contents.files}
        header = json.loads(arrays.pop("header").tobytes())
        known = header["format"] == FORMAT
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a model file of hpcml, or is damaged ({error})") from error
    if not known:
        raise ValueError(f"{path} has the format {header['format']!r}; expected {FORMAT!r}")
    if header["version"] > VERSION:
        raise ValueError(
            f"{path} has version {header['version']} of the model format, this hpcml reads up to {VERSION}: "
            "install a newer hpcml"
        )
    return header, arrays


def load(path: str | os.PathLike[str], comm: Any = None) -> Any:
    """The model that ``save`` wrote to ``path``, with ``comm`` as its communicator. Local.

    Raises as ``read``, and ValueError for a class that this hpcml does not know.
    """
    header, arrays = read(path)
    if header["class"] not in models.ESTIMATORS:
        raise ValueError(f"{path} holds a {header['class']!r}; this hpcml knows {', '.join(models.ESTIMATORS)}")
    parameters = {name: unplain(value) for name, value in header["parameters"].items()}
    model = getattr(models, header["class"])(**parameters, comm=comm)
    model._restore(header["facts"], {name: array for name, array in arrays.items() if not name.startswith("array/")})
    model._remember_columns(header["n_features_in"], header["feature_names"])
    return model


def plain(value: Any) -> Any:
    """A parameter as JSON holds it: NumPy's numbers as Python's, a dtype as its name, a mapping as its pairs.

    JSON's own mappings have strings as keys only: the class 1 of a ``class_weight`` would come back as "1".
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {PAIRS: [[plain(key), plain(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.dtype, type)):
        return np.dtype(value).name
    return value


def unplain(value: Any) -> Any:
    """The parameter that `plain` made this of; lists come back as tuples."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, dict) and set(value) == {PAIRS}:
        return {key: unplain(item) for key, item in value[PAIRS]}
    return value
