"""The second derivative with every option of the focal family: the definition, the kernel, the expected one."""

from __future__ import annotations

import functools
import itertools
import json
import sys
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import binxent.numpy as bx
from binxent import IndexTargets, formula
from binxent.kernel import instruction_set
from binxent.numpy import grad_and_hess, value_and_grad
from tests.curvature import of_family
from tests.focal_cases import CASES
from tests.operands import logits, targets
from tests.reference import DTYPES, Array, bits, error, rounded, tolerance
from tests.test_family import amplified, definition_of, textbook
from tests.test_kernel import instruction_sets, worst_of

KINDS = ("exact", "expected")
MORE: dict[str, dict[str, Any]] = {
    **CASES,
    "small powers": {"gamma_positive": 0.5, "gamma_negative": 1e-6},
    "a power of positives and a margin": {"gamma_positive": 3.0, "margin": 0.2},
    "half a power and a tiny margin": {"gamma_negative": 0.5, "margin": 1e-9},
    "large powers": {"gamma_positive": 30.0, "gamma_negative": 300.0},
}


def powers(case: dict[str, Any]) -> tuple[float, float]:
    gamma = case.get("gamma", 0.0)
    return case.get("gamma_positive", gamma), case.get("gamma_negative", gamma)


# The definition


ENDS = [-200.0, -40.0, -20.3, -9.0, -3.3, -2.9, -1.2, -0.3, 0.0, 0.2, 1.7, 2.5, 5.0, 13.0, 30.0, 90.0, 200.0]


@pytest.mark.parametrize("name", MORE)
def test_the_definition_against_the_textbook(name: str) -> None:
    """Relative to the terms that are added, in both tails: the second difference of the loss in 250 digits."""
    case, x = MORE[name], np.array(ENDS)
    for y in (0.0, 1.0, 0.3, 0.9):
        found, size = of_family(case, x, np.full_like(x, y))
        with mpmath.workdps(250):
            step = mpmath.mpf(10) ** -40
            of = functools.partial(textbook, y=y, case=case, is_logit=True)
            exact = [mpmath.diff(of, mpmath.mpf(at), 2, h=step) for at in ENDS]
        least = mpmath.mpf(10) ** -4900
        wanted = np.array([np.longdouble(mpmath.nstr(v, 25)) if abs(v) > least else 0 for v in exact])
        off = np.abs(found - wanted) / np.where(size > 0, size, 1)
        assert off.max() < 1e-16 * max(8, *powers(case)) * 10, (y, x[off.argmax()])


def test_where_both_definitions_meet() -> None:
    """One gamma for both branches, and p_t of hard targets, have the second derivative of the focal loss."""
    rng = np.random.default_rng(2)
    x, hard = rng.normal(0, 9, 300), (rng.random(300) < 0.5) * 1.0
    for kind in KINDS:
        wanted = grad_and_hess(x, hard, gamma=1.7, hessian=kind)[1]
        for case in ({"gamma_positive": 1.7, "gamma_negative": 1.7}, {"gamma": 1.7, "focal": "p_t"}):
            np.testing.assert_allclose(grad_and_hess(x, hard, **case, hessian=kind)[1], wanted, rtol=1e-10, atol=1e-300)
        near = grad_and_hess(x, hard, gamma_positive=1.7, gamma_negative=1.7 + 1e-9, hessian=kind)[1]
        np.testing.assert_allclose(near, wanted, rtol=1e-6, atol=1e-9)


# The kernel


def exponents(case: dict[str, Any], x: Array, y: Array, *, both: bool) -> Array:
    """−log of the focal power that counts, the larger one where both do."""
    of_positive, of_negative = (g * formula.softplus(np, s * x) for g, s in zip(powers(case), (1, -1), strict=True))
    if both or case.get("focal") == "p_t":
        return np.maximum(of_positive, of_negative)
    return np.maximum(np.where(y > 0, of_positive, 0), np.where(y < 1, of_negative, 0))


