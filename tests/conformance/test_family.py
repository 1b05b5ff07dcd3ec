"""Every face × option of the focal family × partner × reduction, against the definition and the kernel's bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from binxent import definition, kernel, options
from binxent.call import Operands, averaged_axes, plan
from binxent.formula import LOGITS, PROBABILITIES
from binxent.numpy import value_and_grad
from binxent.numpy.arrays import Arrays
from tests.conformance.derivatives import DERIVE, DIFFERENTIABLE, Wanted, arrays_of
from tests.conformance.faces import FACES, Call, Face, function_of, parameters
from tests.reference import bits
from tests.wrong_places import every_operand, every_place, wrong_operand

Array = np.ndarray[Any, Any]
WIDE = Arrays(np.longdouble)
SHAPE = (4, 3)

FAMILY: dict[str, dict[str, Any]] = {
    "alpha": {"alpha": 0.25},
    "neg_weight": {"neg_weight": True},
    "two gammas": {"gamma_positive": 0.5, "gamma_negative": 3.0},
    "margin": {"margin": 0.05},
    "ASL": {"gamma_positive": 0.0, "gamma_negative": 4.0, "margin": 0.05},
    "p_t": {"focal": "p_t", "gamma": 2.0},
    "p_t and alpha": {"focal": "p_t", "gamma": 1.5, "alpha": 0.75},
    "alpha, margin and gamma": {"alpha": 0.4, "margin": 0.1, "gamma": 1.3},
    "all": {"alpha": 0.4, "neg_weight": True, "gamma_positive": 1.5, "gamma_negative": 2.0, "margin": 0.2},
}
PARTNERS = ("", "weight", "pos_weight", "sample_weight", "mask", "ignore_index", "label_smoothing", "neg_weight")
REDUCTIONS = ("mean", "none", "sum", "weighted_mean", "batchmean", *options.BY_AXIS)


def call_of(dtype: str, family: str, partner: str, reduction: str, *, probabilities: bool, shape: Any = SHAPE) -> Call:
    """Operands that hold, wherever they are ignored, what nothing may see."""
    rng = np.random.default_rng(len(family) + 7 * len(partner))
    input = rng.uniform(0.05, 0.95, shape) if probabilities else rng.normal(0, 2, shape)
    target = np.where(rng.random(shape) < 0.5, rng.integers(0, 2, shape), rng.random(shape))
    arrays = {
        "weight": rng.random(shape) + 0.5,
        "pos_weight": rng.random(shape[-1]) + 0.5,
        "neg_weight": rng.random(shape) + 0.5,
        "sample_weight": rng.random(shape[0]) + 0.5,
    }
    given = dict(FAMILY[family])
    names = {partner, *(["neg_weight"] if given.pop("neg_weight", False) else [])}
    given |= {name: arrays[name].astype(dtype) for name in arrays if name in names}
    hidden = rng.random(shape) < 0.3
    if partner == "mask":
        given["mask"] = ~hidden
        input, target = np.where(hidden, np.nan, input), np.where(hidden, np.inf, target)
    elif partner == "ignore_index":
        given["ignore_index"] = -100
        input, target = np.where(hidden, np.nan, input), np.where(hidden, -100, target)
    elif partner == "label_smoothing":
        given["label_smoothing"] = 0.2
    return Call(input.astype(dtype), target.astype(dtype), probabilities, reduction, options=given)


def reference(call: Call, name: str | None, incoming: Array) -> Array:
    """The loss, or the gradient to the operand of that name, in longdouble."""
    arrays = {n: a if n == "mask" else a.astype(np.longdouble) for n, a in arrays_of(call).items()}
    shapes = {n: a.shape for n, a in arrays.items() if n not in ("input", "target")}
    numbers = {n: value for n, value in call.options.items() if n not in arrays}
    family = options.focal(**{n: numbers.pop(n) for n in options.Focal._fields if n in numbers})
    if "sample_weight" in arrays:
        arrays["sample_weight"] = arrays["sample_weight"].reshape((-1,) + (1,) * (call.input.ndim - 1))
    loss, shape = PROBABILITIES if call.probabilities else LOGITS, call.input.shape
    by_axis = call.reduction in options.BY_AXIS
    reduction = "none" if by_axis else call.reduction
    planned = plan(loss, reduction, ("float64", "float64"), shape, shape, **shapes, **numbers, focal=family)
    operands = Operands(**arrays)
    with np.errstate(all="ignore"):
        values = definition.prepare(WIDE, planned, operands)
        if by_axis:
            axes = averaged_axes(call.reduction, len(shape))
            keep = np.ones(shape, bool) if values.keep is None else np.broadcast_to(values.keep, shape)
            counts = keep.sum(axes, keepdims=True)
            share = np.where(counts > 0, 1 / np.maximum(counts, 1).astype(np.longdouble), 0)
            if name is None:
                return (definition.elements(WIDE, planned, values) * share).sum(axes)
            incoming = np.expand_dims(incoming, axes) * share * np.ones(shape)
        elif name is None:
            each = definition.elements(WIDE, planned, values)
            return each if reduction == "none" else definition.mean(WIDE, planned, values, each)
        found = definition.gradient(WIDE, planned, operands, values, name, "longdouble", incoming)
    return found.reshape(-1) if name == "sample_weight" else found


def incoming_for(call: Call) -> Array:
    shape: tuple[int, ...] = ()
    if call.reduction == "none":
        shape = call.input.shape
    elif call.reduction in options.BY_AXIS:
        axes = averaged_axes(call.reduction, call.input.ndim)
        shape = tuple(n for axis, n in enumerate(call.input.shape) if axis not in axes)
    return np.asarray(np.random.default_rng(5).uniform(0.5, 2, shape), call.input.dtype)


def assert_near(found: Array, exact: Array, name: str) -> None:
    bound = 1e-9 if found.dtype == np.float64 else 1e-5
    largest = float(np.max(np.abs(exact), initial=0))
    np.testing.assert_allclose(found, exact.astype(np.float64), rtol=bound, atol=bound * largest, err_msg=name)


def kinds() -> list[Any]:
    return [
        pytest.param(family, partner, id=f"{family} + {partner or 'nothing'}")
        for family in FAMILY
        for partner in PARTNERS
        if not (partner == "neg_weight" and "neg_weight" in FAMILY[family])
    ]


def reductions_of(family: str, partner: str) -> tuple[str, ...]:
    """Two of them, in turn, so that every pair of options meets some, and every option meets all."""
    start = list(FAMILY).index(family) + 3 * PARTNERS.index(partner)
    return tuple(REDUCTIONS[(start + 2 * k) % len(REDUCTIONS)] for k in range(2))


@pytest.mark.parametrize("probabilities", [False, True], ids=["logits", "probabilities"])
@pytest.mark.parametrize(("family", "partner"), kinds())
class TestFamily:
    @pytest.mark.parametrize("face", parameters(FACES))
    def test_loss_and_gradient(self, face: Face, family: str, partner: str, probabilities: bool) -> None:
        for number, reduction in enumerate(reductions_of(family, partner)):
            dtype = "float64" if "float64" in face.dtypes and number == 0 else "float32"
            call = call_of(dtype, family, partner, reduction, probabilities=probabilities, shape=(40, 30))
            runs = kernel.runs()
            loss, gradient = face.evaluate(call)
            assert kernel.runs() > runs, "the kernel did not run"
            ones = np.ones_like(incoming_for(call))
            assert_near(loss, reference(call, None, ones), "loss")
            assert_near(gradient, reference(call, "input", ones), "input")
            if reduction in options.BY_AXIS:
                continue
            same = value_and_grad(
                call.input, call.target, reduction=reduction, probabilities=probabilities, **call.options
            )
            for found, wanted in zip((loss, gradient), same, strict=True):
                np.testing.assert_array_equal(bits(found), bits(np.asarray(wanted)))

    @pytest.mark.parametrize("face", parameters(DIFFERENTIABLE))
    def test_to_every_operand(self, face: Face, family: str, partner: str, probabilities: bool) -> None:
        """With logits for one of the reductions, with probabilities for the other one."""
        dtype = "float64" if "float64" in face.dtypes else "float32"
        reduction = reductions_of(family, partner)[probabilities]
        call = call_of(dtype, family, partner, reduction, probabilities=probabilities)
        incoming = incoming_for(call)
        names = tuple(name for name in arrays_of(call) if name != "mask")
        found = DERIVE[face.name](call, Wanted(names, incoming))
        for name, gradient in found.items():
            assert_near(gradient, reference(call, name, incoming), name)


@pytest.mark.parametrize("face", parameters(FACES))
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("target", 3.0, "target: target[1, 1] is 3"),
        ("pos_weight", -1.0, "pos_weight: pos_weight[1, 1] is -1"),
        ("neg_weight", -1.0, "neg_weight: neg_weight[1, 1] is -1"),
        ("mask", 0.5, "mask: mask[1, 1] is 0.5"),
    ],
)
def test_wrong_targets_are_refused(face: Face, name: str, value: float, message: str) -> None:
    call = call_of("float32", "alpha", "", "mean", probabilities=False)
    arrays = {"target": call.target, "pos_weight": np.ones(SHAPE, np.float32), "neg_weight": np.ones(SHAPE, np.float32)}
    arrays["mask"] = np.ones(SHAPE, np.float32)
    arrays[name] = arrays[name].copy()
    arrays[name][1, 1] = value
    target = arrays.pop("target")
    wrong = Call(call.input, target, options={**arrays, "check_targets": True})
    with pytest.raises((ValueError, RuntimeError)) as caught:
        face.evaluate(wrong)
    assert message in str(caught.value)
    face.evaluate(Call(call.input, target, options=arrays))  # nobody looks without the option


@pytest.mark.parametrize("face", parameters(FACES))
@every_place
@every_operand
def test_the_index_is_that_of_the_operand(face: Face, name: str, place: str) -> None:
    """And not that of the input, to whose shape it is broadcast."""
    shape, operand, message = wrong_operand(name, place)
    given = {"target": np.ones(shape, np.float32), name: operand}
    wrong = Call(np.zeros(shape, np.float32), given.pop("target"), options={**given, "check_targets": True})
    with pytest.raises((ValueError, RuntimeError)) as caught:
        face.evaluate(wrong)
    assert message in str(caught.value)


@pytest.mark.parametrize("face", parameters(FACES))
def test_what_is_ignored_is_exempt(face: Face) -> None:
    call = call_of("float32", "alpha", "ignore_index", "mean", probabilities=False)
    checked = Call(call.input, call.target, options={**call.options, "check_targets": True})
    for found, wanted in zip(face.evaluate(checked), face.evaluate(call), strict=True):
        np.testing.assert_array_equal(bits(found), bits(wanted))


@pytest.mark.parametrize("face", parameters(FACES))
def test_what_has_no_meaning_is_refused(face: Face) -> None:
    for given, message in (
        ({"gamma": 2.0, "gamma_negative": 1.0}, "gamma_negative: "),
        ({"focal": "p_t", "margin": 0.1}, "margin: "),
        ({"alpha": 1.5}, "alpha: "),
        ({"focal": "pt"}, "focal: "),
    ):
        call = Call(np.zeros((4, 2), np.float32), np.zeros((4, 2), np.float32), options=dict(given))
        with pytest.raises((ValueError, RuntimeError)) as caught:
            face.evaluate(call)
        assert message in str(caught.value)


@pytest.mark.parametrize("face", parameters(FACES))
def test_the_call_of_a_class_may_replace_its_weights(face: Face) -> None:
    """Compared with the function, on the framework's own arrays."""
    import importlib

    module = importlib.import_module(f"binxent.{face.name}")
    make = {
        "numpy": np.asarray,
        "torch": lambda a: importlib.import_module("torch").tensor(a),
        "paddle": lambda a: importlib.import_module("paddle").to_tensor(a),
        "mindspore": lambda a: importlib.import_module("mindspore").Tensor(a),
        "jax": lambda a: importlib.import_module("jax").numpy.asarray(a),
    }[face.name]
    x, y = np.zeros((2, 3), np.float32), np.array([[1, 0, 1], [0, 1, 0]], np.float32)
    other, own = make(np.full(3, 5, np.float32)), make(np.array([1, 2, 3], np.float32))
    loss = module.BCEWithLogitsLoss(weight=other, pos_weight=other)
    found = loss(make(x), make(y), weight=own, pos_weight=own)
    wanted = function_of(module, Call(x, y))(make(x), make(y), own, pos_weight=own)
    assert float(found) == float(wanted)
    assert float(loss(make(x), make(y))) != float(found)
