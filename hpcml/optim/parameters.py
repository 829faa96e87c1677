"""Parameters and gradients as named lists of arrays: what may be one, and how they are matched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcml.kinds import DEVICE, HOST, kind_of
from hpcml.optim.precision import DOUBLE, SINGLE, is_short, working

#: A dict or a list of arrays, as users hold parameters and gradients.
Arrays = Mapping[Any, Any] | Sequence[Any]

#: Numbers that ride along with gradients.
Values = Sequence[float] | np.ndarray | None


def is_updated(dtype: np.dtype) -> bool:
    """Whether there are kernels for parameters of that data type."""
    return dtype in (SINGLE, DOUBLE) or is_short(dtype)


def items(arrays: Arrays, what: str) -> list[tuple[Any, Any]]:
    """The (name, array) pairs of a dict, or the (position, array) pairs of a list or tuple, in order."""
    if isinstance(arrays, Mapping):
        return list(arrays.items())
    if isinstance(arrays, (list, tuple)):
        return list(enumerate(arrays))
    raise TypeError(
        f"{what} must be a dict or a list of arrays, not {type(arrays).__name__}; for a single array pass [array]"
    )


def check_parameters(pairs: list[tuple[Any, Any]]) -> None:
    """Raise unless every parameter is a writable array of floats, of NumPy or all of them in GPU memory.

    This is the one place that decides which kinds of arrays the rules update; another kind of array gets its
    kernels in the rules' files and its row here.
    """
    if not pairs:
        raise ValueError("there are no parameters: pass a dict or a list with at least one array")
    if len({kind_of(array) for _, array in pairs}) > 1:
        raise TypeError("some parameters are in GPU memory and some in the host's: make an optimizer for each")
    for name, array in pairs:
        if kind_of(array) == DEVICE:
            array = _on_device(array)
        elif not isinstance(array, np.ndarray):
            raise TypeError(
                f"parameter {name!r} is a {kind(array)}; the update rules work on numpy.ndarray "
                f"of floats: copy it to one"
            )
        if not is_updated(array.dtype):
            raise TypeError(
                f"parameter {name!r} has dtype {array.dtype}; expected float32, float64, float16 or bfloat16 in this "
                "machine's byte order"
            )
        if not array.flags.writeable:
            raise ValueError(f"parameter {name!r} is read-only and cannot be updated in place: pass a writable copy")
        if array.size and any(stride == 0 and n > 1 for stride, n in zip(array.strides, array.shape, strict=True)):
            raise ValueError(f"parameter {name!r} repeats its elements (a stride is 0): pass a copy")


def matched(pairs: list[tuple[Any, Any]], gradients: Arrays) -> list[Any]:
    """The gradients in the order of the parameters; raises, naming the first that does not fit."""
    found = dict(items(gradients, "gradients"))
    expected = dict(pairs)
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if missing or extra:
        raise ValueError(
            f"gradients do not match the parameters: missing {listed(missing)}, without a parameter {listed(extra)}"
        )
    return [check_gradient(name, parameter, found[name]) for name, parameter in pairs]


def check_gradient(name: Any, parameter: Any, gradient: Any) -> Any:
    """The gradient as an array; raises where it does not fit its parameter."""
    if isinstance(gradient, np.generic):  # what NumPy's arithmetic makes of an array without axes
        gradient = np.asarray(gradient)
    if kind_of(gradient) != kind_of(parameter) or (kind_of(gradient) == HOST and not isinstance(gradient, np.ndarray)):
        raise TypeError(f"the gradient of {name!r} is a {kind(gradient)}, its parameter a {kind(parameter)}")
    if kind_of(gradient) == DEVICE:
        gradient, parameter = _on_device(gradient), _on_device(parameter)
    if gradient.shape != parameter.shape:
        raise ValueError(f"the gradient of {name!r} has shape {gradient.shape}, its parameter {parameter.shape}")
    if gradient.dtype != parameter.dtype and not (_is_single(gradient) and _is_single(parameter)):
        raise TypeError(
            f"the gradient of {name!r} has dtype {gradient.dtype}, its parameter {parameter.dtype}: "
            f"convert it with .astype({str(parameter.dtype)!r})"
        )
    return gradient


def _on_device(array: Any) -> Any:
    """An array in GPU memory as `hpcml.collectives` has it, which is not imported before there is one."""
    from hpcml.collectives.arrays import as_array

    return as_array(array)


def _is_single(array: np.ndarray) -> bool:
    """Whether it is reckoned in float32."""
    return working(array.dtype) == SINGLE


def kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")


def listed(names: list[Any]) -> str:
    """At most five names, for an error message."""
    shown = ", ".join(repr(name) for name in names[:5]) or "none"
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
