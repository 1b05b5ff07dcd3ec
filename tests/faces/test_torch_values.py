"""What the numbers are: accuracy, the bits of the NumPy face, infinities, ends of the range, memory of the result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binxent import kernel
from binxent import numpy as numpy_face
from tests.faces.torch_samples import (
    FLOATING,
    KINDS,
    OURS,
    REDUCTIONS,
    TORCHS,
    all_operands,
    an_input,
    as_numpy,
    dtype_name,
    kernel_gradient,
    uniform,
)
from tests.operands import logits, probabilities, targets
from tests.reference import assert_close, bits, expected, tolerance

both_kinds = pytest.mark.parametrize("kind", KINDS)
INCOMING = (1.0, 3.0, 0.7, 1024.0)
INF, NAN = float("inf"), float("nan")


def gradient_for(kind, incoming, operands, **options):
    operands = dict(operands)
    x = operands.pop("input").detach().clone().requires_grad_()
    loss = OURS[kind](x, **operands, **options)
    loss.backward(torch.full_like(loss, incoming))
    return x.grad


# Accuracy

GRIDS = {"logits": logits, "probabilities": probabilities}


def grid(kind, dtype, target, size=4000):
    rng = np.random.default_rng(5)
    x = GRIDS[kind](dtype_name(dtype), size, rng)
    return torch.from_numpy(x), torch.from_numpy(targets(target, x, rng))


def assert_accurate(kind, x, y, loss, gradient, incoming=1.0, *, hard, more=0, **weights):
    name = dtype_name(x.dtype)
    arrays = {key: weight.numpy() for key, weight in weights.items()}
    exact = expected(x.numpy(), y.numpy(), probabilities=kind == "probabilities", wide=np.longdouble, **arrays)
    for actual, of_each, larger, scale in (
        (loss, exact.loss, exact.larger_loss, 1),
        (gradient, exact.gradient, exact.larger_gradient, incoming),
    ):
        scaled = np.log2(scale) % 1 != 0
        allowed = tolerance(kernel.instruction_set, hard=hard, weights=len(weights), scaled=scaled) + more
        assert_close(as_numpy(actual), of_each * scale, larger * scale, name, allowed=allowed, computed_in=name)


@pytest.mark.parametrize("incoming", INCOMING)
@pytest.mark.parametrize("target", ["hard", "soft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@both_kinds
def test_accuracy(kind, dtype, target, incoming):
    x, y = grid(kind, dtype, target)
    x.requires_grad_()
    loss = OURS[kind](x, y, reduction="none")
    (gradient,) = torch.autograd.grad(loss, x, torch.full_like(loss, incoming))
    assert_accurate(kind, x.detach(), y, loss, gradient, incoming, hard=target == "hard")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@both_kinds
def test_accuracy_with_weights(kind, dtype):
    x, y = grid(kind, dtype, "hard")
    weights = {name: 3 * uniform(x.numel(), dtype=dtype, seed=i) for i, name in enumerate(("weight", "pos_weight"))}
    x.requires_grad_()
    loss = OURS[kind](x, y, reduction="none", **weights)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert_accurate(kind, x.detach(), y, loss, gradient, hard=True, **weights)


@pytest.mark.parametrize("target", ["hard", "soft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@both_kinds
def test_accuracy_of_the_formula(kind, dtype, target):
    """Under a transform: half an ulp more, since torch's own exp and log1p are less exact and each operation rounds."""
    x, y = grid(kind, dtype, target)
    if kind == "probabilities":  # there torch's own bound of the gradient is float32's 1e-12, in float64 too
        inside = x * (1 - x) > 1e-12
        x, y = x[inside], y[inside]
    loss, vjp = torch.func.vjp(lambda x: OURS[kind](x, y, reduction="none"), x)
    (gradient,) = vjp(torch.ones_like(loss))
    assert_accurate(kind, x, y, loss, gradient, hard=target == "hard", more=0.5)


