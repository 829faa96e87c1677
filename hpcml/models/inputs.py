"""What an estimator is given, checked: features, labels, targets, weights. Local; `rows` has the collective part.

The wordings are those that scikit-learn's own checks of estimators look for, where it has any.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def features(X: Any, dtype: Any = None, *, sparse: bool = False, missing: bool = False) -> Any:
    """``X`` as a C-contiguous array (n, d) of ``dtype``; raises unless it is 2-D, numeric and finite.

    dtype: None keeps float32, and makes everything else float64. sparse: matrices of SciPy will do, and come back as
    CSR with sorted indices. missing: NaN will do.
    """
    if hasattr(X, "toarray"):
        if not sparse:
            raise TypeError(f"X is a sparse {type(X).__name__}; expected a dense array: pass X.toarray()")
        return _compressed_rows(X, dtype)
    X = np.asarray(X)
    if X.ndim != 2:
        raise ValueError(
            f"X has shape {X.shape}; expected rows and columns. Reshape your data: X.reshape(1, -1) is a single row, "
            "X.reshape(-1, 1) a single column"
        )
    if X.shape[1] == 0 and len(X):
        raise ValueError(f"0 feature(s) (shape={X.shape}) while a minimum of 1 is required.")
    if X.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: X has dtype {X.dtype}")
    if X.dtype.kind == "O":
        X = _numbers(X)
    if X.dtype.kind not in "biuf":
        raise TypeError(f"X has dtype {X.dtype}; expected numbers: encode strings and categories first")
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(X, _float_of(X.dtype) if dtype is None else dtype)
    # A sum is finite only where every summand is, and needs no array of booleans; overflow alone is looked into.
    with np.errstate(all="ignore"):
        suspicious = not np.isfinite(converted.sum())
    if suspicious:
        broken = np.isinf(converted) if missing else ~np.isfinite(converted)
        rows, columns = np.nonzero(broken)
        if len(rows):
            raise ValueError(
                f"X has {'' if missing else 'NaN, '}infinity or a number too large for {converted.dtype} at "
                f"{len(rows)} places, the first in row {rows[0]}, column {columns[0]}: fill in or drop such rows"
            )
    return converted


def _compressed_rows(X: Any, dtype: Any) -> csr_array:
    from scipy.sparse import csr_array

    if X.ndim != 2:
        raise ValueError(f"X is a sparse {type(X).__name__} of shape {X.shape}; expected rows and columns")
    if X.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: X has dtype {X.dtype}")
    if X.dtype.kind not in "biuf":
        raise TypeError(f"X has dtype {X.dtype}; expected numbers")
    rows = csr_array(X, dtype=_float_of(X.dtype) if dtype is None else dtype)
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    if not np.isfinite(rows.data).all():
        place = int(np.flatnonzero(~np.isfinite(rows.data))[0])
        row = int(np.searchsorted(rows.indptr, place, side="right")) - 1
        raise ValueError(f"X has NaN, infinity or a number too large for {rows.dtype}, the first in row {row}")
    return rows


def _numbers(X: np.ndarray) -> np.ndarray:
    """An array of objects as float64."""
    try:
        return X.astype(np.float64)
    except TypeError as error:
        raise TypeError(f"X holds objects: {error}; argument must be a string or a number") from None
    except ValueError as error:
        raise ValueError(f"X holds objects: {error}; encode strings and categories first") from None


def _float_of(dtype: np.dtype) -> Any:
    return np.float32 if dtype == np.float32 else np.float64


def labels(y: Any) -> np.ndarray:
    """``y`` as an array (n,) of integers, booleans, whole floats or strings; raises for anything else."""
    y = column(y, "label")
    if y.dtype.kind == "O":
        if all(isinstance(label, str) for label in y):
            return y.astype(str) if len(y) else np.empty(0, "U1")
        if len(y) and all(isinstance(label, (bool, int, float, np.number, np.bool_)) for label in y):
            y = np.array(y.tolist())
    if y.dtype.kind not in "biufU":
        raise TypeError(f"Unknown label type: y has dtype {y.dtype}; expected whole numbers or strings")
    if y.dtype.kind == "f" and not (np.isfinite(y).all() and (y == np.floor(y)).all()):
        broken = y[~(np.isfinite(y) & (y == np.floor(y)))][0]
        if not np.isfinite(broken):
            raise ValueError(f"Input y contains {'NaN' if np.isnan(broken) else 'infinity'}, as a label")
        raise ValueError(
            f"Unknown label type: continuous. y has the label {broken}; expected whole numbers or strings "
            "(is it a regression target?)"
        )
    return y


def targets(y: Any) -> np.ndarray:
    """``y`` as a float64 array (n,) of finite numbers; raises for anything else."""
    y = column(y, "number")
    if y.dtype.kind == "O":
        y = _numbers(y)
    if y.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: y has dtype {y.dtype}")
    if y.dtype.kind not in "biuf":
        raise TypeError(f"y has dtype {y.dtype}; expected numbers to be predicted")
    y = y.astype(np.float64)
    if not np.isfinite(y).all():
        place = int(np.flatnonzero(~np.isfinite(y))[0])
        raise ValueError(f"Input y contains {'NaN' if np.isnan(y[place]) else 'infinity'}, the first in row {place}")
    return y


def column(y: Any, what: str) -> np.ndarray:
    """``y`` (n,) or, with scikit-learn's warning, (n, 1)."""
    if y is None:
        raise ValueError(f"requires y to be passed, but the target y is None; expected a {what} for each row")
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected: pass y.ravel()",
            _conversion_warning(),
            stacklevel=3,
        )
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"y has shape {y.shape}; expected one {what} per row (n,)")
    return y


def _conversion_warning() -> type[Warning]:
    try:
        from sklearn.exceptions import DataConversionWarning
    except ImportError:
        return UserWarning
    return DataConversionWarning


def weights(sample_weight: Any, rows: int) -> np.ndarray | None:
    """``sample_weight`` as a float64 array (n,) of finite numbers of 0 or more; None for None."""
    if sample_weight is None:
        return None
    found = np.asarray(sample_weight)
    if found.dtype.kind not in "biuf":
        raise TypeError(f"sample_weight has dtype {found.dtype}; expected numbers")
    if found.ndim == 0:
        found = np.full(rows, found)
    if found.shape != (rows,):
        raise ValueError(f"sample_weight has shape {found.shape}; expected one for each of {rows} rows")
    found = found.astype(np.float64)
    if not (np.isfinite(found).all() and (found >= 0).all()):
        raise ValueError("sample_weight has NaN, infinity or a negative number; expected 0 or more")
    return found


def same_length(X: Any, y: np.ndarray) -> None:
    if X.shape[0] != len(y):
        raise ValueError(f"X has {X.shape[0]} rows and y {len(y)} labels; expected as many")


def names_of(X: Any) -> list[str] | None:
    """The names of a data frame's columns, where all are strings."""
    names = getattr(X, "columns", None)
    if names is None or not all(isinstance(name, str) for name in names):
        return None
    return list(names)
