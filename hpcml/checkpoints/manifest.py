"""The manifest of a checkpoint: what it holds, as JSON, in one small file of rank 0.

The file is ``{"crc32": "89abcdef", "checkpoint": …}``, where the checksum is that of the bytes of ``…``.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.checkpoints.errors import CheckpointError
from hpcml.checkpoints.parts import Entry
from hpcml.runs.wholefile import whole_file

NAME = "manifest.json"
FORMAT, VERSION = "hpcml checkpoint", 1
BEFORE, BETWEEN, AFTER = b'{"crc32": "', b'", "checkpoint": ', b"}\n"
HEAD_NBYTES = len(BEFORE) + 8 + len(BETWEEN)


@dataclass(frozen=True)
class Manifest:
    """``ranks``: how many wrote, each a file; ``facts``: as they were given to `Store.save`, through JSON."""

    step: int
    ranks: int
    facts: dict[str, Any]
    arrays: dict[str, Entry]


def facts_text(facts: Any) -> str:
    """``facts`` as JSON, keys sorted, NumPy's numbers as Python's. Raises TypeError for what JSON does not hold."""
    if not isinstance(facts, dict):
        raise TypeError(f"facts is a {type(facts).__name__}; expected a dict of what JSON holds")
    try:
        return json.dumps(facts, sort_keys=True, default=_plain)
    except (TypeError, ValueError) as error:
        raise TypeError(f"facts cannot be written as JSON: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is none of its types; give arrays under a name in arrays")


def write(folder: Path, manifest: Manifest) -> None:
    """Into the folder of the checkpoint, whole or not at all."""
    arrays = {name: {"dtype": entry.dtype, "shape": entry.shape} for name, entry in manifest.arrays.items()}
    fields = {"format": FORMAT, "version": VERSION, "step": manifest.step, "ranks": manifest.ranks}
    body = json.dumps({**fields, "arrays": arrays, "facts": manifest.facts}).encode()
    with whole_file(folder / NAME) as file:
        file.write(_enclosed(body))


def read(folder: Path) -> Manifest:
    """Of the checkpoint in that folder. Raises CheckpointError where it is missing, damaged or of a later version."""
    path = folder / NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: the checkpoint was not finished") from None
    body = content[HEAD_NBYTES : -len(AFTER)]
    if content != _enclosed(body):
        raise CheckpointError(f"{path} is damaged, or not the manifest of a checkpoint")
    fields = json.loads(body)
    if (fields["format"], fields["version"]) != (FORMAT, VERSION):
        raise CheckpointError(
            f"{path} has format {fields['format']!r}, version {fields['version']}; this hpcml reads {FORMAT!r}, "
            f"version {VERSION}"
        )
    arrays = {name: Entry(found["dtype"], tuple(found["shape"])) for name, found in fields["arrays"].items()}
    return Manifest(fields["step"], fields["ranks"], fields["facts"], arrays)


def _enclosed(body: bytes) -> bytes:
    return BEFORE + f"{zlib.crc32(body):08x}".encode() + BETWEEN + body + AFTER
