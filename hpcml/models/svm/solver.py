"""The dual problem of a kernel machine on the rows of all ranks, by blocks of working sets.

    minimise ½ vᵀKv + cᵀv   subject to   Σ v = 0,   lo ≤ v ≤ hi

Each row has one variable (SVC: v = yα, c = −y, bounds 0 and yC) or two (SVR: α and −α*, c = ±ε − z, bounds [0, C] and
[−C, 0]). An outer iteration takes the variables that violate F = Kv + c most: those of least F that can grow and of
largest F that can fall, half of a working set, the other half stays. The ranks tell each other F of those and lend the
rows (two or three allgathers: some 16 bytes × the working set per rank, and the new rows); every rank solves the small
problem (`smo`), and adds the columns of what changed to Kv of its own rows. Ties go to the lower row number.
It ends as LIBSVM does: max F of what can fall − min F of what can grow ≤ tol.

Sources: Zanni, Serafini, Zanghirati, Parallel software for training large scale SVMs on multiprocessor systems, JMLR 7
(2006); Wen, Shi, Li, He, Chen, ThunderSVM, JMLR 19 (2018), section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.svm.columns import Columns
from hpcml.models.svm.points import Points
from hpcml.models.svm.smo import solve

#: Variables of a working set; the share of them that stays; how far the small problem is solved; steps at most.
WORKING, KEPT, INNER, STEPS = 1024, 0.5, 0.1, 20


class Problem(NamedTuple):
    """This rank's part. cost, lo, hi: (n, 1) or (n, 2), float64. ``counts[r]`` rows are rank r's."""

    points: Points
    cost: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    counts: list[int]

    @property
    def sides(self) -> int:
        return self.cost.shape[1]


class Solution(NamedTuple):
    """The same on every rank: numbers, among the problem's, of the rows with v ≠ 0, sorted, and their v (both sides
    together); the intercept; whether it converged, after how many steps of SMO; the violation that was left."""

    numbers: np.ndarray
    coefficients: np.ndarray
    intercept: float
    converged: bool
    steps: int
    violation: float


class Clock:
    """Seconds in all, and of them inside communication, slower ranks included."""

    def __init__(self) -> None:
        self._began, self._inside = perf_counter(), 0.0

    def timed(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        began = perf_counter()
        try:
            return call(*args, **options)
        finally:
            self._inside += perf_counter() - began

    def lap(self) -> tuple[float, float]:
        now = perf_counter()
        spent = now - self._began, self._inside
        self._began, self._inside = now, 0.0
        return spent


class _Member(NamedTuple):
    """The working set: numbers of variables, sorted within what stayed and what is new; rows and kernel of them."""

    ids: np.ndarray
    rows: Any
    gram: np.ndarray


def optimise(
    problem: Problem,
    comm: MPI.Intracomm,
    *,
    tol: float,
    nbytes: float,
    most: int = -1,
    working: int = WORKING,
    note: Callable[[dict[str, Any]], None] | None = None,
) -> Solution:
    """Solve it. Collective.

    tol: of max F − min F; nbytes: for kernel columns, on this rank; most: steps of SMO, at most, −1 for as many as it
    takes; working: variables in a working set; note: told of each iteration what it was worth and took, a dict.
    """
    points, counts = problem.points, problem.counts
    sides = problem.sides
    starts = np.concatenate([[0], np.cumsum(counts)])
    first, total = int(starts[comm.rank]) * sides, int(starts[-1])
    cost, lo, hi = (a.reshape(-1) for a in (problem.cost, problem.lo, problem.hi))
    v, sums = np.zeros(len(cost)), np.zeros(points.count)
    columns = Columns(points, total, nbytes)
    working = min(working, total * sides)
    member: _Member | None = None
    age = np.zeros(0, np.int64)
    steps, stale, iteration, middle = 0, 0, 0, 0.0
    clock = Clock()
    while True:
        F = np.repeat(sums, sides) + cost if sides > 1 else sums + cost
        half = working if member is None else max(2, working - int(working * KEPT))
        taken = np.zeros(0, np.int64) if member is None else member.ids
        said = _candidates(F, v, lo, hi, taken - first, half // 2 or 1, first)
        said[0, :3] = 0.5 * float(v @ (F + cost)), _gap(F, v, lo, hi, middle), np.count_nonzero(v)
        everyones = clock.timed(hc.allgather, said[None], counts=[1] * comm.size, comm=comm)
        lowest, highest = everyones[:, 0, 3].min(), everyones[:, 0, 4].max()
        violation = max(0.0, float(highest - lowest)) if np.isfinite(highest - lowest) else 0.0
        objective, gap, support = everyones[:, 0, :3].sum(axis=0).tolist()
        middle = _middle(lowest, highest)
        if note is not None:
            note(_recorded(iteration, objective, gap, violation, int(support), steps, *clock.lap()))
        converged = violation <= tol
        if converged or (0 <= most <= steps) or stale >= 20:
            break
        new = _chosen(everyones[:, 1:], half // 2 or 1)
        member, age = _renewed(problem, member, age, new, starts, sides, working, iteration, comm, clock)
        # What its owners know of each, in the order of the ranks, which is that of the numbers.
        order = np.argsort(member.ids, kind="stable")
        owned = np.searchsorted(member.ids[order], starts * sides)
        mine = member.ids[order][owned[comm.rank] : owned[comm.rank + 1]] - first
        known = np.stack([F[mine], v[mine], lo[mine], hi[mine]], axis=1)
        told = np.empty((len(member.ids), 4))
        told[order] = clock.timed(hc.allgather, known, counts=np.diff(owned).tolist(), comm=comm)
        f, before, low, high = (np.ascontiguousarray(a) for a in told.T)
        now = before.copy()
        allowed = STEPS * len(now) if most < 0 else min(STEPS * len(now), most - steps)
        taken_steps = solve(member.gram, f, now, low, high, INNER, 0.5 * tol, allowed)
        steps += taken_steps
        stale = stale + 1 if taken_steps == 0 else 0
        here = order[owned[comm.rank] : owned[comm.rank + 1]]
        v[mine] = now[here]
        _update(columns, sums, member, now - before, sides)
        iteration += 1
    numbers, coefficients, intercept = _gathered(problem, v, F, middle, int(starts[comm.rank]), comm)
    return Solution(numbers, coefficients, intercept, converged, steps, violation)


def _recorded(
    iteration: int,
    objective: float,
    gap: float,
    violation: float,
    support: int,
    steps: int,
    seconds: float,
    inside: float,
) -> dict[str, Any]:
    primal = gap - objective
    return {
        "iteration": iteration,
        "objective": objective,
        "primal": primal,
        "violation": violation,
        "gap": gap / primal if primal > 0 else 0.0,
        "support_vectors": support,
        "steps": steps,
        "seconds": seconds,
        "communication_seconds": inside,
        "communication": inside / seconds if seconds else 0.0,
    }


def _gap(F: np.ndarray, v: np.ndarray, lo: np.ndarray, hi: np.ndarray, level: float) -> float:
    """This rank's part of the primal minus the dual objective, at the intercept −level."""
    slope = F - level
    return float(np.maximum(slope * (v - lo), slope * (v - hi)).sum())


