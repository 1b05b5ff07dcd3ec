"""CatBoost itself, with the objective and the metric."""

from __future__ import annotations

from typing import Any

import catboost
import numpy as np
import pytest

from binxent import boosting
from tests.boosters.data import binary, multilabel

ROUNDS = 20
SETTINGS: dict[str, Any] = {
    "iterations": ROUNDS, "depth": 4, "learning_rate": 0.1, "thread_count": 1, "random_seed": 1, "verbose": False,
    "allow_writing_files": False, "bootstrap_type": "No", "random_strength": 0, "boosting_type": "Plain",
    "leaf_estimation_method": "Newton", "leaf_estimation_iterations": 1, "boost_from_average": False,
}  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_trees_as_logloss(weighted: bool) -> None:
    x, y = binary()
    w = np.random.default_rng(1).lognormal(0, 0.5, len(y)) if weighted else None
    start = boosting.base_score(y, sample_weight=w)
    pool = catboost.Pool(x, y, weight=w, baseline=np.full(len(y), start))
    own = catboost.CatBoost({**SETTINGS, "loss_function": "Logloss"}).fit(pool, eval_set=pool)
    ours = catboost.CatBoost(
        {**SETTINGS, "loss_function": boosting.objective("catboost"), "eval_metric": boosting.metric("catboost")}
    ).fit(pool, eval_set=pool)
    assert ours.tree_count_ == own.tree_count_ == ROUNDS
    np.testing.assert_allclose(ours.predict(x), own.predict(x), rtol=0, atol=1e-5)
    (mine,), (theirs,) = ([*m.get_evals_result()["validation"].values()] for m in (ours, own))
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_the_focal_family_trains() -> None:
    x, y = binary()
    options: dict[str, Any] = {"gamma": 1.0, "focal": "p_t", "alpha": 0.4, "neg_weight": 2.0}
    pool = catboost.Pool(x, y, baseline=np.full(len(y), boosting.base_score(y, **options)))
    model = catboost.CatBoost(
        {
            **SETTINGS,
            "loss_function": boosting.objective("catboost", **options),
            "eval_metric": boosting.metric("catboost", **options),
        }
    ).fit(pool, eval_set=pool)
    (curve,) = model.get_evals_result()["validation"].values()
    assert (np.diff(curve) < 0).all()
    assert curve[-1] < 0.5 * curve[0]


def test_several_targets_with_missing_labels() -> None:
    x, y = multilabel()
    x, y = x[:200], y[:200]
    known = np.random.default_rng(2).random(y.shape) < 0.6
    marked = np.where(known, y, -1)
    options: dict[str, Any] = {"ignore_index": -1, "multi_target": True}
    model = catboost.CatBoost(
        {
            **SETTINGS, "learning_rate": 0.5,
            "loss_function": boosting.objective("catboost", **options),
            "eval_metric": boosting.metric("catboost", **options),
        }
    )  # fmt: skip
    pool = catboost.Pool(x, marked)  # it takes no baseline for targets of one's own
    model.fit(pool, eval_set=pool)
    (curve,) = model.get_evals_result()["validation"].values()
    assert len(curve) == ROUNDS
    assert (np.diff(curve) < 0).all()
    logits = model.predict(x)
    assert ((logits > 0) == y)[known].mean() > 0.85


def test_several_targets_are_those_of_multi_logloss() -> None:
    x, y = multilabel()
    x, y = x[:200], y[:200]
    own = catboost.CatBoost({**SETTINGS, "loss_function": "MultiLogloss"}).fit(x, y)
    ours = catboost.CatBoost({**SETTINGS, "loss_function": boosting.objective("catboost", multi_target=True),
                              "eval_metric": boosting.metric("catboost", multi_target=True)}).fit(x, y)  # fmt: skip
    np.testing.assert_allclose(ours.predict(x), own.predict(x), rtol=0, atol=1e-5)