def worst(size: int) -> dict[str, float]:
    """The worst error of the Hessian in ulp of the terms that are added, by dtype, kind and case.

    In float64 it is divided by what amplifies it: p next to the margin, and the exponent of a power, whose one rounding
    shows where it is so small that an element is computed by itself.
    """
    found: dict[str, float] = {}
    for dtype, target, name in itertools.product(("float32", "float64"), ("hard", "soft"), MORE):
        case, rng = MORE[name], np.random.default_rng(len(found))
        x = np.concatenate([logits(dtype, size, rng), rng.normal(0, 3, size).astype(dtype)])
        y = np.clip(targets(target, x, rng), 0, 1)
        for kind in KINDS:
            hessian = grad_and_hess(x, y, **case, hessian=kind)[1]
            exact, terms = of_family(case, x, y, expects=kind == "expected")
            off = error(hessian, exact, terms, dtype)
            if dtype == "float64":
                wide = x.astype(np.float64)
                off = off / (1 + exponents(case, wide, y, both=kind == "expected")) / amplified(x, case, "logits")
            key = f"{dtype}|{kind}|{name}"
            found[key] = max(found.get(key, 0), float(off.max()))
    return found


@instruction_sets
def test_accuracy(instruction_set: str) -> None:
    """In float32 the result is that of float64, rounded; where no power and no margin is, it is that of float32."""
    for key, off in worst_of("tests.test_focal_curvature", 1000, instruction_set).items():
        dtype, _, name = key.split("|")
        case = MORE[name]
        in_float = not any(powers(case)) and not case.get("margin") and case.get("focal") is None
        allowed = 0.501 if dtype == "float32" else 6 + 2 * min(max(powers(case)), 8)
        assert off <= (tolerance(instruction_set, weights=2) if in_float else allowed), key


@pytest.mark.parametrize("name", MORE)
def test_loss_and_gradient_beside_it(name: str) -> None:
    """They are rounded from float64 too."""
    rng = np.random.default_rng(4)
    x, case = logits("float32", 1000, rng), MORE[name]
    in_float = not any(powers(case)) and not case.get("margin") and case.get("focal") is None
    for target in ("hard", "soft"):
        y = np.clip(targets(target, x, rng), 0, 1)
        found = grad_and_hess(x, y, **case, value=True, reduction="none")
        ones = (definition_of(case, x, np.full_like(y, one), is_logit=True) for one in (1, 0))
        larger = [np.abs(one) * y + np.abs(none) * (1 - y.astype(np.float64)) for one, none in zip(*ones, strict=True)]
        for got, exact, size in zip(found, definition_of(case, x, y, is_logit=True), larger, strict=False):
            off = error(got, exact, np.where(np.isfinite(size), size, 0), "float32")
            assert off.max() <= (tolerance(instruction_set, weights=2) if in_float else 0.501)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MORE)
def test_weights_of_any_size(name: str, kind: str) -> None:
    rng = np.random.default_rng(7)
    x = np.concatenate([np.linspace(-150, 150, 301), rng.normal(0, 3, 99)]).astype(np.float32)
    y = np.where(rng.random(x.shape) < 0.5, rng.integers(0, 2, x.shape), rng.random(x.shape)).astype(np.float32)
    case, near = MORE[name], amplified(x, MORE[name], "logits")
    for sizes in ((30, -30), (-30, 25), (35, 2), (-35, 0)):
        w, n = (np.float32(10.0**k) * (rng.random(x.shape).astype(np.float32) + 0.5) for k in sizes)
        exact, terms = of_family(case, x, y, expects=kind == "expected", weight=w, neg_weight=n)
        found = grad_and_hess(x, y, w, neg_weight=n, **case, hessian=kind)[1]
        inside = np.isfinite(exact) & (np.abs(exact) < 3e38) & (terms < 3e38)
        off = np.abs(found.astype(np.longdouble) - exact) / np.maximum(terms, 1e-38) / near
        assert np.max(np.where(inside, off, 0)) < 1e-6, sizes
        assert (found >= 0).all() or kind == "exact"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MORE)
