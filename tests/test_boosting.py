"""``binxent.boosting``, called as the three libraries call it. Beside the libraries themselves: tests/boosters."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import binxent.numpy as bx
from binxent import boosting, formula

Array = np.ndarray[Any, Any]
nan = float("nan")
LIBRARIES = ("xgboost", "lightgbm", "catboost")


class Data:
    """A library's data set, as far as an objective or a metric looks at it."""

    def __init__(self, label: Array, weight: Array | None = None) -> None:
        self.label, self.weight = label, weight

    def get_label(self) -> Array:
        return self.label

    def get_weight(self) -> Array | None:
        return self.weight


def some(shape: tuple[int, ...] = (6, 3), dtype: Any = np.float32) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(3)
    y, w = rng.integers(0, 2, shape).astype(np.float32), rng.lognormal(0, 1, shape[0]).astype(np.float32)
    return rng.normal(0, 2, shape).astype(dtype), y, w


@pytest.mark.parametrize(("library", "dtype"), [("xgboost", np.float32), ("lightgbm", np.float64)])
def test_both_ways_to_call_an_objective(library: str, dtype: Any) -> None:
    x, y, w = some(dtype=dtype)
    options: dict[str, Any] = {"weight": [1.0, 2.0, 3.0], "pos_weight": [0.5, 1.0, 4.0]}
    objective = boosting.objective(library, **options)
    arrays = {name: np.array(value) for name, value in options.items()}
    wanted = bx.grad_and_hess(x, y, **arrays, sample_weight=w)
    for found in (objective(x, Data(y, w)), objective(y, x, w), objective(x, Data(y.ravel(), w))):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == dtype
    for none in (None, np.empty(0, np.float32)):
        np.testing.assert_array_equal(objective(x, Data(y, none))[0], objective(y, x)[0])


def test_gradients_lie_as_the_predictions_do() -> None:
    x, y, _ = some(dtype=np.float64)
    objective = boosting.objective("lightgbm", labels=y)
    wanted = objective(None, x)
    found = objective(np.asfortranarray(x), Data(y[:, 0]))
    for one, other in zip(found, wanted, strict=True):
        assert one.flags.f_contiguous
        np.testing.assert_array_equal(one, other)


def test_catboost_maximises() -> None:
    x, y, w = some((6,), np.float64)
    gradient, hessian = bx.grad_and_hess(x, y, sample_weight=w)
    found = boosting.objective("catboost").calc_ders_range(x, y, w)
    np.testing.assert_array_equal(found, np.stack([-gradient, -hessian], -1))
    metric = boosting.metric("catboost")
    total, weights = metric.evaluate((x,), y, w)
    assert not metric.is_max_optimal()
    wanted = bx.binary_cross_entropy_with_logits(x, y, sample_weight=w, reduction="weighted_mean")
    np.testing.assert_allclose(metric.get_final_error(total, weights), wanted)
    assert metric.get_final_error(0.0, 0.0) == 0


