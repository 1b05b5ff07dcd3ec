"""label_smoothing and gamma as tensors that learn: in every mode, right or refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import paddle
import pytest

from binxent import paddle as face
from tests.faces.paddle_samples import KINDS, OUR_LAYERS, OURS, an_input, array, runs, tensor, uniform
from tests.reference import expected

# Of paddle.static.gradients itself.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface")
both_kinds = pytest.mark.parametrize("kind", KINDS)
both_names = pytest.mark.parametrize("name", ["label_smoothing", "gamma"])
both_ways = pytest.mark.parametrize("full_graph", [True, False], ids=["full graph", "broken graph"])

REDUCTIONS = ("none", "sum", "mean", "batchmean", "weighted_mean")
NUMBERS = {"label_smoothing": 0.2, "gamma": 1.3}
MASK = np.array([[1, 0, 1], [1, 1, 1], [0, 0, 0], [1, 1, 1]], bool)
X, Y = [0.5, -1.0, 2.0], [1.0, 0.0, 1.0]
KNOWN = {"gamma": (2.0, -0.099414), "label_smoothing": (0.1, 1.75)}  # the option, and the slope of the sum


def parameter(value, dtype="float32"):
    constant = paddle.nn.initializer.Constant(value)
    return paddle.create_parameter([], dtype, default_initializer=constant)


def operands(kind):
    """In float64; what the mask hides is what no derivative may see."""
    x = np.where(MASK, an_input(kind, 4, 3) / (3 if kind == "logits" else 1), np.nan)
    return x, np.where(MASK, uniform(4, 3), np.inf), uniform(4, 3, seed=2) + 0.5, uniform(3, seed=3) + 0.5


def total(kind, reduction, numbers):
    x, y, w, p = operands(kind)
    probabilities = kind == "probabilities"
    exact = expected(x, y, w, p, mask=MASK, **numbers, probabilities=probabilities, wide=np.longdouble)
    return exact.loss.sum() if reduction == "none" else exact.value(reduction)


def slope(kind, reduction, name):
    step = np.longdouble(1e-5)
    above, below = (total(kind, reduction, NUMBERS | {name: NUMBERS[name] + k * step}) for k in (1, -1))
    return float((above - below) / (2 * step))


@both_names
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_known_values(reduction, name):
    value, wanted = KNOWN[name]
    for kind in KINDS:
        option = parameter(value)
        x = tensor(X) if kind == "logits" else paddle.nn.functional.sigmoid(tensor(X))
        OURS[kind](x, tensor(Y), reduction=reduction, **{name: option}).sum().backward()
        np.testing.assert_allclose(option.grad.item(), wanted, atol=1e-6)


@pytest.mark.parametrize("learns", [False, True], ids=["options alone", "all"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_gradients(kind, reduction, learns):
    x, y, w, p = (tensor(operand, "float64", learns=learns) for operand in operands(kind))
    given = {name: parameter(value, "float64") for name, value in NUMBERS.items()}
    loss = OURS[kind](x, y, w, reduction, pos_weight=p, mask=tensor(MASK, "bool"), **given)
    loss.sum().backward()
    np.testing.assert_allclose(loss.sum().item(), float(total(kind, reduction, NUMBERS)), rtol=1e-12)
    for name, option in given.items():
        np.testing.assert_allclose(option.grad.item(), slope(kind, reduction, name), rtol=1e-8, atol=1e-10)
    if learns:  # the input's gradient is that beside numbers
        alone = tensor(operands(kind)[0], "float64", learns=True)
        OURS[kind](alone, y, w, reduction, pos_weight=p, mask=tensor(MASK, "bool"), **NUMBERS).sum().backward()
        np.testing.assert_allclose(array(x.grad), array(alone.grad), rtol=1e-11, atol=1e-15)


@both_names
@both_kinds
def test_second_derivatives(kind, name):
    x, y, w, p = (tensor(operand, "float64") for operand in operands(kind))
    x.stop_gradient = False

    def slopes(value, create_graph):
        option = tensor(value, "float64", learns=True)
        given = {**NUMBERS, name: option}
        loss = OURS[kind](x, y, w, "sum", pos_weight=p, mask=tensor(MASK, "bool"), **given)
        return option, *paddle.grad(loss, [x, option], create_graph=create_graph)

    option, to_x, to_option = slopes(NUMBERS[name], True)
    twice = paddle.grad(to_x.sum() + to_option, option)[0].item()
    step = 1e-5
    above, below = (slopes(NUMBERS[name] + k * step, False)[1:] for k in (1, -1))
    wanted = sum((a.sum() - b.sum()).item() for a, b in zip(above, below, strict=True)) / (2 * step)
    np.testing.assert_allclose(twice, wanted, rtol=1e-7, atol=1e-8)


@both_kinds
def test_finite_at_the_ends(kind):
    ends = [np.inf, -np.inf, 200.0, -200.0] if kind == "logits" else [1.0, 0.0, 1e-30, 1 - 1e-12]
    for value in (0.0, 2.0):
        for label in (0.0, 1.0):
            option = parameter(value)
            loss = OURS[kind](tensor(ends), tensor([label] * 4), reduction="none", gamma=option)
            loss[np.flatnonzero(np.isfinite(array(loss)))].sum().backward()
            assert np.isfinite(option.grad.item())


def test_only_a_tensor_that_learns_leaves_the_kernel():
    x, y = tensor(X, learns=True), tensor(Y)
    numbers = {name: tensor(value) for name, value in NUMBERS.items()}
    learnt = {name: parameter(value) for name, value in NUMBERS.items()}
    loss = face.binary_cross_entropy_with_logits
    wanted = array(loss(x, y, **{name: np.float32(value) for name, value in NUMBERS.items()}))
    np.testing.assert_array_equal(array(loss(x, y, **numbers)), wanted)
    assert runs(lambda: loss(x, y, **numbers)) == 1
    assert runs(lambda: loss(x, y, **learnt)) == 0
    with paddle.no_grad():
        assert runs(lambda: loss(x, y, **learnt)) == 1
        np.testing.assert_array_equal(array(loss(x, y, **learnt)), wanted)


# Layers and graphs


@both_kinds
def test_a_layer_learns_them(kind):
    layer = OUR_LAYERS[kind](label_smoothing=parameter(0.1), gamma=parameter(2.0), reduction="sum")
    assert repr(layer) == f"{type(layer).__name__}(reduction='sum', label_smoothing=float32[], gamma=float32[])"
    assert {*layer.state_dict()} == {"label_smoothing", "gamma"}
    x = tensor(X) if kind == "logits" else paddle.nn.functional.sigmoid(tensor(X))
    optimizer = paddle.optimizer.SGD(0.01, parameters=layer.parameters())
    before = layer(x, tensor(Y))
    before.backward()
    optimizer.step()
    assert layer.gamma.item() > 2.0
    assert layer.label_smoothing.item() < 0.1
    assert layer(x, tensor(Y)).item() < before.item()


@both_kinds
@both_ways
def test_to_static(full_graph, kind):
    layer = OUR_LAYERS[kind](**{name: parameter(value) for name, value in NUMBERS.items()}, reduction="sum")
    x = tensor(an_input(kind, 4, 3), learns=True)
    learners = [x, layer.label_smoothing, layer.gamma]
    compiled = paddle.jit.to_static(
        OUR_LAYERS[kind](reduction="sum", **dict(layer.named_parameters())), full_graph=full_graph
    )
    wanted = paddle.grad(layer(x, tensor(uniform(4, 3))), learners)
    for _ in range(2):  # traced, and run again
        for learner in learners:
            learner.clear_gradient(set_to_zero=False)
        compiled(x, tensor(uniform(4, 3))).backward()
        for learner, gradient in zip(learners, wanted, strict=True):
            np.testing.assert_allclose(array(learner.grad), array(gradient), rtol=1e-5, atol=1e-6)


@both_kinds
def test_saved_and_loaded(kind, tmp_path):
    """Paddle cannot load a program with a constant NaN, which an option out of its range makes of the loss."""
    layer = OUR_LAYERS[kind](**{name: parameter(value) for name, value in NUMBERS.items()})
    x, y = tensor(an_input(kind, 4, 3)), tensor(uniform(4, 3))
    specs = [paddle.static.InputSpec([-1, 3], "float32", name) for name in ("x", "y")]
    paddle.jit.save(layer, str(tmp_path / "layer"), input_spec=specs)
    loaded = paddle.jit.load(str(tmp_path / "layer"))
    np.testing.assert_allclose(array(loaded(x, y)), array(layer(x, y)), rtol=2e-6)
    gamma = next(parameter for parameter in loaded.parameters() if parameter.item() == np.float32(NUMBERS["gamma"]))
    gamma.set_value(tensor(-1.0))
    assert np.isnan(array(loaded(x, y)))


def test_to_static_around_a_tensor_from_outside():
    gamma = parameter(2.0)

    class Around(paddle.nn.Layer):
        def forward(self, x, y):
            return face.binary_cross_entropy_with_logits(x, y, reduction="sum", gamma=gamma)

    paddle.jit.to_static(Around(), full_graph=True)(tensor(X), tensor(Y)).backward()
    np.testing.assert_allclose(gamma.grad.item(), KNOWN["gamma"][1], atol=1e-6)


@pytest.fixture
def static() -> Iterator[None]:
    paddle.enable_static()
    try:
        with paddle.static.program_guard(paddle.static.Program(), paddle.static.Program()):
            yield
    finally:
        paddle.disable_static()


@pytest.mark.parametrize("shape", [[], [1]])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@both_kinds
def test_static_graph(static, kind, dtype, shape):
    values = dict(zip(("x", "y", "w", "p"), operands(kind), strict=True))
    feed = {name: value.astype(dtype) for name, value in values.items()}
    feed |= {name: np.full(shape, value, dtype) for name, value in NUMBERS.items()}
    inside = {name: paddle.static.data(name, list(value.shape), dtype) for name, value in feed.items()}
    mask = paddle.static.data("mask", [4, 3], "bool")
    for value in inside.values():
        value.stop_gradient = False
    x, y, w, p, *numbers = inside.values()
    given = dict(zip(NUMBERS, numbers, strict=True))
    loss = OURS[kind](x, y, w, "weighted_mean", pos_weight=p, mask=mask, **given)
    results = [loss, *paddle.static.gradients([loss], numbers)]

    def run(**changed):
        return paddle.static.Executor(paddle.CPUPlace()).run(feed=feed | changed | {"mask": MASK}, fetch_list=results)

    wanted = [float(total(kind, "weighted_mean", NUMBERS)), *(slope(kind, "weighted_mean", name) for name in NUMBERS)]
    for result, exact in zip(run(), wanted, strict=True):
        np.testing.assert_allclose(result.item(), exact, rtol=1e-8 if dtype == "float64" else 1e-4)
    for name, value in (("gamma", -1.0), ("gamma", np.inf), ("label_smoothing", 1.1), ("label_smoothing", -0.1)):
        assert np.isnan(run(**{name: np.full(shape, value, dtype)})[0])


def test_refusals_of_a_static_graph(static):
    x, y = (paddle.static.data(name, [2, 3], "float32") for name in "xy")
    for name in ("ignore_index", "label_smoothing", "gamma"):
        with pytest.raises(TypeError, match=re.escape(f"{name}: expected a number, got a static graph's variable of")):
            face.binary_cross_entropy_with_logits(x, y, **{name: x})


@both_names
def test_a_static_graph_refuses_a_tensor_that_it_would_freeze(static, name):
    x, y = (paddle.static.data(each, [3], "float32") for each in "xy")
    paddle.disable_static()
    learns = parameter(0.5)
    paddle.enable_static()
    with pytest.raises(TypeError, match=f"{name}: a paddle.Tensor that learns, of which a static graph would make a"):
        face.binary_cross_entropy_with_logits(x, y, **{name: learns})


@both_names
def test_out_of_range_or_no_number(name):
    loss = face.binary_cross_entropy_with_logits
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{name}: "):
            loss(tensor(X), tensor(Y), **{name: parameter(value)})
    with pytest.raises(TypeError, match=f"{name}: expected a number, got"):
        loss(tensor(X), tensor(Y), **{name: tensor([0.1, 0.2], learns=True)})
