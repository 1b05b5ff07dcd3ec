"""The checks that every face shares, and the words in which they refuse."""

from __future__ import annotations

import contextlib
import decimal
import fractions
import math
import warnings
from typing import Any

import numpy as np
import pytest

from binxent import call, options


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_reductions(reduction: str) -> None:
    assert options.check_reduction(reduction) == reduction


@pytest.mark.parametrize(
    "reduction",
    ["average", "Mean", "", "none ", None, 1, True, ["mean"], ("mean",), b"mean", np.array(["mean", "sum"])],
)
def test_an_unknown_reduction_is_refused(reduction: Any) -> None:
    with pytest.raises(ValueError, match="is not a valid value for reduction; expected one of") as caught:
        options.check_reduction(reduction)
    message = str(caught.value)
    assert message.startswith("reduction: ")
    assert repr(reduction) in message
    assert f"expected one of {(*options.REDUCTIONS, *options.BY_AXIS)}" in message


@pytest.mark.parametrize(
    ("size_average", "reduce", "meant"),
    [
        (True, None, "mean"),
        (False, None, "sum"),
        (None, True, "mean"),
        (True, True, "mean"),
        (False, True, "sum"),
        (None, False, "none"),
        (True, False, "none"),
        (False, False, "none"),
        (0, None, "sum"),
        (None, 0, "none"),
        (np.False_, None, "sum"),
        (1, np.False_, "none"),
    ],
)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "anything"])
def test_the_deprecated_pair_overrides_the_reduction(
    size_average: Any, reduce: Any, meant: str, reduction: str
) -> None:
    message = f"size_average and reduce args will be deprecated, please use reduction='{meant}' instead."
    with pytest.warns(UserWarning, match="deprecated") as caught:
        assert options.legacy_reduction(size_average, reduce, reduction) == meant
    assert [str(w.message) for w in caught] == [message]


def test_without_the_deprecated_pair_nothing_is_said() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert options.legacy_reduction(None, None, "whatever it is") == "whatever it is"


NUMBERS = ("ignore_index", "label_smoothing", "gamma")
ORDINARY = {"ignore_index": None, "label_smoothing": 0.0, "gamma": 0.0}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value",
    [1, 1.0, np.float32(1), np.array(1), np.array([1.0]), np.array([[1]]), fractions.Fraction(1), decimal.Decimal(1)],
    ids=repr,
)
def test_numbers(name: str, value: Any) -> None:
    terms = options.terms(**ORDINARY | {name: value}, target_dtype="float32")
    assert terms is not None
    assert (getattr(terms, name), type(getattr(terms, name))) == (1, float)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    ("value", "what"),
    [
        (np.array([0.1, 0.2]), "ndarray of shape (2,)"),
        (np.zeros((2, 3)), "ndarray of shape (2, 3)"),
        (np.zeros((1, 0)), "ndarray of shape (1, 0)"),
        (np.array(["a"]), "str"),
        ([1, 2], "list"),
        ("1", "str"),
        (True, "bool"),
        (np.array([True]), "bool"),
        (np.array(True), "bool"),
        (np.True_, "bool"),
        (np.False_, "bool"),
        (1j, "complex"),
        (np.complex64(1), "complex"),
        (np.str_("1"), "str"),
    ],
    ids=str,
)
def test_what_is_no_number(name: str, value: Any, what: str) -> None:
    with pytest.raises(TypeError) as caught:
        options.terms(**ORDINARY | {name: value}, target_dtype="float32")
    assert str(caught.value) == f"{name}: expected a number, got {what}"


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), 10**5000, fractions.Fraction(10**400), np.array(10**400, object)],
    ids=["400", "-400", "5000", "fraction", "array"],
)
def test_numbers_that_no_float_holds(name: str, value: Any) -> None:
    """Python prints no integer of 5000 digits."""
    with pytest.raises(ValueError, match=f"^{name}: expected a number that fits into a float, got a larger "):
        options.terms(**ORDINARY | {name: value}, target_dtype="float32")


def test_nothing_out_of_the_ordinary() -> None:
    for zero in (0.0, 0, np.float32(0), np.zeros(1)):
        assert options.terms(None, zero, 0.0, "float32") is options.terms(None, 0.0, zero, "float32") is None


@pytest.mark.parametrize(
    ("dtype", "most"),
    [
        ("bfloat16", 2**8),
        ("float16", 2**11),
        ("float32", 2**24),
        ("float64", 2**24),
        ("int16", 2**24),
        ("int32", 2**24 - 1),  # 2²⁴ is also what a label of 2²⁴ + 1 becomes in float32
        ("int64", 2**24 - 1),
    ],
)
def test_ignore_index_is_one_label_alone(dtype: str, most: int) -> None:
    for ignored in (most, -most, -100, float("nan")):
        assert options.terms(ignored, 0.0, 0.0, dtype) is not None
    for ignored in (most + 1, -most - 1, 0.5, float("inf")):
        with pytest.raises(ValueError, match=f"{dtype}, the target's dtype, has exactly, between -{most} and {most}, "):
            options.terms(ignored, 0.0, 0.0, dtype)


def test_what_selects() -> None:
    assert not call.selects(None, None)
    assert not call.selects(None, options.Terms(label_smoothing=0.1, gamma=2))
    assert call.selects(None, options.Terms(ignore_index=0))
    assert call.selects(np.zeros(3), None)  # an array, whose truth value NumPy does not tell


