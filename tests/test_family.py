"""The focal family beyond one gamma: the definition against the textbook, the native kernel against the definition."""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

import mpmath
import numpy as np
import pytest

from binxent import definition, focal, formula, options
from binxent.call import Operands, plan
from binxent.formula import LOGITS, PROBABILITIES
from binxent.numpy import BCEWithLogitsLoss, binary_cross_entropy_with_logits, value_and_grad
from binxent.numpy.arrays import Arrays
from binxent.options import Terms
from tests.focal_cases import CASES
from tests.operands import SOURCES, from_end_to_end, targets
from tests.reference import Array, bits, error
from tests.test_kernel import instruction_sets, worst_of

mpf = mpmath.mpf


def promised(case: dict[str, Any], instruction_set: str, *, hard: bool) -> float:
    """Ulp of float32. A margin and a p_t are rounded before their power, which multiplies that by gamma."""
    power = max(case.get(name, 0.0) for name in ("gamma", "gamma_positive", "gamma_negative"))
    most = 4.0 if power <= 2 else 6.0
    if case.get("margin"):
        most = 6.0 + 2 * power
    elif case.get("focal") == "p_t":
        most = 4.5 + power * (0.7 if hard else 1.6)
    return most + (0 if hard else 2) + (0 if instruction_set != "baseline" else 1 + 0.5 * power)


# The definition


def textbook(z: Any, y: Any, case: dict[str, Any], *, is_logit: bool) -> Any:
    """The loss in many digits, with no thought of stability; both logarithms of a probability are clamped."""
    p = 1 / (1 + mpmath.exp(-mpf(z))) if is_logit else mpf(z)
    alpha, gamma, margin = case.get("alpha"), case.get("gamma", 0), mpf(case.get("margin", 0))
    up, down = (mpf(1), mpf(1)) if alpha is None else (mpf(alpha), 1 - mpf(alpha))
    y = mpf(y)
    if case.get("focal") == "p_t":
        p_t = p * y + (1 - p) * (1 - y)
        cross_entropy = -y * mpmath.log(p) - (1 - y) * mpmath.log(1 - p)
        return (up * y + down * (1 - y)) * (1 - p_t) ** mpf(gamma) * cross_entropy
    shifted = max(p - margin, mpf(0))
    positive = (1 - p) ** mpf(case.get("gamma_positive", gamma)) * -mpmath.log(p)
    negative = shifted ** mpf(case.get("gamma_negative", gamma)) * -mpmath.log(1 - shifted) if shifted else mpf(0)
    return up * y * positive + down * (1 - y) * negative


def definition_of(case: dict[str, Any], x: Array, y: Array, *, is_logit: bool, **more: Any) -> tuple[Array, Array]:
    """The loss and the gradient of each element, in longdouble."""
    family = options.focal(**{name: case[name] for name in options.Focal._fields if name in case})
    arrays = {name: array.astype(np.longdouble) for name, array in more.items() if isinstance(array, np.ndarray)}
    shapes = {name: array.shape for name, array in arrays.items()}
    numbers = {name: number for name, number in more.items() if name not in arrays}
    call = plan(
        LOGITS if is_logit else PROBABILITIES, "none", ("float64", "float64"), x.shape, y.shape, **shapes, **numbers,
        gamma=case.get("gamma", 0.0), focal=family,
    )  # fmt: skip
    xp = Arrays(np.longdouble)
    with np.errstate(all="ignore"):
        values = definition.prepare(xp, call, Operands(x, y, **arrays))
        return definition.elements(xp, call, values), definition.slope(xp, call, values, "input")


