"""Graphs: to_static both ways, saved models, the static graph, mixed precision."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from binxent import formula
from binxent import paddle as face
from tests.faces.paddle_samples import (
    KINDS,
    OUR_LAYERS,
    OURS,
    PADDLES,
    PADDLES_TESTS,
    REDUCTIONS,
    an_input,
    array,
    gradient_of,
    runs,
    tensor,
    uniform,
)
from tests.processes import python
from tests.reference import expected

# Of paddle.static.gradients itself.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface")
both_kinds = pytest.mark.parametrize("kind", KINDS)
both_ways = pytest.mark.parametrize("full_graph", [True, False], ids=["full graph", "broken graph"])


class Model(paddle.nn.Layer):
    """What a user compiles: something before the loss, and something after it."""

    def __init__(self, kind, **options):
        super().__init__()
        self.kind = kind
        self.loss = OUR_LAYERS[kind](**options)

    def forward(self, input, label, sample_weight=None):
        input = input * 2 if self.kind == "logits" else input**2
        return self.loss(input, label, sample_weight=sample_weight) * 3


# In Paddle's words, when a graph runs that was made of unknown dimensions.
SHAPES_DIFFER = r"Input\(X\) and Input\(Label\) shall have the same shape"

OPTIONS = [
    {},
    {"weight": [1.0, 2.0, 3.0]},
    {"pos_weight": [[0.5], [2.0], [3.0], [4.0]]},
    {"weight": [[1.0]], "pos_weight": [3.0]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
@both_ways
def test_to_static(full_graph, kind, reduction, options):
    model = Model(kind, reduction=reduction, **{name: tensor(values) for name, values in options.items()})
    x, y = tensor(an_input(kind, 4, 3), learns=True), tensor(uniform(4, 3))
    eager = model(x, y)
    gradient = gradient_of(eager.sum(), x)
    compiled = paddle.jit.to_static(model, full_graph=full_graph)
    for _ in range(2):  # traced, and run again
        loss = compiled(x, y)
        assert (loss.shape, loss.dtype) == (eager.shape, eager.dtype)
        np.testing.assert_allclose(array(loss), array(eager), rtol=2e-6)
        np.testing.assert_allclose(gradient_of(loss.sum(), x), gradient, rtol=1e-5, atol=1e-6)


@both_kinds
@both_ways
def test_to_static_takes_the_formula_or_the_kernel(full_graph, kind):
    compiled = paddle.jit.to_static(Model(kind), full_graph=full_graph)
    x, y = tensor(an_input(kind, 4, 3), learns=True), tensor(uniform(4, 3))
    compiled(x, y)
    assert runs(lambda: compiled(x, y).backward()) == (0 if full_graph else 1)


@both_ways
def test_sample_weight_and_integer_labels_in_to_static(full_graph):
    model = Model("logits")
    x, y, s = tensor(an_input("logits", 4, 3)), tensor(uniform(4, 3).round(), "int64"), tensor(uniform(4))
    compiled = paddle.jit.to_static(model, full_graph=full_graph)
    np.testing.assert_allclose(compiled(x, y, s).item(), model(x, y, s).item(), rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"full_graph": True}, {"full_graph": False}], ids=str)
@both_kinds
def test_the_functions_themselves_to_static(kind, options):
    """With Paddle's own parameters: to_static(full_graph=True) loses keyword-only tensors, of any function."""
    x, y, w = tensor(an_input(kind, 10, 5)), tensor(uniform(10, 5)), tensor(uniform(5))
    pos_weight = {"pos_weight": tensor(uniform(5, seed=2))} if kind == "logits" else {}
    compiled = paddle.jit.to_static(OURS[kind], **options)
    for reduction in REDUCTIONS:
        given = {"weight": w, "reduction": reduction, **pos_weight}
        np.testing.assert_allclose(array(compiled(x, y, **given)), array(OURS[kind](x, y, **given)), rtol=1e-6)


