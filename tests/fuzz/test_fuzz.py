"""The fuzzer itself: it reaches what it is to reach, and lets no wrong result pass. And a few calls of each face."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import binxent.numpy as numpy_face
from tests.conformance.faces import FACES, Face, parameters
from tests.fuzz import cases
from tests.fuzz.__main__ import main
from tests.fuzz.cases import Case, case, place_for
from tests.fuzz.runners import runner
from tests.reference import Array

NO_OPTIONS = {"input", "target", "reduction", "size_average", "reduce"}  # drawn apart; the last two are deprecated
# What the definition in 80 bits alone cannot judge has its own tests, in test_family.py.
ELSEWHERE = {"gamma_positive", "gamma_negative", "margin", "focal", "check_targets"}


def test_every_option_of_the_loss_is_drawn() -> None:
    parameters = inspect.signature(numpy_face.binary_cross_entropy_with_logits).parameters
    assert {option.name for option in cases.OPTIONS} == {*parameters} - NO_OPTIONS - ELSEWHERE, (
        "give the option a row in OPTIONS"
    )


def test_a_case_is_made_of_its_two_numbers() -> None:
    for number in range(30):
        one, same = case(5, number), case(5, number)
        assert str(one) == str(same)
        assert one.input.tobytes() == same.input.tobytes()
        assert one.target.strides == same.target.strides
    assert str(case(5, 0)) != str(case(6, 0))


def arrays(case: Case) -> list[Array]:
    place = place_for(case)
    given = [case.input, case.target, *case.options.values(), place]
    return [array for array in given if isinstance(array, np.ndarray)]


def is_subnormal(array: Array) -> bool:
    return array.dtype in (np.float32, np.float64) and bool(
        ((array != 0) & (np.abs(array) < np.finfo(array.dtype).tiny)).any()
    )


REACHED: dict[str, Callable[[Case, Array], bool]] = {
    **{f"{dims} axes": lambda case, array, dims=dims: array.ndim == dims for dims in range(7)},
    **{name: lambda case, array, name=name: array.dtype.name == name for name in cases.ALL_DTYPES},
    **{name: lambda case, array, name=name: case.reduction == name for name in cases.REDUCTIONS},
    **{o.name: lambda case, array, name=o.name: name in case.options for o in cases.OPTIONS},
    **{out: lambda case, array, out=out: case.out == out for out in ("new", "in place", "apart", "shared")},
    "nothing": lambda case, array: array.size == 0,
    "many": lambda case, array: array.size > 65_536,
    "a negative step": lambda case, array: min(array.strides, default=0) < 0,
    "a step of 0": lambda case, array: any(
        step == 0 and size > 1 for step, size in zip(array.strides, array.shape, strict=True)
    ),
    "a foreign byte order": lambda case, array: not array.dtype.isnative,
    "not aligned": lambda case, array: array.ctypes.data % array.itemsize != 0,
    "NaN": lambda case, array: array.dtype.kind == "f" and bool(np.isnan(array).any()),
    "infinity": lambda case, array: array.dtype.kind == "f" and bool(np.isinf(array).any()),
    "a subnormal number": lambda case, array: is_subnormal(array),
    "a huge number": lambda case, array: array.dtype == np.float64 and bool((np.abs(array) > 1e200).any()),
}


def test_the_cases_reach_what_they_are_to_reach() -> None:
    left = dict(REACHED)
    for number in range(3000):
        made = case(0, number)
        left = {name: holds for name, holds in left.items() if not any(holds(made, array) for array in arrays(made))}
    assert not left, f"never drawn: {sorted(left)}"


def value_and_grad(wrong: Callable[[Any, Array], tuple[Any, Array]]) -> Callable[..., tuple[Any, Array]]:
    right = numpy_face.value_and_grad

    def changed(*operands: Any, **options: Any) -> tuple[Any, Array]:
        return wrong(*right(*operands, **options))

    return changed


def off_by_a_few_ulp(gradient: Array) -> Array:
    changed = np.array(gradient)
    if changed.dtype == np.float32 and changed.size:
        for _ in range(40):
            changed.reshape(-1)[-1] = np.nextafter(changed.reshape(-1)[-1], np.float32(np.inf))
    return changed


@pytest.mark.parametrize(
    "wrong",
    [
        lambda value, gradient: (np.asarray(value) * np.asarray(1.125, np.asarray(value).dtype), gradient),
        lambda value, gradient: (value, off_by_a_few_ulp(gradient)),
        lambda value, gradient: (value, gradient.astype(np.float64)),
        lambda value, gradient: (value, gradient.reshape(-1)),
        lambda value, gradient: (value, np.zeros_like(gradient)),
    ],
    ids=["another loss", "40 ulp", "another dtype", "another shape", "no gradient"],
)
def test_a_wrong_result_is_found(
    wrong: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(numpy_face, "value_and_grad", value_and_grad(wrong))
    assert main(["numpy", "--count", "40"]) == 1
    assert "python -m tests.fuzz numpy --seed 0 --first " in capsys.readouterr().out


def test_a_refusal_without_a_reason_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*operands: Any, **options: Any) -> Any:
        raise ValueError("no")

    monkeypatch.setattr(numpy_face, "value_and_grad", refuses)
    assert main(["numpy", "--count", "10"]) == 1


def test_an_accepted_probability_out_of_range_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = numpy_face.binary_cross_entropy
    bad = next(c for c in (case(0, n) for n in itertools.count()) if runner("numpy")(c) == "refused" and c.out == "new")
    monkeypatch.setattr(numpy_face, "binary_cross_entropy", lambda *a, **o: right(*(np.clip(x, 0, 1) for x in a), **o))
    with pytest.raises(AssertionError, match="should have been refused"):
        runner("numpy")(bad)


@pytest.mark.parametrize("face", parameters(FACES))
def test_a_few_calls(face: Face) -> None:
    assert main([face.name, "--count", "30" if face.name in ("jax", "mindspore") else "150"]) == 0