@pytest.mark.parametrize("is_logit", [True, False], ids=["logits", "probabilities"])
@pytest.mark.parametrize("name", CASES)
def test_the_definition_against_the_textbook(name: str, is_logit: bool) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 4, 40) if is_logit else rng.uniform(0.02, 0.98, 40)
    case = CASES[name]
    for y in (np.zeros(40), np.ones(40), rng.random(40)):
        loss, slope = definition_of(case, x, y, is_logit=is_logit)
        with mpmath.workdps(60):
            points = list(zip(map(float, x), map(float, y), strict=True))
            exact = [textbook(z, t, case, is_logit=is_logit) for z, t in points]
            slopes = [
                mpmath.diff(functools.partial(lambda t, z: textbook(z, t, case, is_logit=is_logit), t), z)
                for z, t in points
            ]
        for found, wanted in ((loss, exact), (slope, slopes)):
            values = np.array([np.longdouble(mpmath.nstr(v, 25)) for v in wanted])
            np.testing.assert_allclose(found, values, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("probabilities", [False, True])
def test_where_both_definitions_meet(probabilities: bool) -> None:
    """One gamma for both branches, and p_t of hard targets, are the focal loss of the formula."""
    rng = np.random.default_rng(2)
    x = rng.random(200) if probabilities else rng.normal(0, 9, 200)
    y, gamma = (rng.random(200) < 0.5) * 1.0, 1.7
    wanted = PROBABILITIES if probabilities else LOGITS
    for terms in (Terms(gamma_negative=gamma), Terms(focal="p_t")):
        of = focal.of(probabilities, terms)
        np.testing.assert_allclose(of.loss(np, x, y, None, None, 0.0, gamma), wanted.loss(np, x, y, gamma=gamma), 1e-12)
        found = of.derivatives["input"](np, x, y, None, None, 0.0, gamma)
        np.testing.assert_allclose(found, wanted.derivatives["input"](np, x, y, gamma=gamma), rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("name", ["target", "pos_weight", "neg_weight", "label_smoothing", "gamma"])
@pytest.mark.parametrize(
    "terms", [Terms(gamma_negative=3.0), Terms(margin=0.1), Terms(focal="p_t"), Terms(focal="p_t", alpha=0.3)], ids=str
)
def test_the_other_derivatives(terms: Terms, name: str, probabilities: bool) -> None:
    """Each is the slope of the loss: a difference in longdouble."""
    rng = np.random.default_rng(3)
    x = rng.uniform(0.05, 0.95, 100) if probabilities else rng.normal(0, 2, 100)
    of, step = focal.of(probabilities, terms), np.longdouble(1e-7)
    at = {
        "target": rng.random(100), "weight": rng.random(100) + 0.5, "pos_weight": rng.random(100) + 0.5,
        "label_smoothing": np.full(100, 0.2), "gamma": np.full(100, 1.3), "neg_weight": rng.random(100) + 0.5,
    }  # fmt: skip
    wide = {key: value.astype(np.longdouble) for key, value in at.items()}
    ends = [of.loss(np, x.astype(np.longdouble), **{**wide, name: wide[name] + s * step}) for s in (1, -1)]
    found = of.derivatives[name](np, x.astype(np.longdouble), **wide)
    np.testing.assert_allclose(found.astype(float), ((ends[0] - ends[1]) / (2 * step)).astype(float), 1e-9, 1e-10)


# The kernel


def both(x: Array, y: Array, case: dict[str, Any], source: str, **more: Any) -> tuple[Array, Array]:
    return value_and_grad(x, y, reduction="none", probabilities=source == "probabilities", **case, **more)


def amplified(x: Array, case: dict[str, Any], source: str) -> Array:
    """How much more a rounding error shows where p comes near the margin: p − m has lost what both had in common."""
    margin = case.get("margin", 0.0)
    if not margin:
        return np.ones(x.shape)
    p = x.astype(np.float64) if source == "probabilities" else formula.sigmoid(np, x.astype(np.float64))
    near = p / np.maximum(np.abs(p - margin), 1e-12 * p + 1e-300)
    return np.where(p < margin * (1 - 1e-5), 1.0, np.maximum(near, 1.0))


def worst(size: int) -> dict[str, float]:
    """The worst error in ulp of the larger branch, by source, kind of target and case."""
    found = {}
    for source in SOURCES:
        for kind in ("hard", "soft"):
            for name, case in CASES.items():
                rng = np.random.default_rng(len(found))
                x = from_end_to_end(source, size, rng)
                y = targets(kind, x, rng)
                y = np.clip(y, 0, 1)
                is_logit = source == "logits"
                loss, gradient = definition_of(case, x, y, is_logit=is_logit)
                ones = [definition_of(case, x, np.full_like(y, one), is_logit=is_logit) for one in (1, 0)]
                share = y.astype(np.float64)
                larger = [abs(one) * share + abs(none) * (1 - share) for one, none in zip(*ones, strict=True)]
                near = amplified(x, case, source)
                off = 0.0
                for got, exact, size_of in zip(both(x, y, case, source), (loss, gradient), larger, strict=True):
                    scale = np.abs(exact) if kind == "hard" else np.where(np.isfinite(size_of), size_of, np.abs(exact))
                    off = max(off, float((error(got, exact, scale, "float32") / near).max()))
                found[f"{source}|{kind}|{name}"] = off
    return found


@instruction_sets
def test_accuracy(instruction_set: str) -> None:
    for key, off in worst_of("tests.test_family", 4000, instruction_set).items():
        _, kind, name = key.split("|")
        assert off <= promised(CASES[name], instruction_set, hard=kind == "hard"), key


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", CASES)
def test_an_element_has_the_same_bits_beside_any_other(name: str, source: str) -> None:
    """A tile of hard targets has a loop of its own with a margin; one soft target in it must not show."""
    rng = np.random.default_rng(5)
    x = from_end_to_end(source, 1000, rng)
    y = targets("hard", x, rng)
    mixed = y.copy()
    mixed[::7] = 0.5
    same = np.arange(x.size) % 7 != 0
    for alone, beside in zip(both(x, y, CASES[name], source), both(x, mixed, CASES[name], source), strict=True):
        np.testing.assert_array_equal(bits(alone)[same], bits(beside)[same])


@pytest.mark.parametrize("name", CASES)
def test_neg_weight_multiplies_negatives_alone(name: str) -> None:
    rng = np.random.default_rng(6)
    x, n = rng.normal(0, 3, (40, 6)).astype(np.float32), np.array([0, 0.5, 1, 2, 4, 1], np.float32)
    for y in (np.zeros_like(x), np.ones_like(x)):
        plain, weighted = both(x, y, CASES[name], "logits"), both(x, y, CASES[name], "logits", neg_weight=n)
        for one, other in zip(plain, weighted, strict=True):
            np.testing.assert_array_equal(one * (n if y[0, 0] == 0 else 1), other)  # powers of two: nothing is rounded


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("source", SOURCES)
def test_weights_of_any_size(source: str, name: str) -> None:
    """What float32 cannot hold on the way is computed again, in a wider range."""
    rng = np.random.default_rng(7)
    x = np.concatenate([np.linspace(-150, 150, 301), rng.normal(0, 3, 99)]).astype(np.float32)
    if source == "probabilities":
        x = np.concatenate([10.0 ** rng.uniform(-38, 0, 300), rng.random(100)]).astype(np.float32)
    y = np.where(rng.random(x.shape) < 0.5, rng.integers(0, 2, x.shape), rng.random(x.shape)).astype(np.float32)
    case, near = CASES[name], amplified(x, CASES[name], source)
    for sizes in ((30, -30), (-30, 25), (35, 2), (-35, 0)):
        w, n = (np.float32(10.0**k) * (rng.random(x.shape).astype(np.float32) + 0.5) for k in sizes)
        exact = definition_of(case, x, y, is_logit=source == "logits", weight=w, neg_weight=n)
        found = both(x, y, case, source, weight=w, neg_weight=n)
        with np.errstate(over="ignore"):
            for got, wanted in zip(found, exact, strict=True):
                off = np.abs(got.astype(np.longdouble) - wanted) / np.maximum(np.abs(wanted), np.float32(1e-36))
                inside = np.isfinite(wanted) & (np.abs(wanted) < 3e38)
                assert np.max(np.where(inside, off / near, 0)) < 3e-5, sizes


def test_infinite_logits_and_nan() -> None:
    x = np.array([np.inf, -np.inf, np.inf, -np.inf, np.nan], np.float32)
    y = np.array([1, 0, 0, 1, 1], np.float32)
    for name, case in CASES.items():
        loss, gradient = both(x, y, case, "logits")
        np.testing.assert_array_equal(loss[:2], 0, name)
        np.testing.assert_array_equal(gradient[:2], 0, name)
        assert np.isnan(loss[4]), name
        assert np.isnan(gradient[4]), name
        exact = definition_of(case, x, y, is_logit=True)[0].astype(np.float64)
        np.testing.assert_allclose(loss[2:4], exact[2:4], rtol=1e-5, err_msg=name)


def test_a_negative_that_is_surely_wrong_has_a_gradient() -> None:
    """At q = 1 the derivative of −log(1 − q + m) is 1/m, where q·(1 − q) is 0."""
    for dtype in (np.float32, np.float64):
        for q in (1.0, np.nextafter(dtype(1), dtype(0))):
            _, gradient = both(np.array([q], dtype), np.zeros(1, dtype), {"margin": 0.1}, "probabilities")
            np.testing.assert_allclose(gradient, 10, rtol=1e-6)


# The options


@pytest.mark.parametrize(
    ("given", "argument", "message"),
    [
        ({"alpha": 1.5}, "alpha", "1.5; expected a number between 0 and 1"),
        ({"alpha": np.nan}, "alpha", "expected a number between 0 and 1"),
        ({"gamma": 2.0, "gamma_negative": 1.0}, "gamma_negative", "gamma for both branches, or one for each"),
        ({"gamma": 2.0, "gamma_positive": 0.0}, "gamma_positive", "gamma for both branches, or one for each"),
        ({"gamma_positive": -1}, "gamma_positive", "finite number that is not negative"),
        ({"margin": 1.0}, "margin", "expected a probability below 1"),
        ({"margin": -0.1}, "margin", "expected a probability below 1"),
        ({"focal": "pt"}, "focal", "'pt'; expected one of ('branch', 'p_t')"),
        ({"focal": None}, "focal", "expected one of"),
        ({"focal": "p_t", "margin": 0.1}, "margin", "no meaning beside focal='p_t'"),
        ({"focal": "p_t", "gamma_positive": 1.0}, "gamma_positive", "no meaning beside focal='p_t'"),
        ({"reduction": "per_sample", "normalizer": 3}, "normalizer", "divides by what it keeps along its axes"),
        ({"neg_weight": np.ones(3)}, "neg_weight", "does not broadcast"),
    ],
)
def test_what_has_no_meaning_is_refused(given: dict[str, Any], argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: ") as caught:
        binary_cross_entropy_with_logits(np.zeros((4, 2)), np.zeros((4, 2)), **given)
    assert message in str(caught.value)


def test_equal_losses_have_equal_terms() -> None:
    """So that no compiler compiles them twice."""
    same = options.checked_terms(None, 0.0, 2.0, "float32")
    assert options.checked_terms(None, 0.0, 0.0, "float32", options.focal(None, 2, 2.0)) == same
    assert options.focal() is options.NO_FOCAL
    assert options.focal(margin=0.0, focal="branch") is options.NO_FOCAL


# Reductions by an axis


@pytest.mark.parametrize("reduction", options.BY_AXIS)
@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 4), (3, 0), (0, 3)])
@pytest.mark.parametrize("selects", [False, True])
def test_means_along_axes(shape: tuple[int, ...], reduction: str, selects: bool) -> None:
    rng = np.random.default_rng(8)
    x, y, w = rng.normal(0, 2, shape), rng.random(shape), rng.random(shape) + 0.5
    mask = rng.random(shape) < 0.6 if selects else None
    each, slopes = value_and_grad(x, y, w, reduction="none", mask=mask)
    axes = tuple(range(len(shape) - 1)) if reduction == "per_label" and len(shape) > 1 else (0,)
    axes = axes if reduction == "per_label" else tuple(range(1, len(shape)))
    counts = np.broadcast_to(np.ones(shape, bool) if mask is None else mask, shape).sum(axes, keepdims=True)
    share = np.divide(1, counts, out=np.zeros(counts.shape), where=counts > 0)
    loss, gradient = value_and_grad(x, y, w, reduction=reduction, mask=mask)
    np.testing.assert_allclose(loss, (each.sum(axes, keepdims=True) * share).squeeze(axes), rtol=1e-14)
    assert np.shape(loss) == tuple(n for axis, n in enumerate(shape) if axis not in axes)
    np.testing.assert_allclose(gradient, slopes * share, rtol=1e-14)