def _middle(lowest: float, highest: float) -> float:
    ends = [end for end in (lowest, highest) if np.isfinite(end)]
    return sum(ends) / len(ends) if ends else 0.0


def _candidates(
    F: np.ndarray, v: np.ndarray, lo: np.ndarray, hi: np.ndarray, taken: np.ndarray, most: int, first: int
) -> np.ndarray:
    """(2 most + 1, 5): a line for what the caller adds, with the least F that can grow and the largest that can fall;
    then (F, number) of the ``most`` that do so most, those ``taken`` apart, and infinite F where there are fewer."""
    out = np.full((2 * most + 1, 5), np.inf)
    grows, falls = np.where(v < hi, F, np.inf), np.where(v > lo, -F, np.inf)
    out[0, 3] = grows.min(initial=np.inf)
    out[0, 4] = -falls.min(initial=np.inf)
    taken = taken[(taken >= 0) & (taken < len(F))]
    for half, key in enumerate((grows, falls)):
        key[taken] = np.inf
        best = least(key, most)
        lines = out[1 + half * most : 1 + half * most + len(best)]
        lines[:, 0], lines[:, 1] = key[best], best + first
    return out


def least(key: np.ndarray, most: int) -> np.ndarray:
    """Positions, in order, of the ``most`` least finite numbers of ``key``; of equal ones the first."""
    if len(key) > most:
        limit = np.partition(key, most - 1)[most - 1]
        below = np.flatnonzero(key < limit)
        level = np.flatnonzero(key == limit)[: most - len(below)] if np.isfinite(limit) else below[:0]
        return np.sort(np.concatenate([below, level]))
    return np.flatnonzero(np.isfinite(key))


