"""Linear support vector machines with many columns: rounds of coordinate descent on the dual; see `descent`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpcml.models.descent import along, descend, separable, shuffle, squared_norms
from hpcml.models.design import Design
from hpcml.models.margins import MarginLosses, Stage

#: Rounds between measurements of the gap, at most.
PATIENCE = 8
#: Blocks reckon as if a part of this size of the others did as they do: CoCoA+ (Ma et al. 2015), where all do, has 1
#: and needs no search; 0 is Lee and Roth's. On one set of texts over 2 ranks, single runs: 1.6 s with 0, 1.6 with 0.2,
#: 1.15 with 0.3, and with 1 no gap of 1e-3 in 50 rounds. The differences below 1 are partly luck of where the gap is
#: measured.
BOOST = 0.25
#: A block's pass is in parts as long as each reads this many times D entries; and there are not more than so many.
CHEAP, MOST_PARTS = 8, 16


class Block:
    """Some of this rank's rows, with their dual variables."""

    def __init__(self, design: Design, losses: MarginLosses, begin: int, end: int, seed: int) -> None:
        X = design.X
        if design.sparse:
            self.X = (X.data, X.indices, X.indptr[begin : end + 1])
            self.entries = float(X.indptr[end] - X.indptr[begin])
        else:
            self.X = X[begin:end]
            self.entries = float((end - begin) * X.shape[1])
        self.scale = design.scale or 0.0
        self.targets, self.upper = losses.targets[begin:end], losses.upper[begin:end]
        self.kind = (losses.epsilon, losses.squared, losses.regression)
        self.norms = squared_norms(self.X, end - begin, self.scale)
        self.alpha, self.before = np.zeros(end - begin), np.zeros(end - begin)
        self.order, self.active = np.arange(end - begin), end - begin
        # xorshift64 wants a state other than 0.
        self.state = np.random.SeedSequence([seed, design.first + begin]).generate_state(1, np.uint64) | np.uint64(1)
        self.bounds, self.enough, self.start = np.array([np.inf, -np.inf]), 0.1, 0
        self.found, self.boost = np.zeros(2), 1.0

    def descend(self, w: np.ndarray, part: int, parts: int) -> None:
        """Go over that part of the rows, from ``w``, which follows."""
        self.before[:] = self.alpha
        if part == 0:
            self.start, self.found[:] = self.active, (-np.inf, np.inf)
            shuffle(self.order, self.active, self.state)
        self.active = descend(
            self.X, self.targets, self.upper, self.norms, self.alpha, w, self.scale, *self.kind, self.order,
            self.start * part // parts, self.start * (part + 1) // parts, self.active, self.bounds, self.found,
            self.boost,
        )  # fmt: skip
        if part == parts - 1:
            self._bound()

    def _bound(self) -> None:
        """What the next pass leaves out; where this one was nearly done with what is left, it sees all rows again."""
        greatest, least = self.found
        rows = len(self.alpha)
        if self.active == 0 or greatest - least <= self.enough:
            if self.active == rows:
                self.enough /= 2
            self.see_all()
        else:
            self.bounds[:] = greatest if greatest > 0 else np.inf, least if least < 0 else -np.inf

    def see_all(self) -> None:
        """Leave no row out in the next pass."""
        self.active, self.bounds[:] = len(self.alpha), (np.inf, -np.inf)

    def along(self) -> tuple[float, float]:
        return along(self.alpha, self.before, self.targets, self.upper, *self.kind)

    def keep(self, share: float) -> None:
        """Only that ``share`` of the way that the last round went."""
        self.alpha -= self.before
        self.alpha *= share
        self.alpha += self.before

    def separable(self) -> float:
        return separable(self.alpha, self.targets, self.upper, *self.kind)


def solved(
    design: Design,
    losses: MarginLosses,
    tol: float,
    max_iter: int,
    seed: int,
) -> Iterator[Stage]:
    """The way to a relative duality gap (P − D)/P of at most ``tol``: a stage whenever it is measured. Collective.

    A block is a unit of the design.
    """
    held = [Block(design, losses, begin, end, seed) for begin, end in design.units]
    w = np.zeros(design.columns)
    gap, measured, wait, turn = 1.0, 0, 2, 0
    parts = _prepared(design, held)
    best = (np.inf, w)
    while turn < max_iter:
        turn += 1
        for part in range(parts):
            w = _round(design, held, w, part, parts)
        if turn - measured < wait and turn < max_iter:
            continue
        gap_before, rounds, measured = gap, turn - measured, turn
        scores, primal, dual = _measured(design, losses, held, w)
        # The dual rises in every round, the primal need not fall: any two points bound the gap.
        best = min(best, (primal, w), key=lambda point: point[0])
        gap = max(0.0, best[0] - dual) / max(best[0], 1e-300)
        yield Stage(best[1][:, None], scores, best[0], gap, turn)
        if gap <= tol:
            return
        if gap > 0.8 * gap_before:  # what was left out is in the way by now
            for block in held:
                block.see_all()
        # The gap falls by about the same share each round: measure again when it may be there.
        fall = np.log(max(gap_before / gap, 1.05)) / rounds
        wait = int(min(PATIENCE, max(1.0, 0.7 * np.log(gap / tol) / fall)))


def _prepared(design: Design, held: list[Block]) -> int:
    """Tell the blocks how many they are. In how many parts the blocks' passes are, the ranks telling each other in
    between: as many as cost little.

    The more there are, the less do the blocks' changes get into each other's way.
    """
    if design.comm.size == 1 and len(held) == 1:
        return 1
    told = np.array([[block.entries, 1.0] for block in held]).reshape(-1, 2)
    entries, blocks = design.total(told).tolist()
    for block in held:
        block.boost = 1 + BOOST * (blocks - 1)
    return int(min(MOST_PARTS, max(1.0, entries / blocks / (CHEAP * design.columns))))


def _round(design: Design, held: list[Block], w: np.ndarray, part: int, parts: int) -> np.ndarray:
    told = np.zeros((len(held), len(w) + 2))
    for line, block in zip(told, held, strict=True):
        line[:-2] = w
        block.descend(line[:-2], part, parts)
    if design.comm.size == 1 and len(held) == 1:
        return told[0, :-2]
    for line, block in zip(told, held, strict=True):
        line[:-2] -= w
        line[:-2] /= block.boost
        line[-2:] = block.along()
    total = design.total(told)
    w, share = _searched(w, total[:-2], float(total[-2]), float(total[-1]))
    if share < 1:
        for block in held:
            block.keep(share)
    return w


def _searched(w: np.ndarray, way: np.ndarray, slope: float, bend: float) -> tuple[np.ndarray, float]:
    """The point along the way at which the dual is least, and which share of the way that is."""
    slope, bend = slope + float(w @ way), bend + float(way @ way)
    share = min(1.0, -slope / bend) if bend > 0 and slope < 0 else (1.0 if slope < 0 else 0.0)
    return w + share * way, share


def _measured(
    design: Design, losses: MarginLosses, held: list[Block], w: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """The scores at w, P(w) and D(α). One pass."""
    scores = design.scores(w[:, None])
    by_unit = np.stack([design.by_unit(losses.each(scores[:, 0])), [block.separable() for block in held]], axis=1)
    loss, separable = design.total(by_unit).tolist()
    half = 0.5 * float(w @ w)
    return scores, half + loss, -half - separable
