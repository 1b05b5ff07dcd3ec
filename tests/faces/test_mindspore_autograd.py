"""The derivatives: to every operand, of any order, in each of MindSpore's modes and transforms."""

from __future__ import annotations

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindspore import nn, ops  # noqa: E402

from binxent import definition, formula, kernel  # noqa: E402
from binxent import mindspore as face  # noqa: E402
from tests.faces.mindspore_samples import (  # noqa: E402
    KINDS,
    MINDSPORES,
    MODES,
    NAMES,
    OUR_CELLS,
    OURS,
    as_tensor,
    first_derivatives,
    in_mode,
    loss_of,
    operands,
    tensor,
    value_and_gradients,
)
from tests.reference import expected  # noqa: E402

both_kinds = pytest.mark.parametrize("kind", KINDS)


def elementwise(x, y):
    return face.binary_cross_entropy_with_logits(x, y, None, "none")


def mean(x, y):
    return face.binary_cross_entropy_with_logits(x, y)


@pytest.mark.parametrize("mode", MODES)
@both_kinds
@pytest.mark.parametrize("given", ["", "w", "s", "p", "wsp"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradients_to_every_operand(mode, kind, given, reduction):
    """MindSpore's own gives zeros for weight and pos_weight."""
    called = operands(kind, (4, 3), given=given)
    wanted = tuple(i for i, o in enumerate(called) if o is not None)
    _, gradients, _ = value_and_gradients(mode, loss_of(kind, reduction), called, wanted)
    exact = first_derivatives(kind, called, 1 / called[0].size if reduction == "mean" else 1.0)
    for i, gradient in zip(wanted, gradients, strict=True):
        assert gradient.shape == called[i].shape
        np.testing.assert_allclose(gradient, exact[i], rtol=4e-7, atol=1e-7 if i == 0 else 1e-12, err_msg=NAMES[i])


@pytest.mark.parametrize("mode", ["pynative", "jit", "graph"])
def test_gradients_in_the_tails(mode):
    """exp and log1p of MindSpore's own on CPU lose them."""
    x = np.array([[-80.0, -40.0, -20.0, 20.0, 40.0, 80.0]], np.float32)
    y, p = np.full_like(x, 0.5), np.full(x.shape[1:], 2.0, np.float32)
    called = (x, y, None, None, p)
    _, gradients, _ = value_and_gradients(mode, loss_of("logits", "sum"), called, (0, 1, 4))
    exact = first_derivatives("logits", called, 1.0)
    for gradient, i in zip(gradients, (0, 1, 4), strict=True):
        np.testing.assert_allclose(gradient, exact[i], rtol=3e-7, atol=0)


@pytest.mark.parametrize("mode", ["pynative", "jit", "graph"])
@both_kinds
@pytest.mark.parametrize("given", ["", "wsp"])
def test_second_derivatives(mode, kind, given):
    called = operands(kind, (3, 2), given=given)
    if kind == "probabilities":
        called[0] = called[0] * np.float32(0.8) + np.float32(0.1)
    gradient = ms.grad(loss_of(kind, "mean"), 0)
    direction = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)
    along = tensor(direction)

    def slope(x, y, w, s, p):
        return ops.sum(gradient(x, y, w, s, p) * along)

    wanted = tuple(i for i, o in enumerate(called) if o is not None)
    _, found, _ = value_and_gradients(mode, slope, called, wanted)
    step = 1e-6  # of central differences of the definition, in float64
    for i, second in zip(wanted, found, strict=True):
        exact = np.empty(called[i].shape)
        for at in np.ndindex(exact.shape):
            sides = []
            for sign in (1, -1):
                moved = [None if o is None else o.astype(np.float64) for o in called]
                moved[i][at] += sign * step
                sides.append((first_derivatives(kind, moved, 1 / direction.size)[0] * direction).sum())
            exact[at] = (sides[0] - sides[1]) / (2 * step)
        np.testing.assert_allclose(second, exact, rtol=2e-6, atol=1e-7, err_msg=NAMES[i])


@pytest.mark.parametrize("mode", ["pynative", "jit"])
def test_third_derivative(mode):
    x, y = (tensor(a) for a in operands("logits", (2, 3))[:2])
    first = ms.grad(face.binary_cross_entropy_with_logits)

    def once(x, y):
        return ops.sum(first(x, y, None, "sum"))

    second = ms.grad(once)

    def twice(x, y):
        return ops.sum(second(x, y))

    third = in_mode(mode, ms.grad(twice))(x, y).asnumpy()
    s = 1 / (1 + np.exp(-x.asnumpy().astype(np.float64)))
    np.testing.assert_allclose(third, s * (1 - s) * (1 - 2 * s), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mode", ["pynative", "jit"])
def test_any_byte_but_0_is_true(mode):
    """Also where MindSpore's own operations compute, whose astype takes the byte."""
    x = tensor(operands("logits", (6, 3))[0])
    ones = np.random.default_rng(1).random((6, 3)) < 0.5

    def second(x, y, mask):
        gradient = ms.grad(lambda x: face.binary_cross_entropy_with_logits(x, y, None, "mean", mask=mask))
        return ms.grad(lambda x: ops.sum(gradient(x) ** 2))(x)

    found, wanted = (
        in_mode(mode, second)(x, ms.Tensor(given), ms.Tensor(given[::-1].copy())).asnumpy()
        for given in ((ones * np.uint8(255)).view(bool), ones)
    )
    assert np.abs(wanted).max() > 0
    np.testing.assert_array_equal(found, wanted)


@both_kinds
def test_gradient_of_a_jitted_gradient(kind):
    x, y = (as_tensor(a) for a in operands(kind, (2, 3))[:2])
    first = ms.grad(OURS[kind])
    jitted = ms.jit(first)
    found, exact = (ms.grad(lambda x, g=g: ops.sum(g(x, y) ** 2))(x).asnumpy() for g in (jitted, first))
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_transforms():
    """They compile the function, and run the kernel for each sample, or differentiate its derivative."""
    x, y, *_ = operands("logits", (4, 3))
    tx, ty = tensor(x), tensor(y)
    exact = expected(x, y)

    runs = kernel.runs()
    batched = ms.vmap(mean)(tx, ty)
    np.testing.assert_allclose(batched.asnumpy(), exact.loss.mean(1), rtol=1e-6)
    assert kernel.runs() - runs == 4
    shared = ms.vmap(mean, (0, None))(tx, ty[0])
    np.testing.assert_allclose(shared.asnumpy(), expected(x, y[[0] * 4]).loss.mean(1), rtol=1e-6)
    gradients = ms.vmap(ms.grad(mean))(tx, ty)
    np.testing.assert_allclose(gradients.asnumpy(), exact.gradient / 3, rtol=1e-5, atol=1e-7)

    _, tangent = ms.jvp(mean, (tx, ty), (ty, tx))
    np.testing.assert_allclose(tangent.asnumpy(), (exact.gradient * y - x.astype(np.float64) * x).mean(), rtol=1e-5)
    value, pull = ms.vjp(elementwise, tx, ty)
    np.testing.assert_allclose(value.asnumpy(), exact.loss, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pull(ty)[0].asnumpy(), exact.gradient * y, rtol=1e-5, atol=1e-6)

    diagonal = np.zeros((4, 3, 4, 3))
    for at in np.ndindex(4, 3):
        diagonal[at + at] = exact.gradient[at]
    for jacobian in (ms.jacrev(elementwise), ms.jacfwd(elementwise)):
        np.testing.assert_allclose(jacobian(tx, ty).asnumpy(), diagonal, rtol=1e-5, atol=1e-6)

    def total(x):
        return ops.sum(elementwise(x, ty))

    curvature = formula.logits_curvature(np, x.astype(np.float64), y)
    hessian = ms.jacfwd(ms.jacrev(total))(tx).asnumpy()
    np.testing.assert_allclose(hessian.reshape(12, 12), np.diag(curvature.ravel()), rtol=1e-5, atol=1e-7)


def test_mean_gradient_after_another_batch():
    """MindSpore's own keeps the divisor of the first batch, in PyNative mode."""
    gradient = ms.grad(face.BCEWithLogitsLoss())
    for n in (64, 32, 128):
        zeros = ops.zeros((n, 3))
        np.testing.assert_array_equal(gradient(zeros, zeros + 1).asnumpy(), np.float32(-0.5 / (3 * n)))


@both_kinds
def test_gradient_twice(kind):
    """Neither a second backward nor another scale writes into a gradient that was given away."""
    x, y = (tensor(a) for a in operands(kind, (5, 4))[:2])
    _, pull = ms.vjp(OURS[kind], x, y)
    first = pull(tensor(1))[0]
    kept = first.asnumpy().copy()
    pull(tensor(7))
    again = pull(tensor(1))[0]
    np.testing.assert_array_equal(first.asnumpy(), kept)
    np.testing.assert_array_equal(again.asnumpy(), kept)


def test_losses_of_one_input_add_up():
    x, y = (tensor(a) for a in operands("logits", (5, 4))[:2])

    def both(x):
        return mean(x, y) + mean(x, 1 - y)

    gradient = ms.grad(both)(x).asnumpy()
    apart = ms.grad(mean)(x, y).asnumpy() + ms.grad(mean)(x, 1 - y).asnumpy()
    np.testing.assert_array_equal(gradient, apart)


def test_only_what_is_asked_for(monkeypatch):
    """Though MindSpore says that every operand of a differentiated function needs a gradient."""
    x, y = (tensor(a) for a in operands("logits", (5, 4))[:2])
    asked = []
    gradient = definition.gradient

    def noted(xp, call, operands, values, name, *rest):
        asked.append(name)
        return gradient(xp, call, operands, values, name, *rest)

    monkeypatch.setattr(definition, "gradient", noted)
    ms.value_and_grad(mean, 0)(x, y)
    assert asked == []
    ms.value_and_grad(mean, (0, 1))(x, y)
    assert asked == ["target"]


@both_kinds
@pytest.mark.parametrize("weighted", [False, True])
def test_backward_hooks(kind, weighted):
    """Called once, with the gradients to all inputs of the cell, which they may change."""
    given = [as_tensor(a) for a in operands(kind, (2, 3), given="w")[: 2 + weighted]]
    every = tuple(range(len(given)))

    def hooked(loss):
        class Network(nn.Cell):
            def construct(self, *operands):
                return loss(*operands)

        cell, seen = Network(), []

        def hook(cell, to_inputs, to_outputs):
            seen.append([[g.shape for g in gradients] for gradients in (to_inputs, to_outputs)])
            return tuple(g * 8 for g in to_inputs)

        cell.register_backward_hook(hook)
        return ms.grad(cell, every)(*given), seen

    for loss in (OURS[kind], OUR_CELLS[kind](), MINDSPORES[kind])[: 1 if weighted else 3]:  # or MindSpore's gives None
        gradients, seen = hooked(loss)
        assert seen == [[[g.shape for g in given], [()]]]
        for gradient, plain in zip(gradients, ms.grad(loss, every)(*given), strict=True):
            np.testing.assert_array_equal(gradient.asnumpy(), plain.asnumpy() * 8)


def test_a_loss_scale_runs_the_kernel_twice_only_once():
    x, y = (tensor(a) for a in operands("logits", (5, 4))[:2])
    for function in (ms.grad(lambda x, y: mean(x, y) * 1024), ms.grad(mean)):
        function(x, y)
        runs = kernel.runs()
        function(x, y)
        assert kernel.runs() - runs == 1


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("changed", ["input", "target", "weight"])
def test_operands_changed_in_place_are_noticed(changed, reduction):
    """In MindSpore's words."""
    values = {name: tensor(np.full((2, 3), 0.5)) for name in ("input", "target", "weight")}

    def with_loss(loss):
        def forward(input, target, weight):
            own = {"input": input * 1, "target": target * 1, "weight": weight * 1}
            value = loss(own["input"], own["target"], own["weight"], reduction)
            own[changed].copy_(own[changed] + 1)
            return ops.sum(value)

        return ms.grad(forward)

    for loss in (OURS["logits"], MINDSPORES["logits"]):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            with_loss(loss)(*values.values())


@pytest.mark.parametrize("mode", ["pynative", "jit"])
def test_a_pos_weight_is_trained(mode):
    """If it is a Parameter; MindSpore's own leaves it as it is."""
    rng = np.random.default_rng(6)
    x, y = tensor(rng.normal(size=(8, 4))), tensor(rng.integers(0, 2, (8, 3)))

    class Network(nn.Cell):
        def __init__(self):
            super().__init__()
            self.dense = nn.Dense(4, 3, weight_init="ones")
            self.loss = face.BCEWithLogitsLoss(pos_weight=ms.Parameter(tensor(np.ones(3)), name="pos_weight"))

        def construct(self, x, y):
            return self.loss(self.dense(x), y)

    network = Network()
    optimizer = nn.SGD(network.trainable_params(), 0.5)
    loss_and_gradients = ms.value_and_grad(network, None, optimizer.parameters)

    def step(x, y):
        loss, gradients = loss_and_gradients(x, y)
        optimizer(gradients)
        return loss

    step = in_mode(mode, step)
    runs = kernel.runs()
    losses = [float(step(x, y)) for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert kernel.runs() - runs == (5 if mode == "pynative" else 10)
    assert not np.array_equal(network.loss.pos_weight.asnumpy(), np.ones(3, np.float32))


def test_train_one_step_cell():
    rng = np.random.default_rng(7)
    x, y = tensor(rng.normal(size=(8, 4))), tensor(rng.integers(0, 2, (8, 3)))
    network = nn.Dense(4, 3, weight_init="ones")
    with_loss = nn.WithLossCell(network, face.BCEWithLogitsLoss())
    step = nn.TrainOneStepCell(with_loss, nn.SGD(network.trainable_params(), 0.5))
    runs = kernel.runs()
    losses = [float(step(x, y)) for _ in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert kernel.runs() - runs == 4
