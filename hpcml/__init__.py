"""hpcml: collective communication and training over MPI, for NumPy and CuPy arrays.

``from hpcml import collectives, optim, models`` imports the parts; ``import hpcml`` alone starts no MPI and imports no
compiler.
"""

from hpcml.version import __version__

__all__ = ["__version__"]
