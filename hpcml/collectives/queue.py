"""Plans that are started early and go over the links one after another.

Those that are under way together share the links, and so all end late. Where results are used one by one, in the order
in which they were started, it is better that the first is there early: then it is worked on while the next travels.
"""

from __future__ import annotations

import numpy as np


class Queue:
    """Every rank starts the plans of a queue in the same order; so the first that is not complete can always get on.

    slack: the next plan begins when about so many bytes of those before it are left, for links would idle while one
    plan ends and another begins.
    """

    def __init__(self, slack: int) -> None:
        self._slack = slack
        self._joined = 0
        self._let = np.zeros(1, np.int64)  # how many have let the next begin: the engine counts
        self.address = self._let.ctypes.data

    def join(self) -> int:
        """A plan is started: how many have to let the next begin before it does."""
        self._joined += 1
        return self._joined - 1

    def lets(self, nbytes: int, steps: int) -> int:
        """After which of its steps (1 …) a plan of so many bytes lets the next begin."""
        return max(1, round(steps * (1 - self._slack / max(nbytes, 1))))
