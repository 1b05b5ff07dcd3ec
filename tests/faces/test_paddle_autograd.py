"""Gradients in the dynamic graph: to every operand, again and again, of any incoming one; nothing is kept too long."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import paddle
import pytest

from binxent import formula
from binxent import paddle as face
from tests.faces.paddle_samples import (
    KINDS,
    OURS,
    PADDLES,
    REDUCTIONS,
    an_input,
    array,
    gradient_of,
    runs,
    tensor,
    uniform,
)
from tests.kernel_calls import compute
from tests.processes import python
from tests.reference import bits

both_kinds = pytest.mark.parametrize("kind", KINDS)
SLOPE = {"logits": formula.logits_gradient, "probabilities": formula.probabilities_gradient}


def kernel_gradient(kind, input, label, factor=1.0, *weights, pos_weight=None):
    gradient = np.empty_like(input)
    compute(
        input,
        label,
        *weights,
        pos_weight=pos_weight,
        probabilities=kind == "probabilities",
        gradient=gradient,
        incoming=factor,
    )
    return gradient


# The incoming gradient


@pytest.mark.parametrize("incoming", [1.0, 3.0, 0.7, 1024.0, 0.0, -1.0])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_incoming_gradient_is_rounded_once(kind, reduction, dtype, incoming):
    x, y = tensor(an_input(kind, 5, 7), dtype, learns=True), tensor(uniform(5, 7), dtype)
    loss = OURS[kind](x, y, reduction=reduction)
    given = paddle.full_like(loss, incoming)
    number = float(array(given).astype(np.float64).ravel()[0])
    if reduction == "none":
        expected = kernel_gradient(kind, array(x), array(y), 1.0, array(given))
    else:
        expected = kernel_gradient(kind, array(x), array(y), number / (35 if reduction == "mean" else 1))
    for _ in range(2):  # the second time, the incoming gradient was expected
        loss = OURS[kind](x, y, reduction=reduction)
        np.testing.assert_array_equal(bits(gradient_of(loss, x, given)), bits(expected))


def test_an_expected_gradient_is_made_with_the_loss():
    x, y = tensor(an_input("logits", 100), learns=True), tensor(uniform(100))

    def step(scale):
        (face.binary_cross_entropy_with_logits(x, y) * scale).backward()

    step(1.0)
    assert [runs(lambda: step(scale)) for scale in (1.0, 8.0, 8.0, 1.0, 1.0)] == [1, 2, 1, 2, 1]


def test_losses_of_one_input_add_up():
    x, y = tensor(an_input("logits", 50), learns=True), tensor(uniform(50))
    loss = face.binary_cross_entropy_with_logits
    total = loss(x, y) + 2 * loss(x, y, reduction="sum") + (x * x).sum() + loss(x, y, reduction="none").mean()
    exact = SLOPE["logits"](np, array(x).astype(float), array(y).astype(float)) * (2 / 50 + 2) + 2 * array(x)
    np.testing.assert_allclose(gradient_of(total, x), exact, rtol=1e-5)


# Again and again: a PyLayer, the documented way to a gradient of one's own, would end the process.


@pytest.mark.parametrize(("dtype", "label"), [("float32", "float32"), ("float16", "float32"), ("float32", "float64")])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_second_backward(kind, reduction, dtype, label):
    x, y = tensor(an_input(kind, 6), dtype, learns=True), tensor(uniform(6), label)
    loss = OURS[kind](x, y, reduction=reduction)
    given = paddle.full_like(loss, 1.0)
    first = gradient_of(OURS[kind](x, y, reduction=reduction), x, given)
    x.clear_gradient(set_to_zero=False)
    for count in (1, 2, 3):
        loss.backward(given, retain_graph=True)
        np.testing.assert_allclose(array(x.grad).astype(float), count * first.astype(float), rtol=2e-3)
    np.testing.assert_array_equal(array(paddle.grad(loss, x, given, retain_graph=True)[0]), first)
    np.testing.assert_array_equal(array(paddle.grad(loss, x, given)[0]), first)  # leaves Paddle's graph as it is
    loss.backward(given)
    with pytest.raises(SystemError, match="backward twice"):
        loss.backward(given)


def test_second_backward_of_a_sum_of_losses():
    x, y = tensor(an_input("logits", 9), learns=True), tensor(uniform(9))
    loss = face.binary_cross_entropy_with_logits(x * 1.0, y)
    (loss + (x * x).sum()).backward(retain_graph=True)
    x.clear_gradient(set_to_zero=False)
    (3 * loss).backward()
    expected = kernel_gradient("logits", array(x), array(y), 3 / 9)
    np.testing.assert_array_equal(array(x.grad), expected)


def test_a_gradient_that_was_handed_over_is_not_written_again():
    x, y = tensor(an_input("logits", 9), learns=True), tensor(uniform(9))
    loss = face.binary_cross_entropy_with_logits(x, y)
    (first,) = paddle.grad(loss, x, retain_graph=True)
    before = array(first).copy()
    paddle.grad(loss * 5, x, retain_graph=True)
    np.testing.assert_array_equal(array(first), before)


# Hooks of the user


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_hooks_on_the_loss_get_its_gradient(reduction):
    results = []
    for function in (face.binary_cross_entropy_with_logits, PADDLES["logits"]):
        x, y = tensor([0.5, -1.5, 3.0], learns=True), tensor([1.0, 0.0, 1.0])
        loss = function(x, y, reduction=reduction)
        seen = []
        loss.register_hook(lambda g, seen=seen: seen.append(array(g).tolist()))
        removed = loss.register_hook(lambda g: g * 100)
        loss.register_hook(lambda g: g * 3)
        loss.retain_grads()
        assert removed.remove()
        (loss.sum() * 2).backward()
        results.append((seen, array(loss.grad), array(x.grad)))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_allclose(results[0][2], results[1][2], rtol=1e-6)


def test_hooks_on_the_logits_get_theirs():
    seen = []
    x = tensor([0.5, -1.5], learns=True)
    logits = x * 2
    logits.register_hook(lambda g: seen.append(g.shape))
    face.binary_cross_entropy_with_logits(logits, tensor([1.0, 0.0])).backward()
    assert seen == [[2]]


# Gradients of gradients


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_second_derivative_of_logits(reduction):
    x = tensor([-30.0, -1.0, -0.0, 0.0, 0.5, 30.0], "float64", learns=True)
    y, p = tensor([1, 0, 1, 0, 0.25, 0], "float64"), tensor([3.0], "float64")
    loss = face.binary_cross_entropy_with_logits(x, y, reduction=reduction, pos_weight=p)
    count = 6 if reduction == "mean" else 1
    (gradient,) = paddle.grad(loss.sum(), x, create_graph=True)
    np.testing.assert_allclose(array(gradient), SLOPE["logits"](np, array(x), array(y), None, 3) / count, rtol=1e-14)
    (second,) = paddle.grad(gradient.sum(), x)
    exact = formula.logits_curvature(np, array(x), array(y), None, 3) / count
    np.testing.assert_allclose(array(second), exact, rtol=1e-14)


def test_second_derivative_goes_through_the_incoming_gradient():
    x, y = tensor([0.5, -1.0], "float64", learns=True), tensor([1, 0.25], "float64")
    loss = face.binary_cross_entropy_with_logits(x, y, reduction="sum")
    (gradient,) = paddle.grad(loss * loss, x, create_graph=True)
    (second,) = paddle.grad(gradient.sum(), x)
    slope, curvature = SLOPE["logits"](np, array(x), array(y)), formula.logits_curvature(np, array(x), array(y))
    np.testing.assert_allclose(array(second), 2 * (slope * slope.sum() + loss.item() * curvature), rtol=1e-14)


def test_second_derivative_of_probabilities():
    q, y = tensor([0.1, 0.5, 0.9], "float64", learns=True), tensor([1, 0, 0.25], "float64")
    exact = array(y) / array(q) ** 2 + (1 - array(y)) / (1 - array(q)) ** 2
    for label in (y, y.clone()):  # the second learns too, so that all is composed
        label.stop_gradient = label is y
        loss = face.binary_cross_entropy(q, label, reduction="sum")
        (gradient,) = paddle.grad(loss, q, create_graph=True)
        (second,) = paddle.grad(gradient.sum(), q)
        np.testing.assert_allclose(array(second), exact, rtol=1e-13)


@pytest.mark.parametrize(
    ("kind", "learns", "last"),
    [("logits", False, 3), ("logits", True, 4), ("probabilities", False, 3), ("probabilities", True, 2)],
)
def test_where_paddles_derivatives_end(kind, learns, last):
    """Of a quotient it has two, and a third that has none. If this fails, the docs have news."""
    x, y = tensor(an_input(kind, 3), learns=True), tensor(uniform(3), learns=learns)
    derivative = OURS[kind](x, y)
    for _ in range(last - 1):
        (derivative,) = paddle.grad(derivative.sum(), x, create_graph=True)
    (final,) = paddle.grad(derivative.sum(), x, retain_graph=True)
    assert np.isfinite(array(final)).all()
    with pytest.raises(RuntimeError, match="divide_double_grad doesn't have any grad op"):
        paddle.grad(derivative.sum(), x, create_graph=True)


@both_kinds
def test_mixed_second_derivative(kind):
    x, y = tensor(an_input(kind, 5), "float64", learns=True), tensor(uniform(5), "float64", learns=True)
    loss = OURS[kind](x, y, reduction="sum")
    (to_x,) = paddle.grad(loss, x, create_graph=True)
    (to_x_to_y,) = paddle.grad(to_x.sum(), y)
    (to_y,) = paddle.grad(loss, y, create_graph=True)
    (to_y_to_x,) = paddle.grad(to_y.sum(), x)
    exact = -np.ones(5) if kind == "logits" else -1 / (array(x) * (1 - array(x)))
    np.testing.assert_allclose(array(to_x_to_y), exact, rtol=1e-12)
    np.testing.assert_allclose(array(to_y_to_x), exact, rtol=1e-12)


def test_hessian():
    x, y = tensor([-1.0, 0.0, 2.0], "float64", learns=True), tensor([1.0, 0.0, 1.0], "float64")
    hessian = paddle.autograd.hessian(face.binary_cross_entropy_with_logits(x, y, reduction="sum"), x)
    np.testing.assert_allclose(array(hessian[:]), np.diag(formula.logits_curvature(np, array(x), array(y))), atol=1e-15)


def test_functional_autograd():
    from paddle.incubate import autograd

    x, y, v = (
        tensor([-1.0, 0.0, 2.0], "float64"),
        tensor([1.0, 0.0, 1.0], "float64"),
        tensor([1.0, 2.0, 3.0], "float64"),
    )
    slope, curvature = SLOPE["logits"](np, array(x), array(y)), formula.logits_curvature(np, array(x), array(y))

    def loss(x):
        return face.binary_cross_entropy_with_logits(x, y, reduction="sum")

    np.testing.assert_allclose(array(autograd.vjp(loss, x)[1]), slope, rtol=1e-14)
    np.testing.assert_allclose(array(autograd.jvp(loss, x, v)[1]), slope @ array(v), rtol=1e-14)
    np.testing.assert_allclose(array(autograd.Jacobian(loss, x)[:])[0], slope, rtol=1e-14)
    np.testing.assert_allclose(array(autograd.Hessian(loss, x)[:]), np.diag(curvature), rtol=1e-14, atol=1e-16)


# Gradients to the other operands


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@both_kinds
def test_gradients_to_every_operand(kind, dtype):
    values = {
        "input": an_input(kind, 4, 3),
        "label": uniform(4, 3),
        "weight": uniform(4, 1, seed=2) + 0.5,
        "pos_weight": uniform(3, seed=3) + 0.5,
        "sample_weight": uniform(4, seed=4) + 0.5,
    }
    given = {name: tensor(value, dtype, learns=True) for name, value in values.items()}
    rest = {name: operand for name, operand in given.items() if name not in ("input", "label")}
    loss = OURS[kind](given["input"], given["label"], reduction="sum", **rest)
    assert runs(loss.backward) == 0

    x, y, w, p, s = (array(operand).astype(np.longdouble) for operand in given.values())
    each = w * s[:, None]
    element = formula.logits_loss if kind == "logits" else formula.probabilities_loss
    to_label = formula.logits_gradient_to_target if kind == "logits" else formula.probabilities_gradient_to_target
    to_pos = formula.logits_gradient_to_pos_weight if kind == "logits" else formula.probabilities_gradient_to_pos_weight
    bracket = element(np, x, y, None, p)
    exact = {
        "input": SLOPE[kind](np, x, y, each, p),
        "label": to_label(np, x, y, each, p),
        "weight": (bracket * s[:, None]).sum(1, keepdims=True),
        "pos_weight": to_pos(np, x, y, each, p).sum(0),
        "sample_weight": (bracket * w).sum(1),
    }
    tolerance = {"float64": 1e-13, "float32": 2e-5, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    for name, operand in given.items():
        assert operand.grad.dtype == operand.dtype
        actual = array(operand.grad).astype(np.longdouble)
        np.testing.assert_allclose(actual, exact[name], rtol=tolerance, atol=tolerance * np.abs(exact[name]).max())


@both_kinds
def test_only_another_operand_learns(kind):
    x, y = tensor(an_input(kind, 5)), tensor(uniform(5), learns=True)
    loss = OURS[kind](x, y, reduction="sum")
    assert not loss.stop_gradient
    exact = (formula.logits_gradient_to_target if kind == "logits" else formula.probabilities_gradient_to_target)(
        np, array(x), array(y)
    )
    np.testing.assert_allclose(gradient_of(loss, y), exact, rtol=1e-5)


def test_parameters_as_weights():
    weight = paddle.create_parameter([3], "float32", default_initializer=paddle.nn.initializer.Constant(2.0))
    loss = face.BCEWithLogitsLoss(weight, "sum")
    x, y = tensor(an_input("logits", 4, 3)), tensor(uniform(4, 3))
    loss(x, y).backward()
    exact = formula.logits_loss(np, array(x).astype(float), array(y).astype(float)).sum(0)
    np.testing.assert_allclose(array(weight.grad), exact, rtol=1e-5)


def test_enlarging_weight():
    x, y, w = tensor(an_input("logits", 3), learns=True), tensor(uniform(3)), tensor(uniform(2, 3))
    exact = SLOPE["logits"](np, array(x).astype(float), array(y).astype(float)) * array(w).sum(0) / 6
    np.testing.assert_allclose(gradient_of(face.binary_cross_entropy_with_logits(x, y, w), x), exact, rtol=1e-5)


def test_gradient_at_the_ends_of_probabilities():
    q, y = tensor([0, 1, 0, 1, 0.5], learns=True), tensor([1, 0, 0, 1, 1])
    expected = [-1e12, 1e12, 0, 0, -2]
    np.testing.assert_allclose(gradient_of(face.binary_cross_entropy(q, y, reduction="sum"), q), expected)
    np.testing.assert_allclose(gradient_of(PADDLES["probabilities"](q, y, reduction="sum"), q), expected)
    y.stop_gradient = False
    np.testing.assert_allclose(gradient_of(face.binary_cross_entropy(q, y, reduction="sum"), q), expected)
    np.testing.assert_allclose(array(y.grad), [100, -100, 100, -100, 0], atol=1e-6)


def test_half_precision_saturates_at_the_ends():
    for label in (tensor([1.0, 0.0], "float16"), tensor([1.0, 0.0], "float16", learns=True)):
        q = tensor([0.0, 1.0], "float16", learns=True)
        np.testing.assert_array_equal(gradient_of(face.binary_cross_entropy(q, label), q), [-65504, 65504])


# When there is no gradient, and what becomes of the operands


def test_no_grad_and_stop_gradient():
    x, y = tensor([1.0, 2.0], learns=True), tensor([1.0, 0.0])
    with paddle.no_grad():
        assert face.binary_cross_entropy_with_logits(x, y).stop_gradient
    assert face.binary_cross_entropy_with_logits(x.detach(), y).stop_gradient
    loss = face.binary_cross_entropy_with_logits(x, y)
    assert (loss.stop_gradient, loss.is_leaf) == (False, False)


@pytest.mark.parametrize("incoming", [1.0, 2.0])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_operands_are_freed_with_the_graph(reduction, incoming):
    x = tensor(an_input("logits", 10), learns=True)
    logits, label = x * 1, tensor(uniform(10))
    alive = [weakref.ref(logits), weakref.ref(label)]
    loss = face.binary_cross_entropy_with_logits(logits, label, reduction=reduction)
    del logits, label
    given = paddle.full_like(loss, incoming)
    for call in (lambda: loss.backward(given, retain_graph=True), lambda: paddle.grad(loss, x, given)):
        call()
        assert all(reference() is not None for reference in alive)
    loss.backward(given)
    assert [reference() for reference in alive] == [None, None]


def test_a_loss_that_is_dropped_frees_its_operands():
    gc.disable()
    try:
        x = tensor(an_input("logits", 10), learns=True)
        logits = x * 1
        alive = weakref.ref(logits)
        loss = face.binary_cross_entropy_with_logits(logits, tensor(uniform(10)))
        dropped = weakref.ref(loss)
        del logits, loss
        assert alive() is dropped() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("changed", ["logit", "label", "weight", "pos_weight", "sample_weight"])
def test_operands_changed_in_place_are_noticed(changed):
    operands = {
        "logit": tensor(an_input("logits", 4), learns=True) * 1,
        "label": tensor(uniform(4)),
        "weight": tensor(uniform(4)),
        "pos_weight": tensor(uniform(4)),
        "sample_weight": tensor(uniform(4)),
    }
    for needed in ({"retain_graph": True}, {"create_graph": True}):
        loss = face.binary_cross_entropy_with_logits(**operands)
        with paddle.no_grad():
            operands[changed].add_(paddle.ones([4]))
        with pytest.raises(OSError, match="RuntimeError: an operand of the loss was modified by an inplace operation"):
            paddle.grad(loss * 3, operands["logit"], **needed)
    assert paddle.is_grad_enabled()


def test_a_gradient_that_is_made_is_right_whatever_is_changed():
    x, y = tensor(an_input("logits", 4), learns=True), tensor(uniform(4))
    gradient_of(face.binary_cross_entropy_with_logits(x, y), x)  # so that 1 is expected
    expected = kernel_gradient("logits", array(x), array(y), 1 / 4)
    loss = face.binary_cross_entropy_with_logits(x, y)
    y.zero_()
    np.testing.assert_array_equal(gradient_of(loss, x), expected)


def test_only_the_gradient_is_allocated():
    """Paddle counts what its allocator hands out: not memory that is kept (kernel.LARGE_MEMORY)."""
    code = """
        import paddle, binxent.paddle as bx
        from paddle.base.core import host_memory_stat_current_value as current, host_memory_stat_peak_value as peak
        x, y, p = paddle.randn([1000, 1000]), paddle.rand([1000, 1000]), paddle.rand([1000])
        x.stop_gradient = False
        before = current("Allocated", 0)
        for scale in (1.0, 4.0, 4.0):
            (bx.binary_cross_entropy_with_logits(x, y, pos_weight=p) * scale).backward()
            x.clear_gradient(False)
        print((peak("Allocated", 0) - before) / 4_000_000)
    """
    assert 1 <= float(python(code).splitlines()[-1]) < 1.01


def test_other_threads():
    results = []

    def train():
        x, y = tensor(an_input("logits", 300, 300), learns=True), tensor(uniform(300, 300))
        results.append(gradient_of(face.binary_cross_entropy_with_logits(x, y), x))

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result.tobytes() for result in results}) == 1


def test_recompute():
    from paddle.distributed.fleet.utils import recompute

    x, y = tensor(an_input("logits", 8), learns=True), tensor(uniform(8))
    loss = recompute(lambda logits: face.binary_cross_entropy_with_logits(logits * 2, y), x)
    expected = 2 * kernel_gradient("logits", 2 * array(x), array(y), 1 / 8)
    np.testing.assert_array_equal(gradient_of(loss, x), expected)


def test_strided_operands_are_read_in_place():
    base = tensor(an_input("logits", 70, 60), learns=True)
    x, y = base.t()[::2], tensor(uniform(70, 60)).t()[::2]
    loss = face.binary_cross_entropy_with_logits(x, y, reduction="sum")
    expected = np.zeros((70, 60), np.float32)
    expected[:, ::2] = kernel_gradient("logits", array(base), np.repeat(array(y), 2, axis=0).T.copy())[:, ::2]
    np.testing.assert_array_equal(gradient_of(loss, base), expected)


def test_threads_are_not_left_at_paddles_one():
    def threads(*modules, **variables):
        report = "print(binxent.kernel.num_threads(), len(os.sched_getaffinity(0)))"
        return python(f"import os, {', '.join(modules)}\n{report}", **variables).split()

    for order in (("paddle", "binxent.paddle"), ("binxent.paddle", "paddle"), ("paddle", "binxent.numpy")):
        used, available = threads(*order, OMP_NUM_THREADS=None)
        assert used == available
        assert threads(*order, OMP_NUM_THREADS="1")[0] == "1"
        assert threads(*order, OMP_NUM_THREADS=None, BINXENT_NUM_THREADS="1")[0] == "1"


def test_any_byte_but_0_is_true() -> None:
    """Also where Paddle's own operations compute, whose cast takes the byte."""
    ones = np.random.default_rng(1).random((6, 3)) < 0.5

    def second(given: np.ndarray) -> np.ndarray:
        x = paddle.to_tensor(np.linspace(-3, 3, 18, dtype=np.float32).reshape(6, 3), stop_gradient=False)
        y, mask = paddle.to_tensor(given), paddle.to_tensor(given[::-1].copy())
        loss = face.binary_cross_entropy_with_logits(x, y, y, mask=mask, ignore_index=0)
        (gradient,) = paddle.grad(loss, x, create_graph=True)
        (result,) = paddle.grad(paddle.sum(gradient**2), x)
        return result.numpy()

    wanted = second(ones)
    assert np.abs(wanted).max() > 0
    np.testing.assert_array_equal(second((ones * np.uint8(255)).view(bool)), wanted)
