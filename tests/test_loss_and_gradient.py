"""Loss and gradient computed at once: against the textbook, and against the two functions that compute one each."""

from __future__ import annotations

import itertools
from typing import Any

import mpmath
import numpy as np
import pytest

from binxent import definition, formula
from binxent.call import Operands, plan
from binxent.numpy.arrays import Arrays
from tests.reference import textbook_logits_loss, textbook_probabilities_loss
from tests.test_formula import LOGITS, PROBABILITIES, TARGETS, WEIGHTS, arrays, assert_exact, inf, nan, numerically

LOSSES = pytest.mark.parametrize("record", [formula.LOGITS, formula.PROBABILITIES], ids=lambda record: record.name)


class Untaped(Arrays):
    chooses = False
    sign = staticmethod(np.sign)
    exp_ = staticmethod(np.exp)
    log1p_in_unit = staticmethod(np.log1p)
    clip_ = staticmethod(np.clip)

    def add_product_(self, total: Any, one: Any, other: Any, sign: float = 1) -> Any:
        return total + sign * one * other


class Choosing(Untaped):
    chooses = True


XP = Untaped()
BOTH = pytest.mark.parametrize("xp", [XP, Choosing()], ids=["summing", "choosing"])


@BOTH
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("w", "p"), [(None, None), *WEIGHTS])
def test_logits_against_the_textbook(xp: Any, w: float | None, p: float | None, smoothing: float) -> None:
    for x, y in itertools.product(LOGITS, TARGETS):
        a = (*arrays(x, y), *(None if v is None else np.array(v) for v in (w, p)))
        loss, gradient = formula.logits_loss_and_gradient(xp, *a, smoothing, finite=True)
        by, share = 1 if w is None else w, 1 if p is None else p
        soft, rest = (mpmath.mpf(v) * (1 - smoothing) + mpmath.mpf(smoothing) / 2 for v in (y, 1 - mpmath.mpf(y)))
        positive = by * share * soft * textbook_logits_loss(x, 1)
        negative = by * rest * textbook_logits_loss(x, 0)
        assert_exact(loss, positive + negative, positive, negative)
        rise, fall = (
            by * c * numerically(lambda t, k=k: textbook_logits_loss(t, k), x)
            for k, c in ((0, rest), (1, share * soft))
        )
        assert_exact(gradient, rise + fall, rise, fall)


@pytest.mark.parametrize(("w", "p"), [(None, None), *WEIGHTS])
def test_probabilities_against_the_textbook(w: float | None, p: float | None) -> None:
    for q, y in itertools.product(PROBABILITIES, TARGETS):
        a = (*arrays(q, y), *(None if v is None else np.array(v) for v in (w, p)))
        loss, gradient = formula.probabilities_loss_and_gradient(XP, *a, finite=True)
        by, share = 1 if w is None else w, 1 if p is None else p
        positive = by * share * mpmath.mpf(y) * textbook_probabilities_loss(q, 1)
        negative = by * (1 - mpmath.mpf(y)) * textbook_probabilities_loss(q, 0)
        assert_exact(loss, positive + negative, positive, negative)
        if q * (1 - q) > 1e-12:  # elsewhere the definition bounds it
            rise = by * (1 - mpmath.mpf(y)) / (1 - mpmath.mpf(q))
            fall = -by * share * mpmath.mpf(y) / mpmath.mpf(q)
            assert_exact(gradient, rise + fall, rise, fall)


@BOTH
def test_the_tails_that_other_forms_lose(xp: Any) -> None:
    for x in (20.0, 40.0, 100.0, 700.0):
        for a in (arrays(x, 1.0), arrays(-x, 0.0)):
            loss, gradient = formula.logits_loss_and_gradient(xp, *a)
            assert_exact(loss, mpmath.log1p(mpmath.exp(-x)), within=2)
            assert_exact(abs(gradient), 1 / (1 + mpmath.exp(x)), within=2)