@both_kinds
def test_gradient_at_the_ends_in_a_graph(kind):
    ends = [0.0, 0.0, 0.0] if kind == "logits" else [0.0, 1.0, 0.5]
    x, y = tensor(ends, learns=True), tensor([1.0, 0.0, 0.5])
    compiled = paddle.jit.to_static(OUR_LAYERS[kind](reduction="sum"), full_graph=True)
    expected_gradient = [-0.5, 0.5, 0] if kind == "logits" else [-1e12, 1e12, 0]
    np.testing.assert_allclose(gradient_of(compiled(x, y), x), expected_gradient)


@both_kinds
def test_saved_and_loaded(kind, tmp_path):
    model = Model(kind, weight=tensor([1, 2, 3]), pos_weight=tensor([3, 2, 1]))
    model.eval()
    specs = [InputSpec([-1, 3], "float32"), InputSpec([-1, 3], "float32")]
    paddle.jit.save(model, str(tmp_path / "model"), input_spec=specs)
    loaded = paddle.jit.load(str(tmp_path / "model"))
    for rows in (4, 1, 9):
        x, y = tensor(an_input(kind, rows, 3)), tensor(uniform(rows, 3))
        np.testing.assert_allclose(array(loaded(x, y)), array(model(x, y)), rtol=1e-6)
    with pytest.raises(ValueError, match=SHAPES_DIFFER):
        loaded(x, y[:1])
    if kind == "probabilities":
        with pytest.raises(ValueError, match="input must be less than or equal to 1"):
            loaded(paddle.full([2, 3], 1.5), y[:2])


def test_a_saved_model_needs_paddle_alone(tmp_path):
    path = str(tmp_path / "model")
    specs = [InputSpec([-1, 3], "float32"), InputSpec([-1, 3], "float32")]
    paddle.jit.save(paddle.jit.to_static(face.BCEWithLogitsLoss(), full_graph=True), path, input_spec=specs)
    program = f"""
        import sys, paddle
        loss = paddle.jit.load({path!r})
        x, y = paddle.zeros([5, 3]), paddle.ones([5, 3])
        print(f"{{loss(x, y).item():.4f}}", "binxent" in sys.modules)
        paddle.enable_static()
        executor = paddle.static.Executor(paddle.CPUPlace())
        program, names, results = paddle.static.load_inference_model({path!r}, executor)
        feed = dict(zip(names, (x.numpy(), y.numpy())))
        print(f"{{executor.run(program, feed=feed, fetch_list=results)[0].item():.4f}}")
    """
    assert python(program).split() == ["0.6931", "False", "0.6931"]


# The static graph


@pytest.fixture
def static() -> Iterator[None]:
    paddle.enable_static()
    try:
        with paddle.static.program_guard(paddle.static.Program(), paddle.static.Program()):
            yield
    finally:
        paddle.disable_static()


def run(results, **feed):
    return paddle.static.Executor(paddle.CPUPlace()).run(feed=feed, fetch_list=results)


def placeholder(name, values, shape=None, *, learns=False):
    value = paddle.static.data(name, list(values.shape) if shape is None else shape, str(values.dtype))
    value.stop_gradient = not learns
    return value


