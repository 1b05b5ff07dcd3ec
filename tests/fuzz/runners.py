"""Makes a case's call in a face, and says what is wrong with the answer.

The NumPy face is held to the definition. Every other face is held to the NumPy face: no bit may differ.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tests.conformance.faces import FACES, Call, function_of
from tests.fuzz import judge
from tests.fuzz.cases import Case, place_for
from tests.reference import bits

TEXTBOOK_EVERY = 16  # cases: mpmath takes longer than all the rest
ANY_TARGET = ("paddle", "mindspore")  # which accept a target outside [0, 1] for probabilities, as their frameworks do
Runner = Callable[[Case], str]  # returns what became of the case, which is counted; AssertionError where it is wrong


def with_numpy(case: Case) -> str:
    import binxent.numpy as face

    call = Call(case.input, case.target, case.probabilities, case.reduction, options=case.options)
    place = place_for(case)
    refused = judge.is_outside(case)
    unwritable = place is not None and judge.may_not_be_out(case, place)
    before = None if place is None else place.tobytes()
    settings = {"reduction": case.reduction, **case.options}
    input = np.array(case.input)  # in place, the case's own is written
    loss = _refused_or(refused, lambda: function_of(face, call)(case.input, case.target, **settings))
    both = _refused_or(
        refused or unwritable,
        lambda: face.value_and_grad(case.input, case.target, probabilities=case.probabilities, out=place, **settings),
    )
    if both is None:
        assert place is None or place.tobytes() == before, "a refused call has written"
        return "refused"
    value, gradient = both
    np.testing.assert_array_equal(bits(np.asarray(value)), bits(np.asarray(loss)), "the loss with and without gradient")
    assert place is None or gradient is place
    case = replace(case, input=input)
    judge.check(case, np.asarray(value), gradient)
    if case.number % TEXTBOOK_EVERY == 0:
        judge.check_definition(case)
    return "computed"


def _refused_or(refused: bool, call: Callable[[], Any]) -> Any:
    """What the call returns; None where it is refused, as it has to be."""
    try:
        result = call()
    except (TypeError, ValueError) as error:
        if refused:
            return None
        raise AssertionError(f"refused: {type(error).__name__}: {error}") from error
    assert not refused, "computed, where it should have been refused"
    return result


def _native(value: Any) -> Any:
    """What a tensor can be made of, or a number: NumPy's own numbers and byte orders are not for a framework."""
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray) or value.dtype.isnative:
        return value
    return value.astype(value.dtype.newbyteorder("="))


def with_framework(name: str) -> Runner:
    import binxent.numpy as numpy_face

    (face,) = (face for face in FACES if face.name == name)
    any_target = name in ANY_TARGET

    def run(case: Case) -> str:
        given = case.input, case.target, *case.options.values()
        dtypes = [array.dtype.name for array in given if isinstance(array, np.ndarray)]
        if any("float" in dtype and dtype not in face.dtypes for dtype in dtypes):
            return "not in this face"
        options = {name: _native(option) for name, option in case.options.items()}
        call = Call(
            _native(case.input), _native(case.target), case.probabilities, case.reduction, case.incoming, options
        )
        refused = judge.is_outside(case, any_target=any_target)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of an unaligned array
                loss, gradient = face.evaluate(call)
        except Exception as error:
            if refused and "between 0 and 1" in str(error):
                return "refused"
            raise AssertionError(f"refused: {type(error).__name__}: {error}") from error
        assert not refused, "computed, where it should have been refused"
        judge.check(case, loss, gradient, case.incoming)
        if judge.is_outside(case):
            return "computed"  # which the NumPy face refuses
        value, slope = numpy_face.value_and_grad(
            call.input, call.target, reduction=case.reduction, probabilities=case.probabilities, **options
        )
        np.testing.assert_array_equal(bits(loss), bits(np.asarray(value)), "the loss of the NumPy face")
        if case.incoming == 1:
            np.testing.assert_array_equal(bits(gradient), bits(slope), "the gradient of the NumPy face")
        return "computed"

    return run


def runner(name: str) -> Runner:
    return with_numpy if name == "numpy" else with_framework(name)
