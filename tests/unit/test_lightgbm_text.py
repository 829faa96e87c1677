"""Boosted trees as LightGBM reads them: the same scores and probabilities, bit for bit where nothing is rounded."""

import numpy as np
import pytest

from hpcml import models
from hpcml.models import GradientBoostingClassifier, GradientBoostingRegressor, LinearSVC, export_lightgbm

lightgbm = pytest.importorskip("lightgbm")

SMALL = dict(n_estimators=12, max_leaf_nodes=9, min_samples_leaf=5)


def rows(n=600, gaps=(0, 3), dtype=np.float64, seed=0):
    """X (n, 5) with NaN in the columns ``gaps``; column 4 has the codes 0 to 6."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(n, 5)).astype(dtype)
    X[:, 4] = random.integers(0, 7, n)
    for f in gaps:
        X[random.random(n) < 0.2, f] = np.nan
    return X


def target(X):
    return np.nan_to_num(X[:, 0], nan=1.5) - X[:, 1] * (X[:, 2] > 0) + np.isin(X[:, 4], (1, 5)) + np.isnan(X[:, 3])


def others(model, dtype=np.float64):
    """Rows that the training did not have: NaN everywhere, values far out, on edges, and unknown categories."""
    X = rows(2000, gaps=range(5), dtype=dtype, seed=1)
    X[:50] *= dtype(1e30)
    X[50:60] = 0
    cuts = model.edges_.cuts[:500]
    X[100 : 100 + len(cuts), 0] = X[100 : 100 + len(cuts), 1] = cuts
    X[700:720, 4], X[720:740, 4] = 99, -3
    return X


def booster(model, tmp_path):
    export_lightgbm(tmp_path / "model.txt", model)
    return lightgbm.Booster(model_file=tmp_path / "model.txt")


@pytest.mark.parametrize("categorical", [None, [4]])
@pytest.mark.parametrize("gaps", [(), (0, 3), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_two_classes(tmp_path, dtype, gaps, categorical):
    X = rows(gaps=gaps, dtype=dtype)
    labels = np.where(target(X) > 0.5, "yes", "no")
    model = GradientBoostingClassifier(**SMALL, categorical_features=categorical).fit(X, labels)
    assert model.trees_.categorical.any() == (categorical is not None)
    theirs = booster(model, tmp_path)
    for kind in (np.float32, np.float64):
        Z = others(model, kind)
        np.testing.assert_array_equal(theirs.predict(Z, raw_score=True), model.decision_function(Z))
        np.testing.assert_allclose(theirs.predict(Z), model.predict_proba(Z)[:, 1], rtol=1e-12)


def test_three_classes(tmp_path):
    X = rows()
    model = GradientBoostingClassifier(**SMALL, categorical_features=[4]).fit(X, np.digitize(target(X), [-0.5, 1]))
    theirs, Z = booster(model, tmp_path), others(model)
    assert theirs.num_model_per_iteration() == 3
    np.testing.assert_array_equal(theirs.predict(Z, raw_score=True), model.decision_function(Z))
    np.testing.assert_allclose(theirs.predict(Z), model.predict_proba(Z), rtol=1e-12)


@pytest.mark.parametrize("loss", GradientBoostingRegressor.LOSSES)
def test_numbers(tmp_path, loss):
    X = rows()
    model = GradientBoostingRegressor(**SMALL, loss=loss, alpha=0.8, subsample=0.7, max_features=0.6).fit(X, target(X))
    theirs, Z = booster(model, tmp_path), others(model)
    np.testing.assert_array_equal(theirs.predict(Z), model.predict(Z))
    splits = np.bincount(model.trees_.feature[model.trees_.feature >= 0], minlength=5)
    np.testing.assert_array_equal(theirs.feature_importance("split"), splits)
    np.testing.assert_allclose(
        theirs.feature_importance("gain") / sum(theirs.feature_importance("gain")),
        model.feature_importances_,
        rtol=1e-6,
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_trees_of_one_leaf(tmp_path, classes):
    X = rows(50)
    y = np.arange(50) % classes
    model = GradientBoostingClassifier(min_samples_leaf=40).fit(X, y)
    assert (model.trees_.feature < 0).all()
    np.testing.assert_allclose(
        booster(model, tmp_path).predict(X, raw_score=True), model.decision_function(X), rtol=0, atol=1e-15
    )


def test_only_what_is_missing_goes_another_way(tmp_path):
    X = np.zeros((200, 1))
    X[::2] = np.nan
    model = GradientBoostingRegressor(3).fit(X, np.isnan(X[:, 0]).astype(float))
    assert (model.trees_.feature >= 0).any()
    Z = np.array([[np.nan], [0.0], [-1e300], [1e300], [np.finfo(np.float64).max]])
    np.testing.assert_array_equal(booster(model, tmp_path).predict(Z), model.predict(Z))


def test_many_categories(tmp_path):
    random = np.random.default_rng(0)
    X = random.integers(0, 255, (20000, 1)).astype(float)
    X[:1000] = np.nan
    effect = random.normal(size=255)
    y = np.where(np.isnan(X[:, 0]), 1, effect[np.nan_to_num(X[:, 0]).astype(int)])
    model = GradientBoostingRegressor(20, categorical_features=[0]).fit(X, y)
    Z = np.append(np.arange(-2.0, 300), np.nan)[:, None]
    np.testing.assert_array_equal(booster(model, tmp_path).predict(Z), model.predict(Z))


def test_data_frames(tmp_path):
    pandas = pytest.importorskip("pandas")
    X = rows()
    kinds = np.array(["ash", "beech", "elm", "fir", "oak", "pine", "yew"])
    frame = pandas.DataFrame(X, columns=["a", "b c", "d", "e", "tree"])
    frame["tree"] = pandas.Categorical(kinds[X[:, 4].astype(int)], categories=[*kinds[::-1], "larch"])
    model = GradientBoostingRegressor(**SMALL).fit(frame, target(X))
    assert model.trees_.categorical.any()
    theirs = booster(model, tmp_path)
    assert theirs.feature_name() == ["a", "b_c", "d", "e", "tree"]
    frame.loc[:9, "tree"], frame.loc[10:19, "tree"] = "larch", np.nan
    np.testing.assert_array_equal(theirs.predict(frame), model.predict(frame))


def test_what_is_refused_leaves_no_file(tmp_path):
    with pytest.raises(models.NotFittedError):
        export_lightgbm(tmp_path / "model.txt", GradientBoostingClassifier())
    with pytest.raises(TypeError, match="LinearSVC"):
        export_lightgbm(tmp_path / "model.txt", LinearSVC())
    assert not list(tmp_path.iterdir())
