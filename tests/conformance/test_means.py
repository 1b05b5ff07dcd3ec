"""Means over more than one batch: ``normalizer=`` and ``count``, in every face.

``tests/faces/test_<framework>_means.py`` has what only that framework has: graphs, transforms, devices.
"""

from __future__ import annotations

import functools
import itertools
import operator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binxent import IndexTargets, kernel
from tests.conformance.derivatives import DERIVE, DIFFERENTIABLE, Wanted
from tests.conformance.differences import LIBRARIES, LOGITS, PROBABILITIES, Library
from tests.conformance.faces import FACES, Call, Face, parameters
from tests.conformance.test_conformance import operands
from tests.conformance.test_derivatives import assert_near, call_of, incoming_for, names_of
from tests.linear_heads import Csr
from tests.reference import Array, assert_close, bits, error, expected, tolerance

MEANS = ("mean", "batchmean", "weighted_mean")
ROWS = ("weight", "sample_weight", "mask")  # what a micro-batch has its own part of; those that count
LIBRARY = {library.name: library for library in LIBRARIES}

faces = pytest.mark.parametrize("face", parameters(FACES))
libraries = pytest.mark.parametrize(
    "library", [lib for lib in LIBRARIES if lib.missing is None], ids=lambda lib: lib.name
)
kinds = pytest.mark.parametrize("probabilities", [False, True], ids=["logits", "probabilities"])
reductions = pytest.mark.parametrize("reduction", MEANS)


def mode(library: Library, dtype: str) -> AbstractContextManager[Any]:
    """JAX without float64, unless the operands have it."""
    return library.mode if dtype == "float64" else nullcontext()


def count(library: Library, target: Array, reduction: str, options: dict[str, Any]) -> Any:
    """The face's count, as the face gives it."""
    counting = {name: value for name, value in options.items() if name in (*ROWS, "ignore_index")}
    tensors = {
        name: library.tensor(value, value.dtype.name) if isinstance(value, np.ndarray) else value
        for name, value in counting.items()
    }
    return library.face.count(library.tensor(target, target.dtype.name), reduction=reduction, **tensors)


def part(options: dict[str, Any], begin: int, end: int) -> dict[str, Any]:
    """The options of these rows of the batch."""
    along_rows = ("sample_weight", "mask")
    return {name: value[begin:end] if name in along_rows else value for name, value in options.items()}


def padded(dense: Array) -> Array:
    """The indices of the positives, in as many places as the largest row needs."""
    indices = np.full((len(dense), max(1, *map(int, (dense != 0).sum(1)))), -1)
    for row, elements in enumerate(dense):
        labels = np.flatnonzero(elements)
        indices[row, : len(labels)] = labels
    return indices