def all_halves(kind, dtype):
    """Every finite number of the type: within [-100, 100], or within [0, 1]."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    if kind == "logits":
        return every[every.abs() <= 100]
    return every[(every >= 0) & (every <= 1)]


@pytest.mark.parametrize("target", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@both_kinds
def test_half_types_are_float32_rounded_once(kind, dtype, target):
    x = all_halves(kind, dtype)
    y = torch.full_like(x, target)
    for incoming in INCOMING:
        incoming = torch.tensor(incoming, dtype=dtype).item()
        half, single = x.clone().requires_grad_(), x.float().requires_grad_()
        losses = [OURS[kind](t, y.to(t.dtype), reduction="none") for t in (half, single)]
        gradients = [
            torch.autograd.grad(loss, t, torch.full_like(loss, incoming))[0]
            for loss, t in zip(losses, (half, single), strict=True)
        ]
        assert torch.equal(losses[0], losses[1].to(dtype))
        rounded = gradients[1].to(dtype)
        if kind == "probabilities" and dtype == torch.float16:  # saturates
            rounded = rounded.clamp(-65504, 65504)
        assert torch.equal(gradients[0], rounded)


def test_tails_that_torch_loses():
    x = torch.tensor([-20.0, -40.0, -80.0], requires_grad=True)
    loss = OURS["logits"](x, torch.zeros(3), reduction="none")
    torch.testing.assert_close(loss, torch.exp(x.detach()), rtol=2e-7, atol=0)
    assert torch.equal(TORCHS["logits"](x, torch.zeros(3), reduction="none"), torch.zeros(3))

    x = torch.tensor([17.0, 40.0, 80.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(OURS["logits"](x, torch.ones(3), reduction="sum"), x)
    torch.testing.assert_close(gradient, -torch.exp(-x.detach()), rtol=2e-7, atol=0)
    (gradient,) = torch.autograd.grad(TORCHS["logits"](x, torch.ones(3), reduction="sum"), x)
    assert torch.equal(gradient, torch.zeros(3))

    x = torch.tensor([6.5, 10.0], dtype=torch.bfloat16, requires_grad=True)
    (gradient,) = torch.autograd.grad(OURS["logits"](x, torch.ones_like(x), reduction="sum"), x)
    assert (gradient < 0).all()
    (gradient,) = torch.autograd.grad(TORCHS["logits"](x, torch.ones_like(x), reduction="sum"), x)
    assert torch.equal(gradient, torch.zeros_like(x))


def test_a_sum_beyond_float16_is_infinite_and_a_mean_is_right():
    x = torch.full((100_000,), 3.0, dtype=torch.float16)
    assert torch.isinf(OURS["logits"](x, torch.zeros_like(x), reduction="sum"))
    assert OURS["logits"](x, torch.zeros_like(x)) == OURS["logits"](x[0], x[0] * 0)


# The bits of the NumPy face


LAYOUTS = {
    "contiguous": lambda t: t,
    "transposed": lambda t: t.t().contiguous().t(),
    "strided": lambda t: torch.stack([t, t], -1)[..., 1],
    "offset": lambda t: torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weights", [(), ("weight",), ("pos_weight",), ("weight", "pos_weight", "sample_weight")])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@both_kinds
def test_the_bits_of_the_numpy_face(kind, dtype, reduction, weights, layout):
    operands = all_operands(kind, 150, 131, dtype)
    operands = {name: operands[name] for name in ("input", "target", *weights)}
    arrays = {name: as_numpy(operand) for name, operand in operands.items()}
    loss, gradient = numpy_face.value_and_grad(**arrays, reduction=reduction, probabilities=kind == "probabilities")
    x = LAYOUTS[layout](operands.pop("input")).detach().requires_grad_()
    others = {name: LAYOUTS[layout](o) if o.dim() == 2 else o for name, o in operands.items()}
    ours = OURS[kind](x, **others, reduction=reduction)
    assert np.array_equal(bits(as_numpy(ours)), bits(np.asarray(loss)))
    ours.sum().backward()
    assert np.array_equal(bits(as_numpy(x.grad)), bits(gradient))
    with torch.no_grad():
        assert torch.equal(OURS[kind](x, **others, reduction=reduction), ours)


@pytest.mark.parametrize("incoming", [3.0, 0.7, 1024.0])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@both_kinds
def test_an_incoming_gradient_is_one_factor_before_the_one_rounding(kind, dtype, reduction, incoming):
    operands = all_operands(kind, 40, 131, dtype)
    gradient = gradient_for(kind, incoming, operands, reduction=reduction)
    if reduction == "none":
        each = torch.full(operands["input"].shape, incoming, dtype=dtype)
        expected = kernel_gradient(kind, operands, 1.0, each)
    else:
        # The loss has its own dtype, and so has the gradient that comes to it.
        scale = torch.tensor(incoming, dtype=dtype).item()
        expected = kernel_gradient(kind, operands, scale / (5240 if reduction == "mean" else 1))
    assert np.array_equal(bits(as_numpy(gradient)), bits(expected))


def test_a_loss_scaler_of_1024_keeps_what_a_stored_gradient_would_lose():
    x = torch.linspace(8, 10, 512, dtype=torch.float16)
    y = torch.ones_like(x)
    scaled = gradient_for("logits", 1024.0, {"input": x, "target": y})
    stored = gradient_for("logits", 1.0, {"input": x, "target": y}) * 1024
    exact = -torch.sigmoid(-x.double()) / 512 * 1024
    assert (scaled.double() / exact - 1).abs().max() < 2**-11 + 1e-6
    assert (stored.double() / exact - 1).abs().max() > 0.05


def test_integer_targets_have_the_bits_of_floating_ones():
    x = an_input("logits", 5000, dtype=torch.float32)
    y = uniform(5000) > 0.5
    reference = OURS["logits"](x, y.float(), reduction="none")
    for dtype in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16):
        loss = OURS["logits"](x, y.to(dtype), reduction="none")
        assert loss.dtype == torch.float32
        assert torch.equal(loss, reference)


def test_float64_targets_are_computed_in_float64():
    x, y = an_input("logits", 100, dtype=torch.float32), uniform(100)
    loss = OURS["logits"](x, y, reduction="none")
    assert torch.equal(loss, OURS["logits"](x.double(), y, reduction="none"))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(OURS["logits"](x, y, reduction="sum"), x)
    wide = x.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(OURS["logits"](wide, y, reduction="sum"), wide)
    assert torch.equal(gradient, exact.float())


# Infinities, NaN and nothing

INFINITE = [  # logit, target, loss, d/dx
    (INF, 1.0, 0.0, 0.0), (INF, 0.0, INF, 1.0), (INF, 0.3, INF, 0.7),
    (-INF, 1.0, INF, -1.0), (-INF, 0.0, 0.0, 0.0), (-INF, 0.3, INF, -0.3),
    (200.0, 1.0, 0.0, 0.0), (200.0, 0.0, 200.0, 1.0), (-200.0, 1.0, 200.0, -1.0),
    (NAN, 1.0, NAN, NAN), (1.0, NAN, NAN, NAN), (NAN, 0.0, NAN, NAN),
]  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("weights", [{}, {"weight": 1.0}, {"pos_weight": 1.0}], ids=str)
@pytest.mark.parametrize("through", ["kernel", "formula"])
def test_infinities(dtype, weights, through):
    x, y, loss, slope = (torch.tensor(column).to(dtype) for column in zip(*INFINITE, strict=True))
    weights = {name: torch.full_like(x, w) for name, w in weights.items()}

    def function(x):
        return OURS["logits"](x, y, reduction="none", **weights)

    if through == "kernel":
        x.requires_grad_()
        ours = function(x)
        (gradient,) = torch.autograd.grad(ours.sum(), x)
    else:
        ours, vjp = torch.func.vjp(function, x)
        (gradient,) = vjp(torch.ones_like(ours))
    torch.testing.assert_close(ours, loss, rtol=0, atol=1e-80, equal_nan=True)
    torch.testing.assert_close(gradient, slope, rtol=2**-7, atol=1e-30, equal_nan=True)


def test_a_coefficient_of_0_hides_an_infinity_and_no_nan():
    x = torch.tensor([-INF, INF, NAN])
    zero = torch.zeros(3)
    assert torch.equal(OURS["logits"](x[:1], torch.ones(1), pos_weight=zero[:1], reduction="none"), zero[:1])
    loss = OURS["logits"](x, torch.tensor([1.0, 0.0, 1.0]), zero, reduction="none")
    assert torch.equal(loss[:2], zero[:2])
    assert loss[2].isnan()


@both_kinds
@pytest.mark.parametrize("shape", [(0,), (2, 0, 3)], ids=str)
def test_empty(kind, shape):
    x = torch.empty(shape, requires_grad=True)
    for reduction, value in (("mean", NAN), ("sum", 0.0)):
        loss = OURS[kind](x, torch.empty(shape), reduction=reduction)
        torch.testing.assert_close(loss, torch.tensor(value), equal_nan=True)
        loss.backward()
        assert x.grad.shape == shape
    assert OURS[kind](x, torch.empty(shape), reduction="none").shape == shape


def test_zero_logits_have_a_gradient_of_a_half():
    x = torch.zeros(2, requires_grad=True)
    OURS["logits"](x, torch.tensor([0.0, 1.0]), reduction="sum").backward()
    assert x.grad.tolist() == [0.5, -0.5]


@pytest.mark.parametrize("pos_weight", [None, 0.0, 1e-6, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("through", ["tape", "transform"])
def test_gradient_to_the_target(pos_weight, through):
    x = torch.tensor([-INF, -80.0, -30.0, -12.0, -1.0, 0.0, 1e-6, 1.0, 12.0, 30.0, 80.0, INF], dtype=torch.float64)
    p = None if pos_weight is None else torch.full_like(x, pos_weight)
    positive, negative = torch.nn.functional.softplus(-x), torch.nn.functional.softplus(x)
    exact = -x if pos_weight is None else torch.where(p * positive == 0, 0, p) * positive - negative
    exact = torch.where(x == -INF, p * INF if pos_weight else (0 if p is not None else INF), exact)
    x, p = x.float(), None if p is None else p.float()

    def function(y):
        return OURS["logits"](x, y, pos_weight=p, reduction="sum")

    y = torch.full_like(x, 0.3)
    if through == "tape":
        y.requires_grad_()
        (gradient,) = torch.autograd.grad(function(y), y)
    else:
        gradient = torch.func.grad(function)(y)
    # Differentiated, the loss gives the difference of two softplus; the tape has the formula of that difference.
    near_zero = 1e-38 if through == "tape" else 1e-7
    torch.testing.assert_close(gradient.double(), exact, rtol=5e-7, atol=near_zero)


# The ends of the range of probabilities

ENDS = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0, 0.3, 0.3])


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("through", ["kernel", "formula"])
def test_ends_of_the_range(dtype, through):
    q, y = (t.clone().to(dtype) for t in ENDS)
    if through == "kernel":
        q.requires_grad_(), y.requires_grad_()
        loss = OURS["probabilities"](q, y, reduction="none")
        to_q, to_y = torch.autograd.grad(loss.sum(), (q, y))
    else:
        loss, vjp = torch.func.vjp(lambda q, y: OURS["probabilities"](q, y, reduction="none"), q, y)
        to_q, to_y = vjp(torch.ones_like(loss))
    exact = torch.tensor([0, 100, 100, 0, 30, 70], dtype=torch.float64)
    torch.testing.assert_close(loss.double(), exact, rtol=8e-3, atol=0)
    # torch's ±1e12, as far as the type reaches (torch: infinite or NaN in float16), and ±100 (torch: infinite).
    largest = min(1e12, torch.finfo(dtype).max)
    slope = torch.tensor([0, -1e12, 1e12, 0, -3e11, 7e11], dtype=torch.float64).clamp(-largest, largest)
    torch.testing.assert_close(to_q.double(), slope, rtol=8e-3, atol=0)
    assert torch.equal(to_y, torch.tensor([100, 100, -100, -100, 100, -100]).to(dtype))
    if dtype != torch.float16:
        twin = q.detach().clone().requires_grad_()
        TORCHS["probabilities"](twin, y.detach(), reduction="sum").backward()
        torch.testing.assert_close(to_q, twin.grad, rtol=8e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_second_derivative_at_the_ends_is_torchs(dtype):
    def second(function):
        q, y = (t.to(dtype).requires_grad_() for t in (t.clone() for t in ENDS))
        (slope,) = torch.autograd.grad(function(q, y, reduction="sum"), q, create_graph=True)
        return torch.autograd.grad(slope.sum(), q)[0]

    torch.testing.assert_close(second(OURS["probabilities"]), second(TORCHS["probabilities"]))


# Memory


@both_kinds
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_scalar_owns_one_element(kind, reduction, requires_grad):
    x = an_input(kind, 1000).requires_grad_(requires_grad)
    assert OURS[kind](x, uniform(1000), reduction=reduction).untyped_storage().nbytes() == 8
    if kind == "probabilities":  # torch keeps all of them alive
        assert TORCHS[kind](x, uniform(1000), reduction=reduction).untyped_storage().nbytes() == 8000
