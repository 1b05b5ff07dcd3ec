"""The definition against the textbook in 80 digits, its derivatives against numerical ones, and its limits."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import mpmath
import numpy as np
import pytest

from binxent import formula
from tests import jets
from tests.reference import error, textbook_logits_loss, textbook_probabilities_loss

inf, nan = np.inf, np.nan

LOGITS = [0.0, 1e-30, -1e-8, 0.3, -0.7, 1.0, -2.5, 5.0, -16.7, 37.0, -40.0, 89.0, -100.0, 100.0]
PROBABILITIES = [1e-43, 1e-30, 1e-13, 3e-5, 0.1, 0.5, 0.7, 0.999, 1 - 1e-13]
TARGETS = [0.0, 1.0, 0.3, 0.5, 1e-9, 1.7, -0.4]
WEIGHTS = [(1.0, 1.0), (0.25, 3.0), (7.0, 0.0), (0.0, 2.0), (-1.5, 0.3)]


def numerically(function: Any, at: float, order: int = 1) -> Any:
    """The derivative of a textbook loss, from differences in 80 digits."""
    return mpmath.diff(function, mpmath.mpf(at), order, h=mpmath.mpf(10) ** -25)


def assert_exact(actual: Any, exact: Any, *terms: Any, within: float = 8) -> None:
    """Within a few ulp of the larger term; the formula is not required to do better."""
    larger = max([abs(exact), *map(abs, terms)])
    off = error(
        np.float64(actual), np.longdouble(mpmath.nstr(exact, 25)), np.longdouble(mpmath.nstr(larger, 25)), "float64"
    )
    assert off <= within, f"{actual!r} for {mpmath.nstr(exact, 20)}: {off} ulp"


def arrays(*values: float) -> tuple[Any, ...]:
    return tuple(np.array(v) for v in values)


@pytest.mark.parametrize(("w", "p"), WEIGHTS)
def test_logits_against_the_textbook(w: float, p: float) -> None:
    for x, y in itertools.product(LOGITS, TARGETS):
        a = arrays(x, y, w, p)
        positive = textbook_logits_loss(x, 1, abs(w), abs(p * y))
        negative = textbook_logits_loss(x, 0, abs(w) * abs(1 - y))
        assert_exact(formula.logits_loss(np, *a), textbook_logits_loss(x, y, w, p), positive, negative)

        rise, fall = (
            w * c * numerically(lambda t, k=k: textbook_logits_loss(t, k), x) for k, c in ((0, 1 - y), (1, p * y))
        )
        assert_exact(formula.logits_gradient(np, *a), rise + fall, rise, fall)
        assert_exact(
            formula.logits_curvature(np, *a),
            numerically(lambda t: textbook_logits_loss(t, y, w, p), x, 2),
            w * (1 - y) * mpmath.exp(-abs(x)),  # where 1 − y + p·y cancels
        )
        assert_exact(
            formula.logits_gradient_to_target(np, *arrays(x, y, w, p)),
            numerically(lambda t: textbook_logits_loss(x, t, w, p), y),
            w * x,
            w * (p - 1) * textbook_logits_loss(x, 1),
        )
        assert_exact(
            formula.logits_gradient_to_pos_weight(np, *arrays(x, y, w)),
            numerically(lambda t: textbook_logits_loss(x, y, w, t), p),
        )
        # To the weight: the loss for a weight of 1.
        assert_exact(
            formula.logits_loss(np, *arrays(x, y), None, np.array(p)),
            numerically(lambda t: textbook_logits_loss(x, y, t, p), w),
            positive / abs(w) if w else textbook_logits_loss(x, 1, 1, abs(p * y)),
            textbook_logits_loss(x, 0, abs(1 - y)),
        )


@pytest.mark.parametrize(("w", "p"), WEIGHTS)
def test_probabilities_against_the_textbook(w: float, p: float) -> None:
    for q, y in itertools.product(PROBABILITIES, TARGETS):
        a = arrays(q, y, w, p)
        positive, negative = textbook_probabilities_loss(q, 1), textbook_probabilities_loss(q, 0)
        assert_exact(
            formula.probabilities_loss(np, *a),
            textbook_probabilities_loss(q, y, w, p),
            w * p * y * positive,
            w * (1 - y) * negative,
        )
        assert_exact(
            formula.probabilities_gradient_to_target(np, *arrays(q, y, w, p)),
            numerically(lambda t: textbook_probabilities_loss(q, t, w, p), y),
            w * p * positive,
            w * negative,
        )
        assert_exact(
            formula.probabilities_gradient_to_pos_weight(np, *arrays(q, y, w)),
            numerically(lambda t: textbook_probabilities_loss(q, y, w, t), p),
        )
        if q * (1 - q) > 1e-12:  # elsewhere the definition bounds it
            rise = w * (1 - y) / (1 - mpmath.mpf(q))
            fall = -w * p * y / mpmath.mpf(q)
            assert_exact(formula.probabilities_gradient(np, *a), rise + fall, rise, fall)
            derivative = numerically(lambda t: textbook_probabilities_loss(t, y, w, p), q)
            assert mpmath.almosteq(derivative, rise + fall, 1e-6, 1e-30)


LEARNT = [(0.0, 0.0), (0.1, 0.0), (0.0, 2.0), (0.25, 0.5)]  # label_smoothing and gamma


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize(("smoothing", "gamma"), LEARNT)
@pytest.mark.parametrize(("w", "p"), WEIGHTS)
def test_the_derivatives_to_the_options_against_the_textbook(
    kind: str, smoothing: float, gamma: float, w: float, p: float
) -> None:
    textbook = textbook_logits_loss if kind == "logits" else textbook_probabilities_loss
    to_smoothing = getattr(formula, f"{kind}_gradient_to_label_smoothing")
    to_gamma = getattr(formula, f"{kind}_gradient_to_gamma")
    for x, y in itertools.product(LOGITS if kind == "logits" else PROBABILITIES, TARGETS):
        operands = arrays(x, y, w, p)
        exact_smoothing = numerically(lambda t: textbook(x, y, w, p, t, gamma), smoothing)
        exact_gamma = numerically(lambda t: textbook(x, y, w, p, smoothing, t), gamma)
        smoothed = y * (1 - smoothing) + smoothing / 2
        branches = [textbook(x, k, w, gamma=gamma) * p**k for k in (0, 1)]
        slopes = [numerically(lambda t, k=k: textbook(x, k, w, gamma=t), gamma) * p**k for k in (0, 1)]
        # The exponent is gamma times a rounded logarithm: its error, in ulp of 1, is one of the power.
        amplified = 8 + 2 * gamma * float(max(textbook(x, 0), textbook(x, 1)))
        assert_exact(
            to_smoothing(np, *operands, smoothing, gamma),
            exact_smoothing,
            *((0.5 - y) * b for b in branches),
            within=amplified,
        )
        assert_exact(
            to_gamma(np, *operands, smoothing, gamma),
            exact_gamma,
            slopes[0] * (1 - smoothed),
            slopes[1] * smoothed,
            within=amplified,
        )


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize(("smoothing", "gamma"), LEARNT)
@pytest.mark.parametrize("y", TARGETS)
def test_the_options_may_be_differentiated_automatically(kind: str, smoothing: float, gamma: float, y: float) -> None:
    """The second derivatives too: of the loss, and of the slopes in closed form."""
    loss = getattr(formula, f"{kind}_loss")
    to_smoothing = getattr(formula, f"{kind}_gradient_to_label_smoothing")
    to_gamma = getattr(formula, f"{kind}_gradient_to_gamma")
    for x in POINTS if kind == "logits" else PROBABILITIES[2:-1]:
        given = (y, 2.0, 3.0)
        closed_smoothing = float(to_smoothing(np, *arrays(x, *given), smoothing, gamma))
        closed_gamma = float(to_gamma(np, *arrays(x, *given), smoothing, gamma))
        for order, smoothing_slope, gamma_slope in (
            (1, closed_smoothing, closed_gamma),
            (2, 0.0, jets.derivative(lambda t: to_gamma(jets, x, *given, smoothing, t), gamma)),
        ):
            found = jets.derivative(lambda t: loss(jets, x, *given, t, gamma), smoothing, order)
            assert found == pytest.approx(smoothing_slope, rel=1e-12, abs=1e-14)
            found = jets.derivative(lambda t: loss(jets, x, *given, smoothing, t), gamma, order)
            assert found == pytest.approx(gamma_slope, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("x", [inf, -inf])
@pytest.mark.parametrize("y", [0.0, 0.5, 1.0])
def test_the_options_at_infinite_logits(x: float, y: float) -> None:
    """An array that holds 0 gives what the number 0 gives."""
    operands, none = arrays(x, y), np.zeros(())
    for function in (formula.logits_loss, formula.logits_gradient):
        np.testing.assert_array_equal(
            function(np, *operands, None, None, none, none), function(np, *operands, None, None)
        )
    for gamma in (0.0, none, 2.0):
        assert formula.logits_gradient_to_gamma(np, *operands, None, None, 0.0, gamma) == 0
        slope = formula.logits_gradient_to_label_smoothing(np, *operands, None, None, 0.0, gamma)
        assert slope == (0 if y == 0.5 else inf if (x > 0) == (y == 1) else -inf)


def test_without_weights_is_with_ones() -> None:
    x, y = np.meshgrid(LOGITS, TARGETS)
    one = np.ones_like(x)
    q = 1 / (1 + np.exp(-x / 4))
    for function, first in (
        (formula.logits_gradient, x),
        (formula.logits_curvature, x),
        (formula.probabilities_loss, q),
        (formula.probabilities_gradient, q),
    ):
        np.testing.assert_array_equal(function(np, first, y), function(np, first, y, one, one))
    # With a pos_weight y + (1 − y) is added up and rounded, without it is 1.
    np.testing.assert_array_equal(formula.logits_loss(np, x, y), formula.logits_loss(np, x, y, one))
    np.testing.assert_array_max_ulp(formula.logits_loss(np, x, y), formula.logits_loss(np, x, y, one, one), 4)
    for function, first in ((formula.logits_gradient_to_target, x), (formula.probabilities_gradient_to_target, q)):
        np.testing.assert_array_equal(function(np, first, y), function(np, first, y, one, one))
    np.testing.assert_array_equal(formula.logits_gradient_to_target(np, x, y), -x)  # exactly
    for function, first in (
        (formula.logits_gradient_to_pos_weight, x),
        (formula.probabilities_gradient_to_pos_weight, q),
    ):
        np.testing.assert_array_equal(function(np, first, y), function(np, first, y, one))


@pytest.mark.parametrize(
    ("x", "y", "w", "p", "loss"),
    [
        (inf, 1.0, 1.0, 1.0, 0.0),
        (-inf, 0.0, 1.0, 1.0, 0.0),
        (inf, 0.0, 1.0, 1.0, inf),
        (-inf, 1.0, 1.0, 1.0, inf),
        (inf, 0.3, 1.0, 1.0, inf),
        (-inf, 0.3, 1.0, 1.0, inf),
        (-inf, 1.0, 1.0, 0.0, 0.0),  # pos_weight 0
        (inf, 0.0, 0.0, 1.0, 0.0),  # weight 0
        (-inf, 1.0, 0.0, 5.0, 0.0),
        (inf, 1.5, 1.0, 1.0, -inf),  # a target above 1
        (nan, 0.0, 1.0, 1.0, nan),
        (nan, 1.0, 0.0, 1.0, nan),  # 0 · NaN stays NaN: a weight hides nothing
        (nan, 1.0, 1.0, 0.0, nan),
        (1.0, nan, 0.0, 1.0, nan),
        (1.0, 0.0, nan, 1.0, nan),
        (1.0, 1.0, 1.0, nan, nan),
    ],
)
def test_logits_loss_at_the_limits(x: float, y: float, w: float, p: float, loss: float) -> None:
    with np.errstate(invalid="ignore"):
        np.testing.assert_equal(float(formula.logits_loss(np, *arrays(x, y, w, p))), loss)
        if (w, p) == (1.0, 1.0):
            np.testing.assert_equal(float(formula.logits_loss(np, *arrays(x, y))), loss)


@pytest.mark.parametrize(
    ("x", "y", "w", "p", "gradient"),
    [
        (inf, 1.0, 1.0, 1.0, 0.0),
        (-inf, 0.0, 1.0, 1.0, 0.0),
        (inf, 0.0, 2.0, 1.0, 2.0),
        (-inf, 1.0, 2.0, 3.0, -6.0),
        (inf, 0.3, 1.0, 1.0, 0.7),
        (-inf, 0.3, 1.0, 1.0, -0.3),
        (nan, 0.0, 1.0, 1.0, nan),
        (nan, 0.0, 0.0, 1.0, nan),
    ],
)
def test_logits_gradient_at_the_limits(x: float, y: float, w: float, p: float, gradient: float) -> None:
    np.testing.assert_equal(float(formula.logits_gradient(np, *arrays(x, y, w, p))), gradient)


def test_other_derivatives_at_the_limits() -> None:
    for x in (inf, -inf):
        assert formula.logits_curvature(np, *arrays(x, 0.3, 2.0, 3.0)) == 0
        assert formula.logits_gradient_to_target(np, *arrays(x, 1.0)) == -x
        assert formula.logits_gradient_to_target(np, *arrays(x, 1.0, 0.0)) == 0
        assert formula.logits_gradient_to_pos_weight(np, *arrays(x, 1.0)) == max(-x, 0)
        assert formula.logits_gradient_to_pos_weight(np, *arrays(x, 0.0)) == 0
    # (p − 1)·softplus(−x) − x: with p = 2, at −∞ it is +∞, not ∞ − ∞.
    assert formula.logits_gradient_to_target(np, *arrays(-inf, 1.0), None, np.array(2.0)) == inf


def test_probabilities_at_the_ends() -> None:
    with np.errstate(divide="ignore"):
        ends = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0])
        np.testing.assert_array_equal(formula.probabilities_loss(np, *ends), [0, 100, 100, 0])
        np.testing.assert_array_equal(formula.probabilities_gradient(np, *ends), [0, -1e12, 1e12, 0])
        np.testing.assert_array_equal(formula.probabilities_gradient_to_target(np, *ends), [100, 100, -100, -100])
        np.testing.assert_array_equal(formula.probabilities_gradient_to_pos_weight(np, *ends), [0, 100, 0, 0])
        soft = formula.probabilities_loss(np, np.array([0.0, 1.0]), np.array([0.3, 0.3]))
        np.testing.assert_allclose(soft, [30, 70], rtol=1e-15)
    # Where the clamp begins: e^−100 = 3.7e-44.
    below, above = formula.minus_log(np, np.array([3.7e-44, 3.8e-44]))
    assert below == 100
    assert above < 100
    assert np.isnan(formula.probabilities_loss(np, *arrays(nan, 0.0)))
    assert np.isnan(formula.probabilities_gradient(np, *arrays(nan, 0.0)))


def test_the_tails_that_other_forms_lose() -> None:
    for x in (20.0, 40.0, 100.0, 700.0):
        for a in (arrays(x, 1.0), arrays(-x, 0.0)):
            assert_exact(formula.logits_loss(np, *a), mpmath.log1p(mpmath.exp(-x)), within=2)
            assert_exact(abs(formula.logits_gradient(np, *a)), 1 / (1 + mpmath.exp(x)), within=2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_short_logarithm(dtype: Any) -> None:
    e = np.concatenate([np.linspace(2.0**-20, 1, 100_001), 2.0 ** -np.arange(20, 126)]).astype(dtype)
    off = np.float64(formula.short_log1p(e)) / np.log1p(np.float64(e)) - 1
    assert 2.0**-17 < np.abs(off).max() < 2.0**-16.6
    assert formula.short_log1p(dtype(0)) == 0
    assert formula.short_log1p(e).dtype == dtype


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_the_dtype_is_kept(dtype: Any) -> None:
    x, y, w, p = (np.array([v], dtype) for v in (0.5, 0.25, 2, 3))
    for value in (
        formula.logits_loss(np, x, y, w, p),
        formula.logits_gradient(np, x, y, w, p),
        formula.logits_curvature(np, x, y, w, p),
        formula.logits_gradient_to_target(np, x, y, w, p),
        formula.logits_gradient_to_pos_weight(np, x, y, w),
        formula.probabilities_loss(np, x, y, w, p),
        formula.probabilities_gradient(np, x, y, w, p),
        formula.probabilities_gradient_to_target(np, x, y, w, p),
        formula.probabilities_gradient_to_pos_weight(np, x, y, w),
        formula.logits_gradient_to_label_smoothing(np, x, y, w, p, 0.1, 2.0),
        formula.logits_gradient_to_gamma(np, x, y, w, p, 0.1, 2.0),
        formula.probabilities_gradient_to_label_smoothing(np, x, y, w, p, 0.1, 2.0),
        formula.probabilities_gradient_to_gamma(np, x, y, w, p, 0.1, 2.0),
    ):
        assert value.dtype == dtype


# The derivatives of softplus at 0: an analytic function, so also on a computer, whichever side the branch takes.
SOFTPLUS_AT_0 = {1: 0.5, 2: 0.25, 3: 0.0, 4: -0.125, 5: 0.0, 6: 0.25}
POINTS = [0.0, -0.0, 1e-3, -0.4, 2.0, -30.0, 30.0]


@pytest.mark.parametrize("y", TARGETS)
def test_it_may_be_differentiated_automatically(y: float) -> None:
    """Through abs or maximum, the derivative at 0 would be off by ½, and the second 0 instead of ¼."""
    for order, slope in SOFTPLUS_AT_0.items():
        for zero in (0.0, -0.0):
            loss = jets.derivative(lambda t: formula.logits_loss(jets, t, y, 2.0, 3.0), zero, order)
            assert loss == pytest.approx(2 * (3 * y * (-1) ** order + 1 - y) * slope, abs=1e-14)
            sigmoid = jets.derivative(lambda t: formula.sigmoid(jets, t), zero, order)
            assert sigmoid == pytest.approx(SOFTPLUS_AT_0.get(order + 1, 0.0), abs=1e-14)
    for x in POINTS:
        a = arrays(x, y, 2.0, 3.0)
        for derivative, exact in (
            (jets.derivative(lambda t: formula.logits_loss(jets, t, y, 2.0, 3.0), x), formula.logits_gradient(np, *a)),
            (
                jets.derivative(lambda t: formula.logits_loss(jets, t, y, 2.0, 3.0), x, 2),
                formula.logits_curvature(np, *a),
            ),
            (
                jets.derivative(lambda t: formula.logits_gradient(jets, t, y, 2.0, 3.0), x),
                formula.logits_curvature(np, *a),
            ),
            (
                jets.derivative(lambda t: formula.logits_loss(jets, x, t, 2.0, 3.0), y),
                formula.logits_gradient_to_target(np, *arrays(x, y, 2.0, 3.0)),
            ),
            (jets.derivative(lambda t: formula.logits_loss(jets, x, y, t, 3.0), 2.0), formula.logits_loss(np, *a) / 2),
            (
                jets.derivative(lambda t: formula.logits_loss(jets, x, y, 2.0, t), 3.0),
                formula.logits_gradient_to_pos_weight(np, *arrays(x, y, 2.0)),
            ),
        ):
            assert derivative == pytest.approx(float(exact), rel=1e-13, abs=1e-15)
    for q in (0.01, 0.5, 0.99):
        derivative = jets.derivative(lambda t: formula.probabilities_loss(jets, t, y, 2.0, 3.0), q)
        assert derivative == pytest.approx(
            float(formula.probabilities_gradient(np, *arrays(q, y, 2.0, 3.0))), rel=1e-12
        )


def _torch_derivatives(torch: ModuleType, x: float, y: float) -> tuple[float, ...]:
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    ty, w, p = (torch.tensor(v, dtype=torch.float64) for v in (y, 2.0, 3.0))
    value = formula.logits_loss(torch, t, ty, w, p)
    found = [value.item()]
    for _ in range(2):
        (value,) = torch.autograd.grad(value, t, create_graph=True)
        found.append(value.item())
    return tuple(found)


def _jax_derivatives(jax: ModuleType, x: float, y: float) -> tuple[float, ...]:
    import jax.numpy as jnp

    def loss(t: Any) -> Any:
        return formula.logits_loss(jnp, t, y, 2.0, 3.0)

    return tuple(float(f(jnp.array(x))) for f in (loss, jax.grad(loss), jax.grad(jax.grad(loss))))


@pytest.mark.parametrize(
    ("name", "derivatives", "within"), [("torch", _torch_derivatives, 1e-13), ("jax", _jax_derivatives, 1e-6)]
)
def test_it_runs_and_is_differentiated_on_other_libraries(name: str, derivatives: Any, within: float) -> None:
    library = pytest.importorskip(name, reason=f"{name} is not installed")
    for x, y in itertools.product(POINTS, TARGETS):
        a = arrays(x, y, 2.0, 3.0)
        exact = [f(np, *a) for f in (formula.logits_loss, formula.logits_gradient, formula.logits_curvature)]
        np.testing.assert_allclose(derivatives(library, x, y), exact, rtol=within, atol=within)
