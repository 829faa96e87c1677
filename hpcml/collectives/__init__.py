"""Collective communication on NumPy and CuPy arrays over MPI."""

from hpcml.collectives.errors import CollectiveError, MismatchError, all_or_none

__all__ = ["CollectiveError", "MismatchError", "all_or_none"]
