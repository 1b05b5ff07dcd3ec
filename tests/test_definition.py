"""The definition of a whole call on NumPy, against the textbook in 80 digits: every option, and every derivative."""

from __future__ import annotations

import itertools
from typing import Any

import mpmath
import numpy as np
import pytest

from binxent import definition, formula
from binxent.call import Operands, plan
from binxent.numpy.arrays import Arrays
from tests.reference import error

mpf = mpmath.mpf
XP = Arrays()

OPTIONS = ("weight", "pos_weight", "sample_weight", "mask", "ignore_index", "label_smoothing", "gamma")
REDUCTIONS = ("none", "mean", "sum", "batchmean", "weighted_mean")
NUMBERS = {"ignore_index": -100, "label_smoothing": 0.1, "gamma": 1.5}
LEARNT = ("label_smoothing", "gamma")
LOSSES = pytest.mark.parametrize("record", [formula.LOGITS, formula.PROBABILITIES], ids=lambda record: record.name)

# Three rows of two labels. The logits and the probabilities reach into their tails.
INPUT = {
    "logits": [[0.3, -2.5], [40.0, 5.0], [-90.0, 1e-8]],
    "probabilities": [[0.3, 0.9], [2e-12, 0.5], [0.999, 1e-5]],
}
TARGET = [[1.0, 0.0], [0.3, 1.0], [0.0, -100.0]]
ARRAYS = {
    "weight": [0.5, 3.0],
    "pos_weight": [2.0, 0.25],
    "sample_weight": [[1.5], [0.0], [2.0]],
    "mask": [[1, 1], [1, 0], [1, 1]],
}


def given_options() -> list[tuple[str, ...]]:
    return [*(c for n in range(3) for c in itertools.combinations(OPTIONS, n)), OPTIONS]


def case(record: formula.Loss, given: tuple[str, ...]) -> dict[str, Any]:
    """The operands of one call, as nested lists, and its numbers."""
    target = [[y if y >= 0 or "ignore_index" in given else 0.7 for y in row] for row in TARGET]
    arrays = {name: ARRAYS[name] for name in given if name in ARRAYS}
    return {"input": INPUT[record.name], "target": target, **arrays, **{n: NUMBERS[n] for n in given if n in NUMBERS}}


def branches(probabilities: bool, x: Any, gamma: Any) -> tuple[Any, Any]:
    """The textbook's losses of a positive and of a negative."""
    q = mpf(x) if probabilities else 1 / (1 + mpmath.exp(-mpf(x)))
    rest = 1 - q if probabilities else 1 / (1 + mpmath.exp(mpf(x)))
    return -mpmath.log(q) * rest**gamma, -mpmath.log(rest) * q**gamma


def textbook(record: formula.Loss, reduction: str, values: dict[str, Any]) -> Any:
    """The loss of the call in mpmath: one number, or those of the elements."""
    smoothing, gamma = mpf(values.get("label_smoothing", 0)), mpf(values.get("gamma", 0))
    elements, count, weights = [], 0, mpf(0)
    for i, j in itertools.product(range(3), range(2)):
        y = mpf(values["target"][i][j])
        kept = values.get("mask", [[1] * 2] * 3)[i][j] and y != values.get("ignore_index")
        w = mpf(values.get("weight", [1] * 2)[j]) * mpf(values.get("sample_weight", [[1]] * 3)[i][0])
        p = mpf(values.get("pos_weight", [1] * 2)[j])
        if not kept:
            elements.append(mpf(0))
            continue
        positive, negative = branches(record.probabilities, values["input"][i][j], gamma)
        soft = [t * (1 - smoothing) + smoothing / 2 for t in (y, 1 - y)]
        elements.append(w * (p * soft[0] * positive + soft[1] * negative))
        count, weights = count + 1, weights + w
    if reduction == "none":
        return elements
    weighted = "weight" in values or "sample_weight" in values
    by = {"sum": 1, "mean": count, "batchmean": 3, "weighted_mean": weights if weighted else count}
    return mpmath.fsum(elements) / by[reduction]


def planned(
    record: formula.Loss, reduction: str, values: dict[str, Any], *, learnt: bool = False
) -> tuple[Any, Operands]:
    arrays = {name: np.array(value, np.float64) for name, value in values.items() if name not in NUMBERS}
    shapes = {n: a.shape for n, a in arrays.items() if n in ARRAYS}
    if "sample_weight" in shapes:
        shapes["sample_weight"] = (3,)
    numbers = {name: value for name, value in values.items() if name in NUMBERS}
    call = plan(record, reduction, ("float64", "float64"), (3, 2), (3, 2), **shapes, **numbers)
    own = {name: np.array(numbers[name]) for name in LEARNT if learnt and name in numbers}
    return call, Operands(**arrays, **own)


def assert_close(actual: Any, exact: Any, larger: Any, within: float) -> None:
    exact, larger = (np.longdouble(mpmath.nstr(v, 25)) for v in (exact, larger))
    off = error(np.float64(actual), exact, larger, "float64")
    assert off <= within, f"{actual!r} for {exact}: {off} ulp"


@LOSSES
@pytest.mark.parametrize("given", given_options(), ids="+".join)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_loss(record: formula.Loss, reduction: str, given: tuple[str, ...]) -> None:
    values = case(record, given)
    call, operands = planned(record, reduction, values)
    with np.errstate(divide="ignore"):  # of what is ignored, the logarithm of 0
        actual = np.ravel(definition.loss(XP, call, operands))
    exact = textbook(record, reduction, values)
    for one, other in zip(actual, exact if reduction == "none" else [exact], strict=True):
        assert_close(one, other, abs(other), 8)


def places(value: Any) -> list[tuple[int, ...]]:
    return [()] if not isinstance(value, list) else [(i, *rest) for i, v in enumerate(value) for rest in places(v)]


def replaced(value: Any, place: tuple[int, ...], by: Any) -> Any:
    if not place:
        return by
    return [replaced(v, place[1:], by) if i == place[0] else v for i, v in enumerate(value)]


@LOSSES
@pytest.mark.parametrize("given", given_options(), ids="+".join)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients(record: formula.Loss, reduction: str, given: tuple[str, ...]) -> None:
    """To every operand, and to smoothing and gamma where they are learnt, from differences in 80 digits."""
    values = case(record, given)
    call, operands = planned(record, reduction, values, learnt=True)
    incoming = np.full((3, 2) if reduction == "none" else (), 0.7)
    ready = definition.prepare(XP, call, operands)

    def total(name: str, place: tuple[int, ...], t: Any) -> Any:
        moved = textbook(record, reduction, values | {name: replaced(values[name], place, t)})
        return mpf(0.7) * (mpmath.fsum(moved) if reduction == "none" else moved)

    for name in values:
        if name in ("mask", "ignore_index"):
            continue
        with np.errstate(divide="ignore"):
            gradient = definition.gradient(XP, call, operands, ready, name, "float64", incoming)
        assert np.shape(gradient) == np.shape(values[name])
        for place in places(values[name]):
            at = values[name]
            for i in place:
                at = at[i]
            if name == "target" and at == values.get("ignore_index"):
                assert gradient[place] == 0
                continue
            exact = mpmath.diff(lambda t, n=name, k=place: total(n, k, t), mpf(at), h=mpf(10) ** -30)
            # To a target it is the difference of two branches, which are near log 2 where the logit is near 0.
            assert_close(gradient[place], exact, max(abs(exact), mpf("0.1") if name == "target" else 0), 64)
