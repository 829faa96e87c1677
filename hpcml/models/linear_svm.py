"""Linear support vector machines over ranks, to a duality gap that is known.

With x̃ = (x, s) and w̃ = (w, b/s), where s is ``intercept_scaling`` (without an intercept x̃ = x)::

    LinearSVC:  min_w̃  ½ ‖w̃‖² + C Σ_i c_i max(0, 1 − y_i x̃_i w̃)ᵖ        p = 1 for "hinge", 2 for "squared_hinge"
    LinearSVR:  min_w̃  ½ ‖w̃‖² + C Σ_i c_i max(0, |y_i − x̃_i w̃| − ε)ᵖ    p = 1 for "epsilon_insensitive",
                                                                           2 for "squared_epsilon_insensitive"

c_i is the weight of a row. These are the objectives of scikit-learn's estimators of the same names (LIBLINEAR's
L1- and L2-loss machines, Fan et al. 2008); the intercept is penalised as there. More than two classes are each
separated from the rest.

Up to some 1,200 columns, and for p = 2, the primal problem is solved by Newton's method (`svm_primal`); other problems by
coordinate descent on the dual (`svm_dual`). Either stops at a relative duality gap (P − D)/P of ``tol``, so that the
objective is at most tol·P above its minimum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.design import Design
from hpcml.models.inputs import features
from hpcml.models.linear import (
    Course,
    LinearClassifier,
    LinearModel,
    LinearRegressor,
    class_factors,
    warn_unfinished,
)
from hpcml.models.margins import MarginLosses, Stage
from hpcml.models.newton import DIRECT
from hpcml.models.rows import Rows, validation_rows
from hpcml.models.settings import choice, number, whole
from hpcml.models.svm_dual import solved
from hpcml.models.svm_primal import minimised
from hpcml.models.threads import own_cores
from hpcml.models.training import Monitor
from hpcml.models.virtual import owned_shards, rearranged

#: Blocks of rows of the dual, and pieces of the sums of the primal, with reproducible=True: as many on any number of ranks.
DUAL_BLOCKS = 16


class LinearMachine(LinearModel):
    """What `LinearSVC` and `LinearSVR` share."""

    C: float
    loss: str
    tol: float
    max_iter: int
    fit_intercept: bool
    intercept_scaling: float
    solver: str
    reproducible: bool
    random_state: int | None
    verbose: int
    gap_: float

    LOSSES: tuple[str, str]

    def _check(self) -> None:
        number("C", self.C, above=0)
        choice("loss", self.loss, self.LOSSES)
        number("tol", self.tol, above=0)
        whole("max_iter", self.max_iter, least=1)
        number("intercept_scaling", self.intercept_scaling, above=0)
        choice("solver", self.solver, ("auto", "newton", "dual"))
        if self.random_state is not None:
            whole("random_state", self.random_state, least=0)

    def _by_newton(self, columns: int, squared: bool) -> bool:
        return self.solver == "newton" or (self.solver == "auto" and (squared or columns <= DIRECT))

    def _fitted(
        self, rows: Rows, comm: MPI.Intracomm, watched: Rows | None, monitor: Monitor | None, epsilon: float
    ) -> Any:
        """Solve for each of the targets, all in step, and take what was found. Collective."""
        squared = self.loss.startswith("squared")
        scale = float(self.intercept_scaling) if self.fit_intercept else None
        by_newton = self._by_newton(rows.X.shape[1] + self.fit_intercept, squared)
        with own_cores(comm, most=1 if self.reproducible else None):
            rows, design = self._designed(rows, comm, scale, by_newton)
            weights = float(self.C) * (np.ones(len(rows.y)) if rows.weights is None else rows.weights)
            weight = float(design.total(design.by_unit(weights)))
            courses, seed = [], 0 if by_newton else _shared(self.random_state, comm)
            for targets, factors in self._targets(rows, comm):
                upper = weights * factors
                size = float(design.total(design.by_unit(weights * np.abs(targets)))) / weight
                losses = MarginLosses(
                    targets,
                    upper,
                    squared=squared,
                    epsilon=epsilon,
                    regression=rows.classes is None,
                    mu=2 * max(size, 1e-30),
                )
                solver = minimised(design, losses, self.tol, self.max_iter) if by_newton else None
                courses.append(solver or solved(design, losses, self.tol, self.max_iter, seed))
            course = Course(design, rows, weight, watched, monitor, bool(self.verbose) and monitor is None)
            stages = in_step(courses, course, self._validation_loss())
        W = np.hstack([stage.W for stage in stages])
        self._take(W, scale, rows)
        self.n_iter_ = max(stage.iterations for stage in stages)
        self.gap_, self.history_ = max(stage.gap for stage in stages), course.history
        if self.gap_ > self.tol:
            warn_unfinished(type(self).__name__, self.n_iter_, f"a relative duality gap of {self.gap_:.1e}")
        return self

    def _designed(
        self, rows: Rows, comm: MPI.Intracomm, scale: float | None, by_newton: bool
    ) -> tuple[Rows, Design]:
        from hpcml.models.design import units_of

        if not self.reproducible:
            return rows, Design(rows.X, comm, scale, first=rows.first(comm.rank))
        units = units_of(rows.total) if by_newton else DUAL_BLOCKS
        rows = rearranged(rows, units, comm)
        return rows, Design(rows.X, comm, scale, owned_shards(rows.total, units, comm), rows.first(comm.rank))

    def _targets(self, rows: Rows, comm: MPI.Intracomm) -> Iterator[tuple[np.ndarray, Any]]:
        """Of each problem the targets (n,), and what the weights of the rows are multiplied with."""
        raise NotImplementedError

    def _validation_loss(self) -> Any:
        return None


def in_step(courses: list[Iterator[Stage]], course: Course, losses: Any) -> list[Stage]:
    """Take a stage of each solver that is not at its end, and record them together, until all are there."""
    stages: list[Stage | None] = [None] * len(courses)
    while True:
        moved = False
        for number_, solver in enumerate(courses):
            stage = next(solver, None)
            if stage is not None:
                stages[number_], moved = stage, True
        found = [stage for stage in stages if stage is not None]
        if not moved:
            return found
        scores, W = np.hstack([stage.scores for stage in found]), np.hstack([stage.W for stage in found])
        course.note(sum(stage.primal for stage in found), max(stage.gap for stage in found), scores, W, losses)


def _shared(seed: int | None, comm: MPI.Intracomm) -> int:
    if seed is not None:
        return int(seed)
    return int(comm.bcast(int(np.random.SeedSequence().generate_state(1)[0])))


class LinearSVC(LinearMachine, LinearClassifier):
    """Linear support vector classifier, one against the rest for more than two classes; its problem stands above.

    ``fit`` and ``score`` are collective over ``comm``; everything else is local. Each rank passes its own rows.

    Parameters: ``C`` > 0, weight of the data against the penalty; ``loss``, "squared_hinge" or "hinge"; ``tol``, the relative
    duality gap at which it stops; ``max_iter``, passes over the data at most; ``fit_intercept`` and ``intercept_scaling``;
    ``class_weight``, None, a mapping from labels to weights, or "balanced"; ``solver``, "auto", "newton" or "dual";
    ``reproducible``, the same bits on any number of ranks and for any spread of the rows over them; ``random_state``, of the
    order in which the dual is descended; ``verbose``, print objective, gap and time of each iteration.

    Fitted: ``coef_``, ``intercept_``, ``classes_``, ``n_iter_``, ``gap_`` (the relative gap, of all classes the largest),
    ``history_`` (a record of each iteration, see `linear.Course`).

    >>> import numpy as np
    >>> model = LinearSVC(C=10).fit(np.array([[-2.0], [-1.0], [1.0], [3.0]]), [0, 0, 1, 1])
    >>> model.predict([[-5.0], [0.5]]).tolist(), model.gap_ <= 1e-3
    ([0, 1], True)
    """

    LOSSES = ("squared_hinge", "hinge")

    def __init__(
        self,
        C: float = 1.0,
        *,
        loss: str = "squared_hinge",
        tol: float = 1e-3,
        max_iter: int = 1000,
        fit_intercept: bool = True,
        intercept_scaling: float = 1.0,
        class_weight: Any = None,
        solver: str = "auto",
        reproducible: bool = False,
        random_state: int | None = 0,
        verbose: int = 0,
        comm: Any = None,
    ) -> None:
        self.C = C
        self.loss = loss
        self.tol = tol
        self.max_iter = max_iter
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.solver = solver
        self.reproducible = reproducible
        self.random_state = random_state
        self.verbose = verbose
        self.comm = comm

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        validation: tuple[Any, Any] | None = None,
        monitor: Monitor | None = None,
    ) -> Any:
        """Find the separating planes for the rows of all ranks, and return the estimator. Collective over ``comm``.

        ``X`` (n, d), dense or sparse, ``y`` (n,) and ``sample_weight`` (n,) are this rank's, n ≥ 0. ``validation``, a pair
        (X, y), is judged after every iteration; ``monitor.epoch`` is told of each.

        Raises CollectiveError on every rank for parameters or rows that are wrong on any, or differ between ranks.
        """
        comm = self._world()
        rows = self._training_rows(X, y, sample_weight, comm)
        watched = validation_rows(validation, rows, lambda X: features(X, rows.X.dtype, sparse=True), comm)
        return self._fitted(rows, comm, watched, monitor, 0.0)

    def _targets(self, rows: Rows, comm: MPI.Intracomm) -> Iterator[tuple[np.ndarray, Any]]:
        assert rows.classes is not None
        factors = class_factors(rows, self.class_weight, comm)
        if len(rows.classes) == 2:
            yield np.where(rows.y == 1, 1.0, -1.0), factors[rows.y]
            return
        for code, factor in enumerate(factors):
            # As LIBLINEAR has it, a class has its weight where it stands against the rest, which has 1.
            yield np.where(rows.y == code, 1.0, -1.0), np.where(rows.y == code, factor, 1.0)

    def _validation_loss(self) -> Any:
        from hpcml.models.losses import hinge, squared_hinge

        losses = hinge if self.loss == "hinge" else squared_hinge
        return lambda scores, codes: losses(scores.copy(), codes)


class LinearSVR(LinearMachine, LinearRegressor):
    """Linear support vector regression; its problem stands above.

    Parameters: ``epsilon`` ≥ 0, the deviation that costs nothing; ``C`` > 0; ``loss``, "epsilon_insensitive" or
    "squared_epsilon_insensitive"; the others as in `LinearSVC`.

    Fitted: ``coef_`` (d,), ``intercept_``, ``n_iter_``, ``gap_``, ``history_``.

    >>> import numpy as np
    >>> model = LinearSVR(C=100).fit(np.arange(5.0)[:, None], 2 * np.arange(5.0) + 1)
    >>> model.predict([[10.0]]).round().tolist()
    [21.0]
    """

    LOSSES = ("epsilon_insensitive", "squared_epsilon_insensitive")

    def __init__(
        self,
        epsilon: float = 0.0,
        *,
        C: float = 1.0,
        loss: str = "epsilon_insensitive",
        tol: float = 1e-3,
        max_iter: int = 1000,
        fit_intercept: bool = True,
        intercept_scaling: float = 1.0,
        solver: str = "auto",
        reproducible: bool = False,
        random_state: int | None = 0,
        verbose: int = 0,
        comm: Any = None,
    ) -> None:
        self.epsilon = epsilon
        self.C = C
        self.loss = loss
        self.tol = tol
        self.max_iter = max_iter
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.solver = solver
        self.reproducible = reproducible
        self.random_state = random_state
        self.verbose = verbose
        self.comm = comm

    def _check(self) -> None:
        super()._check()
        number("epsilon", self.epsilon, least=0)

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, monitor: Monitor | None = None) -> Any:
        """Fit the numbers ``y`` (n,) of the rows of all ranks, and return the estimator. Collective over ``comm``.

        Otherwise as `LinearSVC.fit`.
        """
        comm = self._world()
        rows = self._training_rows(X, y, sample_weight, comm)
        return self._fitted(rows, comm, None, monitor, float(self.epsilon))

    def _targets(self, rows: Rows, comm: MPI.Intracomm) -> Iterator[tuple[np.ndarray, Any]]:
        yield rows.y, 1.0
