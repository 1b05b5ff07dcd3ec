"""The JAX face: values and bits, what it accepts and refuses, and when the kernel runs."""

from __future__ import annotations

import functools
import pickle
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from binxent import jax as face
from binxent import kernel
from binxent import numpy as numpy_face
from binxent.call import plan as planned
from binxent.formula import LOGITS, PROBABILITIES
from binxent.jax import operators, program, untaped
from tests import kernel_calls, processes
from tests.reference import DTYPES, INTEGER_TARGETS, Array, assert_close, bits, error, expected, tolerance

REDUCTIONS = ("none", "mean", "sum")
FUNCTIONS = {False: face.binary_cross_entropy_with_logits, True: face.binary_cross_entropy}
both_inputs = pytest.mark.parametrize("probabilities", [False, True], ids=["logits", "probabilities"])
logits_loss = face.binary_cross_entropy_with_logits


def operands(shape: tuple[int, ...], dtype: str = "float32", *, probabilities: bool = False) -> tuple[Array, Array]:
    rng = np.random.default_rng(len(shape))
    x = rng.random(shape) if probabilities else rng.normal(0, 5, shape)
    return np.asarray(x).astype(DTYPES[dtype]), np.asarray(rng.random(shape)).astype(DTYPES[dtype])


def runs_of(call: Any) -> int:
    before = kernel.runs()
    jax.block_until_ready(call())
    return kernel.runs() - before


def same_bits(actual: Any, wanted: Any) -> None:
    np.testing.assert_array_equal(bits(np.asarray(actual)), bits(np.asarray(wanted)))


# Values


@pytest.mark.parametrize("target", ["hard", "soft"])
def test_equals_optax_where_that_is_exact(target: str) -> None:
    x, y = operands((50, 7))
    x = np.clip(x, -4, 4)
    y = np.round(y) if target == "hard" else y
    peer = optax.sigmoid_binary_cross_entropy(x, y)
    np.testing.assert_allclose(logits_loss(x, y, reduction="none"), peer, rtol=2e-5)
    np.testing.assert_allclose(logits_loss(x, y), peer.mean(), rtol=1e-5)


@both_inputs
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(9,), (40, 300), (3, 5, 4), ()])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_one_program_gives_the_bits_of_numpy(
    dtype: str, shape: tuple[int, ...], reduction: str, probabilities: bool
) -> None:
    """Loss and gradient of one jitted program, where the gradient is made along with the loss."""
    x, y = operands(shape, dtype, probabilities=probabilities)
    given = {"weight": np.float32(1.7), "pos_weight": np.full(shape[-1:], 2.5, np.float32)}
    loss, gradient = jax.jit(jax.value_and_grad(FUNCTIONS[probabilities]), static_argnames="reduction")(
        x, y, reduction=reduction, **given
    )
    wanted = numpy_face.value_and_grad(x, y, reduction=reduction, probabilities=probabilities, **given)
    same_bits(loss, wanted[0])
    same_bits(gradient, wanted[1])


