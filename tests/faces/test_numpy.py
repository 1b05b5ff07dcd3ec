"""The NumPy face: every parameter against the definition, every array that there is, every refusal in its words."""

from __future__ import annotations

import inspect
import itertools
import pickle
import re
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binxent import kernel
from binxent import numpy as face
from tests.layouts import LAYOUTS
from tests.reference import (
    DTYPES,
    INTEGER_TARGETS,
    Array,
    Expected,
    assert_close,
    assert_reduced_close,
    bits,
    expected,
    rounded,
    tolerance,
)

inf, nan = np.inf, np.nan
REDUCTIONS = ("none", "mean", "sum")
FUNCTIONS = {False: face.binary_cross_entropy_with_logits, True: face.binary_cross_entropy}
CLASSES = {False: face.BCEWithLogitsLoss, True: face.BCELoss}
both_inputs = pytest.mark.parametrize("probabilities", [False, True])


@dataclass
class Call:
    """What a caller passes, and what the definition says of it."""

    x: Array
    y: Array
    weight: Array | None = None
    pos_weight: Array | None = None
    sample_weight: Array | None = None
    reduction: str = "mean"
    probabilities: bool = False

    def loss(self) -> Any:
        return FUNCTIONS[self.probabilities](
            self.x,
            self.y,
            self.weight,
            reduction=self.reduction,
            pos_weight=self.pos_weight,
            sample_weight=self.sample_weight,
        )

    def value_and_grad(self, out: Array | None = None) -> tuple[Any, Array]:
        return face.value_and_grad(
            self.x,
            self.y,
            self.weight,
            self.reduction,
            self.pos_weight,
            sample_weight=self.sample_weight,
            probabilities=self.probabilities,
            out=out,
        )

    def computed_in(self) -> str:
        return "float64" if "float64" in (self.x.dtype.name, self.y.dtype.name) else "float32"

    def result(self) -> str:
        x, y = self.x.dtype.name, self.y.dtype.name
        if y not in DTYPES or x == y:
            return str(x)
        if {x, y} == {"bfloat16", "float16"}:
            return "float32"
        return "float64" if "float64" in (x, y) else "float32"

    def expected(self) -> Expected:
        return expected(
            self.x,
            self.y,
            self.weight,
            self.pos_weight,
            self.sample_weight,
            probabilities=self.probabilities,
            wide=np.longdouble if self.computed_in() == "float64" else np.float64,
        )

    def check(self) -> None:
        reference, y = self.expected(), self.y.astype(np.float64)
        kind: dict[str, Any] = {
            "hard": bool(np.all((y == 0) | (y == 1))),
            "outside": not np.all((y >= 0) & (y <= 1)),
            "weights": sum(w is not None for w in (self.weight, self.pos_weight, self.sample_weight)),
        }
        allowed = tolerance(kernel.instruction_set, **kind)
        value, gradient = self.value_and_grad()
        for loss in (self.loss(), value):
            if self.reduction == "none":
                assert_close(
                    loss,
                    reference.loss,
                    reference.larger_loss,
                    self.result(),
                    allowed=allowed,
                    computed_in=self.computed_in(),
                )
            else:
                assert_reduced_close(
                    loss, reference, self.reduction, self.result(), allowed=allowed, computed_in=self.computed_in()
                )
        divisor = max(1, reference.divisor(self.reduction))
        exact = reference.gradient_of(self.reduction)
        if self.probabilities and self.x.dtype == np.float16:
            exact = np.clip(exact, -65504, 65504)
        assert_close(
            gradient,
            exact,
            reference.larger_gradient / divisor,
            self.x.dtype.name,
            allowed=tolerance(kernel.instruction_set, scaled=divisor > 1, **kind),
            computed_in=self.computed_in(),
        )


def inputs(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, probabilities: bool) -> Array:
    if probabilities:
        return np.asarray(rng.random(shape)).astype(DTYPES[dtype])
    spread = 8 if dtype == "float16" else 30
    return np.asarray(rng.normal(0, spread, shape)).astype(DTYPES[dtype])