@BOTH
@pytest.mark.parametrize("x", [inf, -inf, nan, 0.0, -0.0, 3.0])
@pytest.mark.parametrize("y", [0.0, 0.3, 1.0, 1.5, nan])
@pytest.mark.parametrize("w", [None, 0.0, 2.0, nan])
@pytest.mark.parametrize("p", [None, 0.0, 5.0, nan])
def test_the_limits_are_those_of_the_separate_functions(
    xp: Any, x: float, y: float, w: float | None, p: float | None
) -> None:
    a = (*arrays(x, y), *(None if v is None else np.array(v) for v in (w, p)))
    with np.errstate(invalid="ignore"):
        for smoothing, gamma in ((0.0, 0.0), (0.1, 0.0), (0.0, 2.0)):
            found = formula.logits_loss_and_gradient(xp, *a, smoothing, gamma)
            expected = (f(np, *a, smoothing, gamma) for f in (formula.logits_loss, formula.logits_gradient))
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-14)
        # Promised to be finite, an infinity gives the same loss, or NaN.
        loss, slope = formula.logits_loss_and_gradient(xp, *a, finite=True)
        assert np.isnan(loss) or loss == formula.logits_loss_and_gradient(xp, *a)[0]
        np.testing.assert_array_equal(slope, formula.logits_loss_and_gradient(xp, *a)[1])


@BOTH
@LOSSES
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_one_that_is_not_wanted_is_none(xp: Any, record: formula.Loss, gamma: float) -> None:
    a = (xp, *arrays(0.25, 0.5, 2.0, 3.0), 0.1, gamma)
    loss, slope = record.loss_and_gradient(*a)
    assert record.loss_and_gradient(*a, gradient=False) == (loss, None)
    assert record.loss_and_gradient(*a, loss=False) == (None, slope)


@BOTH
@LOSSES
def test_no_operand_is_changed(xp: Any, record: formula.Loss) -> None:
    operands = [np.full(3, v) for v in (0.25, 0.5, 2.0, 3.0)]
    for count in (2, 4):
        for operand in operands:
            operand.flags.writeable = False
        record.loss_and_gradient(xp, *operands[:count])


@BOTH
@LOSSES
def test_what_is_ignored_is_0(xp: Any, record: formula.Loss) -> None:
    x, y, keep = np.array([[0.3, nan], [nan, 0.7]]), np.array([[1.0, nan], [inf, 0.0]]), np.array([[1, 0], [0, 1]])
    weight = np.where(keep, 2.0, nan)
    call = plan(record, "mean", ("float64", "float64"), (2, 2), (2, 2), weight=(2, 2), mask=(2, 2))
    operands = Operands(x, y, weight, mask=keep)
    values = definition.prepare(xp, call, operands)
    with np.errstate(divide="ignore"):
        found = definition.loss_and_gradient(xp, call, values)
        expected = definition.elements(xp, call, values), definition.slope(xp, call, values, "input") * keep
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)
        assert (one[keep == 0] == 0).all()


@BOTH
@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
@pytest.mark.parametrize(("w", "p"), [(None, None), *WEIGHTS])
def test_focal_logits_against_the_textbook(
    xp: Any, w: float | None, p: float | None, smoothing: float, gamma: float
) -> None:
    for x, y in itertools.product(LOGITS, TARGETS):
        a = (*arrays(x, y), *(None if v is None else np.array(v) for v in (w, p)))
        loss, gradient = formula.logits_loss_and_gradient(xp, *a, smoothing, gamma)
        by, share = 1 if w is None else w, 1 if p is None else p
        soft, rest = (mpmath.mpf(v) * (1 - smoothing) + mpmath.mpf(smoothing) / 2 for v in (y, 1 - mpmath.mpf(y)))
        coefficients = by * rest, by * share * soft
        terms = [c * textbook_logits_loss(x, k, gamma=gamma) for k, c in enumerate(coefficients)]
        slopes = [
            c * numerically(lambda t, k=k: textbook_logits_loss(t, k, gamma=gamma), x)
            for k, c in enumerate(coefficients)
        ]
        # The exponent is gamma times a rounded softplus: its error, in ulp of 1, is one of the power.
        within = 10 + 2 * gamma * float(max(textbook_logits_loss(x, 0), textbook_logits_loss(x, 1)))
        assert_exact(loss, sum(terms), *terms, within=within)
        assert_exact(gradient, sum(slopes), *slopes, within=within)


@BOTH
def test_a_gamma_of_0_in_an_array_is_no_gamma(xp: Any) -> None:
    for x, y in itertools.product([*LOGITS, inf, -inf], [0.0, 0.3, 1.0]):
        with np.errstate(invalid="ignore"):
            found = formula.logits_loss_and_gradient(xp, *arrays(x, y), None, None, 0.0, np.zeros(()))
            expected = formula.logits_loss_and_gradient(xp, *arrays(x, y))
        np.testing.assert_allclose(found, expected, rtol=1e-14)