@pytest.mark.parametrize("shape", [None, [-1, 3], [-1, -1]], ids=["known", "unknown rows", "unknown"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_static_graph(static, kind, reduction, shape):
    values = {"x": an_input(kind, 4, 3), "y": uniform(4, 3), "w": uniform(3), "p": uniform(3, seed=5), "s": uniform(4)}
    x, y = (placeholder(name, values[name], shape, learns=True) for name in "xy")
    w, p, s = (placeholder(name, values[name], learns=True) for name in "wps")
    loss = OURS[kind](x, y, w, reduction, pos_weight=p, sample_weight=s)
    assert loss.shape == ([] if reduction != "none" else [4, 3] if shape is None else [-1, 3])
    results = run([loss, *paddle.static.gradients([loss.sum()], [x, y])], **values)
    exact = expected(*values.values(), probabilities=kind == "probabilities")
    np.testing.assert_allclose(results[0], exact.value(reduction), rtol=1e-13)
    np.testing.assert_allclose(results[1], exact.gradient_of(reduction), rtol=1e-11, atol=1e-15)
    to_label = formula.logits_gradient_to_target if kind == "logits" else formula.probabilities_gradient_to_target
    to_label = to_label(np, values["x"], values["y"], values["w"] * values["s"][:, None], values["p"])
    np.testing.assert_allclose(results[2], to_label / exact.divisor(reduction), rtol=1e-11)


@pytest.mark.parametrize(
    ("input", "label"),
    [([2, 3], [3, 2]), ([2, 3], [1, 3]), ([2, 3], [2, 1]), ([6, 1], [1, 6]), ([2, 3], [6, 1]), ([2, 0], [1, 0])],
    ids=str,
)
@both_kinds
def test_a_label_of_another_shape_is_refused_when_it_runs(kind, input, label, tmp_path):
    """Also one with as many elements, or one that the formula would broadcast."""
    path, specs = str(tmp_path / "model"), [InputSpec([None, None]), InputSpec([None, None])]
    model = paddle.jit.to_static(Model(kind), full_graph=True, input_spec=specs)
    paddle.jit.save(model, path, input_spec=specs)
    for graph in (model, paddle.jit.load(path)):
        for shape in (input, label):
            x, y = tensor(an_input(kind, *shape)), tensor(uniform(*shape))
            np.testing.assert_allclose(graph(x, y).item(), Model(kind)(x, y).item(), rtol=1e-6)
        with pytest.raises(ValueError, match=SHAPES_DIFFER):
            graph(tensor(an_input(kind, *input)), tensor(uniform(*label)))


@pytest.mark.parametrize("unknown", ["xyw", "xy", "w"])
@pytest.mark.parametrize(
    ("name", "rows", "shape", "refused"),
    [
        ("sample_weight", 2, (2,), None),
        ("sample_weight", 2, (1,), "The 'shape' in ReshapeOp is invalid"),
        ("sample_weight", 1, (2,), "The 'shape' in ReshapeOp is invalid"),
        ("pos_weight", 1, (1, 3), None),
        ("pos_weight", 1, (1, 1), None),
        ("pos_weight", 1, (2, 3), "does not match the corresponding value"),
        ("pos_weight", 1, (2, 1), "does not match the corresponding value"),
    ],
)
@both_kinds
def test_a_weight_of_unknown_size_is_checked_when_it_runs(static, kind, name, rows, shape, refused, unknown):
    values = {"x": an_input(kind, rows, 3), "y": uniform(rows, 3), "w": uniform(*shape)}
    x, y, w = (placeholder(n, v, [-1] * v.ndim if n in unknown else None, learns=True) for n, v in values.items())
    loss = OURS[kind](x, y, **{name: w})
    results = [loss, *paddle.static.gradients([loss], [w])]
    if refused:
        with pytest.raises(ValueError, match=refused):
            run(results, **values)
        return
    value, gradient = run(results, **values)
    exact = expected(values["x"], values["y"], **{name: values["w"]}, probabilities=kind == "probabilities")
    np.testing.assert_allclose(value, exact.value("mean"), rtol=1e-12)
    assert gradient.shape == shape


@pytest.mark.parametrize("case", PADDLES_TESTS, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_inputs_of_paddles_tests_in_a_static_graph(static, case, reduction):
    input, label, weights = case.operands()
    x, y = placeholder("x", input, learns=True), placeholder("y", label)
    given = {name: placeholder(name, values) for name, values in weights.items()}
    layer = OUR_LAYERS[case.kind](reduction=reduction, **given)(x, y)
    loss = OURS[case.kind](x, y, reduction=reduction, **given)
    *values, gradient = run([layer, loss, *paddle.static.gradients([loss.sum()], [x])], x=input, y=label, **weights)
    exact = expected(input, label, **weights, probabilities=case.kind != "logits")
    for value in values:
        np.testing.assert_allclose(value, exact.value(reduction).astype(float), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(gradient, exact.gradient_of(reduction), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_append_backward(static, reduction):
    """How a static program is trained; to_static does the same inside."""
    values = {"features": an_input("logits", 6, 4).astype("float32"), "y": uniform(6, 3).round().astype("float32")}
    features, y = (placeholder(name, given) for name, given in values.items())
    linear = paddle.nn.Linear(4, 3)
    logits = linear(features)
    loss = face.BCEWithLogitsLoss(reduction=reduction)(logits, y).sum()
    ((parameter, gradient),) = paddle.static.append_backward(loss, parameter_list=[linear.bias])
    assert parameter is linear.bias
    executor = paddle.static.Executor(paddle.CPUPlace())
    executor.run(paddle.static.default_startup_program())
    value, to_bias = executor.run(feed=values, fetch_list=[logits, gradient])
    np.testing.assert_allclose(
        to_bias, expected(value, values["y"]).gradient_of(reduction).sum(0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bad", [1.5, -0.25, np.nan])
def test_no_probability_in_a_static_graph(static, bad, dtype):
    values = {"q": np.array([0.0, 1.0, 0.5], dtype), "y": np.array([0, 1, 1], dtype)}
    q, y = placeholder("q", values["q"], learns=True), placeholder("y", values["y"])
    loss = face.binary_cross_entropy(q, y, reduction="none")
    results = [loss, *paddle.static.gradients([loss.sum()], [q])]
    value, gradient = run(results, **values)
    np.testing.assert_allclose(value, [0, 0, np.log(2)], rtol=1e-3)
    np.testing.assert_array_equal(gradient, [0, 0, -2])
    values["q"][1] = bad
    with pytest.raises(ValueError, match=r"input must be (less than or equal to 1|greater than {2}or equal to 0)"):
        run(results, **values)


@both_ways
def test_no_probability_in_to_static(full_graph):
    loss = paddle.jit.to_static(face.BCELoss(), full_graph=full_graph)
    y = tensor([1.0, 0.0])
    loss(tensor([0.5, 0.5]), y)
    with pytest.raises(ValueError, match=r"should be between 0 and 1|input must be less than or equal to 1"):
        loss(tensor([0.5, 1.5]), y)


def test_mean_of_many_in_a_static_graph(static):
    values = {"x": np.zeros(1 << 24, np.float32), "y": np.full(1 << 24, 0.3, np.float32)}
    x, y = (placeholder(name, given) for name, given in values.items())
    ours, paddles = run([face.binary_cross_entropy_with_logits(x, y), PADDLES["logits"](x, y)], **values)
    assert abs(ours - np.log(2)) < 2**-24
    assert abs(paddles - np.log(2)) > 0.01


@both_kinds
def test_layer_in_a_static_graph(static, kind):
    values = {"x": an_input(kind, 2, 3), "y": uniform(2, 3), "w": uniform(3)}
    x, y, w = (placeholder(name, given) for name, given in values.items())
    (loss,) = run([OUR_LAYERS[kind](w, "sum")(x, y)], **values)
    np.testing.assert_allclose(loss, expected(*values.values(), probabilities=kind == "probabilities").loss.sum())


@pytest.mark.parametrize(("dtype", "label"), [("float16", "float16"), ("float32", "int64"), ("float32", "float64")])
def test_dtypes_in_a_static_graph(static, dtype, label):
    values = {"x": an_input("logits", 5).astype(dtype), "y": uniform(5).round().astype(label)}
    x, y = placeholder("x", values["x"], learns=True), placeholder("y", values["y"])
    loss = face.binary_cross_entropy_with_logits(x, y)
    value, gradient = run([loss, *paddle.static.gradients([loss], [x])], **values)
    exact = expected(*values.values())
    assert value.dtype == np.result_type(dtype, label if label[0] == "f" else dtype)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(value, exact.value("mean"), rtol=1e-3 if dtype == "float16" else 1e-6)
    np.testing.assert_allclose(gradient, exact.gradient_of("mean"), rtol=1e-3 if dtype == "float16" else 1e-5)


def test_refusals_of_a_static_graph(static):
    x, y = placeholder("x", uniform(2, 3)), placeholder("y", uniform(2, 3))
    other, integer = placeholder("other", uniform(2, 4)), placeholder("integer", np.ones((2, 3), np.int64))
    for ours, paddles in zip(OURS.values(), PADDLES.values(), strict=True):
        for arguments, text in (
            ((x, other), r"label has shape \[2, 4\]; expected that of"),
            ((x, np.ones((2, 3))), "argument 'label' must be Value, but got numpy.ndarray"),
            ((integer, y), "is of dtype int64; expected one of float16"),
        ):
            with pytest.raises(Exception) as caught:  # noqa: PT011
                paddles(*arguments)
            with pytest.raises(caught.type, match=text):
                ours(*arguments)
    with pytest.raises(TypeError, match="argument 'weight' must be Value, but got list"):
        face.binary_cross_entropy_with_logits(x, y, [1.0])
    with pytest.raises(ValueError, match="pos_weight: shape"):
        face.binary_cross_entropy_with_logits(x, y, pos_weight=placeholder("p", uniform(4, 2, 3)))
    with pytest.raises(ValueError, match="sample_weight: shape"):
        face.binary_cross_entropy_with_logits(x, y, sample_weight=placeholder("s", uniform(3)))
    with pytest.raises(ValueError, match="sample_weight: shape"):
        face.binary_cross_entropy_with_logits(x, y, sample_weight=placeholder("column", uniform(2, 1), [-1, 1]))
    with pytest.raises(ValueError, match="'sum', 'mean' or 'none', but received avg"):
        face.binary_cross_entropy_with_logits(x, y, reduction="avg")


def test_tensors_are_refused_in_a_static_graph(static):
    paddle.disable_static()
    x, y = tensor([1.0], learns=True), tensor([1.0])
    paddle.enable_static()
    for input in (x, y):
        with pytest.raises(TypeError):
            face.binary_cross_entropy_with_logits(input, y)


# Mixed precision


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.filterwarnings("ignore:amp_guard")
def test_auto_cast_changes_nothing_on_cpu(level, dtype):
    x, y = tensor(an_input("logits", 4, 3), learns=True), tensor(uniform(4, 3))
    alone = face.binary_cross_entropy_with_logits(x, y).item()
    with paddle.amp.auto_cast(level=level, dtype=dtype):
        loss = face.binary_cross_entropy_with_logits(x, y)
        assert (loss.dtype, loss.item()) == (paddle.float32, alone)
        assert face.binary_cross_entropy_with_logits(x, y, paddle.ones([2, 4, 3])).dtype == paddle.float32


@pytest.mark.parametrize("level", ["O1", "O2"])
@both_kinds
def test_auto_cast_in_a_static_graph(static, kind, level):
    """It is the one place without an accelerator where it does anything."""
    values = {"x": an_input(kind, 4, 3).astype("float16"), "y": uniform(4, 3).astype("float16")}
    x, y = placeholder("x", values["x"], learns=True), placeholder("y", values["y"])
    with paddle.amp.auto_cast(level=level, dtype="bfloat16"):
        loss = OURS[kind](x, y, reduction="none")
        assert paddle.is_autocast_enabled()
        if (kind, level) == ("logits", "O1"):  # Paddle refuses the rest
            assert loss.dtype == PADDLES[kind](x, y).dtype
    value, gradient = run([loss, *paddle.static.gradients([loss.sum()], [x])], **values)
    exact = expected(values["x"], values["y"], probabilities=kind == "probabilities")
    assert (value.dtype, gradient.dtype) == (np.float32, np.float16)
    np.testing.assert_allclose(value, exact.loss, rtol=1e-6)
    np.testing.assert_allclose(gradient, exact.gradient, rtol=1e-3)


def test_gradient_scaler():
    x, y = tensor(an_input("logits", 5, 4), "float16", learns=True), tensor(uniform(5, 4), "float16")
    loss = face.binary_cross_entropy_with_logits(x, y)
    scaled = loss.astype("float32") * 1024.0  # as paddle.amp.GradScaler.scale does
    exact = expected(array(x), array(y)).gradient_of("mean") * 1024
    np.testing.assert_allclose(gradient_of(scaled, x), exact, rtol=1e-3)


def test_training_a_layer():
    paddle.seed(0)
    model = paddle.nn.Linear(8, 3)
    optimizer = paddle.optimizer.SGD(1.0, parameters=model.parameters())
    features = tensor(an_input("logits", 64, 8) / 4)
    label = (features[:, :3] > 0).astype("float32")
    loss = face.BCEWithLogitsLoss(pos_weight=tensor([1.0, 2.0, 3.0]))
    losses = []
    for _ in range(30):
        value = loss(model(features), label)
        value.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(value.item())
    assert losses[-1] < losses[0] / 3