@libraries
@pytest.mark.parametrize("reduction", MEANS)
@pytest.mark.parametrize("names", [(), ("mask",), ("weight",), ("sample_weight", "mask"), ROWS])
def test_sparse_targets_are_counted_as_dense_ones(library: Library, reduction: str, names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(3)
    values = np.where(rng.random((7, 600)) < 0.02, rng.choice(np.float32([1, 0.5]), (7, 600)), 0).astype(np.float32)
    options: dict[str, Any] = {
        "mask": rng.random((7, 600)) < 0.7,
        "weight": rng.random(600).astype(np.float32),
        "sample_weight": rng.random(7).astype(np.float32),
    }
    options = {name: options[name] for name in names}
    tensors = {name: library.tensor(value, value.dtype.name) for name, value in options.items()}
    for ignored in ({}, {"ignore_index": 0}, {"ignore_index": 1}):
        wanted = count(library, values, reduction, options | ignored)
        found = library.face.count(Csr(values), reduction=reduction, **tensors, **ignored)
        assert str(found.dtype) == str(wanted.dtype)
        assert float(found) == pytest.approx(float(wanted), rel=1e-6 if reduction == "weighted_mean" else 0)
    targets = IndexTargets(padded(values), padding=-1, num_labels=600)
    found = library.face.count(targets, reduction=reduction, **tensors)
    assert float(found) == pytest.approx(float(count(library, values, reduction, options)), rel=1e-6)
    assert library.face.BCEWithLogitsLoss(reduction=reduction).count(targets) == (
        7 if reduction == "batchmean" else 4200
    )


@libraries
def test_a_sparse_target_that_does_not_tell_its_shape_is_not_counted(library: Library) -> None:
    for targets, words in (
        (IndexTargets([[1]]), "without num_labels"),
        (IndexTargets([1, 2], offsets=[0, 1], num_labels=3), "with offsets"),
    ):
        with pytest.raises(ValueError, match=f"target: IndexTargets {words} do not tell .* the logits"):
            library.face.count(targets)


# Micro-batches


@faces
@reductions
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=10)
@given(data=st.data())
def test_micro_batches_add_up_to_the_whole(face: Face, reduction: str, dtype: str, data: st.DataObject) -> None:
    """Of any sizes, 0 too, each with its part of the masks and weights."""
    if dtype not in face.dtypes:
        pytest.skip(f"{face.name} has no {dtype} on CPU")
    rows = data.draw(st.integers(1, 12))
    given = tuple(name for name in (*ROWS, "pos_weight", "ignore_index") if data.draw(st.booleans()))
    probabilities, seed = data.draw(st.booleans()), data.draw(st.integers(0, 2**32))
    whole = operands((rows, 3), dtype, dtype, probabilities=probabilities, given=given, seed=seed)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=4)))
    spans = list(itertools.pairwise((0, *cuts, rows)))
    library = LIBRARY[face.name]
    with mode(library, dtype):
        counted = (
            count(library, whole["target"][begin:end], reduction, part(whole["options"], begin, end))
            for begin, end in spans
        )
        normalizer = functools.reduce(operator.add, counted)
    losses, gradients = [], []
    for begin, end in spans:
        options = part(whole["options"], begin, end) | {"normalizer": normalizer}
        input, target = whole["input"][begin:end], whole["target"][begin:end]
        loss, gradient = face.evaluate(Call(input, target, probabilities, reduction, options=options))
        losses.append(loss)
        gradients.append(gradient)
    wanted_loss, wanted_gradient = face.evaluate(Call(**whole, reduction=reduction))
    total = np.sum(losses, dtype=np.longdouble)
    # A sum of weights is rounded at each addition. Where it has no more digits than the loss, in float64 and in JAX
    # without it, half an ulp of the divisor may be a whole one of the quotient.
    few_digits = dtype == "float64" or face.name == "jax"
    rounded = len(spans) + 1 if few_digits and reduction == "weighted_mean" else 0
    # A sum of float32 is made in float64 and rounded once. One of float64 is rounded at each of the six steps of its
    # tree, which is another tree in the parts.
    assert error(wanted_loss, total, np.abs(total), dtype) <= (2 if dtype == "float32" else 8) + rounded
    gradient = np.concatenate(gradients)
    if reduction != "weighted_mean":
        np.testing.assert_array_equal(bits(gradient), bits(wanted_gradient))
        return
    # Weights are added in another order.
    exact = expected(whole["input"], whole["target"], probabilities=probabilities, **whole["options"])
    larger = exact.larger_gradient / (exact.divisor(reduction) or 1)
    assert error(gradient, wanted_gradient, larger, dtype).max() <= 2 + rounded


def test_a_mean_of_means_is_another_number() -> None:
    """What goes wrong without a normalizer, so that the test above can fail."""
    face = LIBRARY["numpy"].face
    x, y = np.array([4.0, 0.0, 0.0]), np.zeros(3)
    means = [face.binary_cross_entropy_with_logits(x[part], y[part]) for part in (slice(1), slice(1, 3))]
    assert np.mean(means) > 1.2 * face.binary_cross_entropy_with_logits(x, y)


# The count