def targets(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    if dtype in INTEGER_TARGETS:
        return np.asarray(rng.integers(0, 2, shape)).astype(dtype)
    return np.asarray(rng.random(shape)).astype(DTYPES[dtype])


# What the reference pages promise


def test_the_examples_of_the_frameworks_pages() -> None:
    # torch
    loss = face.BCEWithLogitsLoss(pos_weight=np.ones(64, np.float32))
    value = loss(np.full((10, 64), 1.5, np.float32), np.ones((10, 64), np.float32))
    assert round(float(value), 4) == 0.2014
    # Paddle
    value = face.BCEWithLogitsLoss()(np.array([5.0, 1.0, 3.0], np.float32), np.array([1.0, 0.0, 1.0], np.float32))
    assert value == pytest.approx(0.45618808, abs=6e-8)
    assert value.shape == ()
    # MindSpore, with targets outside [0, 1] on purpose
    x = np.array([[-0.8, 1.2, 0.7], [-0.1, -0.4, 0.7]], np.float32)
    y = np.array([[0.3, 0.8, 1.2], [-0.6, 0.1, 2.2]], np.float32)
    ones = np.ones(3, np.float32)
    assert face.BCEWithLogitsLoss(ones, pos_weight=ones)(x, y) == pytest.approx(0.3463612, abs=1e-7)


def test_100_positives_and_300_negatives() -> None:
    """With pos_weight 3 it is as if there were 300 positives."""
    x = np.linspace(-2, 2, 400)
    y = np.arange(400) < 100
    weighted = face.binary_cross_entropy_with_logits(x, y, reduction="sum", pos_weight=np.array(3.0))
    as_if = np.concatenate([x[:100], x[:100], x]), np.concatenate([y[:100], y[:100], y])
    assert weighted == pytest.approx(face.binary_cross_entropy_with_logits(*as_if, reduction="sum"), rel=1e-15)


def test_signatures_are_torchs_with_our_options_after() -> None:
    def names(function: Any, keyword_only: bool) -> list[str]:
        found = inspect.signature(function).parameters.values()
        return [p.name for p in found if (p.kind == p.KEYWORD_ONLY) == keyword_only]

    legacy = ["weight", "size_average", "reduce", "reduction"]
    assert names(face.binary_cross_entropy, False) == ["input", "target", *legacy]
    kept = ["ignore_index", "label_smoothing", "gamma"]
    assert names(face.binary_cross_entropy, True) == ["pos_weight", "sample_weight", "mask", *kept, "normalizer"]
    assert names(face.binary_cross_entropy_with_logits, False) == ["input", "target", *legacy, "pos_weight"]
    assert names(face.binary_cross_entropy_with_logits, True) == ["sample_weight", "mask", *kept, "normalizer"]
    assert names(face.BCELoss, False) == legacy
    assert names(face.BCELoss, True) == ["pos_weight", *kept]
    assert names(face.BCEWithLogitsLoss, False) == [*legacy, "pos_weight"]
    assert names(face.BCEWithLogitsLoss, True) == kept
    for function in (*FUNCTIONS.values(), *CLASSES.values()):
        defaults = {p.name: p.default for p in inspect.signature(function).parameters.values()}
        assert defaults.pop("reduction") == "mean"
        assert (defaults.pop("label_smoothing"), defaults.pop("gamma")) == (0, 0)
        assert {d for n, d in defaults.items() if n not in ("input", "target")} == {None}
    assert set(face.__all__) == {
        "BCELoss",
        "BCEWithLogitsLoss",
        "LinearBCEOptions",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "count",
        "grad_and_hess",
        "linear_binary_cross_entropy_with_logits",
        "linear_value_and_grad",
        "value_and_grad",
    }


# Against the definition

WEIGHTS: dict[str, dict[str, tuple[int, ...]]] = {
    "none": {},
    "weight of a class": {"weight": (5,)},
    "weight of a sample": {"weight": (40, 1)},
    "weight of an element": {"weight": (40, 5)},
    "one weight": {"weight": ()},
    "pos_weight": {"pos_weight": (5,)},
    "pos_weight of an element": {"pos_weight": (40, 5)},
    "sample_weight": {"sample_weight": (40,)},
    "all": {"weight": (1, 5), "pos_weight": (1,), "sample_weight": (40,)},
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@both_inputs
def test_every_parameter(probabilities: bool, dtype: str, reduction: str, weights: str) -> None:
    rng = np.random.default_rng(1)
    for weight_dtype in (dtype, "float64", "float16"):
        given_weights = {
            name: np.asarray(rng.lognormal(0, 1, shape)).astype(DTYPES[weight_dtype])
            for name, shape in WEIGHTS[weights].items()
        }
        x, y = inputs(rng, (40, 5), dtype, probabilities), targets(rng, (40, 5), dtype)
        Call(x, y, reduction=reduction, probabilities=probabilities, **given_weights).check()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("target", [*DTYPES, *INTEGER_TARGETS])
@pytest.mark.parametrize("dtype", DTYPES)
@both_inputs
def test_every_pair_of_dtypes(probabilities: bool, dtype: str, target: str, reduction: str) -> None:
    rng = np.random.default_rng(2)
    for shape in ((), (1,), (7, 9), (5000,)):
        x, y = inputs(rng, shape, dtype, probabilities), targets(rng, shape, target)
        call = Call(x, y, reduction=reduction, probabilities=probabilities)
        call.check()
        value, gradient = call.value_and_grad()
        assert value.dtype == DTYPES[call.result()]
        assert gradient.dtype == x.dtype


def test_the_result_has_the_wider_dtype_of_input_and_target() -> None:
    for (x, y), result in {
        ("float16", "float16"): "float16",
        ("bfloat16", "bfloat16"): "bfloat16",
        ("float16", "bfloat16"): "float32",
        ("bfloat16", "float16"): "float32",
        ("float16", "float32"): "float32",
        ("float32", "bfloat16"): "float32",
        ("bfloat16", "float64"): "float64",
        ("float64", "float16"): "float64",
        ("float32", "int64"): "float32",
        ("bfloat16", "bool"): "bfloat16",
        ("float16", "int32"): "float16",
    }.items():
        a, b = np.zeros(3, DTYPES[x]), np.zeros(3, DTYPES.get(y, y))
        wide = np.ones(3)  # weights never widen it
        for reduction in REDUCTIONS:
            loss = face.binary_cross_entropy_with_logits(
                a, b, wide, reduction=reduction, pos_weight=wide, sample_weight=wide
            )
            assert loss.dtype == DTYPES[result], (x, y)


@pytest.mark.parametrize("dtype", INTEGER_TARGETS)
def test_integer_targets_are_numbers(dtype: str) -> None:
    """Any number for logits; for probabilities, 0 and 1."""
    x = np.linspace(-3, 3, 6, dtype=np.float32)
    y = np.array([0, 1, 1, 0, 1, 0], dtype)
    same = face.binary_cross_entropy_with_logits(x, y.astype(np.float32), reduction="none")
    np.testing.assert_array_equal(face.binary_cross_entropy_with_logits(x, y, reduction="none"), same)
    if dtype != "bool":
        y[2] = 7
        Call(x, y, reduction="none").check()
        with pytest.raises(ValueError, match=r"target\[2\] is 7"):
            face.binary_cross_entropy(np.full(6, 0.5), y)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=4)))
    if draw(st.booleans()):
        shape = tuple(draw(st.sampled_from([(4096,), (4097,), (130, 33), (70_000,), (2, 2500)])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    probabilities = draw(st.booleans())
    x = inputs(rng, shape, draw(st.sampled_from(sorted(DTYPES))), probabilities)
    y = targets(rng, shape, draw(st.sampled_from(sorted(DTYPES) + list(INTEGER_TARGETS))))
    if draw(st.booleans()) and y.dtype.name in DTYPES:
        y = np.rint(y.astype(np.float64)).astype(y.dtype)
    weights: dict[str, Array] = {}
    for name in ("weight", "pos_weight"):
        if draw(st.booleans()):
            axes = draw(st.integers(0, len(shape)))
            own = tuple(n if draw(st.booleans()) else 1 for n in shape[len(shape) - axes :])
            weights[name] = np.asarray(rng.lognormal(0, 1, own)).astype(DTYPES[draw(st.sampled_from(sorted(DTYPES)))])
    if shape and draw(st.booleans()):
        weights["sample_weight"] = rng.integers(0, 4, shape[0]).astype(
            draw(st.sampled_from(["int64", "float32", "bool"]))
        )
    lay = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))]
    x, y = (lay(a) if a.ndim and a.size else a for a in (x, y))
    return Call(x, y, **weights, reduction=draw(st.sampled_from(REDUCTIONS)), probabilities=probabilities)


