"""Estimators given wrong rows or parameters: one clear error, on every rank alike, and nothing changes."""

import numpy as np
import pytest
from model_cases import GOOD_X, GOOD_Y, every_estimator, fresh
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models import LinearSVC, LogisticRegression, MLPClassifier, Ridge, SGDClassifier

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size


def with_nan(X):
    X = X.copy()
    X[2, 1] = np.nan
    return X


# On the last rank alone: what it passes, and what all ranks are told.
BAD_ON_ONE = {
    "NaN": (with_nan(GOOD_X), GOOD_Y, "NaN, infinity .* row 2, column 1"),
    "infinity": (np.where(GOOD_X == 5, np.inf, GOOD_X), GOOD_Y, "NaN, infinity .* row 1, column 1"),
    "too large for float32": (np.where(GOOD_X == 5, 1e200, GOOD_X), GOOD_Y, "too large for float32"),
    "one axis": (GOOD_X[:, 0], GOOD_Y, r"X has shape \(6,\)"),
    "strings in X": (GOOD_X.astype(str), GOOD_Y, "X has dtype <U"),
    "complex X": (GOOD_X.astype(complex), GOOD_Y, "X has dtype complex128"),
    "lengths": (GOOD_X, GOOD_Y[:5], "X has 6 rows and y 5 labels"),
    "two axes in y": (GOOD_X, np.stack([GOOD_Y] * 2, axis=1), r"y has shape \(6, 2\)"),
    "NaN labels": (GOOD_X, np.where(GOOD_Y, np.nan, 1.0), "Input y contains NaN"),
    "fractions as labels": (GOOD_X, GOOD_Y + 0.5, "regression target"),
    "objects as labels": (GOOD_X, np.array([None] * 6), "y has dtype object"),
}

# Good in themselves, but not those of the other ranks.
DIFFERENT_ON_ONE = {
    "columns": (GOOD_X[:, :3], GOOD_Y, "columns of X differ between ranks: 4 on rank 0, 3 on rank"),
    "dtype": (GOOD_X.astype("f4"), GOOD_Y, "dtypes of X differ between ranks: float64 on rank 0, float32 on"),
    "kind of labels": (GOOD_X, GOOD_Y.astype(str), "kinds of labels differ between ranks: numbers on rank 0"),
}


@every_estimator
@pytest.mark.parametrize("wrong", {**BAD_ON_ONE, **DIFFERENT_ON_ONE}, ids=lambda text: text.replace(" ", "_"))
def test_bad_rows_on_one_rank_are_one_error_on_all(estimator, wrong):
    if SIZE == 1 and wrong in DIFFERENT_ON_ONE:
        pytest.skip("one rank agrees with itself")
    X, y, message = {**BAD_ON_ONE, **DIFFERENT_ON_ONE}[wrong]
    last = RANK == SIZE - 1
    model = fresh(estimator)
    with pytest.raises(hc.CollectiveError, match=message) as caught:
        model.fit(X if last else GOOD_X, y if last else GOOD_Y)
    assert len(set(COMM.allgather(str(caught.value)))) == 1
    if SIZE > 1:
        assert f"rank {SIZE - 1}" in str(caught.value)
    assert not hasattr(model, "classes_")


def test_a_failed_fit_leaves_the_model_as_it_was():
    model = SGDClassifier(epochs=1).fit(GOOD_X, GOOD_Y)
    before = model.coef_.copy()
    with pytest.raises(hc.CollectiveError):
        model.fit(with_nan(GOOD_X), GOOD_Y)
    np.testing.assert_array_equal(model.coef_, before)


NOTHING_X, NOTHING_Y = np.empty((0, 4)), np.empty(0, int)


@every_estimator
def test_one_class_and_no_rows_are_errors_on_every_rank(estimator):
    with pytest.raises(hc.CollectiveError, match="all labels are 1, one class; .* at least two"):
        fresh(estimator).fit(GOOD_X, np.ones(6, int))
    with pytest.raises(hc.CollectiveError, match="no rank has any rows to train on"):
        fresh(estimator).fit(NOTHING_X, NOTHING_Y)
    model = fresh(estimator, epochs=1).fit(GOOD_X, GOOD_Y)
    with pytest.raises(hc.CollectiveError, match="no rank has any rows to score"):
        model.score(NOTHING_X, NOTHING_Y)
    with pytest.raises(hc.CollectiveError, match="no rank has any rows to validate"):
        model.fit(GOOD_X, GOOD_Y, validation=(NOTHING_X, NOTHING_Y))


@every_estimator
def test_rows_on_a_single_rank_are_enough(estimator):
    mine = RANK == SIZE - 1
    # A rank without rows may not even know their dtype, or how many columns there are.
    X, y = (GOOD_X, GOOD_Y) if mine else (np.empty((0, 0), "f4"), [])
    model = fresh(estimator, epochs=2).fit(X, y, validation=(X, y))
    alone = fresh(estimator, epochs=2, comm=MPI.COMM_SELF).fit(GOOD_X, GOOD_Y)
    for name, array in alone.parameters_.items():
        np.testing.assert_allclose(model.parameters_[name], array, rtol=1e-4, atol=1e-5)
    assert model.score(X, y) == alone.score(GOOD_X, GOOD_Y)