@libraries
@reductions
@pytest.mark.parametrize(
    "given", [(), ("mask",), ("ignore_index",), ("weight", "sample_weight"), (*ROWS, "ignore_index")], ids="+".join
)
def test_count_is_what_the_mean_divides_by(library: Library, reduction: str, given: tuple[str, ...]) -> None:
    for shape in ((6, 5), (300, 40), (0, 3)):
        call = operands(shape, "float32", "float32", probabilities=False, given=given)
        exact = expected(call["input"], call["target"], **call["options"])
        for dtype in ("float32", "float64"):
            with mode(library, dtype):
                found = count(library, call["target"], reduction, call["options"])
                by_class = library.face.BCEWithLogitsLoss(
                    reduction=reduction,
                    **{
                        name: library.tensor(value) if name == "weight" else value
                        for name, value in call["options"].items()
                        if name in ("weight", "ignore_index")
                    },
                ).count(
                    library.tensor(call["target"]),
                    **{
                        name: library.tensor(value, value.dtype.name)
                        for name, value in call["options"].items()
                        if name in ("sample_weight", "mask")
                    },
                )
            assert tuple(found.shape) == ()
            assert found.item() == by_class.item()
            wanted = exact.divisor(reduction)
            if found.item() != wanted:  # a sum of weights, in another order; JAX without float64 rounds it once
                assert reduction == "weighted_mean"
                bound = 2**-24 if library.name == "jax" and dtype == "float32" else 1e-14
                assert found.item() == pytest.approx(wanted, rel=bound)


# What is computed


def normalizers(library: Library) -> list[Any]:
    """Numbers and tensors; JAX without float64 has no integer of 2³¹."""
    one = [library.tensor(7, "int32"), library.tensor([0.3], "float32"), library.tensor([[5]], "int32")]
    return [7, 0.1, 2**24 + 1, 3_000_000_001, 1e-30, *one]


@faces
@kinds
@reductions
def test_the_bits_are_numpys(face: Face, probabilities: bool, reduction: str) -> None:
    library = LIBRARY[face.name]
    for names in ((), ("weight", "pos_weight", "sample_weight", "mask")):
        call = operands((33, 7), "float32", "float32", probabilities=probabilities, given=names)
        for normalizer in normalizers(library):
            number = normalizer if isinstance(normalizer, (int, float)) else normalizer.item()
            wanted = FACES[0].evaluate(
                Call(**call | {"options": call["options"] | {"normalizer": number}}, reduction=reduction)
            )
            runs = kernel.runs()
            found = face.evaluate(
                Call(**call | {"options": call["options"] | {"normalizer": normalizer}}, reduction=reduction)
            )
            assert kernel.runs() > runs, "the kernel did not run"
            for ours, numpys in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(bits(ours), bits(numpys))


@faces
@kinds
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_it_is_the_sum_divided(face: Face, probabilities: bool, dtype: str) -> None:
    if dtype not in face.dtypes:
        pytest.skip(f"{face.name} has no {dtype} on CPU")
    call = operands((40, 30), dtype, dtype, probabilities=probabilities, given=("pos_weight", "mask"))
    exact = expected(call["input"], call["target"], probabilities=probabilities, wide=np.longdouble, **call["options"])
    allowed = tolerance(kernel.instruction_set, weights=1, scaled=True)
    for normalizer in (7, 1000.5):
        share = 1 / np.longdouble(normalizer)
        options = call["options"] | {"normalizer": normalizer}
        loss, gradient = face.evaluate(Call(**call | {"options": options}))
        computed_in = "float64" if dtype == "float64" else "float32"
        slope, larger = exact.gradient * share, exact.larger_gradient * share
        if probabilities and dtype == "float16":  # it saturates
            slope, larger = np.clip(slope, -65504, 65504), np.minimum(larger, 65504)
        assert_close(gradient, slope, larger, dtype, allowed=allowed, computed_in=computed_in)
        total = exact.loss.sum() * share
        assert_close(loss, total, exact.larger_loss.sum() * share, dtype, allowed=allowed, computed_in=computed_in)


@faces
@kinds
@reductions
def test_0_gives_0(face: Face, probabilities: bool, reduction: str) -> None:
    call = operands((5, 3), "float32", "float32", probabilities=probabilities, given=("weight", "mask"))
    library = LIBRARY[face.name]
    for nothing in (0, 0.0, library.tensor(0, "int32"), library.tensor([0], "float32")):
        for rows in (5, 0):
            options = part(call["options"], 0, rows) | {"normalizer": nothing}
            input, target = call["input"][:rows], call["target"][:rows]
            loss, gradient = face.evaluate(Call(input, target, probabilities, reduction, options=options))
            assert loss == 0
            assert not gradient.any()


