"""Update rules on NumPy arrays, in place, and the optimizer that averages gradients over MPI ranks.

    from hpcml import optim
    opt = optim.Adam(params, lr=1e-3)            # params: dict or list of arrays
    dopt = optim.Distributed(opt)                # every rank; parameters of rank 0 are broadcast
    dopt.step(grads, weight=len(batch))          # weighted mean over ranks, then one step

The rules need no MPI; ``Distributed`` starts it when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hpcml.optim import rates
from hpcml.optim.adagrad import Adagrad
from hpcml.optim.adam import Adam, AdamW
from hpcml.optim.lamb import LAMB
from hpcml.optim.lars import LARS
from hpcml.optim.optimizer import Optimizer, Options
from hpcml.optim.precision import LossScale
from hpcml.optim.rmsprop import RMSprop
from hpcml.optim.sgd import SGD

if TYPE_CHECKING:
    from hpcml.optim.distributed import Distributed
    from hpcml.optim.local import Local
    from hpcml.optim.wire import Int8, PowerSGD, TopK

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Distributed",
    "Int8",
    "Local",
    "LossScale",
    "Optimizer",
    "Options",
    "PowerSGD",
    "RMSprop",
    "TopK",
    "rates",
]

#: What needs MPI, and where it is.
MPI_PARTS = {"Distributed": "distributed", "Local": "local", "Int8": "wire", "PowerSGD": "wire", "TopK": "wire"}


def __getattr__(name: str) -> Any:
    if name in MPI_PARTS:
        return getattr(import_module(f"hpcml.optim.{MPI_PARTS[name]}"), name)
    raise AttributeError(f"module 'hpcml.optim' has no attribute {name!r}")