BAD_VALIDATION = {
    "only on some ranks": (None, "not on .* others"),
    "no pair": (GOOD_X, "expected a pair"),
    "other columns": ((GOOD_X[:, :3], GOOD_Y), "3 columns|columns of X differ"),
    "an unknown label": ((GOOD_X, GOOD_Y + 1), "label 2 does not occur"),
    "another kind of label": ((GOOD_X, GOOD_Y.astype(str)), "label '0' does not occur|kinds of labels differ"),
    "NaN": ((with_nan(GOOD_X), GOOD_Y), "NaN"),
}


@pytest.mark.parametrize("wrong", BAD_VALIDATION, ids=lambda text: text.replace(" ", "_"))
def test_bad_validation_rows_on_one_rank_are_one_error_on_all(wrong):
    if SIZE == 1 and wrong == "only on some ranks":
        pytest.skip("there are no other ranks")
    spoilt, message = BAD_VALIDATION[wrong]
    validation = spoilt if RANK == SIZE - 1 else (GOOD_X, GOOD_Y)
    with pytest.raises(hc.CollectiveError, match=message) as caught:
        SGDClassifier(epochs=1).fit(GOOD_X, GOOD_Y, validation=validation)
    assert len(set(COMM.allgather(str(caught.value)))) == 1


BAD_PARAMETERS = [
    (MLPClassifier, dict(optimizer="lion"), "optimizer='lion'; expected one of sgd, momentum, adam"),
    (MLPClassifier, dict(rate="square"), "rate='square'"),
    (MLPClassifier, dict(epochs=0), "epochs=0; expected a whole number of at least 1"),
    (MLPClassifier, dict(epochs=1.5), "epochs=1.5"),
    (MLPClassifier, dict(batch_size="all"), "batch_size='all'"),
    (MLPClassifier, dict(learning_rate=0), "learning_rate=0; expected a number above 0"),
    (MLPClassifier, dict(learning_rate=float("nan")), "learning_rate=nan"),
    (MLPClassifier, dict(momentum=1.0), "momentum=1.0; expected a number at least 0 and below 1"),
    (MLPClassifier, dict(weight_decay=-1), "weight_decay=-1"),
    (MLPClassifier, dict(warmup_epochs=-1), "warmup_epochs=-1"),
    (MLPClassifier, dict(random_state=-1), "random_state=-1"),
    (MLPClassifier, dict(dtype="int8"), "dtype='int8'"),
    (MLPClassifier, dict(hidden_layer_sizes=(8, 0)), "hidden_layer_sizes=0"),
    (MLPClassifier, dict(hidden_layer_sizes=8), "hidden_layer_sizes=8; expected a tuple"),
    (MLPClassifier, dict(algorithm="carrier pigeon"), "carrier pigeon"),
    (LogisticRegression, dict(C=0), "C=0; expected a number above 0"),
    (LinearSVC, dict(C=-1), "C=-1"),
    (SGDClassifier, dict(loss="l1"), "loss='l1'; expected one of log_loss, hinge, squared_hinge"),
    (LinearSVC, dict(tol=0), "tol=0; expected a number above 0"),
    (LinearSVC, dict(class_weight="even"), "class_weight='even'; expected None, 'balanced' or a mapping"),
    (LinearSVC, dict(class_weight={7: 1.0}), "class_weight names 7, which is no label"),
    (LinearSVC, dict(solver="guess"), "solver='guess'"),
    (LogisticRegression, dict(max_iter=0), "max_iter=0"),
    (Ridge, dict(alpha=-1), "alpha=-1"),
    (LinearSVC, dict(loss="l1"), "loss='l1'; expected one of squared_hinge, hinge"),
]


@pytest.mark.parametrize("cls, bad, message", BAD_PARAMETERS, ids=lambda value: str(value).replace(" ", ""))
def test_parameters_out_of_range_are_errors_on_every_rank(cls, bad, message):
    with pytest.raises(hc.CollectiveError, match=message):
        cls(**bad).fit(GOOD_X, GOOD_Y)


@pytest.mark.skipif(SIZE == 1, reason="one rank agrees with itself")
def test_parameters_that_differ_are_an_error_on_every_rank():
    with pytest.raises(hc.CollectiveError, match=f"rank {SIZE - 1}: epochs=2, on rank 0 it is 1"):
        SGDClassifier(epochs=2 if RANK == SIZE - 1 else 1).fit(GOOD_X, GOOD_Y)


def test_a_loss_that_is_not_finite_is_an_error_on_every_rank():
    with pytest.raises(hc.CollectiveError, match="the loss is .* lower learning_rate"), np.errstate(all="ignore"):
        SGDClassifier("squared_hinge", optimizer="sgd", learning_rate=1e30, epochs=50).fit(100 * GOOD_X, GOOD_Y)


def test_bad_rows_for_score_are_one_error_on_all():
    model = SGDClassifier(epochs=1).fit(GOOD_X, GOOD_Y)
    with pytest.raises(hc.CollectiveError, match="3 features, but SGDClassifier is expecting 4"):
        model.score(GOOD_X[:, :3] if RANK == SIZE - 1 else GOOD_X, GOOD_Y)
    with pytest.raises(hc.CollectiveError, match="6 rows and y 5"):
        model.score(GOOD_X, GOOD_Y[:5] if RANK == SIZE - 1 else GOOD_Y)
