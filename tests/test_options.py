"""The checks that every face shares, and the words in which they refuse."""

from __future__ import annotations

import contextlib
import math
import warnings
from typing import Any

import numpy as np
import pytest

from binxent import options


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
    assert f"expected one of {options.REDUCTIONS}" in message


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


def test_what_selects() -> None:
    assert not options.selects(None, None)
    assert not options.selects(None, options.Terms(label_smoothing=0.1, gamma=2))
    assert options.selects(None, options.Terms(ignore_index=0))
    assert options.selects(np.zeros(3), None)  # an array, whose truth value NumPy does not tell


@pytest.mark.parametrize("shape", [(), (1,), (4, 5), (0,), (2, 0), (2**40, 2**20)])
def test_divisor(shape: tuple[int, ...]) -> None:
    assert options.divisor("mean", shape) == math.prod(shape)
    assert options.divisor("sum", shape) == options.divisor("none", shape) == 1


class Symbol(int):
    """A size that a compiler has not fixed."""

    def __float__(self) -> float:
        raise AssertionError("fixed")

    def __mul__(self, other: int) -> Symbol:
        return Symbol(int(self) * int(other))

    __rmul__ = __mul__


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "batchmean"])
def test_a_divisor_may_be_a_symbol(reduction: str) -> None:
    assert isinstance(options.divisor(reduction, (Symbol(4), Symbol(5))), Symbol)


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


@pytest.mark.parametrize(("to", "column"), [((2, 3), "(2, 1)"), ((2, 3, 4, 5), "(2, 1, 1, 1)")])
def test_a_weight_per_sample_is_told_how_to_be_one(to: tuple[int, ...], column: str) -> None:
    with pytest.raises(ValueError, match="does not broadcast") as caught:
        options.check_broadcast("weight", (2,), to)
    assert f"For one weight per sample, pass sample_weight= or reshape it to {column}." in str(caught.value)
    with pytest.raises(ValueError, match="does not broadcast") as caught:
        options.check_broadcast("weight", (7,), to)
    assert "sample_weight" not in str(caught.value)


@pytest.mark.parametrize("to", [(3,), (3, 1), (3, 4), (3, 4, 5), (0,), (0, 4)])
def test_sample_weight_lies_along_the_first_axis(to: tuple[int, ...]) -> None:
    assert options.check_sample_weight(to[:1], to) == to[:1] + (1,) * (len(to) - 1)


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
    assert options.no_probability("input", index, value, hint=False) == message.format("input", element)
    assert options.no_probability("target", index, value) == message.format("target", element)