@pytest.mark.parametrize("shape", [(), (1,), (4, 5), (0,), (2, 0), (2**40, 2**20)])
def test_divisor(shape: tuple[int, ...]) -> None:
    assert call.divisor("mean", shape) == math.prod(shape)
    assert call.divisor("sum", shape) == call.divisor("none", shape) == 1


class Symbol(int):
    """A size that a compiler has not fixed."""

    def __float__(self) -> float:
        raise AssertionError("fixed")

    def __mul__(self, other: int) -> Symbol:
        return Symbol(int(self) * int(other))

    __rmul__ = __mul__


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "batchmean"])
def test_a_divisor_may_be_a_symbol(reduction: str) -> None:
    """It is named, and whoever divides asks the array."""
    wanted = call.ROWS if reduction == "batchmean" else call.SIZE
    assert call.divisor(reduction, (Symbol(4), Symbol(5))) == wanted


BROADCASTS = [
    ((), ()),
    ((), (3,)),
    ((1,), (3,)),
    ((3,), (2, 3)),
    ((1, 3), (2, 3)),
    ((2, 1), (2, 3)),
    ((2, 3), (2, 3)),
    ((0,), (2, 0)),
    ((1,), (0,)),
    ((5, 1, 1), (4, 5, 2, 3)),
]
REFUSED = [
    ((2,), (2, 3)),
    ((4,), (2, 3)),
    ((3,), (2, 3, 4, 5)),
    ((1, 2, 3), (2, 3)),
    ((5, 2, 3), (2, 3)),
    ((2, 3), (3,)),
    ((1,), ()),
    ((3,), (1,)),
    ((2, 3), (1, 3)),
    ((0,), (3,)),
    ((3,), (2, 0)),
]


@pytest.mark.parametrize(("shape", "to"), BROADCASTS)
def test_what_broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> None:
    options.check_broadcast("weight", shape, to)
    options.check_broadcast("weight", list(shape), list(to))
    assert np.broadcast_shapes(shape, to) == to  # NumPy agrees


@pytest.mark.parametrize(("shape", "to"), REFUSED)
def test_what_does_not_broadcast(shape: tuple[int, ...], to: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="does not broadcast to the input's shape") as caught:
        options.check_broadcast("pos_weight", shape, to)
    message = str(caught.value)
    assert message.startswith(f"pos_weight: shape {shape} does not broadcast to the input's shape {to}.")
    with contextlib.suppress(ValueError):
        assert np.broadcast_shapes(shape, to) != to


@pytest.mark.parametrize(
    ("name", "advice"),
    [("weight", "pass sample_weight= or reshape it to"), ("pos_weight", "reshape it to"), ("mask", "reshape it to")],
)
@pytest.mark.parametrize(
    ("to", "column"), [((2, 3), "(2, 1)"), ((2, 3, 4, 5), "(2, 1, 1, 1)"), ((2, 3, 2, 5), "(2, 1, 1, 1)")]
)
def test_one_per_sample_is_told_how_to_be_that(to: tuple[int, ...], column: str, name: str, advice: str) -> None:
    with pytest.raises(ValueError, match="does not broadcast") as caught:
        options.check_broadcast(name, (2,), to)
    assert str(caught.value).endswith(f"{to}. For one {name} per sample, {advice} {column}.")
    with pytest.raises(ValueError, match="does not broadcast") as caught:
        options.check_broadcast(name, (7,), to)
    assert str(caught.value).endswith(f"{to}.")


@pytest.mark.parametrize("to", [(3,), (3, 1), (3, 4), (3, 4, 5), (0,), (0, 4)])
def test_sample_weight_lies_along_the_first_axis(to: tuple[int, ...]) -> None:
    options.check_sample_weight(to[:1], to)


@pytest.mark.parametrize(
    ("shape", "to"), [((4,), (3, 4)), ((1,), (3, 4)), ((), (3,)), ((3, 1), (3, 4)), ((3, 4), (3, 4)), ((2,), (0,))]
)
def test_another_sample_weight_is_refused(shape: tuple[int, ...], to: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="sample_weight: shape") as caught:
        options.check_sample_weight(shape, to)
    message = str(caught.value)
    assert f"shape {shape}, but the input's shape is {to}" in message
    assert f"expected ({to[0]},), one weight for each entry of the first axis" in message


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_scalar_input_has_no_samples(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"sample_weight: .* the input's shape is \(\); expected an input with a first axis"
    ):
        options.check_sample_weight(shape, ())


@pytest.mark.parametrize(("index", "element"), [((), ""), ((3,), "[3]"), ((1, 2), "[1, 2]")])
def test_what_is_no_probability_is_named(index: tuple[int, ...], element: str) -> None:
    message = "all elements of {0} should be between 0 and 1, but {0}{1} is 1.1"
    logits = "; logits belong to binary_cross_entropy_with_logits"
    value = np.float32(1.1)  # as it prints, which is not as it is formatted
    assert options.no_probability("input", index, value) == message.format("input", element) + logits
    nan = message.format("input", element).replace("1.1", "nan")
    assert options.no_probability("input", index, np.float32(np.nan)) == nan
    assert options.no_probability("target", index, value) == message.format("target", element)