@given(calls())
def test_any_call(call: Call) -> None:
    call.check()


@given(calls())
def test_outputs_agree_bit_for_bit(call: Call) -> None:
    """The loss is the same with and without a gradient, and the gradient the same wherever it is written."""
    value, gradient = call.value_and_grad()
    np.testing.assert_array_equal(bits(np.asarray(call.loss())), bits(np.asarray(value)))
    assert gradient.shape == call.x.shape
    assert gradient.flags.c_contiguous
    out = np.empty_like(gradient, order="F")
    again, same = call.value_and_grad(out)
    assert same is out
    np.testing.assert_array_equal(bits(out), bits(gradient))
    np.testing.assert_array_equal(bits(np.asarray(again)), bits(np.asarray(value)))
    assert type(value) is type(again)


@both_inputs
def test_the_gradient_is_that_of_the_loss(probabilities: bool) -> None:
    """By differences of the loss itself, with no formula."""
    rng = np.random.default_rng(3)
    x, y = inputs(rng, (6, 4), "float64", probabilities) / (1 if probabilities else 10), rng.random((6, 4))
    weights = {"weight": rng.random(4), "pos_weight": rng.random((6, 1)), "sample_weight": rng.random(6)}
    for reduction in ("mean", "sum"):
        _, gradient = Call(x, y, **weights, reduction=reduction, probabilities=probabilities).value_and_grad()
        for i in np.ndindex(x.shape):
            step = np.zeros_like(x)
            step[i] = 1e-6
            up, down = (
                Call(x + s, y, **weights, reduction=reduction, probabilities=probabilities).loss()
                for s in (step, -step)
            )
            assert gradient[i] == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-8)


# Limits


@both_inputs
def test_empty_arrays(probabilities: bool) -> None:
    for shape in ((0,), (0, 3), (2, 0)):
        for dtype in DTYPES:
            x = np.zeros(shape, DTYPES[dtype])
            for reduction in REDUCTIONS:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    loss, gradient = Call(x, x, reduction=reduction, probabilities=probabilities).value_and_grad()
                assert gradient.shape == shape
                if reduction == "none":
                    assert loss.shape == shape
                elif reduction == "sum":
                    assert loss == 0
                else:
                    assert np.isnan(loss)
            face.value_and_grad(
                x,
                x,
                np.ones(shape[-1:]),
                "sum",
                np.ones(()),
                sample_weight=np.ones(shape[0]),
                probabilities=probabilities,
            )


@both_inputs
def test_scalars(probabilities: bool) -> None:
    """A 0-d array, and what indexing one gives."""
    for x in (np.array(0.5, np.float32), np.float32(0.5), np.array([0.5], np.float32)[0]):
        for reduction in REDUCTIONS:
            loss, gradient = face.value_and_grad(x, np.array(1), None, reduction, probabilities=probabilities)
            assert isinstance(loss, np.float32)
            assert gradient.shape == ()
            assert isinstance(gradient, np.ndarray)


def test_infinite_and_nan_logits() -> None:
    x = np.array([inf, -inf, inf, -inf, nan, 1.0])
    y = np.array([1, 0, 0, 1, 0, nan])
    loss, gradient = face.value_and_grad(x, y, reduction="none")
    np.testing.assert_array_equal(loss, [0, 0, inf, inf, nan, nan])
    np.testing.assert_array_equal(gradient, [0, 0, 1, -1, nan, nan])
    weighted, gradient = face.value_and_grad(x, y, np.array(0.0), "none")
    np.testing.assert_array_equal(weighted, [0, 0, 0, 0, nan, nan])
    np.testing.assert_array_equal(gradient, [0, 0, 0, 0, nan, nan])
    assert face.binary_cross_entropy_with_logits(x[:2], y[:2]) == 0
    assert face.binary_cross_entropy_with_logits(x[:4], y[:4]) == inf
    assert np.isnan(face.binary_cross_entropy_with_logits(x, y))


@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities_of_0_and_1(dtype: str) -> None:
    q = np.array([0, 0, 1, 1]).astype(DTYPES[dtype])
    y = np.array([0, 1, 0, 1])
    loss, gradient = face.value_and_grad(q, y, reduction="none", probabilities=True)
    np.testing.assert_array_equal(loss.astype(float), [0, 100, 100, 0])
    steep = 65504 if dtype == "float16" else 1e12
    np.testing.assert_array_equal(bits(gradient), bits(rounded(np.array([0.0, -steep, steep, 0.0]), dtype)))
    # It saturates after it is scaled, not before.
    _, gradient = face.value_and_grad(q, y, np.array(4e-8), "sum", probabilities=True)
    np.testing.assert_allclose(gradient.astype(float), [0, -4e4, 4e4, 0], rtol=2**-8 if dtype == "bfloat16" else 1e-6)


def test_confident_logits_keep_their_loss() -> None:
    x = np.full(1000, -20.0, np.float32)
    loss, gradient = face.value_and_grad(x, np.zeros(1000, np.float32))
    assert loss == pytest.approx(2.0611536e-9, rel=1e-6)
    np.testing.assert_allclose(gradient, 2.0611536e-12, rtol=1e-6)