def test_a_number_has_no_samples() -> None:
    with pytest.raises(ValueError, match=r"^reduction: 'per_sample' of an input without a first axis"):
        binary_cross_entropy_with_logits(np.zeros(()), np.zeros(()), reduction="per_sample")
    assert binary_cross_entropy_with_logits(np.zeros(()), np.ones(()), reduction="per_label") == np.log(2)


# check_targets


def refused(given: dict[str, Any]) -> str:
    with pytest.raises(ValueError, match="expected") as caught:
        value_and_grad(**{"input": np.zeros((3, 2)), "target": np.zeros((3, 2)), **given}, check_targets=True)
    return str(caught.value)


def at(value: float, *place: int, shape: tuple[int, ...] = (3, 2)) -> Array:
    array = np.ones(shape)
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": at(3.0, 1, 1)}, "target: target[1, 1] is 3.0; expected a number between 0 and 1"),
        ({"target": at(3.0, 1, 1)}, "class indices need one-hot targets"),
        ({"target": at(-100, 0, 1)}, "pass ignore_index=-100"),
        ({"target": at(255, 0, 1)}, "pass ignore_index=255"),
        ({"target": at(0.5, 0, 1) + 0.75}, "target[0, 0] is 1.75"),
        ({"target": at(np.nan, 2, 0)}, "target[2, 0] is nan"),
        ({"pos_weight": at(-1.0, 1, shape=(2,))}, "pos_weight: pos_weight[1] is -1.0; expected no negative weight"),
        ({"neg_weight": at(-0.5, 2, 0, shape=(3, 1))}, "neg_weight: neg_weight[2, 0] is -0.5"),
        ({"mask": at(0.5, 2, 1)}, "mask: mask[2, 1] is 0.5; expected 0 or 1"),
    ],
)
def test_wrong_targets_are_named(given: dict[str, Any], message: str) -> None:
    assert message in refused(given)


