"""scikit-learn's own checks of estimators, on one rank: every estimator that hpcml.models has."""

import warnings

import pytest
from mpi4py import MPI

from hpcml import models

checks = pytest.importorskip("sklearn.utils.estimator_checks")

#: What makes an estimator quick, or exact, on the small sets that the checks use; all else is its default.
QUICK = {
    "MLPClassifier": dict(hidden_layer_sizes=(32,), learning_rate=0.02, batch_size=16, epochs=60),
    # The checks compare to seven digits what depends on the tolerance.
    "SVC": dict(tol=1e-11),
    "SVR": dict(tol=1e-11),
}

#: What cannot hold, with the reason.
EXPECTED = {
    "RandomForestClassifier": {
        "check_sample_weight_equivalence_on_dense_data": "rows are drawn: a row twice is not a row of weight two"
    },
    "RandomForestRegressor": {
        "check_sample_weight_equivalence_on_dense_data": "rows are drawn: a row twice is not a row of weight two"
    },
}


@pytest.mark.skipif(MPI.COMM_WORLD.size > 1, reason="scikit-learn's checks know nothing of ranks: run on one")
@pytest.mark.parametrize("name", models.ESTIMATORS)
def test_scikit_learns_checks(name):
    estimator = getattr(models, name)(**QUICK.get(name, {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = EXPECTED.get(name, {})
        reports = checks.check_estimator(estimator, on_fail=None, on_skip=None, expected_failed_checks=expected)
    failed = [f"{r['check_name']}: {r['exception']!r}" for r in reports if r["status"] == "failed"]
    assert not failed, "\n".join(failed)
    assert sum(report["status"] == "passed" for report in reports) > 30