# Arrays of every kind


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@both_inputs
def test_any_layout(probabilities: bool, dtype: str, layout: str) -> None:
    rng = np.random.default_rng(4)
    for shape in ((6, 7, 8), (260, 270)):
        lay = LAYOUTS[layout]
        x, y = inputs(rng, shape, dtype, probabilities), targets(rng, shape, dtype)
        w = rng.random(shape).astype(np.float32)
        wanted = Call(x, y, w, probabilities=probabilities).value_and_grad()
        found = Call(lay(x), lay(y), lay(w), probabilities=probabilities).value_and_grad(lay(np.zeros_like(x)))
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(bits(np.asarray(a)), bits(np.asarray(b)))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_foreign_byte_order(dtype: str) -> None:
    rng = np.random.default_rng(5)
    x, y, w = (rng.random((30, 40)).astype(dtype) for _ in range(3))
    foreign = np.dtype(dtype).newbyteorder("S")
    for a, b, c in itertools.product(
        (x, x.astype(foreign)), (y, y.astype(foreign), y.astype(">i8")), (w, w.astype(foreign))
    ):
        for reduction in REDUCTIONS:
            options = {"sample_weight": c[:, 0], "pos_weight": c}
            wanted = face.value_and_grad(x, b.astype(b.dtype.newbyteorder("=")), w, reduction, w, sample_weight=w[:, 0])
            found = face.value_and_grad(a, b, c, reduction, **options)
            for f, g in zip(found, wanted, strict=True):
                assert f.dtype.isnative
                np.testing.assert_array_equal(f, g)


def test_read_only_arrays() -> None:
    x, y, w = np.linspace(-1, 1, 5), np.ones(5), np.ones(5)
    wanted = face.value_and_grad(x, y, w)
    for a in (x, y, w):
        a.flags.writeable = False
    np.testing.assert_array_equal(face.value_and_grad(x, y, w, pos_weight=w, sample_weight=w)[1], wanted[1])
    assert not x.flags.writeable


def test_fields_of_records() -> None:
    records = np.zeros(50, [("flag", "i1"), ("logit", "f8"), ("label", "?"), ("weight", "f4")])
    records["logit"], records["label"], records["weight"] = np.linspace(-3, 3, 50), np.arange(50) % 3 == 0, 0.5
    assert not records["logit"].flags.aligned
    loss, gradient = face.value_and_grad(records["logit"], records["label"], records["weight"])
    packed = [records[name].copy() for name in ("logit", "label", "weight")]
    wanted = face.value_and_grad(*packed)
    assert loss == wanted[0]
    np.testing.assert_array_equal(gradient, wanted[1])
    face.value_and_grad(records["logit"], packed[1], packed[2], out=records["logit"])
    np.testing.assert_array_equal(records["logit"], wanted[1])
    assert (records["flag"] == 0).all()
    assert (records["weight"] == 0.5).all()


def test_subclasses_that_are_arrays(tmp_path: Any) -> None:
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    wanted = face.binary_cross_entropy_with_logits(x, x)
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(3, 4))
    mapped[...] = x
    assert face.binary_cross_entropy_with_logits(mapped, mapped) == wanted
    assert face.binary_cross_entropy_with_logits(x.view(np.recarray), x) == wanted


def test_broadcast_arrays_are_inputs_too() -> None:
    x, y = np.broadcast_to(np.float32(0.5), (300, 400)), np.broadcast_to(np.arange(400) % 2 == 0, (300, 400))
    loss, gradient = face.value_and_grad(x, y)
    wanted = face.value_and_grad(x.copy(), y.copy())
    assert loss == wanted[0]
    np.testing.assert_array_equal(gradient, wanted[1])


def test_inputs_are_left_alone() -> None:
    rng = np.random.default_rng(6)
    arrays = [rng.random((5, 6)) for _ in range(4)] + [rng.random(5)]
    before = [a.copy() for a in arrays]
    x, y, w, p, s = arrays
    for probabilities, reduction in itertools.product((False, True), REDUCTIONS):
        face.value_and_grad(x, y, w, reduction, p, sample_weight=s, probabilities=probabilities)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


# The gradient's place


@both_inputs
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_in_place(dtype: str, probabilities: bool, reduction: str) -> None:
    rng = np.random.default_rng(7)
    for shape in ((), (5,), (300, 400)):
        x, y = inputs(rng, shape, dtype, probabilities), targets(rng, shape, dtype)
        wanted = Call(x, y, reduction=reduction, probabilities=probabilities).value_and_grad()
        value, gradient = Call(x, y, reduction=reduction, probabilities=probabilities).value_and_grad(x)
        assert gradient is x
        np.testing.assert_array_equal(bits(np.asarray(value)), bits(np.asarray(wanted[0])))
        np.testing.assert_array_equal(bits(x), bits(wanted[1]))


@both_inputs
@pytest.mark.parametrize("in_place", [False, True])
def test_with_out_nothing_is_allocated(in_place: bool, probabilities: bool) -> None:
    x = np.full((1000, 1000), 0.25, np.float32)
    y, out = np.ones_like(x), x if in_place else np.empty_like(x)
    face.value_and_grad(x, y, out=out, probabilities=probabilities)
    x[...] = 0.25
    tracemalloc.start()
    try:
        face.value_and_grad(x, y, np.ones(1000, np.float32), out=out, probabilities=probabilities)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000, f"{peak} bytes"