@pytest.mark.parametrize("incoming", [3.0, 0.7, 1024.0, 0.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_another_incoming_gradient_is_never_a_gradient_scaled(dtype: str, incoming: float) -> None:
    x, y = operands((33, 40), dtype)
    held = float(np.asarray(incoming).astype(x.dtype))  # what the dtype can hold of it
    wanted = np.empty_like(x)
    kernel_calls.compute(x, y, gradient=wanted, incoming=held / x.size)

    def scaled(x: Any) -> Any:
        return jnp.asarray(incoming, x.dtype) * logits_loss(x, y)

    same_bits(jax.jit(jax.grad(scaled))(x), wanted)
    same_bits(jax.grad(scaled)(x), wanted)
    pulled = jax.jit(lambda x, incoming: jax.vjp(lambda x: logits_loss(x, y), x)[1](incoming)[0])
    same_bits(pulled(x, jnp.asarray(incoming, x.dtype)), wanted)


def test_a_loss_scale_keeps_what_float16_would_lose() -> None:
    x, y = np.full((64, 64), -12, np.float16), np.zeros((64, 64), np.float16)
    gradient = jax.jit(jax.grad(lambda x: jnp.float16(32768) * logits_loss(x, y)))(x)
    exact = 32768 * expected(x, y).gradient / x.size
    np.testing.assert_allclose(np.asarray(gradient, np.float64), exact, rtol=1e-2)
    assert not np.asarray(jax.grad(lambda x: logits_loss(x, y))(x)).any(), "it would be no test of it"


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_tails_are_exact(wrap: Any) -> None:
    x = np.array([-100, -60, -20, -9, 0, 9, 20, 60, 100], np.float32)
    for y in (np.zeros_like(x), np.ones_like(x)):
        reference = expected(x, y)
        loss, gradient = wrap(jax.value_and_grad(lambda x, y=y: logits_loss(x, y, reduction="sum")))(x)
        allowed = tolerance(kernel.instruction_set, hard=True)
        assert_close(gradient, reference.gradient, reference.larger_gradient, "float32", allowed=allowed)
        np.testing.assert_allclose(loss, reference.loss.sum(), rtol=1e-6)
        each = wrap(lambda x, y=y: logits_loss(x, y, reduction="none"))(x)
        assert_close(each, reference.loss, reference.larger_loss, "float32", allowed=allowed)


def test_infinite_logits_and_their_right_targets() -> None:
    x = jnp.array([jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(logits_loss(x, jnp.array([1, 0]), reduction="none"), [0, 0])
    np.testing.assert_array_equal(logits_loss(x, jnp.array([0, 1]), reduction="none"), [np.inf, np.inf])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 1, 3), (2,) * 9])
def test_shapes(shape: tuple[int, ...], reduction: str) -> None:
    x, y = operands(shape)
    loss, pull_back = jax.vjp(lambda x: logits_loss(x, y, reduction=reduction), x)
    with np.errstate(invalid="ignore"):
        same_bits(loss, numpy_face.binary_cross_entropy_with_logits(x, y, reduction=reduction))
    assert pull_back(jnp.ones_like(loss))[0].shape == shape


# Types


@pytest.mark.parametrize("x", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("y", ["float16", "bfloat16", "float32", "float64", *INTEGER_TARGETS])
def test_result_is_of_the_wider_floating_type(x: str, y: str) -> None:
    with jax.enable_x64(True):
        floating = [jnp.zeros((), name).dtype for name in (x, y) if name not in INTEGER_TARGETS]
        input, target = jnp.ones(3, x), jnp.ones(3, y)
        loss, gradient = jax.value_and_grad(logits_loss)(input, target, jnp.ones(3, jnp.float64))
        assert loss.dtype == (jnp.promote_types(*floating) if len(floating) == 2 else floating[0])
        assert gradient.dtype == x


def test_python_numbers_take_the_others_type() -> None:
    assert logits_loss(jnp.bfloat16(0.5), 0.3).dtype == jnp.bfloat16
    assert logits_loss(0.5, jnp.bfloat16(1)).dtype == jnp.bfloat16
    assert logits_loss(jnp.ones(2, jnp.bfloat16), jnp.ones(2), 2.0, pos_weight=3).dtype == jnp.float32
    assert logits_loss(jnp.ones(2, jnp.bfloat16), jnp.ones(2, bool), 2.0, pos_weight=3).dtype == jnp.bfloat16
    np.testing.assert_allclose(logits_loss(0.5, 1), np.log1p(np.exp(-0.5)), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(logits_loss)(0.5, 1.0), -1 / (1 + np.exp(0.5)), rtol=1e-6)


def test_numpy_arrays_become_what_jax_makes_of_them() -> None:
    assert logits_loss(np.ones(2), np.ones(2)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert logits_loss(np.ones(2), np.ones(2)).dtype == jnp.float64
    assert not logits_loss(np.ones(2), np.ones(2)).weak_type


# Refusals

TWO = jnp.ones(2)
REFUSED = {
    "a list": (lambda: logits_loss([1.0, 2.0], TWO), TypeError, r"input: expected an array, got list; wrap it in jax"),
    "no target": (lambda: logits_loss(TWO, None), TypeError, r"target: expected an array, got NoneType"),
    "a string": (lambda: logits_loss("1", TWO), TypeError, r"<class 'str'>.*path input"),
    "integer logits": (
        lambda: logits_loss(jnp.ones(2, int), TWO),
        TypeError,
        r"input: dtype int32 is not supported; expected one of float16, bfloat16, float32, float64",
    ),
    "complex": (lambda: logits_loss(TWO, TWO * 1j), TypeError, r"target: dtype complex64 is not supported"),
    "a key": (lambda: logits_loss(jnp.ones(()), jax.random.key(0)), TypeError, r"target: dtype key<"),
    "target's shape": (
        lambda: logits_loss(jnp.ones((2, 1)), TWO),
        ValueError,
        r"target: shape \(2,\) must be the same as the input's, \(2, 1\)",
    ),
    "weight of a batch": (
        lambda: logits_loss(jnp.ones((2, 3)), jnp.ones((2, 3)), TWO),
        ValueError,
        r"weight: shape \(2,\) does not broadcast .* pass sample_weight= or reshape it to \(2, 1\)",
    ),
    "a larger weight": (
        lambda: logits_loss(TWO, TWO, jnp.ones((3, 2))),
        ValueError,
        r"weight: shape \(3, 2\) does not",
    ),
    "pos_weight": (lambda: logits_loss(TWO, TWO, pos_weight=jnp.ones(3)), ValueError, r"pos_weight: shape \(3,\)"),
    "sample_weight": (
        lambda: logits_loss(jnp.ones((2, 3)), jnp.ones((2, 3)), sample_weight=jnp.ones(3)),
        ValueError,
        r"sample_weight: shape \(3,\), but the input's shape is \(2, 3\); expected \(2,\)",
    ),
    "reduction": (lambda: logits_loss(TWO, TWO, reduction="avg"), ValueError, r"reduction: 'avg' is not a valid value"),
    "reduction of a class": (lambda: face.BCELoss(reduction=None), ValueError, r"reduction: None is not a valid"),
    "a third position": (lambda: face.BCELoss(None, "mean", TWO), TypeError, r"positional"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, exception, message = REFUSED[name]
    with pytest.raises(exception, match=message):
        call()


OUTSIDE = {
    "input": ([[0.5, 1.5]], [[1, 1]], r"input should be between 0 and 1, but input\[0, 1\] is 1.5; logits belong to"),
    "a number": (-1e-7, 1.0, r"input should be between 0 and 1, but input is -1e-07"),
    "nan": ([0.5, np.nan], [1, 1], r"input\[1\] is nan"),
    "target": ([0.5, 0.5], [1, 2], r"all elements of target should be between 0 and 1, but target\[1\] is 2"),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_probability_out_of_range_is_refused_where_values_are_at_hand(name: str, reduction: str) -> None:
    input, target, message = OUTSIDE[name]
    input, target = np.asarray(input, np.float32), np.asarray(target, np.float32)
    with pytest.raises(ValueError, match=message):
        face.binary_cross_entropy(input, target, reduction=reduction)
    with pytest.raises(ValueError, match=message):
        jax.grad(lambda q: face.binary_cross_entropy(q, target, reduction=reduction).sum())(input)


@pytest.mark.parametrize("check_targets", [False, True])
@pytest.mark.parametrize("name", ["input", "nan"])
def test_a_divisor_of_0_does_not_hide_it(name: str, check_targets: bool) -> None:
    input, target, message = OUTSIDE[name]
    input, target = np.asarray(input, np.float32), np.asarray(target, np.float32)
    loss = functools.partial(face.binary_cross_entropy, input, target, check_targets=check_targets)
    with pytest.raises(ValueError, match=message):
        loss(normalizer=0)
    with pytest.raises(ValueError, match=message):
        loss(np.zeros_like(input), reduction="weighted_mean")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_and_is_nan_in_a_compiled_program(dtype: str) -> None:
    q, y = jnp.array([0.5, 1.5, 0.25, np.nan, 0.5], dtype), jnp.array([1, 1, 0, 1, 2], dtype)
    outside = [False, True, False, True, True]
    each, gradient = jax.jit(
        lambda q: (face.binary_cross_entropy(q, y, reduction="none"), jax.grad(face.binary_cross_entropy)(q, y))
    )(q)
    np.testing.assert_array_equal(np.isnan(np.asarray(each)), outside)
    np.testing.assert_array_equal(np.isnan(np.asarray(gradient)), outside)
    assert np.isnan(jax.jit(face.binary_cross_entropy)(q, y))
    np.testing.assert_array_equal(np.isnan(jax.vmap(face.binary_cross_entropy)(q[:, None], y[:, None])), outside)


def test_a_nan_weight_is_no_probability() -> None:
    assert np.isnan(face.binary_cross_entropy(jnp.array([0.5]), jnp.array([1.0]), jnp.array([jnp.nan])))


# The classes


def test_the_classes_are_the_functions_with_their_parameters_kept() -> None:
    x, y = operands((4, 3))
    q, _ = operands((4, 3), probabilities=True)
    weight, pos_weight, sample_weight = jnp.arange(1.0, 4), jnp.arange(2.0, 5), jnp.arange(1.0, 5)
    for cls, function, input in (
        (face.BCEWithLogitsLoss, face.binary_cross_entropy_with_logits, x),
        (face.BCELoss, face.binary_cross_entropy, q),
    ):
        for reduction in REDUCTIONS:
            loss = cls(weight, reduction, pos_weight=pos_weight)
            wanted = function(input, y, weight, reduction, pos_weight=pos_weight, sample_weight=sample_weight)
            same_bits(loss(input, y, sample_weight=sample_weight), wanted)


def test_they_are_pytrees_that_pass_through_transformations() -> None:
    x, y = operands((4, 3))
    loss = face.BCEWithLogitsLoss(reduction="sum", pos_weight=jnp.ones(3))
    assert len(jax.tree.leaves(loss)) == 1
    doubled = jax.tree.map(lambda a: 2 * a, loss)
    assert doubled.reduction == "sum"
    jitted = jax.jit(lambda loss, x, y: loss(x, y))
    np.testing.assert_allclose(jitted(doubled, x, y), logits_loss(x, y, reduction="sum", pos_weight=2.0), rtol=1e-6)
    slope = jax.grad(lambda loss: loss(x, y))(loss)
    np.testing.assert_allclose(slope.pos_weight, np.sum(y * np.logaddexp(0, -x), axis=0), rtol=1e-5)
    same_bits(jax.jit(jax.grad(loss))(x, y), jax.grad(loss)(x, y))


def test_they_are_frozen_and_can_be_pickled_and_read() -> None:
    loss = face.BCEWithLogitsLoss(reduction="sum", pos_weight=jnp.ones(3))
    with pytest.raises(AttributeError):
        loss.reduction = "mean"  # type: ignore[misc]
    assert repr(pickle.loads(pickle.dumps(loss))) == "BCEWithLogitsLoss(reduction='sum', pos_weight=float32[3])"
    assert repr(face.BCELoss()) == "BCELoss()"
    assert repr(face.BCELoss(2.0)) == "BCELoss(weight=2.0)"


# The kernel or the formula, and what it costs

X, Y = (jnp.asarray(a) for a in operands((6, 5)))
P = jnp.linspace(1, 2, 5)


def of_input(x: Any) -> Any:
    return logits_loss(x, Y, None, "mean", P)


RUNS = {
    "loss": (1, lambda: of_input(X)),
    "loss, jit": (1, lambda: jax.jit(of_input)(X)),
    "value_and_grad": (2, lambda: jax.value_and_grad(of_input)(X)),
    "value_and_grad, jit: one pass": (1, lambda: jax.jit(jax.value_and_grad(of_input))(X)),
    "of a jitted part of it": (1, lambda: jax.jit(jax.value_and_grad(jax.jit(of_input)))(X)),
    "of a rematerialised part": (2, lambda: jax.jit(jax.value_and_grad(jax.checkpoint(of_input)))(X)),
    "jit, incoming gradient 3": (2, lambda: jax.jit(jax.grad(lambda x: 3 * of_input(x)))(X)),
    "in a scan of 4": (
        4,
        lambda: jax.jit(lambda x: jax.lax.scan(lambda c, _: (jax.grad(of_input)(c), 0), x, length=4))(X),
    ),
    "vmap: one run an item": (6, lambda: jax.vmap(logits_loss)(X, Y)),
    "vmap of none": (1, lambda: jax.vmap(lambda x, y: logits_loss(x, y, reduction="none"))(X, Y)),
    "vmap of value_and_grad, jit": (6, lambda: jax.jit(jax.vmap(jax.value_and_grad(logits_loss)))(X, Y)),
    "jacrev": (2, lambda: jax.jacrev(lambda x: logits_loss(x, Y, reduction="none"))(X)),
    "jvp: the loss; the tangent is the formula's": (1, lambda: jax.jvp(of_input, (X,), (X,))),
    "gradient to the target: the loss": (1, lambda: jax.value_and_grad(logits_loss, 1)(X, Y)),
    "gradient to pos_weight: the loss": (1, lambda: jax.value_and_grad(logits_loss, 4)(X, Y, None, "mean", P)),
    "without jit": (2, lambda: without_jit(lambda: jax.value_and_grad(of_input)(X))),
}


def without_jit(call: Any) -> Any:
    with jax.disable_jit():
        return call()


@pytest.mark.parametrize("mode", RUNS)
def test_how_often_the_kernel_runs(mode: str) -> None:
    wanted, call = RUNS[mode]
    assert runs_of(call) == wanted


def test_second_derivatives_are_the_formulas() -> None:
    _, tangent = jax.linearize(jax.grad(of_input), X)
    assert runs_of(lambda: tangent(X)) == 0


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_other_platforms_compile_the_formula(platform: str) -> None:
    program = jax.jit(jax.value_and_grad(of_input)).trace(X).lower(lowering_platforms=(platform,)).as_text()
    assert "custom_call" not in program
    assert "exponential" in program
    assert "@binxent" in jax.jit(of_input).lower(X).as_text()


def test_the_formula_agrees() -> None:
    """What other platforms compile, run here."""
    for probabilities in (False, True):
        for dtype in ("float32", "bfloat16", "float16"):
            x, y = operands((40, 30), dtype, probabilities=probabilities)
            w, p = np.full((1, 30), 1.5, np.float32), np.full((1, 30), 2.5, np.float32)
            loss_of = PROBABILITIES if probabilities else LOGITS
            call = planned(loss_of, "mean", (dtype, dtype), x.shape, x.shape, w.shape, None, p.shape)
            plan = program.Plan(call, ("weight", "pos_weight"), 0, may_fuse=False)
            given = {"weight": w[0], "pos_weight": p[0]}
            loss, gradient = numpy_face.value_and_grad(x, y, probabilities=probabilities, **given)
            rtol = {"float32": 1e-5, "bfloat16": 8e-3, "float16": 1e-3}[dtype]
            actual = jax.jit(lambda *a, plan=plan: untaped.loss(*a, plan=plan))(x, y, w, p)
            assert actual.dtype == loss.dtype
            np.testing.assert_allclose(np.float64(actual), np.float64(loss), rtol=rtol)
            one = jnp.ones((1, 1), loss.dtype)
            actual = jax.jit(lambda *a, plan=plan: untaped.gradient(*a, plan=plan))(one, x, y, w, p)
            assert actual.dtype == gradient.dtype
            scale = np.abs(np.float64(gradient)).max()
            np.testing.assert_allclose(np.float64(actual), np.float64(gradient), rtol=rtol, atol=1e-6 * scale + 6e-8)


def every(dtype: str) -> Array:
    """Each finite number of a half type."""
    numbers = np.arange(2**16, dtype=np.uint16).view(DTYPES[dtype])
    return numbers[np.isfinite(numbers.astype(np.float32))]


@pytest.mark.parametrize("target", ["0", "1", "soft", "nearly hard"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_formula_rounds_half_types_once(dtype: str, target: str) -> None:
    """Every logit: half an ulp, and what the short logarithm adds."""
    x, rng = every(dtype), np.random.default_rng(1)
    near = np.exp2(-rng.integers(1, 12, x.shape).astype(np.float64))
    y = {
        "0": np.zeros(x.shape),
        "1": np.ones(x.shape),
        "soft": rng.random(x.shape),
        "nearly hard": np.where(rng.random(x.shape) < 0.5, near, 1 - near),
    }[target].astype(x.dtype)
    reference = expected(x, y)
    plan = program.Plan(planned(LOGITS, "none", (dtype, dtype), x.shape, x.shape), (), 1, may_fuse=False)
    loss = jax.jit(lambda *a: untaped.loss(*a, plan=plan))(x, y)
    gradient = jax.jit(lambda *a: untaped.gradient(*a, plan=plan))(np.ones_like(x), x, y)
    found = ((loss, reference.loss, reference.larger_loss), (gradient, reference.gradient, reference.larger_gradient))
    for (actual, exact, larger), beyond in zip(found, (1 / 32, 1 / 1024), strict=True):
        # What is subnormal in float32, XLA replaces by 0 on this processor.
        seen = (larger >= 2.0**-125) | (exact == 0)
        assert seen.mean() > 0.7
        assert error(np.asarray(actual), exact, larger, dtype)[seen].max() <= 0.5 + beyond
        assert np.abs(np.asarray(actual, np.float64))[~seen].max(initial=0) <= 2.0**-124


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_formula_makes_loss_and_gradient_of_one_exponential(dtype: str) -> None:
    """A second exponential or division would add instructions to each element."""
    call = planned(LOGITS, "mean", (dtype, dtype), (64, 64), (64, 64))
    plan, array = program.Plan(call, (), 0, may_fuse=False), jax.ShapeDtypeStruct((64, 64), dtype)
    one = jnp.ones((1, 1), dtype)
    both = compiled(lambda x, y: (untaped.loss(x, y, plan=plan), untaped.gradient(one, x, y, plan=plan)), array, array)
    operations = re.findall(r" ([a-z-]+)\(", both.as_text())
    counts = [operations.count(name) for name in ("exponential", "divide", "log-plus-one")]
    assert counts == [1, 1, 1 if dtype == "float32" else 0]


# The rule of each primitive, the formula that is traced, and how many arrays come before the operands.
TYPES = {
    "loss": (operators._types_of_loss, operators._loss, 0),
    "tangent": (operators._types_of_tangent, operators._tangent, 1),
    "gradient": (operators._types_of_gradient, operators._gradient, 1),
}


@both_inputs
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize(("outer", "rows"), [(0, 1), (2, 1), (1, 4)], ids=["mean", "none", "vmap"])
@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("bfloat16", "float16"), ("float16", "int32")], ids=str)
@pytest.mark.parametrize("name", TYPES)
def test_types_of_results_are_those_of_the_formula(
    name: str, dtypes: tuple[str, str], outer: int, rows: int, fused: bool, probabilities: bool
) -> None:
    """They are given by a rule where nothing but shapes and dtypes matters."""
    types_of, traced, before = TYPES[name]
    call = planned(PROBABILITIES if probabilities else LOGITS, "mean", dtypes, (4, 5), (4, 5), (5,), None, None)
    plan = program.Plan(call, ("weight",), outer, may_fuse=fused, fused=fused)
    x, y = (jax.core.ShapedArray((4, 5), DTYPES.get(dtype, np.dtype(dtype))) for dtype in dtypes)
    w = jax.core.ShapedArray((rows, 5), np.dtype("float32"))
    along = {"tangent": x, "gradient": jax.core.ShapedArray((4 if outer else 1, 1), np.dtype(call.dtype))}
    first = [along[name]] if before else []
    saved = [x] if fused and before else []
    given = (*first, *saved, x, y, w)
    assert all(map(operators._is_shape_and_dtype, given))
    assert tuple(types_of(*given, plan=plan)) == tuple(operators._traced_types(traced, plan, *given))


def test_a_type_with_a_mesh_is_more_than_shape_and_dtype() -> None:
    mesh = jax.make_mesh((1,), ("a",), axis_types=(jax.sharding.AxisType.Explicit,))
    divided = jax.device_put(jnp.ones((4, 5)), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a")))
    assert not operators._is_shape_and_dtype(jax.typeof(divided))
    assert operators._is_shape_and_dtype(jax.typeof(jnp.ones((4, 5))))


def compiled(function: Any, *operands: Any) -> Any:
    return jax.jit(function).lower(*operands).compile()


@pytest.mark.parametrize("target", [jnp.float32, jnp.bool_])
@pytest.mark.parametrize("incoming", [1, 3])
def test_nothing_is_copied_and_only_the_gradient_is_allocated(incoming: int, target: Any) -> None:
    x, y = jax.ShapeDtypeStruct((256, 1024), jnp.float32), jax.ShapeDtypeStruct((256, 1024), target)
    program = compiled(jax.value_and_grad(lambda x, y: incoming * logits_loss(x, y, pos_weight=2.0)), x, y)
    memory = program.memory_analysis()
    assert memory.temp_size_in_bytes < 1024
    assert memory.output_size_in_bytes < 256 * 1024 * 4 + 1024
    assert " copy(" not in program.as_text()


def test_threads_of_one_program_each_get_their_own() -> None:
    """More callers than XLA has threads: helpers that are late or never run hold up nobody."""
    x, y = operands((512, 512))
    whole, each = jax.jit(jax.value_and_grad(logits_loss)), jax.jit(jax.vmap(jax.value_and_grad(logits_loss)))
    wanted = [jax.tree.map(np.asarray, f(x, y)) for f in (whole, each)]
    wrong: list[Any] = []

    def call() -> None:
        for _ in range(10):
            for f, known in zip((whole, each), wanted, strict=True):
                wrong.extend(a for a, b in zip(f(x, y), known, strict=True) if not np.array_equal(a, b))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "a call has not returned"
    assert not wrong


def test_a_face_is_imported_without_starting_a_backend() -> None:
    code = "import binxent.jax; from jax._src import xla_bridge; print(len(xla_bridge._backends))"
    assert processes.python(code) == "0"


# The interface to XLA

LAYOUT = {
    "Extension": ("Extension_Base", "struct_size type next", ""),
    "Version": ("Api_Version", "struct_size major_version minor_version", "extension:extension_start"),
    "Metadata": ("Metadata", "struct_size api_version traits", ""),
    "MetadataExtension": ("Metadata_Extension", "metadata", "base:extension_base"),
    "Buffer": ("Buffer", "struct_size dtype data rank dims", "extension:extension_start"),
    "Name": ("ByteSpan", "ptr len", ""),
    "Scalar": ("Scalar", "dtype value", ""),
    "ErrorCreate": ("Error_Create_Args", "struct_size message", "extension:extension_start code:errc"),
    "ErrorDestroy": ("Error_Destroy_Args", "struct_size error", "extension:extension_start"),
    "ThreadPoolSchedule": (
        "ThreadPool_Schedule_Args",
        "struct_size task data",
        "extension:extension_start context:ctx",
    ),
    "ThreadPoolNumThreads": (
        "ThreadPool_NumThreads_Args",
        "struct_size num_threads",
        "extension:extension_start context:ctx",
    ),
    "Attributes": ("Attrs", "struct_size size types names", "extension:extension_start scalars:attrs"),
    "CallFrame": (
        "CallFrame",
        "struct_size api stage",
        "extension:extension_start context:ctx arguments:args results:rets attributes:attrs",
    ),
    "Api": (
        "Api",
        "struct_size api_version",
        "extension:extension_start internal:internal_api error_create:XLA_FFI_Error_Create "
        "error_destroy:XLA_FFI_Error_Destroy thread_pool_schedule:XLA_FFI_ThreadPool_Schedule "
        "thread_pool_num_threads:XLA_FFI_ThreadPool_NumThreads",
    ),
}
CONSTANTS = {
    "major_version": "API_MAJOR",
    "extension_metadata": "Extension_Metadata",
    "stage_execute": "ExecutionStage_EXECUTE",
    "error_invalid_argument": "Error_Code_INVALID_ARGUMENT",
    "argument_buffer": "ArgType_BUFFER",
    "result_buffer": "RetType_BUFFER",
    "attribute_scalar": "AttrType_SCALAR",
    **{
        name: f"DataType_{name.upper()}"
        for name in ("pred", "s8", "s16", "s32", "s64", "u8", "f16", "f32", "f64", "bf16")
    },
}


def test_the_declarations_lie_as_jaxlibs_do(tmp_path: Path) -> None:
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    checks = [f"sizeof(x::{'Buffers'}) == sizeof(XLA_FFI_{theirs})" for theirs in ("Args", "Rets")]
    checks += [
        f"offsetof(x::Buffers, {ours}) == offsetof(XLA_FFI_{struct}, {theirs})"
        for struct, last in (("Args", "args"), ("Rets", "rets"))
        for ours, theirs in (("size", "size"), ("types", "types"), ("buffers", last))
    ]
    for ours, (theirs, same, renamed) in LAYOUT.items():
        pairs = [(name, name) for name in same.split()] + [tuple(pair.split(":")) for pair in renamed.split()]
        checks += [f"offsetof(x::{ours}, {a}) == offsetof(XLA_FFI_{theirs}, {b})" for a, b in pairs]
    checks += [f"x::{ours} == XLA_FFI_{theirs}" for ours, theirs in CONSTANTS.items()]
    checks += ["x::minor_version <= XLA_FFI_API_MINOR", "x::oldest_minor_version <= x::minor_version"]
    header = (Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h").read_text()
    if "XLA_FFI_InternalExtension" in header:  # the name that JAX 0.12 has for it
        checks = [check.replace("XLA_FFI_Extension_Base", "XLA_FFI_InternalExtension") for check in checks]
    source = ['#include "xla/ffi/api/c_api.h"', '#include "xla_ffi.h"', "namespace x = binxent::xla;"]
    source += [f'static_assert({check}, "");' for check in checks]
    (tmp_path / "layout.cpp").write_text("\n".join(source))
    doors = Path(__file__).parents[2] / "native/doors"
    command = [compiler, "-std=c++17", "-fsyntax-only", f"-I{jax.ffi.include_dir()}", f"-I{doors}", "layout.cpp"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
