"""Every face × dtype × option × reduction, against the formula in a wider type and against the kernel's bits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binxent import kernel, options
from binxent.call import divisor as divided_by
from tests import kernel_calls
from tests.conformance.faces import FACES, FLOATING, Call, Face, Outcome, parameters
from tests.reference import (
    DTYPES,
    INTEGER_TARGETS,
    Array,
    assert_close,
    assert_reduced_close,
    bits,
    expected,
    tolerance,
)

SHAPES = [(), (1,), (64,), (5, 3), (1, 7), (2, 3, 4), (4097,), (70, 1000)]
REDUCTIONS = ("mean", "sum", "none")
ALL_REDUCTIONS = (*REDUCTIONS, "batchmean", "weighted_mean")
IGNORED = {"bool": 1, "uint8": 255}  # which have no -100
OPTIONS = ("weight", "pos_weight", "sample_weight", "mask", "ignore_index", "label_smoothing", "gamma")


def wider(first: str, second: str) -> str:
    """The result's dtype: an integer target never widens it."""
    if second not in FLOATING or first == second:
        return first
    if {first, second} == {"float16", "bfloat16"}:
        return "float32"
    return max(first, second, key=lambda name: DTYPES[name].itemsize)


def operands(
    shape: tuple[int, ...],
    dtype: str,
    target_dtype: str,
    *,
    probabilities: bool,
    given: tuple[str, ...] = (),
    seed: int = 0,
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    if probabilities:
        input = rng.random(shape)
        input = np.where(rng.random(shape) < 0.1, np.round(input), input)  # 0 and 1 too
    else:
        input = rng.normal(0, 4, shape) * np.where(rng.random(shape) < 0.2, 10, 1)
    target = rng.random(shape) if target_dtype in FLOATING else rng.integers(0, 2, shape)
    target = np.where(rng.random(shape) < 0.5, np.round(target), target)
    values: dict[str, Any] = {
        "weight": rng.uniform(0, 3, shape[-1:]).astype(np.float32),
        "pos_weight": rng.uniform(0, 5, shape[-1:]).astype(np.float32),
        "sample_weight": rng.uniform(0, 2, shape[:1]).astype(np.float32),
        "mask": rng.random(shape) < 0.8,
        "ignore_index": IGNORED.get(target_dtype, -100),
        "label_smoothing": 0.1,
        "gamma": 2.0,
    }
    hidden = np.zeros(shape, bool)
    if "ignore_index" in given:
        hidden = rng.random(shape) < 0.2
        target = np.where(hidden, values["ignore_index"], target)
    if "mask" in given:
        hidden |= ~values["mask"]
    input = np.where(hidden, rng.choice([np.nan, np.inf, -np.inf, 7], shape), input)  # nobody looks there
    return {
        "input": np.asarray(input).astype(DTYPES[dtype]),
        "target": np.asarray(target).astype(DTYPES.get(target_dtype, target_dtype)),
        "probabilities": probabilities,
        "options": {name: values[name] for name in given},
    }


def check_against_definition(face: Face, call: Call) -> None:
    compare_with_definition(call, face.evaluate(call))


def compare_with_definition(call: Call, outcome: Outcome) -> None:
    name, target_name = call.input.dtype.name, call.target.dtype.name
    computed_in = "float64" if "float64" in (name, target_name) else "float32"
    result = wider(name, target_name)
    reference = expected(call.input, call.target, probabilities=call.probabilities, wide=np.longdouble, **call.options)
    loss, gradient = outcome
    products = {"weight", "pos_weight", "sample_weight", "label_smoothing"} & {*call.options}
    allowed = tolerance(kernel.instruction_set, weights=len(products), scaled=True) + reference.amplified
    if call.reduction == "none":
        assert_close(loss, reference.loss, reference.larger_loss, result, allowed=allowed, computed_in=computed_in)
    else:
        assert_reduced_close(loss, reference, call.reduction, result, allowed=allowed, computed_in=computed_in)
    factor = np.longdouble(call.incoming) / (reference.divisor(call.reduction) or 1)
    exact, larger = reference.gradient * factor, reference.larger_gradient * abs(factor)
    if call.probabilities and name == "float16":  # it saturates
        exact, larger = np.clip(exact, -65504, 65504), np.minimum(larger, 65504)
    assert_close(gradient, exact, larger, name, allowed=allowed, computed_in=computed_in)


def check(face: Face, call: Call) -> None:
    """The definition's values, and the bits that the kernel gives for the same call on NumPy's memory."""
    runs = kernel.runs()
    outcome = face.evaluate(call)
    assert kernel.runs() > runs, "the kernel did not run"
    compare_with_definition(call, outcome)
    for found, wanted in zip(outcome, by_kernel(call), strict=True):
        np.testing.assert_array_equal(bits(found), bits(wanted))


def by_kernel(call: Call) -> Outcome:
    shape, given = call.input.shape, call.options
    weights = [given["weight"]] if "weight" in given else []
    if "sample_weight" in given:
        weights.append(given["sample_weight"].reshape(shape[:1] + (1,) * (len(shape) - 1)))
    by_element = call.reduction == "none"
    divisor = divided_by(
        call.reduction, shape, selects=bool({"mask", "ignore_index"} & {*given}), weighted=bool(weights)
    )
    terms = options.Terms(**{name: given[name] for name in options.Terms._fields if name in given})
    same = {"pos_weight": given.get("pos_weight"), "mask": given.get("mask"), "probabilities": call.probabilities}
    result = DTYPES[wider(call.input.dtype.name, call.target.dtype.name)]
    if by_element and call.incoming != 1:  # one gradient comes in for each element: it is a weight of the gradient
        weights.append(np.full(shape, call.incoming, result))
    loss = np.empty(shape if by_element else (), result)
    gradient = np.empty(shape, call.input.dtype)
    kernel_calls.compute(
        call.input,
        call.target,
        *weights,
        terms=terms,
        gradient=gradient,
        divisor=divisor,
        incoming=1.0 if by_element else call.incoming,
        **same,
    )
    kernel_calls.compute(
        call.input,
        call.target,
        *weights[: len(weights) - (by_element and call.incoming != 1)],
        terms=terms,
        loss=loss if by_element else None,
        value=None if by_element else loss,
        divisor=divisor,
        **same,
    )
    return loss, gradient


def given_options(of_pairs: int) -> list[Any]:
    """Each option alone, all together and none, with every reduction; each pair with so many of them, in turn.

    They are parameters for ``given`` and ``reduction``. Pairs with every option meet each reduction.
    """
    alone = [(given, reduction) for given in ((), *((o,) for o in OPTIONS), OPTIONS) for reduction in ALL_REDUCTIONS]
    pairs = [
        (given, ALL_REDUCTIONS[(number + 2 * turn) % len(ALL_REDUCTIONS)])
        for number, given in enumerate(itertools.combinations(OPTIONS, 2))
        for turn in range(of_pairs)
    ]
    return [
        pytest.param(given, reduction, id=f"{'+'.join(given) or 'nothing'}-{reduction}")
        for given, reduction in (*alone, *pairs)
    ]


@pytest.mark.parametrize("face", parameters(FACES))
@pytest.mark.parametrize("probabilities", [False, True], ids=["logits", "probabilities"])
class TestTable:
    """Each axis of the table in full, the others at a few values; hypothesis mixes them below."""

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("dtype", FLOATING)
    def test_shapes(self, face: Face, probabilities: bool, dtype: str, reduction: str) -> None:
        if dtype not in face.dtypes:
            pytest.skip(f"{face.name} has no {dtype} on CPU")
        for shape in SHAPES:
            check(face, Call(**operands(shape, dtype, dtype, probabilities=probabilities), reduction=reduction))

    @pytest.mark.parametrize("target_dtype", [*FLOATING, *INTEGER_TARGETS])
    @pytest.mark.parametrize("dtype", FLOATING)
    def test_targets(self, face: Face, probabilities: bool, dtype: str, target_dtype: str) -> None:
        for name in (dtype, target_dtype):
            if name in FLOATING and name not in face.dtypes:
                pytest.skip(f"{face.name} has no {name} on CPU")
        for reduction in REDUCTIONS:
            check(face, Call(**operands((9, 5), dtype, target_dtype, probabilities=probabilities), reduction=reduction))

    @pytest.mark.parametrize(("given", "reduction"), given_options(2))
    def test_options(self, face: Face, probabilities: bool, reduction: str, given: tuple[str, ...]) -> None:
        for shape in ((6, 5), (40, 300)):
            arguments = operands(shape, "float32", "float32", probabilities=probabilities, given=given)
            check(face, Call(**arguments, reduction=reduction))

    @pytest.mark.parametrize("incoming", [3.0, 0.7, 1024.0, -1.0, 0.0])
    @pytest.mark.parametrize("dtype", FLOATING)
    def test_incoming_gradient(self, face: Face, probabilities: bool, dtype: str, incoming: float) -> None:
        if dtype not in face.dtypes:
            pytest.skip(f"{face.name} has no {dtype} on CPU")
        if not face.takes_incoming:
            pytest.skip(f"{face.name} has no backward")
        # What the framework itself can hold of it: a bfloat16 0.7 is another number.
        exact = float(np.asarray(incoming).astype(DTYPES[dtype]))
        for reduction in REDUCTIONS:
            arguments = operands((33, 4), dtype, dtype, probabilities=probabilities, given=("pos_weight",))
            check(face, Call(**arguments, reduction=reduction, incoming=exact))


@pytest.mark.parametrize("face", parameters(FACES))
@given(data=st.data())
def test_any_mixture(face: Face, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(face.dtypes))
    target_dtype = data.draw(st.sampled_from((*face.dtypes, *INTEGER_TARGETS)))
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    call = Call(
        **operands(
            shape,
            dtype,
            target_dtype,
            probabilities=data.draw(st.booleans()),
            given=tuple(name for name in OPTIONS if data.draw(st.booleans())),
            seed=data.draw(st.integers(0, 2**32)),
        ),
        reduction=data.draw(st.sampled_from(ALL_REDUCTIONS)),
    )
    check(face, call)


@pytest.mark.parametrize("face", parameters(FACES))
@pytest.mark.parametrize("name", ["target", "mask"])
@pytest.mark.parametrize("given", [(), ("ignore_index",), ("gamma",)], ids=["plain", "ignore_index", "gamma"])
def test_any_byte_but_0_is_true(face: Face, given: tuple[str, ...], name: str) -> None:
    """A mask of 0 and 255, seen as booleans."""
    arguments = operands((40, 3), "float32", "bool", probabilities=False, given=(*given, "mask"))
    ones = arguments["target"] if name == "target" else arguments["options"]["mask"] != 0
    of_255 = (ones * np.uint8(255)).view(bool)
    other = {"target": of_255} if name == "target" else {"options": arguments["options"] | {"mask": of_255}}
    for found, wanted in zip(face.evaluate(Call(**arguments | other)), face.evaluate(Call(**arguments)), strict=True):
        np.testing.assert_array_equal(bits(found), bits(wanted))


@pytest.mark.parametrize("face", parameters(FACES))
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_infinite_logits(face: Face, reduction: str) -> None:
    """A coefficient of 0 times an infinite logit is 0."""
    input: Array = np.array([np.inf, -np.inf, np.inf, -np.inf, 1.0], np.float32)
    right: Array = np.array([1, 0, 1, 0, 1], np.float32)
    call = Call(input, right, reduction=reduction)
    assert np.isfinite(face.evaluate(call)[0]).all()
    check_against_definition(face, call)
    wrong = Call(input, 1 - right, reduction=reduction)
    assert np.isposinf(np.asarray(face.evaluate(wrong)[0]).reshape(-1)[:1]).all()
    check_against_definition(face, wrong)