def test_what_may_not_be_out() -> None:
    x, y = np.linspace(-1, 1, 12).reshape(3, 4), np.full((3, 4), 0.5)
    read_only = np.full_like(x, 7)
    read_only.flags.writeable = False
    shared = np.full((6, 4), 7.0)
    for out, error, words in (
        ([0.0] * 12, TypeError, "out: expected a numpy.ndarray, got list"),
        (1.0, TypeError, "out: expected a numpy.ndarray, got float"),
        (
            np.full((4, 3), 7.0),
            ValueError,
            "out: float64 of shape (4, 3); expected float64 of shape (3, 4), as the input",
        ),
        (np.full(12, 7.0), ValueError, "out: float64 of shape (12,); expected"),
        (np.full((3, 4), 7, np.float32), ValueError, "out: float32 of shape (3, 4); expected float64 of shape (3, 4)"),
        (np.full((3, 4), 7, np.int64), ValueError, "out: int64 of shape (3, 4); expected float64"),
        (np.full((3, 4), 7.0, ">f8"), ValueError, "out: >f8 of shape (3, 4); expected float64"),
        (read_only, ValueError, "out: the array is read-only; expected one that can be written"),
        (y, ValueError, "out: overlaps an operand; expected memory of its own, or exactly the input for in place"),
    ):
        before = np.array(out)
        with pytest.raises(error) as caught:
            face.value_and_grad(x, y, out=out)
        assert str(caught.value).startswith(words)
        np.testing.assert_array_equal(np.array(out), before)
    # Half of the input, and the other way round; a weight; the input with a target that lies in it.
    for operands, out in (
        ((shared[:3], y), shared[1:4]),
        ((shared[:3], y), shared[:3][::-1]),
        ((x, y, shared[:3]), shared[:3]),
        ((x, y, shared[0]), shared[:3]),
        ((x, y, None, "mean", shared[0]), shared[:3]),
        ((shared[:3], shared[:3]), shared[:3]),
        ((shared[:3], shared[2:5]), shared[:3]),
    ):
        with pytest.raises(ValueError, match="out: overlaps an operand"):
            face.value_and_grad(*operands, out=out)
        with pytest.raises(ValueError, match="out: overlaps an operand"):
            face.value_and_grad(x, y, sample_weight=shared[:, 0][:3], out=shared[:3])
        assert (shared == 7).all()


def strided(*steps: int, shape: tuple[int, ...] = (3, 2), offset: int = 0) -> Array:
    """A view of numbers in a row, by steps of bytes."""
    return np.ndarray(shape, np.float32, np.full(40, 7, np.float32), offset, steps)


@pytest.mark.parametrize(
    "out",
    [
        strided(4, 4),
        strided(0, 4),
        strided(4, 0),
        strided(-4, 8, offset=16),
        strided(8, 2),
        strided(8, 4, 8, shape=(3, 2, 2)),
        strided(0, shape=(2,)),
        strided(2, shape=(3,)),
    ],
    ids=lambda out: f"{out.shape} by {out.strides}",
)
@pytest.mark.parametrize("in_place", [False, True])
def test_out_whose_elements_overlap_is_refused(in_place: bool, out: Array) -> None:
    x, before = out if in_place else np.zeros(out.shape, np.float32), out.tobytes()
    with pytest.raises(ValueError, match="out: elements of it share memory"):
        face.value_and_grad(x, np.zeros(out.shape), out=out)
    assert out.tobytes() == before


CUBE = np.zeros((4, 4, 4), np.float32)
VIEWS = {
    "negative steps": CUBE[::-1, :, ::-2],
    "every other": CUBE[::2, 1::2, ::3],
    "turned": CUBE.transpose(1, 2, 0)[:, ::-1],
    "a diagonal": np.einsum("iij->ji", CUBE),
    "another diagonal": np.einsum("iji->ij", CUBE),
    "one column": CUBE[:, 1:2, 0],
    "axes of one": CUBE[None, :, 1:2, None],
    "broadcast to one": strided(0, 4, shape=(1, 2)),
    "empty": strided(0, 0, shape=(0, 2)),
    "column-major": np.zeros((3, 5), np.float32, order="F"),
    "windows that do not overlap": strided(8, 4),
    "a field": np.zeros(5, [("a", np.int8), ("b", np.float32)])["b"],
    "a real part": np.zeros((3, 2), np.complex64).real,
    "a scalar": np.zeros((), np.float32),
}


@pytest.mark.parametrize("view", VIEWS)
def test_any_ordinary_view_may_be_out(view: str) -> None:
    out = VIEWS[view]
    out[...] = np.linspace(-2, 2, out.size).reshape(out.shape)
    x, y = out.copy(), np.ones(out.shape)
    wanted = face.value_and_grad(x, y, reduction="sum")[1]
    for input in (x, out):
        assert face.value_and_grad(input, y, reduction="sum", out=out)[1] is out
        np.testing.assert_array_equal(out, wanted)
        out[...] = x


def bytes_of(shape: tuple[int, ...], steps: tuple[int, ...], start: int, itemsize: int) -> set[int]:
    return {
        start + sum(i * step for i, step in zip(index, steps, strict=True)) + byte
        for index in np.ndindex(*shape)
        for byte in range(itemsize)
    }


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(-24, 24)), min_size=1, max_size=3),
    st.integers(-40, 40),
    st.sampled_from([np.float16, np.float32]),
)
def test_out_is_refused_exactly_where_memory_is_shared(axes: Any, shift: int, dtype: Any) -> None:
    """Against the bytes themselves: two elements of out, or one of out and one of the input."""
    shape, steps = (tuple(values) for values in zip(*axes, strict=True))
    memory = np.zeros(1000, np.uint8)
    starts = (500, 500 + shift)
    x, out = (np.ndarray(shape, dtype, memory, start, steps) for start in starts)
    of_x, of_out = (bytes_of(shape, steps, start, out.itemsize) for start in starts)
    own = len(of_out) == out.nbytes
    if own and (shift == 0 or not of_x & of_out):
        wanted = face.value_and_grad(x.copy(), np.ones(shape), reduction="sum")[1]
        assert face.value_and_grad(x, np.ones(shape), reduction="sum", out=out)[1] is out
        np.testing.assert_array_equal(out, wanted)
        assert not memory[[i for i in range(1000) if i not in of_out]].any()
    else:
        with pytest.raises(ValueError, match="out: overlaps an operand" if own else "out: elements of it share memory"):
            face.value_and_grad(x, np.ones(shape), out=out)
        assert not memory.any()


