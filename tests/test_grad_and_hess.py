"""``binxent.numpy.grad_and_hess``: against the definition, the textbook, and ``value_and_grad``."""

from __future__ import annotations

import itertools
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import binxent.numpy as bx
from binxent import IndexTargets, formula
from binxent.kernel import instruction_set, num_threads, set_num_threads
from tests.curvature import second_derivative
from tests.layouts import LAYOUTS
from tests.reference import DTYPES, bits, error, expected, textbook_logits_loss, tolerance

Array = np.ndarray[Any, Any]
nan = float("nan")


def some(shape: tuple[int, ...] = (7, 13), dtype: Any = np.float32, seed: int = 1) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 5, shape).astype(dtype), rng.integers(0, 2, shape).astype(dtype)


finite = {"allow_nan": False, "allow_infinity": False}


@settings(max_examples=300, deadline=None)
@given(
    st.floats(-110, 110, width=32, **finite),
    st.floats(0, 1, width=32),
    st.floats(2.0**-10, 2.0**10, width=32),
    st.floats(2.0**-10, 2.0**10, width=32),
    st.sampled_from([0.0, 0.1, 1.0]),
)
def test_against_the_definition(x: float, y: float, w: float, p: float, smoothing: float) -> None:
    given = [np.full((1,), v, np.float32) for v in (x, y, w, p)]
    gradient, hessian = bx.grad_and_hess(*given, label_smoothing=smoothing)
    right = expected(*given, label_smoothing=smoothing)
    exact, terms = second_derivative(*given, label_smoothing=smoothing)
    allowed = tolerance(instruction_set, weights=2)
    assert error(gradient, right.gradient, right.larger_gradient, "float32").max() <= allowed
    assert error(hessian, exact, terms, "float32").max() <= allowed


@settings(max_examples=200, deadline=None)
@given(st.floats(-90, 90, **finite), st.floats(0, 1), st.floats(0.01, 12), st.sampled_from(["exact", "expected"]))
def test_the_focal_power_against_the_definition(x: float, y: float, gamma: float, kind: str) -> None:
    x_, y_ = np.full((1,), x, np.float32), np.full((1,), y, np.float32)
    _, hessian = bx.grad_and_hess(x_, y_, gamma=gamma, hessian=kind)
    exact, terms = second_derivative(x_, y_, gamma=gamma, expects=kind == "expected", wide=np.longdouble)
    assert error(hessian, exact, terms, "float32").max() <= tolerance(instruction_set)
    if kind == "expected":
        assert hessian[0] >= 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_tails_against_the_textbook(dtype: str) -> None:
    """σ(x)·σ(−x) with no formula of ours in between, as far as it is a subnormal number."""
    end = 103.5 if dtype == "float32" else 744.5
    ends = np.concatenate([np.linspace(0, 20, 60), np.linspace(20, end, 60)])
    x = np.concatenate([ends, -ends]).astype(dtype)
    with mpmath.workdps(380):
        sigma = [1 / (1 + mpmath.exp(-mpmath.mpf(float(v)))) for v in x]
        exact = np.array([np.longdouble(mpmath.nstr(s * (1 - s), 25)) for s in sigma])
    for y in (np.zeros_like(x), np.ones_like(x)):
        hessian = bx.grad_and_hess(x, y)[1]
        assert error(hessian, exact, exact, dtype).max() <= tolerance(instruction_set, hard=True)
        assert (hessian > 0).all()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_hessian_against_the_textbook(gamma: float) -> None:
    x = np.array([-30.0, -4.0, -1.0, 0.0, 0.5, 3.0, 25.0])
    for y in (0.0, 1.0, 0.3):
        hessian = bx.grad_and_hess(x, np.full_like(x, y), gamma=gamma)[1]
        for at, found in zip(x, hessian, strict=True):
            exact = mpmath.diff(lambda t, y=y: textbook_logits_loss(t, y, gamma=gamma), at, 2, h=mpmath.mpf(10) ** -25)
            assert abs(found - exact) <= 1e-13 * abs(exact) + 1e-15


@pytest.mark.parametrize("gamma", [0.01, 0.5, 1.0, 2.0, 5.0, 20.0])
def test_the_expected_hessian_is_the_mean_of_both(gamma: float) -> None:
    """Over labels for which the logit is the best, and there it is positive."""
    x = np.linspace(-25, 25, 501)
    one, none = np.ones_like(x), np.zeros_like(x)
    (up, bend), (down, other) = (bx.grad_and_hess(x, y, gamma=gamma) for y in (one, none))
    share, rest = down / (down - up), up / (up - down)
    found = bx.grad_and_hess(x, share, gamma=gamma, hessian="expected")[1]
    np.testing.assert_allclose(bx.grad_and_hess(x, share, gamma=gamma)[0], 0, atol=1e-14)
    np.testing.assert_allclose(found, share * bend + rest * other, rtol=1e-11)
    assert (found > 0).all()
    assert (bend < 0).any() or gamma < 0.5


