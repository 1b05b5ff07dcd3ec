"""LightGBM itself, with the objective and the metric."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import pytest

from binxent import boosting
from tests.boosters.data import Array, binary, multilabel

ROUNDS = 20
# A pure leaf is split further for a gain of 1e-14, which is what was rounded: such splits have no meaning.
LEAST_GAIN = 1e-3
SETTINGS = {
    "num_leaves": 15, "learning_rate": 0.1, "num_threads": 1, "seed": 1, "verbose": -1, "deterministic": True,
    "min_gain_to_split": LEAST_GAIN,
}  # fmt: skip


def nodes(tree: Any) -> tuple[list[Any], list[float]]:
    """The splits, and the values of the leaves, from left to right."""
    if "leaf_value" in tree:
        return [], [tree["leaf_value"]]
    left, right = nodes(tree["left_child"]), nodes(tree["right_child"])
    return [*left[0], (tree["split_feature"], tree["threshold"]), *right[0]], left[1] + right[1]


def forest(booster: Any) -> list[Any]:
    return [nodes(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]


@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_trees_as_binary(weighted: bool) -> None:
    x, y = binary()
    w = np.random.default_rng(1).lognormal(0, 0.5, len(y)) if weighted else None
    start = boosting.base_score(y, sample_weight=w)
    curves: dict[str, Any] = {"own": {}, "ours": {}}
    data = lightgbm.Dataset(x, y, weight=w)
    own = lightgbm.train(
        {**SETTINGS, "objective": "binary", "metric": "binary_logloss"}, data, ROUNDS, valid_sets=[data],
        callbacks=[lightgbm.record_evaluation(curves["own"])],
    )  # fmt: skip
    data = lightgbm.Dataset(x, y, weight=w, init_score=np.full(len(y), start))
    ours = lightgbm.train(
        {**SETTINGS, "objective": boosting.objective("lightgbm"), "metric": "none"}, data, ROUNDS, valid_sets=[data],
        feval=boosting.metric("lightgbm"), callbacks=[lightgbm.record_evaluation(curves["ours"])],
    )  # fmt: skip
    for number, (mine, theirs) in enumerate(zip(forest(ours), forest(own), strict=True)):
        assert mine[0] == theirs[0]
        bias = start if number == 0 else 0  # the built-in objective adds it to the leaves of its first tree
        np.testing.assert_allclose(np.array(mine[1]) + bias, theirs[1], rtol=0, atol=1e-5)
    assert len(forest(ours)) == ROUNDS
    np.testing.assert_allclose(ours.predict(x) + start, own.predict(x, raw_score=True), rtol=0, atol=1e-5)
    (mine,), (theirs,) = ([*set_.values()] for set_ in (curves["ours"]["training"], curves["own"]["training"]))
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_several_labels_with_missing_ones() -> None:
    """Each label's trees are those of a training of that label alone, whose missing samples have no weight."""
    x, y = multilabel()
    y = np.where(np.random.default_rng(2).random(y.shape) < 0.6, y, np.nan)
    start = boosting.base_score(y)
    data = lightgbm.Dataset(x, y[:, 0], init_score=np.tile(start, (len(y), 1)))
    objective = boosting.objective("lightgbm", labels=y)
    settings = {**SETTINGS, "objective": objective, "num_class": 3, "metric": "none"}
    found: dict[str, Any] = {}
    together = lightgbm.train(
        settings, data, 5, valid_sets=[data], feval=boosting.metric("lightgbm", labels=y),
        callbacks=[lightgbm.record_evaluation(found)],
    )  # fmt: skip
    logits = together.predict(x, raw_score=True) + start
    assert logits.shape == y.shape
    curve: Array = np.array(found["training"]["bce"])
    assert (np.diff(curve) < 0).all()
    for label in range(3):
        known = ~np.isnan(y[:, label])
        # The Dataset's own label would not do: LightGBM reads NaN as 0.
        alone = lightgbm.Dataset(x, np.zeros(len(y)), init_score=np.full(len(y), start[label]))
        one = lightgbm.train({**SETTINGS, "objective": boosting.objective("lightgbm", labels=y[:, label])}, alone, 5)
        np.testing.assert_allclose(one.predict(x) + start[label], logits[:, label], rtol=0, atol=1e-6)
        assert ((logits[known, label] > 0) == y[known, label]).mean() > 0.85


def test_the_focal_family_trains() -> None:
    """Several labels, each with a weight of its negatives, and few negatives that are surely right."""
    x, y = multilabel()
    options: dict[str, Any] = {
        "labels": y, "neg_weight": [1.0, 0.5, 2.0], "gamma_negative": 2.0, "margin": 0.02, "alpha": 0.6,
    }  # fmt: skip
    start = boosting.base_score(y, **{name: value for name, value in options.items() if name != "labels"})
    data = lightgbm.Dataset(x, y[:, 0], init_score=np.tile(start, (len(y), 1)))
    found: dict[str, Any] = {}
    settings: dict[str, Any] = {**SETTINGS, "num_class": 3, "metric": "none", "min_sum_hessian_in_leaf": 1e-4}
    model = lightgbm.train(
        {**settings, "objective": boosting.objective("lightgbm", **options, min_hessian=0.01)}, data, ROUNDS,
        valid_sets=[data], feval=boosting.metric("lightgbm", **options), callbacks=[lightgbm.record_evaluation(found)],
    )  # fmt: skip
    curve: Array = np.array(found["training"]["bce"])
    assert (np.diff(curve) < 0).all()
    assert curve[-1] < 0.5 * curve[0]
    assert ((model.predict(x) + start > 0) == y).mean() > 0.95


def test_the_scikit_learn_api() -> None:
    x, y = binary()
    w = np.linspace(0.5, 2, len(y))
    common: dict[str, Any] = {
        "n_estimators": ROUNDS,
        "num_leaves": 15,
        "n_jobs": 1,
        "verbose": -1,
        "deterministic": True,
    }
    common["min_split_gain"] = LEAST_GAIN
    start = np.full(len(y), boosting.base_score(y, sample_weight=w))
    ours = lightgbm.LGBMClassifier(**common, objective=boosting.objective("lightgbm"))
    ours.fit(
        x, y, sample_weight=w, init_score=start, eval_set=[(x, y)], eval_init_score=[start],
        eval_metric=boosting.metric("lightgbm"),
    )  # fmt: skip
    own = lightgbm.LGBMClassifier(**common).fit(x, y, sample_weight=w)
    for mine, theirs in zip(forest(ours.booster_), forest(own.booster_), strict=True):
        assert mine[0] == theirs[0]
    (curves,) = ours.evals_result_.values()
    assert curves["bce"][-1] < curves["bce"][0]


def test_a_refusal_reaches_the_caller() -> None:
    x, y = binary()
    objective = boosting.objective("lightgbm", labels=np.zeros((len(y), 2)))
    with pytest.raises(ValueError, match="labels: shape"):
        lightgbm.train({**SETTINGS, "objective": objective, "num_class": 3}, lightgbm.Dataset(x, y), 1)
