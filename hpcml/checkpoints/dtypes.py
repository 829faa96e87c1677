"""The names of data types in files: NumPy's own strings, which tell the order of bytes, and ``bfloat16``."""

from __future__ import annotations

import numpy as np

from hpcml.checkpoints.errors import CheckpointError

KINDS = "biufc"  # truth values, integers, floats, complex numbers


def name_of(dtype: np.dtype) -> str:
    """``"<f4"``, ``"bfloat16"``. Raises TypeError for what is no number."""
    if dtype.name == "bfloat16":
        return dtype.name
    if dtype.kind not in KINDS:
        raise TypeError(f"a checkpoint cannot hold dtype {dtype}: expected numbers of a fixed size")
    return dtype.str


def dtype_of(name: str) -> np.dtype:
    """The data type of that name. Raises CheckpointError where this machine has none such."""
    try:
        if name == "bfloat16":
            import ml_dtypes

            return np.dtype(ml_dtypes.bfloat16)
        dtype = np.dtype(name)
    except ImportError:
        raise CheckpointError("the array is of bfloat16, for which the package ml_dtypes has to be installed") from None
    except (TypeError, ValueError):
        raise CheckpointError(f"the array is of {name!r}, a data type that NumPy does not have here") from None
    if dtype.kind not in KINDS:
        raise CheckpointError(f"the array is of {name!r}, which is no data type of a checkpoint")
    return dtype