def test_out_beside_the_input_in_one_array() -> None:
    table = np.linspace(-2, 2, 3000).reshape(1000, 3).astype(np.float32)
    x, y, out = table.T
    wanted = face.value_and_grad(x.copy(), y.copy(), reduction="sum")[1]
    assert face.value_and_grad(x, y, reduction="sum", out=out)[1] is out
    np.testing.assert_array_equal(table[:, 2], wanted)
    # In place, where the step along an axis of one element is another.
    x = np.linspace(-2, 2, 5)[None]
    out = np.ndarray((1, 5), x.dtype, x, 0, (8, 8))
    wanted = face.value_and_grad(x.copy(), np.ones((1, 5)))[1]
    np.testing.assert_array_equal(face.value_and_grad(x, np.ones((1, 5)), out=out)[1], wanted)
    np.testing.assert_array_equal(x, wanted)


def test_views_too_hard_to_tell_apart_are_refused() -> None:
    """Whether they overlap is a knapsack problem, which may take longer than the universe has."""
    steps = tuple(4 * step for step in (100003, 100019, 100043, 100049, 100057, 100069, 100103, 100109, 100129, 100151))
    memory = np.zeros(sum(steps) * 2 + 100, np.uint8)
    x, out = (np.ndarray((3,) * 10, np.float32, memory, start, steps) for start in (0, 52))
    with pytest.raises(ValueError, match=r"out: (overlaps an operand|elements of it share memory)"):
        face.value_and_grad(x, np.ones(x.shape, bool), out=out)


# Subclasses


class Liar(np.ndarray[Any, Any]):
    """It says of itself what it is told to."""

    lies: ClassVar[dict[str, Any]] = {}

    def __getattribute__(self, name: str) -> Any:
        lies = type(self).lies
        return lies[name] if name in lies else super().__getattribute__(name)