def test_catboost_with_several_targets() -> None:
    """Its class has to be CatBoost's, which is looked for where it has been imported; here a stand-in has."""
    program = """
import sys, types
import numpy as np
from binxent import boosting
try:
    boosting.objective("catboost", multi_target=True)
except ValueError as refusal:
    assert "import catboost" in str(refusal), refusal
else:
    raise AssertionError
class Base: pass
sys.modules["catboost"] = types.SimpleNamespace(MultiTargetCustomObjective=Base, MultiTargetCustomMetric=Base)
objective = boosting.objective("catboost", multi_target=True, ignore_index=-1, pos_weight=[1.0, 2.0])
assert isinstance(objective, Base)
first, second = objective.calc_ders_multi(np.zeros(2), np.array([-1.0, 1.0]), 3.0)
assert first == [0.0, 3.0], first
assert np.array_equal(second, [[0, 0], [0, -1.5]]), second
metric = boosting.metric("catboost", multi_target=True, ignore_index=-1)
assert isinstance(metric, Base)
x, y = np.zeros((3, 2)), np.array([[0, -1], [1, -1], [1, 0.0]])
total, weights = metric.evaluate(tuple(x.T), tuple(y.T), None)
assert weights == 4 and abs(total / 4 - np.log(2)) < 1e-12
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_no_library_is_imported() -> None:
    program = (
        "import sys; from binxent import boosting\n"
        f"for name in {LIBRARIES}: boosting.objective(name), boosting.metric(name)\n"
        f"assert not {{*{LIBRARIES}}} & {{*sys.modules}}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_metrics() -> None:
    x, y, w = some()
    known = np.where(y == 1, y, np.where(x > 0, nan, 0)).astype(np.float32)
    wanted = bx.binary_cross_entropy_with_logits(
        x, known, sample_weight=w, ignore_index=nan, reduction="weighted_mean", pos_weight=np.float32(2)
    )
    for library in ("xgboost", "lightgbm"):
        metric = boosting.metric(library, pos_weight=2.0, name="loss")
        assert metric.__name__ == "loss"
        found, again = metric(x, Data(known, w)), metric(known, x, w)
        assert found[0] == "loss"
        np.testing.assert_allclose(found[1], wanted, rtol=1e-6)
        if library == "xgboost":
            assert found == ("loss", again)
        else:
            assert found == again
            assert found[2] is False
    assert boosting.metric("xgboost")(np.full(3, nan), np.zeros(3)) == 0


def test_labels_from_a_function() -> None:
    x, y, _ = some()
    one, two = Data(y[:, 0]), Data(y[:2, 0])
    sets = {id(one): y, id(two): y[:2]}
    metric = boosting.metric("lightgbm", labels=lambda data: sets[id(data)])
    for data, labels in ((one, y), (two, y[:2])):
        wanted = bx.binary_cross_entropy_with_logits(x[: len(labels)], labels)
        np.testing.assert_allclose(metric(x[: len(labels)], data)[1], wanted, rtol=1e-6)


def test_missing_labels_have_no_derivatives() -> None:
    x, y, w = some()
    missing = np.random.default_rng(1).random(y.shape) < 0.4
    by_nan = boosting.objective("lightgbm", min_hessian=0.2)(np.where(missing, nan, y).astype(np.float32), x, w)
    by_number = boosting.objective("xgboost", ignore_index=-1, min_hessian=0.2)(np.where(missing, -1, y), x, w)
    by_mask = boosting.objective("xgboost", mask=~missing, min_hessian=0.2)(y, x, w)
    for found in (by_nan, by_number, by_mask):
        for one, other in zip(found, by_mask, strict=True):
            np.testing.assert_array_equal(one, other)
            assert (one[missing] == 0).all()
            assert (one[~missing] != 0).all()


def test_the_floor_is_below_the_weights() -> None:
    x = np.array([[30.0, 0.0], [-30.0, 1.0]], np.float32)
    y, w = np.zeros_like(x), np.array([2.0, 3.0], np.float32)
    floored = boosting.objective("xgboost", min_hessian=0.01, weight=[1.0, 5.0])(y, x, w)[1]
    free = boosting.objective("xgboost", weight=[1.0, 5.0])(y, x, w)[1]
    np.testing.assert_allclose(floored[:, 0], 0.01 * w)
    np.testing.assert_array_equal(floored[:, 1], free[:, 1])


def test_the_focal_hessian_is_the_expected_one() -> None:
    x, y = np.linspace(-8, 8, 65), np.ones(65)
    for kind in ("expected", "exact"):
        found = boosting.objective("lightgbm", gamma=2.0, hessian=kind)(y, x)[1]
        np.testing.assert_array_equal(found, bx.grad_and_hess(x, y, gamma=2.0, hessian=kind)[1])
    assert (boosting.objective("lightgbm", gamma=2.0)(y, x)[1] > 0).all()
    assert (boosting.objective("lightgbm", gamma=2.0, hessian="exact")(y, x)[1] < 0).any()


FAMILY: dict[str, dict[str, Any]] = {
    "alpha, neg_weight": {"alpha": 0.25, "neg_weight": [1.0, 0.0, 2.0]},
    "asymmetric": {"gamma_positive": 1.0, "gamma_negative": 4.0, "margin": 0.05},
    "p_t": {"gamma": 2.0, "focal": "p_t", "alpha": 0.3, "label_smoothing": 0.1},
}


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_focal_family(library: str, name: str) -> None:
    """Derivatives and mean are those of the NumPy face; no weight of one class counts in the mean's divisor."""
    options, catboost = FAMILY[name], library == "catboost"
    x, y, w = some(dtype=np.float32 if library == "xgboost" else np.float64)
    if catboost:
        options = {**options, "neg_weight": 2.0} if "neg_weight" in options else options
        x, y = x[:, 0], y[:, 0]
    given = {key: np.asarray(value) if key == "neg_weight" else value for key, value in options.items()}
    gradient, hessian = bx.grad_and_hess(x, y, sample_weight=w, hessian="expected", **given)
    mean = bx.binary_cross_entropy_with_logits(x, y, sample_weight=w, reduction="weighted_mean", **given)
    objective, metric = boosting.objective(library, **options), boosting.metric(library, **options)
    if catboost:
        np.testing.assert_array_equal(objective.calc_ders_range(x, y, w), np.stack([-gradient, -hessian], -1))
        total, weights = metric.evaluate((x,), y, w)
        assert weights == pytest.approx(w.sum(), rel=1e-6)
        np.testing.assert_allclose(total / weights, mean, rtol=1e-6)
    else:
        for one, other in zip(objective(y, x, w), (gradient, hessian), strict=True):
            np.testing.assert_array_equal(one, other)
        found = metric(y, x, w)
        np.testing.assert_allclose(found if library == "xgboost" else found[1], mean, rtol=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
def test_wrong_labels_are_named(library: str) -> None:
    x, y = np.zeros(3), np.array([1.0, 3.0, 0.0])
    objective, metric = boosting.objective(library, check_targets=True), boosting.metric(library, check_targets=True)
    calls: list[Any] = [lambda: boosting.base_score(y, check_targets=True)]
    if library == "catboost":
        calls += [lambda: objective.calc_ders_range(x, y, None), lambda: metric.evaluate((x,), y, None)]
    else:
        calls += [lambda: objective(y, x), lambda: metric(y, x)]
    for call in calls:
        with pytest.raises(ValueError, match=r"^labels: labels\[1(, 0)?\] is 3.0; expected .* need one-hot targets$"):
            call()
    y[1] = nan
    for call in calls:
        call()
    with pytest.raises(ValueError, match=r"^neg_weight: neg_weight is -1"):
        boosting.base_score([1, 0], neg_weight=-1.0, check_targets=True)


# base_score


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.floats(0.1, 9)), min_size=2, max_size=20),
    st.floats(0.2, 9),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.0, 0.5, 2.0]),
)
def test_the_start_has_no_gradient(rows: list[tuple[int, float]], p: float, smoothing: float, gamma: float) -> None:
    y = np.array([0, 1, *(label for label, _ in rows)], np.float64)
    w = np.array([1, 1, *(weight for _, weight in rows)])
    options: dict[str, Any] = {"label_smoothing": smoothing, "gamma": gamma}
    start = boosting.base_score(y, sample_weight=w, pos_weight=p, **options)
    each = formula.logits_gradient(np, np.full_like(y, start), y, w, np.array(p), **options)
    assert abs(each.sum()) <= 1e-10 * np.abs(each).sum()