def test_what_is_ignored_is_exempt() -> None:
    target = np.array([[0, 1], [-100, 7], [1, 0]], np.float32)
    mask = np.array([[1, 1], [1, 0], [1, 1]], np.float32)
    x, p = np.zeros((3, 2), np.float32), np.array([[1, 1], [1, -5], [1, 1]], np.float32)
    value_and_grad(x, target, pos_weight=p, mask=mask, ignore_index=-100, check_targets=True)
    loss = BCEWithLogitsLoss(ignore_index=-100, check_targets=True)
    assert repr(loss) == "BCEWithLogitsLoss(ignore_index=-100, check_targets=True)"
    with pytest.raises(ValueError, match=r"target\[1, 1\] is 7"):
        loss(x, target)


def test_nothing_is_written_then() -> None:
    x, y = np.ones(5000, np.float32), np.zeros(5000, np.float32)
    y[4500] = 2
    with pytest.raises(ValueError, match=r"target\[4500\] is 2"):
        value_and_grad(x, y, out=x, check_targets=True)
    np.testing.assert_array_equal(x, 1)


def test_the_call_of_a_class_may_replace_its_weights() -> None:
    x, y = np.zeros((2, 3)), np.array([[1, 0, 1], [0, 1, 0]])
    loss = BCEWithLogitsLoss(weight=np.full(3, 5.0), pos_weight=np.full(3, 7.0), reduction="sum")
    wanted = binary_cross_entropy_with_logits(x, y, np.full(3, 2.0), reduction="sum", pos_weight=np.full(3, 3.0))
    assert loss(x, y, weight=np.full(3, 2.0), pos_weight=np.full(3, 3.0)) == wanted
    assert loss.value_and_grad(x, y, weight=np.full(3, 2.0), pos_weight=np.full(3, 3.0))[0] == wanted


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        json.dump(worst(int(sys.argv[1])), sys.stdout)
