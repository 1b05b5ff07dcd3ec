"""XGBoost itself, with the objective and the metric."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import xgboost

from binxent import boosting
from tests.boosters.data import Array, binary, logistic, multilabel

ROUNDS = 20
SETTINGS = {"max_depth": 4, "eta": 0.3, "nthread": 1, "seed": 1}


def trees(booster: Any) -> Any:
    return booster.trees_to_dataframe()


def assert_same_trees(one: Any, other: Any) -> None:
    mine, theirs = trees(one), trees(other)
    leaves = mine["Feature"] == "Leaf"
    assert list(mine["Feature"]) == list(theirs["Feature"])
    assert list(mine["Split"][~leaves]) == list(theirs["Split"][~leaves])
    np.testing.assert_allclose(mine["Gain"][leaves], theirs["Gain"][leaves], rtol=0, atol=1e-5)
    assert leaves.sum() > 5 * ROUNDS


@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_trees_as_binary_logistic(weighted: bool) -> None:
    x, y = binary()
    w = np.random.default_rng(1).lognormal(0, 0.5, len(y)) if weighted else None
    data = xgboost.DMatrix(x, y, weight=w)
    curves: dict[str, Any] = {"own": {}, "ours": {}}
    own = xgboost.train(
        {**SETTINGS, "objective": "binary:logistic", "eval_metric": "logloss"}, data, ROUNDS,
        evals=[(data, "train")], evals_result=curves["own"], verbose_eval=False,
    )  # fmt: skip
    start = boosting.base_score(y, sample_weight=w)
    ours = xgboost.train(
        {**SETTINGS, "base_score": start, "disable_default_eval_metric": True}, data, ROUNDS,
        obj=boosting.objective("xgboost", min_hessian=1e-16), custom_metric=boosting.metric("xgboost"),
        evals=[(data, "train")], evals_result=curves["ours"], verbose_eval=False,
    )  # fmt: skip
    assert_same_trees(ours, own)
    np.testing.assert_allclose(ours.predict(data), own.predict(data, output_margin=True), rtol=0, atol=1e-5 * ROUNDS)
    # XGBoost prints a custom metric, and reads six decimals back.
    np.testing.assert_allclose(curves["ours"]["train"]["bce"], curves["own"]["train"]["logloss"], rtol=0, atol=1e-6)
    saved = json.loads(own.save_config())["learner"]["learner_model_param"]["base_score"].strip("[]")
    assert abs(logistic(start) - float(saved)) < 1e-6


@pytest.mark.parametrize("strategy", ["one_output_per_tree", "multi_output_tree"])
def test_several_labels(strategy: str) -> None:
    """As many trees, and the same, as the built-in objective makes for several labels."""
    x, y = multilabel()
    settings = {**SETTINGS, "multi_strategy": strategy, "tree_method": "hist"}
    data = xgboost.DMatrix(x, y)
    own = xgboost.train({**settings, "objective": "binary:logistic"}, data, ROUNDS)
    start = boosting.base_score(y).tolist()
    ours = xgboost.train({**settings, "base_score": start}, data, ROUNDS, obj=boosting.objective("xgboost"))
    assert ours.predict(data).shape == y.shape
    np.testing.assert_allclose(ours.predict(data), own.predict(data, output_margin=True), rtol=0, atol=2e-3)


def test_missing_labels_do_not_count() -> None:
    """Trees of a label are those of a training with its known samples alone."""
    x, y = multilabel()
    known = np.random.default_rng(2).random(y.shape) < 0.6
    marked = np.where(known, y, -1)
    data = xgboost.DMatrix(x, marked)
    start = boosting.base_score(marked, ignore_index=-1)
    settings = {**SETTINGS, "tree_method": "exact", "base_score": start.tolist()}
    together = xgboost.train(settings, data, 5, obj=boosting.objective("xgboost", ignore_index=-1)).predict(data)
    by_mask = boosting.objective("xgboost", mask=known)
    np.testing.assert_array_equal(xgboost.train(settings, data, 5, obj=by_mask).predict(data), together)
    for label in range(y.shape[1]):
        part = xgboost.DMatrix(x[known[:, label]], y[known[:, label], label])
        alone = xgboost.train(
            {**SETTINGS, "tree_method": "exact", "base_score": float(start[label])}, part, 5,
            obj=boosting.objective("xgboost"),
        )  # fmt: skip
        near = alone.predict(xgboost.DMatrix(x[known[:, label]]))
        assert np.abs(near - together[known[:, label], label]).mean() < 0.05


def test_the_scikit_learn_api() -> None:
    x, y = binary()
    w = np.linspace(0.5, 2, len(y))
    common = {"n_estimators": ROUNDS, "max_depth": 4, "learning_rate": 0.3, "n_jobs": 1}
    start = boosting.base_score(y, sample_weight=w)
    # The classifier keeps its own objective beside a custom one, and takes the start as a probability.
    ours = xgboost.XGBClassifier(
        **common, objective=boosting.objective("xgboost"), eval_metric=boosting.metric("xgboost"),
        base_score=logistic(start),
    )  # fmt: skip
    ours.fit(x, y, sample_weight=w, eval_set=[(x, y)], verbose=False)
    own = xgboost.XGBClassifier(**common).fit(x, y, sample_weight=w)
    assert_same_trees(ours.get_booster(), own.get_booster())
    curve = ours.evals_result()["validation_0"]["bce"]
    assert curve[-1] < curve[0]


@pytest.mark.parametrize("hessian", ["expected", "exact"])
def test_the_focal_loss_trains(hessian: str) -> None:
    x, y = binary()
    data = xgboost.DMatrix(x, y)
    options = {"gamma": 2.0, "pos_weight": 2.0}
    start = boosting.base_score(y, **options)
    metric = boosting.metric("xgboost", **options)
    found: dict[str, Any] = {}
    xgboost.train(
        {**SETTINGS, "base_score": start, "disable_default_eval_metric": True, "min_child_weight": 0.1}, data, ROUNDS,
        obj=boosting.objective("xgboost", **options, hessian=hessian, min_hessian=0.01), custom_metric=metric,
        evals=[(data, "train")], evals_result=found, verbose_eval=False,
    )  # fmt: skip
    curve: Array = np.array(found["train"]["bce"])
    assert curve[-1] < 0.1 * curve[0]
    assert (np.diff(curve) < 0).all()


def test_a_weight_of_negatives_is_that_of_their_samples() -> None:
    """And alpha is one weight for each class: the trees are those of the built-in objective with such samples."""
    x, y = binary()
    settings = {**SETTINGS, "tree_method": "exact"}  # the bins of the other method depend on the samples' weights
    for options, w in (
        ({"neg_weight": 0.3}, np.where(y == 1, 1, 0.3)),
        ({"alpha": 0.2}, np.where(y == 1, 0.2, 0.8)),
    ):
        start = boosting.base_score(y, **options)
        own = xgboost.train(
            {**settings, "objective": "binary:logistic", "base_score": logistic(start)},
            xgboost.DMatrix(x, y, weight=w), ROUNDS,
        )  # fmt: skip
        objective = boosting.objective("xgboost", **options, min_hessian=1e-16)
        data = xgboost.DMatrix(x, y)
        ours = xgboost.train({**settings, "base_score": start}, data, ROUNDS, obj=objective)
        np.testing.assert_allclose(ours.predict(data), own.predict(data, output_margin=True), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"gamma_positive": 0.0, "gamma_negative": 2.0, "margin": 0.05},
        {"gamma_positive": 1.0, "gamma_negative": 4.0, "alpha": 0.6},
        {"gamma": 2.0, "focal": "p_t", "alpha": 0.4, "label_smoothing": 0.02},
    ],
    ids=str,
)
def test_the_focal_family_trains(options: dict[str, Any]) -> None:
    x, y = binary()
    data = xgboost.DMatrix(x, y)
    start = boosting.base_score(y, **options)
    found: dict[str, Any] = {}
    model = xgboost.train(
        {**SETTINGS, "base_score": start, "disable_default_eval_metric": True, "min_child_weight": 0.1}, data, ROUNDS,
        obj=boosting.objective("xgboost", **options, min_hessian=0.01), evals_result=found, verbose_eval=False,
        custom_metric=boosting.metric("xgboost", **options), evals=[(data, "train")],
    )  # fmt: skip
    curve: Array = np.array(found["train"]["bce"])
    assert curve[-1] < 0.3 * curve[0]
    assert (np.diff(curve) < 0).all()
    assert ((model.predict(data) > 0) == y).mean() > 0.98


def test_a_refusal_reaches_the_caller() -> None:
    x, y = binary()
    data = xgboost.DMatrix(x, y)
    with pytest.raises(ValueError, match="pos_weight: shape"):
        xgboost.train(SETTINGS, data, 1, obj=boosting.objective("xgboost", pos_weight=[1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="labels: shape"):
        xgboost.train(SETTINGS, data, 1, obj=boosting.objective("xgboost", labels=np.zeros((3, 2))))
    with pytest.raises(ValueError, match=r"^labels: labels\[\d+\] is 2.0; expected a number between 0 and 1"):
        xgboost.train(SETTINGS, xgboost.DMatrix(x, y + 1), 1, obj=boosting.objective("xgboost", check_targets=True))