LIES: dict[str, Any] = {
    "shape": (10**6, 10**6),
    "strides": (1 << 40, 1 << 40),
    "dtype": np.dtype(np.int64),
    "size": 10**12,
    "ndim": 7,
    "nbytes": 1,
    "ctypes": None,
    "flags": None,
    "view": None,
    "reshape": None,
    "astype": None,
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("argument", ["input", "target", "weight", "pos_weight", "sample_weight", "mask", "out"])
def test_a_subclass_is_read_as_the_array_that_it_is(argument: str, lie: str) -> None:
    rng = np.random.default_rng(4)
    shape = (4, 3)
    arguments: dict[str, Any] = {
        "input": rng.normal(0, 3, shape),
        "target": rng.random(shape),
        "weight": rng.random(shape),
        "pos_weight": rng.random(3),
        "sample_weight": rng.random(4),
        "mask": rng.integers(0, 2, shape),
        "out": np.empty(shape),
    }
    loss, gradient = face.value_and_grad(**arguments)
    wanted = gradient.copy()
    liar = type("Liar", (Liar,), {"lies": {lie: LIES[lie]}})
    arguments[argument] = arguments[argument].view(liar)
    again, gradient = face.value_and_grad(**arguments)
    assert again == loss
    assert gradient is arguments["out"]
    np.testing.assert_array_equal(np.asarray(gradient), wanted)


# Booleans


@pytest.mark.parametrize("ones", [255, 2, 128])
@pytest.mark.parametrize("size", [9, 200_000])
@both_inputs
def test_any_byte_but_0_is_true(probabilities: bool, size: int, ones: int) -> None:
    """As in a mask of 0 and 255 that is seen as booleans."""
    rng = np.random.default_rng(5)
    x = rng.random(size).astype(np.float32)
    good, weight, mask = (rng.random((3, size)) < 0.5).astype(bool)
    raw_good, raw_weight, raw_mask = (np.where(a, np.uint8(ones), np.uint8(0)).view(bool) for a in (good, weight, mask))
    for reduction, more in itertools.product(REDUCTIONS, ({}, {"ignore_index": 1}, {"ignore_index": 0})):
        options = {"reduction": reduction, "probabilities": probabilities, **more}
        for raw in (
            {"target": raw_good},
            {"weight": raw_weight},
            {"pos_weight": raw_weight},
            {"sample_weight": raw_weight},
            {"mask": raw_mask},
        ):
            own = {"target": good, "weight": weight, "pos_weight": weight, "sample_weight": weight, "mask": mask}
            wanted = {"target": good} | {name: own[name] for name in raw}
            for a, b in zip(
                face.value_and_grad(x, **({"target": good} | raw), **options),
                face.value_and_grad(x, **wanted, **options),
                strict=True,
            ):
                np.testing.assert_array_equal(a, b)


def test_a_refusal_writes_nothing() -> None:
    q, y = np.full(200_000, 0.5), np.ones(200_000)
    for bad in ((199_999, 1.5), (3, nan)):
        x, out = q.copy(), np.full_like(q, 7)
        x[bad[0]] = bad[1]
        before = x.copy()
        with pytest.raises(ValueError, match="between 0 and 1"):
            face.value_and_grad(x, y, probabilities=True, out=out)
        assert (out == 7).all()
        with pytest.raises(ValueError, match="between 0 and 1"):
            face.value_and_grad(x, y, probabilities=True, out=x)
        np.testing.assert_array_equal(x, before)
        for arguments in ({"reduction": "all"}, {"weight": np.ones(3)}, {"sample_weight": np.ones(3)}):
            with pytest.raises(ValueError, match=r"^(reduction|weight|sample_weight): "):
                face.value_and_grad(x, y, out=out, **arguments)
        assert (out == 7).all()


# Classes


@both_inputs
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_classes_keep_parameters(probabilities: bool, reduction: str) -> None:
    rng = np.random.default_rng(9)
    x, y, w, p, s = rng.random((6, 4)), rng.random((6, 4)), rng.random(4), rng.random(4), rng.random(6)
    loss = CLASSES[probabilities](w, reduction=reduction, pos_weight=p)
    wanted = FUNCTIONS[probabilities](x, y, w, reduction=reduction, pos_weight=p, sample_weight=s)
    np.testing.assert_array_equal(loss(x, y, sample_weight=s), wanted)
    call = Call(x, y, w, p, s, reduction, probabilities)
    for a, b in zip(loss.value_and_grad(x, y, sample_weight=s), call.value_and_grad(), strict=True):
        np.testing.assert_array_equal(a, b)
    out = np.empty_like(x)
    assert loss.value_and_grad(x, y, out=out)[1] is out
    again = pickle.loads(pickle.dumps(loss))
    np.testing.assert_array_equal(again(x, y, sample_weight=s), wanted)
    with pytest.raises(TypeError):
        loss(x, y, s)  # sample_weight is a keyword: a third array could be anything


def test_repr_shows_what_is_not_the_default() -> None:
    w = np.ones((3, 1), np.float32)
    assert repr(face.BCELoss()) == "BCELoss()"
    assert repr(face.BCEWithLogitsLoss()) == "BCEWithLogitsLoss()"
    assert repr(face.BCELoss(reduction="sum")) == "BCELoss(reduction='sum')"
    assert (
        repr(face.BCEWithLogitsLoss(w, reduction="none", pos_weight=w[0].astype(np.float64)))
        == "BCEWithLogitsLoss(reduction='none', weight=float32[3, 1], pos_weight=float64[1])"
    )


@pytest.mark.parametrize("cls", CLASSES.values())
def test_classes_refuse_at_once(cls: Any) -> None:
    with pytest.raises(ValueError, match="reduction: 'avg' is not a valid value"):
        cls(reduction="avg")
    for name in ("weight", "pos_weight"):
        with pytest.raises(TypeError, match=f"{name}: expected a numpy.ndarray, got list"):
            cls(**{name: [1.0, 2.0]})


# The deprecated pair

LEGACY = [
    (True, None, "mean"),
    (False, None, "sum"),
    (None, True, "mean"),
    (None, False, "none"),
    (True, True, "mean"),
    (True, False, "none"),
    (False, True, "sum"),
    (False, False, "none"),
]


@both_inputs
@pytest.mark.parametrize(("size_average", "reduce", "meant"), LEGACY)
def test_the_deprecated_pair(probabilities: bool, size_average: Any, reduce: Any, meant: str) -> None:
    x = np.linspace(0.1, 0.9, 5)
    y = np.ones(5)
    wanted = FUNCTIONS[probabilities](x, y, reduction=meant)
    message = f"size_average and reduce args will be deprecated, please use reduction='{meant}' instead."
    for reduction in REDUCTIONS:
        with pytest.warns(UserWarning, match=message) as caught:
            found = FUNCTIONS[probabilities](x, y, None, size_average, reduce, reduction)
        np.testing.assert_array_equal(found, wanted)
        assert [(str(w.message), w.filename) for w in caught] == [(message, __file__)]  # it points at the caller
        with pytest.warns(UserWarning, match=message) as caught:
            loss = CLASSES[probabilities](None, size_average, reduce, reduction)
        assert [(str(w.message), w.filename) for w in caught] == [(message, __file__)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a class warns when it is made
            np.testing.assert_array_equal(loss(x, y), wanted)


# Refusals


class Duck:
    """Almost an array."""

    shape, dtype, ndim, size = (3,), np.dtype(np.float32), 1, 3

    def __array__(self, *_: Any, **__: Any) -> Array:
        return np.zeros(3, np.float32)


NUMBERS_AND_TEXT = [1.0, 1, True, "abc", b"abc", np.float32]
CONTAINERS = [[0.5], (0.5,), {0.5}, {}, range(3), memoryview(b"ab"), object(), Duck()]
NO_DTYPES = ["complex64", "complex128", "longdouble", "uint16", "uint32", "uint64", "U3", "S3", "O", "M8[s]", "m8[s]"]


@pytest.mark.parametrize("argument", ["input", "target", "weight", "pos_weight", "sample_weight"])
@both_inputs
def test_what_is_no_array(probabilities: bool, argument: str) -> None:
    for wrong in [*NUMBERS_AND_TEXT, *CONTAINERS, *([None] if argument in ("input", "target") else [])]:
        arguments: dict[str, Any] = {"input": np.full(3, 0.5), "target": np.ones(3), argument: wrong}
        with pytest.raises(TypeError) as caught:
            FUNCTIONS[probabilities](**arguments)
        assert str(caught.value).startswith(f"{argument}: expected a numpy.ndarray, got {type(wrong).__name__}; ")
        with pytest.raises(TypeError, match=f"{argument}: expected a numpy.ndarray"):
            face.value_and_grad(**arguments, probabilities=probabilities)


@pytest.mark.parametrize("argument", ["input", "target", "weight", "pos_weight", "sample_weight"])
@both_inputs
def test_dtypes_that_are_not_supported(probabilities: bool, argument: str) -> None:
    for wrong in [*NO_DTYPES, *(INTEGER_TARGETS if argument == "input" else ())]:
        arguments: dict[str, Any] = {
            "input": np.full(3, 0.5),
            "target": np.ones(3),
            argument: np.zeros(3).astype(wrong),
        }
        with pytest.raises(TypeError) as caught:
            FUNCTIONS[probabilities](**arguments)
        message = str(caught.value)
        assert message.startswith(f"{argument}: dtype {np.dtype(wrong)} is not supported; expected one of ")
        assert ", float32" in message
        assert (", int64" in message) == (argument != "input")


def test_masked_arrays_are_refused() -> None:
    """Their mask would be ignored without a word."""
    masked = np.ma.masked_greater(np.linspace(-1, 1, 5), 0)
    for argument in ("input", "target", "weight", "pos_weight", "sample_weight"):
        arguments = {"input": np.ones(5), "target": np.ones(5), argument: masked}
        with pytest.raises(
            TypeError, match=rf"{argument}: the mask of a numpy.ma.MaskedArray would be ignored; .*mask="
        ):
            face.binary_cross_entropy_with_logits(**arguments)
    y = np.ones(5)
    kept = face.binary_cross_entropy_with_logits(masked.data, y, mask=~np.ma.getmaskarray(masked))
    assert kept == face.binary_cross_entropy_with_logits(masked.compressed(), y[: masked.count()])


@both_inputs
@pytest.mark.parametrize(
    ("x", "y"),
    [((4,), (4, 1)), ((), (1,)), ((1,), ()), ((2, 3), (3,)), ((2, 3), (3, 2)), ((0,), (0, 1)), ((6,), (2, 3))],
)
def test_the_target_has_the_inputs_shape(probabilities: bool, x: tuple[int, ...], y: tuple[int, ...]) -> None:
    message = f"target: shape {y} must be the same as the input's, {x}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        FUNCTIONS[probabilities](np.zeros(x), np.zeros(y))


@both_inputs
@pytest.mark.parametrize("name", ["weight", "pos_weight"])
def test_weights_must_broadcast_to_the_input(probabilities: bool, name: str) -> None:
    x = np.full((2, 3), 0.5)
    for shape in ((2,), (4,), (1, 2, 3), (5, 2, 3), (3, 2), (0,)):
        message = f"{name}: shape {shape} does not broadcast to the input's shape (2, 3)."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            FUNCTIONS[probabilities](x, x, **{name: np.ones(shape)})
    advice = "pass sample_weight= or " if name == "weight" else ""
    with pytest.raises(ValueError, match=rf"For one {name} per sample, {advice}reshape it to \(2, 1\)"):
        FUNCTIONS[probabilities](x, x, **{name: np.ones(2)})
    with pytest.raises(ValueError, match="sample_weight: shape"):
        FUNCTIONS[probabilities](x, x, sample_weight=np.ones(3))
    with pytest.raises(ValueError, match=r"the input's shape is \(\); expected an input with a first axis"):
        FUNCTIONS[probabilities](np.array(0.5), np.array(0.5), sample_weight=np.array(1.0))


@both_inputs
def test_unknown_reductions(probabilities: bool) -> None:
    x = np.full(3, 0.5)
    for wrong in ("avg", "Mean", None, 1, ["mean"], np.array(["mean", "sum"])):
        with pytest.raises(ValueError, match=r"reduction: .* is not a valid value for reduction; expected one of"):
            FUNCTIONS[probabilities](x, x, reduction=wrong)
        with pytest.raises(ValueError, match="reduction: "):
            face.value_and_grad(x, x, reduction=wrong, probabilities=probabilities)


@pytest.mark.parametrize("wrong", [-0.1, 1.0000001, -1e-45, nan, inf, -inf, 2.0])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_probabilities_outside_0_and_1(wrong: float, reduction: str) -> None:
    good = np.full((400, 500), 0.5, np.float32)
    bad = good.copy()
    bad[3, 77] = bad[399, 499] = wrong
    shown = str(bad[3, 77])
    hint = "" if np.isnan(wrong) else "; logits belong to binary_cross_entropy_with_logits"
    for input, target, element, more in ((bad, good, "input[3, 77]", hint), (good, bad, "target[3, 77]", "")):
        message = f"all elements of {element[:-7]} should be between 0 and 1, but {element} is {shown}{more}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            face.binary_cross_entropy(input, target, reduction=reduction)
    with pytest.raises(ValueError, match="all elements of input"):  # a weight of 0 excuses nothing
        face.binary_cross_entropy(bad, bad, np.zeros(()), reduction=reduction)
    with pytest.raises(ValueError, match="input is"):
        face.binary_cross_entropy(np.array(wrong, np.float32), np.array(1))


def test_minus_0_is_a_probability() -> None:
    assert face.binary_cross_entropy(np.array([-0.0]), np.array([-0.0])) == 0


# Anything at all

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.lists(st.floats(), max_size=3),
    st.builds(object),
    st.builds(
        lambda shape, dtype, fill, lay: lay(np.full(shape, fill).astype(dtype)),
        st.lists(st.integers(0, 3), max_size=3).map(tuple),
        st.sampled_from([*DTYPES.values(), *INTEGER_TARGETS, "uint64", "complex64", "O", "U2", ">f4", ">i8", "M8[s]"]),
        st.integers(0, 1),
        st.sampled_from([lambda a: a, lambda a: a[..., ::-1] if a.ndim else a, lambda a: a.T]),
    ),
)


def refused(call: Callable[[], Any]) -> str | None:
    """The message of the error, or None where there is a result, of a dtype of ours."""
    try:
        result = call()
    except (TypeError, ValueError) as error:
        return str(error)
    assert np.asarray(result[0] if isinstance(result, tuple) else result).dtype in DTYPES.values()
    return None


@given(
    st.tuples(ANYTHING, ANYTHING),
    st.dictionaries(st.sampled_from(["weight", "pos_weight", "sample_weight", "reduction"]), ANYTHING, max_size=2),
    ANYTHING,
    st.booleans(),
)
def test_anything_gives_a_result_or_names_the_argument(
    operands: tuple[Any, Any], options: dict[str, Any], out: Any, probabilities: bool
) -> None:
    names = ("input", "target", "weight", "pos_weight", "sample_weight", "reduction", "out")
    starts = (*(f"{name}: " for name in names), "all elements of input ", "all elements of target ")
    kept = {name: options[name] for name in ("weight", "reduction") if name in options}
    for message in (
        refused(lambda: FUNCTIONS[probabilities](*operands, **options)),
        refused(lambda: face.value_and_grad(*operands, **options, out=out, probabilities=probabilities)),
        refused(lambda: CLASSES[probabilities](**kept)(*operands)),
    ):
        assert message is None or message.startswith(starts)


def test_too_much_to_hold_is_a_memory_error() -> None:
    """An expanded view of 2⁵⁰ elements: it can be neither copied nor summed in a lifetime, and nothing dies of it."""
    x = np.broadcast_to(np.float32(0), (2**30, 2**20))
    with pytest.raises(MemoryError):
        face.binary_cross_entropy_with_logits(x, x, reduction="none")
    with pytest.raises(MemoryError):
        face.value_and_grad(x, x)