OF_FAMILY: tuple[dict[str, Any], ...] = (
    {"alpha": 0.2},
    {"alpha": 0.9, "gamma": 2.0},
    {"gamma_positive": 1.0, "gamma_negative": 4.0},
    {"gamma_positive": 6.0},
    {"gamma_positive": 1.0, "gamma_negative": 4.0, "margin": 0.05},
    {"gamma_positive": 0.5, "margin": 0.2},
    {"focal": "p_t", "gamma": 2.0, "alpha": 0.25},
    {"focal": "p_t", "alpha": 0.9},
    {"focal": "p_t", "alpha": 0.05, "gamma": 1.0},
    {"focal": "p_t", "gamma": 5.0, "label_smoothing": 0.2},
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 9)), min_size=2, max_size=20), st.floats(0.2, 9),
    st.floats(0.2, 9), st.sampled_from(OF_FAMILY),
)  # fmt: skip
def test_the_start_of_the_focal_family_has_the_least_loss(
    rows: list[tuple[float, float]], p: float, n: float, options: dict[str, Any]
) -> None:
    y, w = np.array([0, 1, *(label for label, _ in rows)]), np.array([1, 1, *(weight for _, weight in rows)])
    start = boosting.base_score(y, sample_weight=w, pos_weight=p, neg_weight=n, **options)

    def loss(x: Any) -> Any:
        logits = np.broadcast_to(np.asarray(x, np.float64)[:, None], (len(x), len(y))).copy()
        return bx.binary_cross_entropy_with_logits(
            logits,
            np.tile(y, (len(x), 1)),
            w,
            reduction="none",
            pos_weight=np.array(p),
            neg_weight=np.array(n),
            **options,
        ).sum(1)

    everywhere = loss(np.linspace(-30, 30, 2001))
    assert loss([start])[0] <= everywhere.min() * (1 + 1e-12)
    near = loss(start + np.array([-1e-4, 1e-4]))
    assert (near >= loss([start])[0] * (1 - 1e-14)).all()