def test_without_gamma_both_hessians_are_one() -> None:
    x, y = some()
    for options in ({}, {"pos_weight": np.float32(3)}, {"label_smoothing": 0.2}):
        one, other = (bx.grad_and_hess(x, y, **options, hessian=kind)[1] for kind in ("exact", "expected"))
        np.testing.assert_array_equal(bits(one), bits(other))


OPTIONS: dict[str, Any] = {
    "weight": np.linspace(0.5, 3, 13, dtype=np.float32),
    "pos_weight": np.linspace(2, 9, 13, dtype=np.float32),
    "sample_weight": np.linspace(0.1, 1, 7, dtype=np.float32),
    "mask": np.arange(91).reshape(7, 13) % 3 > 0,
    "ignore_index": -1,
    "label_smoothing": 0.1,
    "gamma": 1.5,
}


@pytest.mark.parametrize("pair", list(itertools.combinations(OPTIONS, 2)), ids="+".join)
def test_options_in_pairs(pair: tuple[str, str]) -> None:
    x, y = some()
    if "ignore_index" in pair:
        y[::2, ::3] = -1
    options = {name: OPTIONS[name] for name in pair}
    right = expected(x, y, **options, wide=np.longdouble)
    allowed = tolerance(instruction_set, weights=2) + (right.amplified if "gamma" in pair else 0)
    for kind in ("exact", "expected"):
        value, gradient, hessian = bx.grad_and_hess(x, y, **options, hessian=kind, value=True)
        exact, terms = second_derivative(x, y, **options, expects=kind == "expected", wide=np.longdouble)
        assert (error(gradient, right.gradient, right.larger_gradient, "float32") <= allowed).all()
        assert (error(hessian, exact, terms, "float32") <= allowed).all()
        np.testing.assert_allclose(value, float(right.loss.sum()), rtol=1e-6)
        ignored = exact == 0
        assert (gradient[ignored] == 0).all()
        assert (hessian[ignored] == 0).all()


@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "batchmean", "weighted_mean"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_and_gradient_are_those_of_value_and_grad(dtype: str, reduction: str) -> None:
    x, y = some((70, 1000), DTYPES[dtype])
    w = np.linspace(0.5, 2, 1000).astype(DTYPES[dtype])
    for options in ({}, {"weight": w}, {"pos_weight": w}, {"label_smoothing": 0.3}, {"mask": y == 1}):
        wanted = bx.value_and_grad(x, y, reduction=reduction, **options)
        found = bx.grad_and_hess(x, y, reduction=reduction, **options, value=True)
        for one, other in zip(found, wanted, strict=False):
            np.testing.assert_array_equal(bits(one), bits(other))
        assert found[2].dtype == x.dtype


def test_a_mean_divides_both() -> None:
    x, y = some()
    for one, other in zip(bx.grad_and_hess(x, y, reduction="mean"), bx.grad_and_hess(x, y), strict=True):
        np.testing.assert_allclose(one, other / x.size, rtol=1e-6)
    by = bx.grad_and_hess(x, y, reduction="mean", normalizer=2.0)[1]
    np.testing.assert_array_equal(by, bx.grad_and_hess(x, y)[1] / 2)


