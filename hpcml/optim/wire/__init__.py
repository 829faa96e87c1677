"""Ways to send less than the gradients: what each rank leaves out is kept, and added to what it sends next.

Error feedback (Seide et al. 2014, "1-bit stochastic gradient descent"; Karimireddy et al. 2019, "Error feedback fixes
SignSGD") makes up for it: the sums of many steps together miss no more than what is owed at the end.
"""

from hpcml.optim.wire.int8 import Int8
from hpcml.optim.wire.powersgd import PowerSGD
from hpcml.optim.wire.topk import TopK

__all__ = ["Int8", "PowerSGD", "TopK"]
