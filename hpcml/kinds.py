"""Where an array's memory is; known without MPI, CUDA or CuPy."""

from __future__ import annotations

from typing import Any

import numpy as np

HOST, DEVICE = "host", "device"


def kind_of(x: Any) -> str:
    """`DEVICE` for GPU memory (CuPy, Numba, PyTorch: what has ``__cuda_array_interface__``), else `HOST`."""
    if isinstance(x, (np.ndarray, np.generic)):
        return HOST
    if type(x).__module__.partition(".")[0] == "torch":  # which raises where one on the GPU needs a gradient
        return DEVICE if getattr(x, "is_cuda", False) else HOST
    return DEVICE if hasattr(x, "__cuda_array_interface__") else HOST