@pytest.mark.parametrize("lay", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_and_out(lay: Any) -> None:
    x, y = some((60, 300))
    wanted = bx.grad_and_hess(x, y)
    for found in (
        bx.grad_and_hess(lay(x), lay(y)),
        bx.grad_and_hess(x, y, out=(lay(np.empty_like(x)), lay(np.empty_like(x)))),
    ):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(bits(one), bits(other))
    in_place, hessian = lay(x), np.empty_like(x)
    found = bx.grad_and_hess(in_place, y, out=(in_place, hessian))
    assert found[0] is in_place
    assert found[1] is hessian
    np.testing.assert_array_equal(bits(in_place), bits(wanted[0]))
    np.testing.assert_array_equal(bits(hessian), bits(wanted[1]))


def test_the_same_bits_for_any_number_of_threads() -> None:
    x, y = some((300_001,))
    before = num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            set_num_threads(threads)
            found.append(bx.grad_and_hess(x, y, value=True))
    finally:
        set_num_threads(before)
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(bits(one), bits(two))


def test_empty_and_single() -> None:
    for shape in ((0,), (3, 0)):
        value, gradient, hessian = bx.grad_and_hess(np.zeros(shape), np.zeros(shape), value=True)
        assert value == 0
        assert gradient.shape == hessian.shape == shape
    gradient, hessian = bx.grad_and_hess(np.float64(0.0), np.float64(1.0))
    assert (gradient.item(), hessian.item()) == (-0.5, 0.25)


X, Y = some((4, 5))
MEMORY = np.zeros(60, np.float32)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "hessian": ({"hessian": "true"}, ValueError, "hessian: 'true'; expected one of"),
    "logits": ({"logits": [[0.0]]}, TypeError, "logits: expected a numpy.ndarray"),
    "integer logits": ({"logits": np.zeros((4, 5), int)}, TypeError, "logits: dtype int64"),
    "target": ({"target": np.zeros((5, 4))}, ValueError, "target: shape"),
    "weight": ({"weight": np.ones(4)}, ValueError, "weight: shape"),
    "sample_weight": ({"sample_weight": np.ones(5)}, ValueError, "sample_weight: shape"),
    "gamma": ({"gamma": -1.0}, ValueError, "gamma: -1.0"),
    "reduction": ({"reduction": "add"}, ValueError, "reduction"),
    "normalizer": ({"normalizer": 3.0}, ValueError, "normalizer"),
    "one out": ({"out": np.empty((4, 5), np.float32)}, TypeError, "out: expected two arrays"),
    "three outs": ({"out": (X, X, X)}, TypeError, "out: expected two arrays"),
    "out dtype": ({"out": (np.empty((4, 5)), np.empty((4, 5)))}, ValueError, "out: float64"),
    "out shape": ({"out": (np.empty(4, np.float32), np.empty((4, 5), np.float32))}, ValueError, "out: float32"),
    "out is the target": ({"out": (Y, np.empty_like(X))}, ValueError, "out: overlaps"),
    "hessian in the logits": ({"out": (np.empty_like(X), X)}, ValueError, "out: the Hessian overlaps the logits"),
    "out overlaps": (
        {"out": (MEMORY[:20].reshape(4, 5), MEMORY[19:39].reshape(4, 5))}, ValueError, "out: the gradient overlaps",
    ),
    "out twice": ({"out": (MEMORY[:20].reshape(4, 5),) * 2}, ValueError, "out: the gradient overlaps"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    changed, kind, message = REFUSED[case]
    x, y = X.copy(), Y.copy()
    with pytest.raises(kind, match=message):
        bx.grad_and_hess(**{"logits": X, "target": Y, **changed})
    np.testing.assert_array_equal(X, x)
    np.testing.assert_array_equal(Y, y)


def test_infinities() -> None:
    x = np.array([np.inf, -np.inf], np.float32)
    for gamma in (0.0, 2.0):
        gradient, hessian = bx.grad_and_hess(x, np.array([0.0, 1.0], np.float32), gamma=gamma)
        assert gradient.tolist() == [1, -1]
        assert hessian.tolist() == [0, 0]
    assert np.isnan(bx.grad_and_hess(np.array([nan]), np.array([1.0]))[1]).all()
    assert bx.grad_and_hess(np.array([nan]), np.array([nan]), ignore_index=nan)[1].tolist() == [0]


def test_the_definition_knows_its_second_derivative() -> None:
    """``formula.logits_curvature`` is the slope of ``logits_gradient``, with every option."""
    x, y = np.linspace(-8, 8, 33), np.linspace(0, 1, 33)
    options = {"weight": np.array(2.0), "pos_weight": np.array(3.0), "label_smoothing": 0.1}
    for gamma in (0.0, 0.7, 2.0):
        step = 1e-5
        up, down = (formula.logits_gradient(np, x + h, y, **options, gamma=gamma) for h in (step, -step))
        exact = formula.logits_curvature(np, x, y, **options, gamma=gamma)
        np.testing.assert_allclose((up - down) / (2 * step), exact, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sparse_targets_have_the_bits_of_dense_ones(dtype: str, gamma: float) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(0, 4, (7, 1300)).astype(dtype)
    labels = rng.integers(0, 1300, (7, 3))
    dense = np.zeros(x.shape, bool)
    np.put_along_axis(dense, labels, True, axis=1)
    options = {"pos_weight": rng.uniform(0.5, 2, 1300).astype(dtype), "gamma": gamma, "value": True}
    both = (bx.grad_and_hess(x, target, **options) for target in (IndexTargets(labels), dense))
    for found, exact in zip(*both, strict=True):
        assert found.tobytes() == exact.tobytes()