def test_where_no_start_exists() -> None:
    """A margin m bounds what surely wrong negatives add: with 1/m positives to each of them, the loss falls forever."""
    y = np.zeros(40)
    y[:-1] = 1
    assert boosting.base_score(y, margin=0.02) < 10
    with pytest.raises(ValueError, match=r"^labels: the label has so many positives that its loss falls without end"):
        boosting.base_score(y, margin=0.05)
    with pytest.raises(ValueError, match=r"^labels: label 1 has so many positives"):
        boosting.base_score(np.stack([1 - y, y], -1), margin=0.05)
    assert np.isfinite(boosting.base_score(y, margin=0.05, gamma_positive=1.0))
    # Few positives: the least loss is where negatives begin to count.
    few = np.zeros(1000)
    few[0] = 1
    np.testing.assert_allclose(boosting.base_score(few, margin=0.05), np.log(0.05 / 0.95), rtol=1e-12)


def test_the_start_of_each_label() -> None:
    y = np.array([[1, 0, nan], [0, 1, 1], [1, 1, 0], [nan, 1, 0]])
    found = boosting.base_score(y)
    np.testing.assert_allclose(found, [np.log(2), np.log(3), -np.log(2)], rtol=1e-15)
    np.testing.assert_allclose(boosting.base_score(np.nan_to_num(y, nan=-1), ignore_index=-1), found, rtol=1e-15)
    np.testing.assert_allclose(boosting.base_score(np.nan_to_num(y), mask=~np.isnan(y)), found, rtol=1e-15)
    weighted = boosting.base_score(y, pos_weight=[2.0, 1.0, 0.5], weight=[[1.0], [1.0], [1.0], [4.0]])
    np.testing.assert_allclose(weighted, [np.log(4), np.log(6), np.log(0.5 / 5)], rtol=1e-14)
    assert isinstance(boosting.base_score([1, 0, 0]), float)
    assert boosting.base_score(np.array([True, False])) == 0


# Refusals

REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "library": ({"library": "sklearn"}, ValueError, "library: 'sklearn'; expected one of"),
    "gamma": ({"gamma": -1}, ValueError, "gamma: -1"),
    "gamma text": ({"gamma": "2"}, TypeError, "gamma: expected a number"),
    "label_smoothing": ({"label_smoothing": 2}, ValueError, "label_smoothing: 2"),
    "ignore_index": ({"ignore_index": 0.5}, ValueError, "ignore_index: 0.5"),
    "hessian": ({"hessian": "none"}, ValueError, "hessian: 'none'; expected one of"),
    "min_hessian": ({"min_hessian": -1}, ValueError, "min_hessian: -1; expected"),
    "min_hessian nan": ({"min_hessian": nan}, ValueError, "min_hessian: nan; expected"),
    "min_hessian text": ({"min_hessian": "1"}, ValueError, "min_hessian: '1'; expected"),
    "alpha": ({"alpha": 2}, ValueError, "alpha: 2; expected a number between 0 and 1"),
    "gamma_positive": ({"gamma_positive": -1}, ValueError, "gamma_positive: -1"),
    "two gammas": ({"gamma": 1, "gamma_negative": 2}, ValueError, "gamma_negative: and gamma are given"),
    "margin": ({"margin": 1}, ValueError, "margin: 1; expected a probability below 1"),
    "focal": ({"focal": "pt"}, ValueError, "focal: 'pt'; expected one of"),
    "p_t and margin": ({"focal": "p_t", "margin": 0.1}, ValueError, "margin: has no meaning beside focal='p_t'"),
    "neg_weight": ({"neg_weight": ["a"]}, TypeError, "neg_weight: expected numbers"),
    "weight": ({"weight": ["a"]}, TypeError, "weight: expected numbers"),
    "pos_weight": ({"pos_weight": [None]}, TypeError, "pos_weight: expected numbers"),
    "labels": ({"labels": ["a"]}, TypeError, "labels: expected numbers"),
    "multi_target": ({"multi_target": True}, ValueError, "multi_target: xgboost tells"),
    "catboost mask": ({"library": "catboost", "mask": [1]}, ValueError, "mask: CatBoost does not say"),
    "catboost labels": ({"library": "catboost", "labels": [1]}, ValueError, "labels: CatBoost does not say"),
    "catboost neg_weight": ({"library": "catboost", "neg_weight": [[1]]}, ValueError, "neg_weight: shape"),
    "catboost weight": ({"library": "catboost", "weight": [[1]]}, ValueError, "weight: shape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    options, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        boosting.objective(**{"library": "xgboost", **options})
    if not {"hessian", "min_hessian"} & {*options}:
        with pytest.raises(kind, match=message):
            boosting.metric(**{"library": "xgboost", **options})


def test_refusals_of_calls() -> None:
    x, y, w = some()
    for options, message in (
        ({"labels": y[:2]}, "labels: shape"),
        ({"pos_weight": [1.0, 2.0]}, "pos_weight: shape"),
        ({"mask": [[1, 0]]}, "mask: shape"),
    ):
        for call in (boosting.objective("xgboost", **options), boosting.metric("xgboost", **options)):
            with pytest.raises(ValueError, match=message):
                call(y, x)
    with pytest.raises(ValueError, match="sample_weight: shape"):
        boosting.objective("lightgbm", min_hessian=0.1)(y, x, w[:2])
    with pytest.raises(TypeError, match="expected numbers"):
        boosting.objective("lightgbm")(["a"], x)


@pytest.mark.parametrize(
    ("labels", "options", "kind", "message"),
    [
        ([1, 1, 1], {}, ValueError, "labels: the label is not known both"),
        ([[1, 1], [0, 1]], {}, ValueError, "labels: label 1 is not known both"),
        ([], {}, ValueError, "labels: the label is not known both"),
        (1, {}, ValueError, "labels: shape"),
        (["a"], {}, TypeError, "labels: expected numbers"),
        ([1, 0], {"sample_weight": [1]}, ValueError, "sample_weight: shape"),
        ([1, 0], {"weight": [1, 2, 3]}, ValueError, "weight: shape"),
        ([1, 0], {"weight": [-1, 2]}, ValueError, "labels: the label is not known both"),
        ([1, 0], {"gamma": -2}, ValueError, "gamma"),
        ([1, 0], {"neg_weight": [1, 2, 3]}, ValueError, "neg_weight: shape"),
        ([1, 0], {"neg_weight": 0}, ValueError, "labels: the label is not known both"),
        ([1, 0], {"alpha": 1.0}, ValueError, "labels: the label is not known both"),
        ([1, 0], {"margin": -0.1}, ValueError, "margin: -0.1"),
    ],
)
def test_refusals_of_base_score(labels: Any, options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        boosting.base_score(labels, **options)