def _chosen(candidates: np.ndarray, most: int) -> np.ndarray:
    """Numbers, sorted, of the variables that all ranks' candidates (p, 2 most, 5) make the new half."""
    found = []
    for half in (candidates[:, :most], candidates[:, most:]):
        lines = half.reshape(-1, half.shape[2])[:, :2]
        lines = lines[np.isfinite(lines[:, 0])]
        order = np.lexsort((lines[:, 1], lines[:, 0]))[:most]
        found.append(lines[order, 1].astype(np.int64))
    return np.unique(np.concatenate(found))


def _renewed(
    problem: Problem,
    member: _Member | None,
    age: np.ndarray,
    new: np.ndarray,
    starts: np.ndarray,
    sides: int,
    working: int,
    iteration: int,
    comm: MPI.Intracomm,
    clock: Clock,
) -> tuple[_Member, np.ndarray]:
    """The working set with the ``new`` variables in place of those that have been in it longest."""
    points = problem.points
    rows_of = new // sides
    cuts = np.searchsorted(rows_of, starts)
    mine = rows_of[cuts[comm.rank] : cuts[comm.rank + 1]] - starts[comm.rank]
    counts = np.diff(cuts).tolist()
    arrived = clock.timed(points.borrow, mine, counts, rows_of, comm)
    if member is None:
        return _Member(new, arrived, points.gram(arrived, mine, counts, arrived, comm)), np.full(len(new), iteration)
    stay = max(0, min(len(member.ids), working - len(new)))
    kept = np.sort(np.lexsort((member.ids, -age))[:stay])
    ids = np.concatenate([member.ids[kept], new])
    rows = points.joined(member.rows, kept, arrived)
    gram = np.empty((len(ids), len(ids)), member.gram.dtype)
    gram[:stay, :stay] = member.gram[np.ix_(kept, kept)]
    gram[stay:] = points.gram(arrived, mine, counts, rows, comm)
    gram[:stay, stay:] = gram[stay:, :stay].T
    return _Member(ids, rows, gram), np.concatenate([age[kept], np.full(len(new), iteration)])


def _update(columns: Columns, sums: np.ndarray, member: _Member, change: np.ndarray, sides: int) -> None:
    moved = np.flatnonzero(change)
    rows, weights = member.ids[moved] // sides, change[moved]
    if sides > 1:
        rows, at, inverse = np.unique(rows, return_index=True, return_inverse=True)
        weights, moved = np.bincount(inverse, weights, len(rows)), moved[at]
    columns.add(sums, rows, columns.points.taken(member.rows, moved), weights)


def _gathered(
    problem: Problem, v: np.ndarray, F: np.ndarray, middle: float, first: int, comm: MPI.Intracomm
) -> tuple[np.ndarray, np.ndarray, float]:
    """Numbers and coefficients of the support vectors, and the intercept: −F, the mean of those within their bounds."""
    inside = (v > problem.lo.reshape(-1)) & (v < problem.hi.reshape(-1))
    both = v.reshape(-1, problem.sides)
    mine = np.flatnonzero((both != 0).any(axis=1))
    free, numbers, coefficients = hc.allgather([F[inside], mine + first, both[mine].sum(axis=1)], comm=comm)
    return numbers, coefficients, -(math.fsum(free) / len(free) if len(free) else middle)