def test_infinite_logits_and_nan(name: str, kind: str) -> None:
    x = np.array([np.inf, -np.inf, np.inf, -np.inf, np.nan, np.nan], np.float64)
    y = np.array([1, 0, 0, 1, 1, 0.5])
    for dtype in (np.float32, np.float64):
        hessian = grad_and_hess(x.astype(dtype), y.astype(dtype), **MORE[name], hessian=kind)[1]
        np.testing.assert_array_equal(hessian, [0, 0, 0, 0, np.nan, np.nan])
        mask = np.array([1, 1, 1, 1, 0, 0])
        assert not grad_and_hess(x.astype(dtype), y.astype(dtype), mask=mask, **MORE[name], hessian=kind)[1].any()


PAIRS: dict[str, Any] = {
    "weight": np.linspace(0.5, 3, 13, dtype=np.float32),
    "pos_weight": np.linspace(2, 9, 13, dtype=np.float32),
    "neg_weight": np.linspace(0, 2, 13, dtype=np.float32),
    "mask": np.arange(91).reshape(7, 13) % 3 > 0,
    "ignore_index": -1,
    "label_smoothing": 0.1,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", PAIRS)
@pytest.mark.parametrize("name", MORE)
def test_beside_every_other_option(name: str, option: str, kind: str) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(0, 5, (7, 13)), rng.integers(0, 2, (7, 13)).astype(np.float64)
    if option == "ignore_index":
        y[::2, ::3] = -1
    exact, terms = of_family(MORE[name], x, y, expects=kind == "expected", **{option: PAIRS[option]})
    found = grad_and_hess(x, y, **MORE[name], **{option: PAIRS[option]}, hessian=kind)[1]
    allowed = 1e-13 * terms * amplified(x, MORE[name], "logits") + 1e-300
    assert (np.abs(found - exact) <= allowed).all()
    halved = grad_and_hess(x, y, **MORE[name], **{option: PAIRS[option]}, hessian=kind, reduction="mean", normalizer=2)
    np.testing.assert_array_equal(halved[1], found / 2)


@pytest.mark.parametrize("name", ["ASL", "two gammas", "p_t and alpha"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_dtypes_sparse_targets_and_sums(name: str, dtype: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(0, 4, (7, 1300)).astype(DTYPES[dtype])
    labels = rng.integers(0, 1300, (7, 3))
    dense = np.zeros(x.shape, bool)
    np.put_along_axis(dense, labels, True, axis=1)
    for kind in KINDS:
        options = {**CASES[name], "hessian": kind, "value": True}
        found, right = (bx.grad_and_hess(x, target, **options) for target in (IndexTargets(labels), dense))
        for one, other in zip(found, right, strict=True):
            np.testing.assert_array_equal(bits(one), bits(other))
        exact = rounded(of_family(CASES[name], x.astype(np.float64), dense, expects=kind == "expected")[0], dtype)
        if dtype != "float64":
            assert (bits(found[2]) != bits(exact)).mean() < 1e-3  # a tie in float64 may be none in longdouble
        np.testing.assert_allclose(
            float(found[0]), float(value_and_grad(x, dense, reduction="sum", **CASES[name])[0]), 1e-2
        )


# What the expected one is


@settings(max_examples=300, deadline=None)
@given(
    st.floats(-800, 800, allow_nan=False), st.floats(0, 1), st.sampled_from([0.0, 1e-6, 0.3, 1.0, 4.0, 50.0, 1e4]),
    st.sampled_from([0.0, 1e-6, 0.3, 1.0, 4.0, 50.0, 1e4]), st.sampled_from([0.0, 1e-9, 0.05, 0.5, 0.99]),
    st.floats(0, 1),
)  # fmt: skip
def test_the_expected_hessian_is_never_negative(
    x: float, y: float, positive: float, negative: float, margin: float, alpha: float
) -> None:
    for case in (
        {"gamma_positive": positive, "gamma_negative": negative, "margin": margin, "alpha": alpha},
        {"focal": "p_t", "gamma": positive, "alpha": alpha},
    ):
        for dtype in (np.float32, np.float64):
            hessian = grad_and_hess(np.array([x], dtype), np.array([y], dtype), **case, hessian="expected")[1]
            assert hessian[0] >= 0


@pytest.mark.parametrize("powers_of", [(0.0, 4.0), (1.0, 4.0), (3.0, 0.5), (0.01, 20.0), (20.0, 0.0)])
def test_the_expected_hessian_is_the_mean_of_both(powers_of: tuple[float, float]) -> None:
    """Over labels for which the logit is the best. It is positive, so that the gradient of a sum changes sign once."""
    case: dict[str, Any] = dict(zip(("gamma_positive", "gamma_negative"), powers_of, strict=True))
    x = np.linspace(-25, 25, 501)
    (up, bend), (down, other) = (grad_and_hess(x, y, **case) for y in (np.ones_like(x), np.zeros_like(x)))
    share, rest = down / (down - up), up / (up - down)
    both = np.where(share > 1e-300, share * bend, 0) + rest * other
    for y in (share, np.ones_like(x), np.zeros_like(x)):
        found = grad_and_hess(x, y, **case, hessian="expected")[1]
        np.testing.assert_allclose(found, both, rtol=1e-11, atol=1e-300)
        assert (found > 0).all()
    np.testing.assert_allclose(grad_and_hess(x, share, **case)[0], 0, atol=1e-14)
    weighted = grad_and_hess(x, np.ones_like(x), None, np.full((), 3.0), **case, alpha=0.25, hessian="expected")[1]
    np.testing.assert_allclose(weighted, 0.75 * found, rtol=1e-14)
    assert (bend < 0).any() or (other < 0).any()


def test_a_margin_leaves_the_expected_hessian_but_for_negatives_below_it() -> None:
    x = np.linspace(-9, 9, 181)
    below = formula.sigmoid(np, x) <= 0.05
    case = {"gamma_positive": 1.0, "gamma_negative": 4.0}
    for y in (0.0, 0.3, 1.0):
        without, found = (
            grad_and_hess(x, np.full_like(x, y), **case, margin=m, hessian="expected")[1] for m in (0, 0.05)
        )
        np.testing.assert_allclose(found, np.where(below, y * without, without), rtol=1e-14)


def test_the_flat_side_of_the_margin() -> None:
    """There a negative has no derivative at all; at the margin itself the one of that side is taken."""
    for dtype in (np.float32, np.float64):
        for case in ({}, {"gamma": 0.5}, {"gamma_negative": 4.0}):
            x = np.array([-30, -1, -0.1, 0], dtype)  # σ(0) is the margin
            for kind in KINDS:
                for found in grad_and_hess(x, np.zeros_like(x), margin=0.5, hessian=kind, **case):
                    np.testing.assert_array_equal(found, 0)
            above = grad_and_hess(np.array([1.0], dtype), np.zeros(1, dtype), margin=0.5, **case)
            assert above[0][0] > 0
            assert above[1][0] != 0


def test_what_has_no_meaning_is_refused() -> None:
    x, y = np.zeros(3), np.ones(3)
    for options, message in (
        ({"gamma": 2.0, "gamma_negative": 1.0}, "gamma_negative: and gamma are given"),
        ({"margin": 1.0}, "margin: 1.0; expected a probability below 1"),
        ({"focal": "pt"}, "focal: 'pt'; expected one of"),
        ({"focal": "p_t", "margin": 0.1}, "margin: has no meaning beside focal='p_t'"),
        ({"alpha": 2}, "alpha: 2; expected a number between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            grad_and_hess(x, y, **options)


def test_wrong_targets_are_refused_before_anything_is_written() -> None:
    x, y = np.ones(5000, np.float32), np.zeros(5000, np.float32)
    y[4500] = 2
    for case in ({}, {"gamma": 2.0}, {"margin": 0.1}):
        for kept in (None, np.empty_like(x)):
            out = None if kept is None else (x, kept)
            with pytest.raises(ValueError, match=r"^target: target\[4500\] is 2"):
                grad_and_hess(x, y, **case, out=out, check_targets=True)
            np.testing.assert_array_equal(x, 1)
        grad_and_hess(x, y, **case)
        grad_and_hess(x, y, mask=y != 2, **case, check_targets=True)
    for name, operand in (("pos_weight", -np.ones(())), ("neg_weight", -np.ones(())), ("mask", np.full((), 0.5))):
        with pytest.raises(ValueError, match=f"^{name}: "):
            grad_and_hess(x, np.zeros_like(x), **{name: operand}, check_targets=True)


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        json.dump(worst(int(sys.argv[1])), sys.stdout)
