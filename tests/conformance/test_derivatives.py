"""Every face × option × reduction: gradients to every operand and second derivatives, against the definition.

The reference is ``binxent.definition`` on NumPy in longdouble, which ``test_definition.py`` compares with the textbook.
Second derivatives are differences of its gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from binxent import definition
from binxent.call import Operands, plan
from binxent.formula import LOGITS, PROBABILITIES
from binxent.numpy.arrays import Arrays
from tests.conformance.derivatives import DERIVE, DIFFERENTIABLE, Wanted, arrays_of
from tests.conformance.faces import Call, Face, parameters
from tests.conformance.test_conformance import given_options

Array = np.ndarray[Any, Any]
WIDE = Arrays(np.longdouble)
SHAPE = (4, 3)
MASK = np.array([[1, 0, 1], [1, 1, 1], [0, 0, 0], [1, 1, 1]], bool)
IGNORED = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], bool)
NUMBERS = {"ignore_index": -100, "label_smoothing": 0.2, "gamma": 1.3}


def call_of(face: Face, probabilities: bool, reduction: str, given: tuple[str, ...]) -> Call:
    """Operands that hold, wherever they are ignored, what no derivative may see."""
    rng = np.random.default_rng(3)
    dtype = "float64" if "float64" in face.dtypes else "float32"
    hidden = np.zeros(SHAPE, bool)
    if "mask" in given:
        hidden |= ~MASK
    if "ignore_index" in given:
        hidden |= IGNORED
    input = rng.uniform(0.05, 0.95, SHAPE) if probabilities else rng.normal(0, 2, SHAPE)
    target = np.where(hidden, np.nan, rng.random(SHAPE))
    if "ignore_index" in given:
        target[IGNORED] = -100
    arrays = {
        "weight": np.where(hidden, [np.inf, np.nan, -1], rng.random(SHAPE) + 0.5),
        "pos_weight": rng.random(3) + 0.5,
        "sample_weight": rng.random(4) + 0.5,
    }
    options: dict[str, Any] = {name: array.astype(dtype) for name, array in arrays.items() if name in given}
    options |= {name: number for name, number in NUMBERS.items() if name in given}
    if "mask" in given:
        options["mask"] = MASK
    input = np.where(hidden, [np.nan, np.inf, -np.inf], input)
    return Call(input.astype(dtype), target.astype(dtype), probabilities, reduction, options=options)


def planned(call: Call) -> Any:
    arrays = arrays_of(call)
    shapes = {name: array.shape for name, array in arrays.items() if name not in ("input", "target")}
    numbers = {name: number for name, number in call.options.items() if name in NUMBERS}
    loss = PROBABILITIES if call.probabilities else LOGITS
    return plan(loss, call.reduction, ("float64", "float64"), SHAPE, SHAPE, **shapes, **numbers)


def reference(call: Call, changed: dict[str, Any], name: str, incoming: Array) -> Array:
    """The definition's gradient to the operand of that name."""
    arrays = {n: array if n == "mask" else array.astype(np.longdouble) for n, array in arrays_of(call).items()}
    arrays |= changed
    if "sample_weight" in arrays:
        arrays["sample_weight"] = arrays["sample_weight"].reshape(-1, 1)
    plan, operands = planned(call), Operands(**arrays)
    with np.errstate(all="ignore"):
        values = definition.prepare(WIDE, plan, operands)
        found = definition.gradient(WIDE, plan, operands, values, name, "longdouble", incoming)
    return found.reshape(-1) if name == "sample_weight" else found


def names_of(call: Call) -> tuple[str, ...]:
    return tuple(name for name in arrays_of(call) if name != "mask")


def incoming_for(call: Call) -> Array:
    rng = np.random.default_rng(5)
    return np.asarray(rng.uniform(0.5, 2, SHAPE if call.reduction == "none" else ()), call.input.dtype)


def assert_near(found: Array, exact: Array, name: str) -> None:
    """Relative to the largest, since the terms that an element adds may cancel."""
    bound = 1e-9 if found.dtype == np.float64 else 1e-5
    np.testing.assert_allclose(found, exact.astype(np.float64), rtol=bound, atol=bound * abs(exact).max(), err_msg=name)


@pytest.mark.parametrize("face", parameters(DIFFERENTIABLE))
@pytest.mark.parametrize("probabilities", [False, True], ids=["logits", "probabilities"])
class TestDerivatives:
    @pytest.mark.parametrize(("given", "reduction"), given_options(2))
    def test_to_every_operand(self, face: Face, probabilities: bool, reduction: str, given: tuple[str, ...]) -> None:
        call = call_of(face, probabilities, reduction, given)
        incoming = incoming_for(call)
        found = DERIVE[face.name](call, Wanted(names_of(call), incoming))
        for name, gradient in found.items():
            assert_near(gradient, reference(call, {}, name, incoming), name)

    @pytest.mark.parametrize(("given", "reduction"), given_options(1))
    def test_of_second_order(self, face: Face, probabilities: bool, reduction: str, given: tuple[str, ...]) -> None:
        call = call_of(face, probabilities, reduction, given)
        incoming = incoming_for(call)
        along = np.random.default_rng(7).normal(0, 1, SHAPE).astype(call.input.dtype)
        found = DERIVE[face.name](call, Wanted(names_of(call), incoming, along))
        step = np.longdouble(1e-6)
        for name, gradient in found.items():
            exact = np.zeros(gradient.shape, np.longdouble)
            at = arrays_of(call)[name].astype(np.longdouble)
            for place in np.ndindex(at.shape):
                if at[place] == -100 or not np.isfinite(at[place]):
                    continue  # a target that is not -100 would not be ignored; nothing else there has a slope
                slopes = []
                for sign in (1, -1):
                    moved = at.copy()
                    moved[place] += sign * step
                    slopes.append((reference(call, {name: moved}, "input", incoming) * along).sum())
                exact[place] = (slopes[0] - slopes[1]) / (2 * step)
            assert_near(gradient, exact, name)
