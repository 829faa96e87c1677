"""Numbers on the command line, checked while the arguments are parsed: types for argparse."""

from __future__ import annotations

import argparse
from math import isfinite


def count(text: str) -> int:
    return _checked(_int(text), lambda value: value >= 0, "a whole number from 0 on", text)


def positive_count(text: str) -> int:
    return _checked(_int(text), lambda value: value > 0, "a whole number from 1 on", text)


def positive(text: str) -> float:
    return _checked(_float(text), lambda value: value > 0, "a number above 0", text)


def zero_or_more(text: str) -> float:
    return _checked(_float(text), lambda value: value >= 0, "a number from 0 on", text)


def gamma(text: str) -> float | str:
    """``scale``, ``auto`` or a number."""
    if text in ("scale", "auto"):
        return text
    return _checked(_float(text), lambda value: value > 0, "scale, auto or a number above 0", text)


def fraction(text: str) -> float:
    return _checked(_float(text), lambda value: 0 <= value < 1, "a number from 0 to below 1", text)


def layer_sizes(text: str) -> tuple[int, ...]:
    """``128,64``."""
    return tuple(positive_count(size) for size in text.split(","))


UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def byte_sizes(text: str) -> list[int]:
    """``8,1K,4M``, or ``8:64M``: its lower end, and the quarters of its upper end that are larger."""
    if ":" not in text:
        return [_byte_size(part) for part in text.split(",")]
    low, _, high = text.partition(":")
    first, size, sizes = _byte_size(low), _byte_size(high), []
    while size > first:
        sizes.append(size)
        size //= 4
    return [first, *reversed(sizes)]


def _byte_size(text: str) -> int:
    digits = text.rstrip("BGKMbgkm")
    unit = UNITS.get(text[len(digits) :].upper(), 1)
    number = _int(text if unit == 1 else digits)
    return _checked(number, lambda value: value > 0, "a number of bytes such as 512, 64K, 4M, 100MB or 1G", text) * unit


SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
RATES = {"Gbit/s": 1e9 / 8, "Mbit/s": 1e6 / 8, "GB/s": 1e9, "MB/s": 1e6}


def latencies(text: str) -> list[float]:
    """``1.5us,100ns``, in seconds."""
    return [_with_unit(part, SECONDS, "a time such as 1.5us or 200ns") for part in text.split(",")]


def seconds_per_byte(text: str) -> list[float]:
    """``12.5GB/s,100Gbit/s``, or ``0.08ns``: in seconds per byte."""
    return [
        1 / _with_unit(part, RATES, "a rate such as 12.5GB/s or 100Gbit/s")
        if part.endswith("/s")
        else _with_unit(part, SECONDS, "a rate such as 12.5GB/s, or a time per byte such as 0.08ns")
        for part in text.split(",")
    ]


def _with_unit(text: str, units: dict[str, float], expected: str) -> float:
    unit = next((unit for unit in units if text.endswith(unit)), None)
    number = _float(text.removesuffix(unit)) if unit else None
    return _checked(number, lambda value: value > 0, expected, text) * (units[unit] if unit else 1)


def _checked(value, allowed, expected: str, text: str):
    if value is None or not allowed(value):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}")
    return value


def _int(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None