# Derivatives


@pytest.mark.parametrize("face", parameters(DIFFERENTIABLE))
@kinds
@reductions
@pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("as_array", [False, True], ids=["number", "array"])
def test_derivatives_are_those_of_the_sum_divided(
    face: Face, probabilities: bool, reduction: str, second: bool, as_array: bool
) -> None:
    """To every operand: a weight changes no divisor that is given. To an array that normalizes there is none."""
    given = ("weight", "pos_weight", "sample_weight", "mask", "ignore_index", "gamma")
    whole = call_of(face, probabilities, "sum", given)
    names, incoming = names_of(whole), incoming_for(whole)
    along = np.random.default_rng(7).normal(0, 1, whole.input.shape).astype(whole.input.dtype) if second else None
    wanted = DERIVE[face.name](whole, Wanted(names, incoming, along))
    normalizer = np.array(6.5, whole.input.dtype) if as_array else 6.5
    options = whole.options | {"normalizer": normalizer}
    call = Call(whole.input, whole.target, probabilities, reduction, options=options)
    found = DERIVE[face.name](call, Wanted((*names, *["normalizer"] * as_array), incoming, along))
    for name in names:
        assert_near(found[name], wanted[name] / 6.5, name)
    if as_array:
        assert not found["normalizer"].any()


# Refusals

NOT_NEGATIVE = "; expected a finite number that is not negative"
REFUSED: list[tuple[Any, str, type[Exception], str]] = [
    *((value, "mean", ValueError, f"^normalizer: {value}{NOT_NEGATIVE}") for value in (-1, -0.5)),
    (float("nan"), "mean", ValueError, f"^normalizer: nan{NOT_NEGATIVE}"),
    (float("inf"), "batchmean", ValueError, f"^normalizer: inf{NOT_NEGATIVE}"),
    (10**400, "mean", ValueError, "^normalizer: expected a number that fits into a float, got a larger int"),
    *(
        (7, name, ValueError, f"^normalizer: reduction='{name}' divides by nothing; expected one of .*weighted_mean")
        for name in ("none", "sum")
    ),
    (True, "mean", TypeError, "^normalizer: expected a number, got bool"),
    ("7", "mean", TypeError, "^normalizer: expected a number, got str"),
    ((7.0,), "mean", TypeError, "^normalizer: expected a number, got tuple"),
    ([1.0, 2.0], "mean", ValueError, r"normalizer: shape \(2,\); expected a number, or an array of one element"),
    ([7.0], "sum", ValueError, "normalizer: reduction='sum' divides by nothing"),
]


@libraries
@pytest.mark.parametrize(("normalizer", "reduction", "problem", "words"), REFUSED, ids=lambda value: str(value)[:12])
def test_refused(library: Library, normalizer: Any, reduction: str, problem: type[Exception], words: str) -> None:
    x, y = library.tensor([0.5, 0.25]), library.tensor([1.0, 0.0])
    given = library.tensor(normalizer) if isinstance(normalizer, list) else normalizer
    for function in (LOGITS, PROBABILITIES):
        with pytest.raises(problem, match=words):
            getattr(library.face, function)(x, y, reduction=reduction, normalizer=given)
    for kind in (library.face.BCELoss, library.face.BCEWithLogitsLoss):
        with pytest.raises(problem, match=words):
            kind(reduction=reduction)(x, y, normalizer=given)


@libraries
def test_count_refuses(library: Library) -> None:
    face, y = library.face, library.tensor(np.ones((2, 3)))
    for reduction in ("none", "sum"):
        for refused in (
            lambda reduction: face.count(y, reduction=reduction),
            lambda reduction: face.BCELoss(reduction=reduction).count(y),
        ):
            with pytest.raises(ValueError, match=f"reduction: '{reduction}' divides by nothing; expected one of"):
                refused(reduction)
    with pytest.raises(ValueError, match=r"sample_weight: shape \(3,\)"):
        face.count(y, reduction="weighted_mean", sample_weight=library.tensor([1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="reduction: 'batchmean' of an input without a first axis"):
        face.count(library.tensor(1.0), reduction="batchmean")
    with pytest.raises((TypeError, ValueError), match=r"target|label"):
        face.count([1, 0])
