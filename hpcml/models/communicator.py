"""A communicator as a parameter of an estimator."""

from __future__ import annotations

from typing import Any

from mpi4py import MPI


class Lent(MPI.Intracomm):
    """The communicator that it is made from (the same handle), except that a copy of it is itself.

    ``sklearn.base.clone`` deep-copies parameters, and an mpi4py communicator cannot be copied: making
    another one is a collective operation. The owner of the communicator frees it; this does not.
    """

    def __copy__(self) -> Lent:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Lent:
        return self


def lent(comm: Any) -> Any:
    """The communicator as one that can be copied; anything else as it is, for `fit` to complain about."""
    return Lent(comm) if isinstance(comm, MPI.Intracomm) and not isinstance(comm, Lent) else comm
