"""Checkpoints of a distributed training: written by all ranks in shards, restored on any number of them.

    from hpcml import checkpoints

    with checkpoints.Store("runs/x/checkpoints", keep=3) as store:
        store.save(step, {"w": w, "b": b}, {"epoch": 4})     # a copy in memory; the write goes on in a thread
        found = store.latest()                               # the newest that is whole, or None
        found.read("w", out=w)

A checkpoint is there whole or not at all, and every byte of it is covered by a checksum. docs/checkpoints.md tells the
rest.
"""

from hpcml.checkpoints.checkpoint import Checkpoint
from hpcml.checkpoints.errors import CheckpointError
from hpcml.checkpoints.neighbours import Neighbours
from hpcml.checkpoints.parts import Slice
from hpcml.checkpoints.store import Store

__all__ = ["Checkpoint", "CheckpointError", "Neighbours", "Slice", "Store"]
