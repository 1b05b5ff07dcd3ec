"""mask, ignore_index, label_smoothing, gamma, batchmean and weighted_mean in every mode of Paddle."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from binxent import kernel
from binxent import numpy as numpy_face
from binxent import paddle as face
from tests.faces.paddle_samples import (
    KINDS,
    OUR_LAYERS,
    OURS,
    an_input,
    array,
    gradient_of,
    runs,
    tensor,
    uniform,
)
from tests.reference import DTYPES, INTEGER_TARGETS, bits, expected

# Of paddle.static.gradients itself.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface")
both_kinds = pytest.mark.parametrize("kind", KINDS)
both_ways = pytest.mark.parametrize("full_graph", [True, False], ids=["full graph", "broken graph"])

REDUCTIONS = ("none", "sum", "mean", "batchmean", "weighted_mean")
NUMBERS = {"ignore_index": -100, "label_smoothing": 0.2, "gamma": 1.3}
OPTIONS = [(), ("mask",), ("ignore_index",), ("label_smoothing",), ("gamma",), ("mask", *NUMBERS)]
every_option = pytest.mark.parametrize("given", OPTIONS, ids=lambda given: "+".join(given) or "plain")
MASK = np.array([[1, 0, 1], [1, 1, 1], [0, 0, 0], [1, 1, 1]], bool)
IGNORED = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], bool)
HIDDEN = {"mask": ~MASK, "ignore_index": IGNORED}
INF, NAN = float("inf"), float("nan")


def samples(kind, given):
    """Operands in float64, the options, and which elements are ignored; these hold what no derivative may see."""
    hidden = np.zeros((4, 3), bool)
    for name in given:
        hidden |= HIDDEN.get(name, False)
    values = {
        "input": np.where(hidden, [NAN, INF, -INF], an_input(kind, 4, 3) / (3 if kind == "logits" else 1)),
        "label": np.where(hidden & ~IGNORED, NAN, uniform(4, 3)),
        "weight": np.where(hidden, [INF, NAN, -1], uniform(4, 3, seed=2) + 0.5),
        "pos_weight": uniform(3, seed=3) + 0.5,
        "sample_weight": uniform(4, seed=4) + 0.5,
    }
    options = {name: MASK if name == "mask" else NUMBERS[name] for name in given}
    if "ignore_index" in given:
        values["label"][IGNORED] = -100
    return values, options, hidden


def in_paddle(options):
    return {name: tensor(value, "bool") if name == "mask" else value for name, value in options.items()}


# Derivatives


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "batchmean"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@both_kinds
def test_incoming_gradient_is_rounded_once(kind, dtype, reduction):
    """A divisor that the operands give is made one factor with the incoming gradient too.

    A gamma above 5 has the kernel compute in float64, so that a second rounding would be seen.
    """
    x, y = tensor(an_input(kind, 5, 7), dtype, learns=True), tensor(uniform(5, 7), dtype)
    w, m = tensor(uniform(7) + 0.5), tensor(uniform(5, 7, seed=3) < 0.7, "bool")
    scale = 1024.0

    def step():
        loss = OURS[kind](x, y, w, reduction, mask=m, gamma=6.0)
        return gradient_of(loss, x, paddle.full_like(loss, scale))

    # A weight that is larger by a power of two, which the sum of the weights does not know, is the same factor.
    plain = numpy_face.value_and_grad(
        array(x).astype(np.float64),
        array(y).astype(np.float64),
        array(w),
        reduction,
        mask=array(m),
        gamma=6.0,
        probabilities=kind == "probabilities",
    )[1]
    exact = plain * scale
    if kind == "probabilities" and dtype == "float16":
        exact = np.clip(exact, -65504, 65504)
    unit = {"float64": 2**-52, "float32": 2**-22, "bfloat16": 2**-8, "float16": 2**-11}[dtype]
    atol = {"float16": 2**-25}.get(dtype, 0)
    step()
    for _ in range(2):  # now it is expected
        assert runs(lambda: np.testing.assert_allclose(step().astype(float), exact, rtol=1.01 * unit, atol=atol)) == 1
    scale = 1.0
    assert runs(step) == 2


@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_second_backward(kind, reduction):
    values, options, _ = samples(kind, ("mask", *NUMBERS))
    operands = {name: tensor(value) for name, value in values.items()}
    x, y, *_ = operands.values()
    x.stop_gradient = False
    rest = {name: operand for name, operand in operands.items() if name not in ("input", "label")}
    loss = OURS[kind](x, y, reduction=reduction, **rest, **in_paddle(options))
    (first,) = paddle.grad(loss.sum(), x, retain_graph=True)
    assert runs(lambda: loss.sum().backward(retain_graph=True)) == 1
    np.testing.assert_array_equal(array(x.grad), array(first))
    (loss.sum() * 4).backward()
    np.testing.assert_allclose(array(x.grad), 5 * array(first), rtol=1e-6)


# What is ignored


@pytest.mark.parametrize("learns", [False, True], ids=["kernel", "formula"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_nothing_is_kept(kind, reduction, learns):
    x, y = tensor([[NAN, INF], [7, -3]], learns=True), tensor([[1, -100], [NAN, 0]], learns=learns)
    w, m = tensor([[NAN, 1], [INF, 2]], learns=learns), tensor([[0, 1], [0, 0]], "bool")
    loss = OURS[kind](x, y, w, reduction, mask=m, ignore_index=-100, label_smoothing=0.1)
    assert (array(loss) == 0).all()
    assert (gradient_of(loss.sum(), x) == 0).all()
    for operand in (y, w) if learns else ():
        assert (array(operand.grad) == 0).all()
    if learns:
        return
    (first,) = paddle.grad(OURS[kind](x, y, w, reduction, mask=m, ignore_index=-100).sum(), x, create_graph=True)
    assert (array(first) == 0).all()


@pytest.mark.parametrize("learns", [False, True], ids=["kernel", "formula"])
@both_kinds
def test_weights_that_add_up_to_nothing(kind, learns):
    x, y = tensor(an_input(kind, 2, 3), learns=True), tensor(uniform(2, 3))
    for w in (tensor([0.0], learns=learns), tensor([[1.0], [-1.0]], learns=learns)):
        loss = OURS[kind](x, y, w, "weighted_mean")
        assert loss.item() == 0
        assert (gradient_of(loss, x) == 0).all()
        assert not learns or (array(w.grad) == 0).all()


@pytest.mark.parametrize("learns", [False, True], ids=["kernel", "formula"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_hidden_pos_weight_and_whole_weights(kind, reduction, learns):
    """They may hold anything where an element is ignored."""
    x, y, m = tensor(an_input(kind, 4, 3), learns=True), tensor(uniform(4, 3)), tensor(MASK, "bool")
    clean = {"weight": uniform(4, 3, seed=2), "pos_weight": uniform(4, 3, seed=3)}
    results = []
    for fill in (1.0, NAN, INF):
        given = {name: tensor(np.where(MASK, value, fill), learns=learns) for name, value in clean.items()}
        loss = OURS[kind](x, y, reduction=reduction, **given, mask=m, label_smoothing=0.1, gamma=1.0)
        results.append([array(loss), gradient_of(loss.sum(), x)])
        results[-1] += [array(weight.grad) for weight in given.values()] if learns else []
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(one, other)
    assert all(np.isfinite(result).all() for result in results[0])


@pytest.mark.parametrize("learns", [False, True], ids=["kernel", "formula"])
@pytest.mark.parametrize("dtype", ["bool", "int64", "uint8", "float32", "float64", "float16"])
def test_masks_of_any_dtype(dtype, learns):
    x, y = tensor([1.0, 2.0, 3.0, -1.0]), tensor([1.0, 0.0, 1.0, 0.0], learns=learns)
    values = [1, 0, 1, 2] if dtype[0] in "biu" else [NAN, -0.0, 1e-4, -2]
    m = tensor(values, dtype)
    m.stop_gradient = dtype == "bool"  # it has no gradient, and asks for no formula
    kept = np.array([1, 0, 1, 1], bool)
    exact = expected(array(x), array(y), mask=kept)
    results = []
    assert runs(lambda: results.append(face.binary_cross_entropy_with_logits(x, y, mask=m))) == (not learns)
    np.testing.assert_allclose(results[0].item(), float(exact.value("mean")), rtol=1e-6)


@pytest.mark.parametrize("learns", [False, True], ids=["kernel", "formula"])
@pytest.mark.parametrize("label", [*DTYPES, *INTEGER_TARGETS])
def test_ignore_index_in_labels_of_any_dtype(label, learns):
    ignored = {"bool": 1, "uint8": 255}.get(label, -100)
    x, y = tensor([1.0, NAN, 3.0, -1.0]), tensor([0, ignored, 0, 0], label)
    w = tensor([1.0], learns=learns)
    loss = face.binary_cross_entropy_with_logits(x, y, w, ignore_index=ignored)
    exact = expected([1.0, 3.0, -1.0], np.zeros(3)).value("mean")
    np.testing.assert_allclose(loss.item(), exact, rtol=1e-6)


def test_ignore_nan_labels():
    for learns in (False, True):
        x, y = tensor([1.0, NAN], learns=True), tensor([1.0, NAN], learns=learns)
        loss = face.binary_cross_entropy_with_logits(x, y, ignore_index=NAN)
        np.testing.assert_allclose(loss.item(), np.log1p(np.exp(-1)), rtol=1e-6)
        assert gradient_of(loss, x)[1] == 0


@pytest.mark.parametrize("learns", [False, True], ids=["kernel", "formula"])
def test_probabilities_out_of_range_that_are_ignored(learns):
    q, y = tensor([[0.5, 2.0], [NAN, 0.5]]), tensor([[1.0, 0.0], [-100.0, 1.0]], learns=learns)
    m = tensor([[1, 0], [1, 1]], "bool")
    loss = face.binary_cross_entropy(q, y, mask=m, ignore_index=-100)
    np.testing.assert_allclose(loss.item(), np.log(2), rtol=1e-6)
    with pytest.raises(ValueError, match=r"but input\[1, 0\] is nan$"):
        face.binary_cross_entropy(q, y, mask=m)
    with pytest.raises(ValueError, match=re.escape("but input[0, 1] is 2.0; logits belong to")):
        face.binary_cross_entropy(q, y, ignore_index=-100)


def test_label_of_a_probability_outside_the_unit_interval():
    """Paddle takes them for probabilities too, and so does the kernel, under every option."""
    q, y = tensor([0.5, 0.25, NAN], learns=True), tensor([2.0, 1.0, -100.0])
    before = kernel.runs()
    loss = face.binary_cross_entropy(q, y, ignore_index=-100, label_smoothing=0.1, gamma=2.0)
    assert kernel.runs() == before + 1
    exact = expected(
        array(q), array(y), ignore_index=-100, label_smoothing=0.1, gamma=2.0, probabilities=True, wide=np.float64
    )
    np.testing.assert_allclose(loss.item(), exact.value("mean"), rtol=1e-5)
    np.testing.assert_allclose(gradient_of(loss, q), exact.gradient_of("mean"), rtol=1e-5)


@pytest.mark.parametrize("given", [{}, {"mask": True}, {"weight": True}, {"mask": True, "weight": True}], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty(reduction, given):
    x = np.zeros((0, 3), np.float32)
    values = {"mask": np.ones((1, 3), bool), "weight": np.ones(3, np.float32)}
    values = {name: values[name] for name in given}
    with np.errstate(invalid="ignore"):
        exact = numpy_face.binary_cross_entropy_with_logits(x, x, reduction=reduction, **values)
    rest = {name: tensor(value, value.dtype.name) for name, value in values.items()}
    input = tensor(x, learns=True)
    loss = face.binary_cross_entropy_with_logits(input, tensor(x), reduction=reduction, **rest)
    np.testing.assert_array_equal(array(loss), exact)
    assert gradient_of(loss.sum(), input).shape == (0, 3)


def test_a_strided_mask_is_read_in_place():
    x, y, m = tensor(an_input("logits", 50, 70)), tensor(uniform(50, 70)), tensor(uniform(70, 50) < 0.5, "bool")
    results = [
        face.binary_cross_entropy_with_logits(x, y, mask=mask) for mask in (m.t(), paddle.to_tensor(array(m.t())))
    ]
    assert not m.t().is_contiguous()
    np.testing.assert_array_equal(*[bits(array(result)) for result in results])


@pytest.mark.parametrize("learns", [False, True], ids=["constant", "learns"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_enlarging_weight(kind, reduction, learns):
    """As in Paddle; every reduction is then of the whole result."""
    x, y, w = tensor(an_input(kind, 4, 3), learns=True), tensor(uniform(4, 3)), uniform(2, 4, 3, seed=3)
    loss = OURS[kind](x, y, tensor(w, learns=learns), reduction, mask=tensor(MASK, "bool"))
    whole = [np.broadcast_to(array(o), (2, 4, 3)) for o in (x, y)]
    exact = expected(*whole, w, mask=MASK, probabilities=kind == "probabilities")
    np.testing.assert_allclose(array(loss), exact.value(reduction), rtol=1e-5)
    np.testing.assert_allclose(gradient_of(loss.sum(), x), exact.gradient_of(reduction).sum(0), rtol=1e-4, atol=1e-7)


def test_a_mask_changed_in_place_is_noticed():
    x, m = tensor(an_input("logits", 4), learns=True), tensor([1.0, 0.0, 1.0, 1.0])
    loss = face.binary_cross_entropy_with_logits(x, tensor(uniform(4)), mask=m)
    m.zero_()
    with pytest.raises(OSError, match="RuntimeError: an operand of the loss was modified by an inplace operation"):
        paddle.grad(loss * 3, x)


@pytest.mark.parametrize("learns", [False, True], ids=["kernel", "formula"])
def test_infinite_logits_under_gamma(learns):
    x, y = tensor([INF, -INF, 1.0], learns=True), tensor([1.0, 0.0, 1.0], learns=learns)
    loss = face.binary_cross_entropy_with_logits(x, y, reduction="none", gamma=2.0)
    exact = expected(array(x), array(y), gamma=2.0)
    np.testing.assert_allclose(array(loss), exact.loss, rtol=1e-6)
    np.testing.assert_allclose(gradient_of(loss.sum(), x), exact.gradient, rtol=1e-6)
    wrong = face.binary_cross_entropy_with_logits(x, 1 - y, reduction="none", gamma=2.0)
    assert array(wrong)[:2].tolist() == [INF, INF]


# Refusals


X, Y = tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.5]]), tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.5]])
REFUSED = {
    "ignore_index": (ValueError, {"ignore_index": 0.5}, "ignore_index: 0.5; expected NaN or an integer that float32"),
    "no ignore_index": (TypeError, {"ignore_index": "0"}, "ignore_index: expected a number, got str"),
    "label_smoothing": (ValueError, {"label_smoothing": 1.5}, "label_smoothing: 1.5; expected a number between 0 and"),
    "no label_smoothing": (TypeError, {"label_smoothing": True}, "label_smoothing: expected a number, got bool"),
    "gamma": (ValueError, {"gamma": -1.0}, "gamma: -1.0; expected a finite number that is not negative"),
    "no gamma": (TypeError, {"gamma": None}, "gamma: expected a number, got NoneType"),
}


@pytest.mark.parametrize("case", REFUSED)
@both_kinds
def test_numbers_are_refused_where_the_label_learns(kind, case):
    error, given, text = REFUSED[case]
    y = Y.clone()
    y.stop_gradient = False
    with pytest.raises(error, match=re.escape(text)):
        OURS[kind](X, y, **given)


def test_masks_are_refused():
    loss = face.binary_cross_entropy_with_logits
    with pytest.raises(ValueError, match=re.escape("mask: shape (4, 2, 3)")):
        loss(X, Y, mask=paddle.ones([4, 2, 3]))
    with pytest.raises(TypeError, match="argument 'mask' is of dtype complex64; expected one of"):
        loss(X, Y, mask=X.astype("complex64"))


def test_batchmean_without_a_first_axis_is_refused_where_the_label_learns():
    with pytest.raises(ValueError, match="'batchmean' of an input without a first axis"):
        face.binary_cross_entropy_with_logits(tensor(1.0), tensor(1.0, learns=True), reduction="batchmean")


# Layers


@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_layer_is_its_function(kind, reduction):
    x, y, m, s = tensor(an_input(kind, 4, 3)), tensor(uniform(4, 3)), tensor(MASK, "bool"), tensor(uniform(4))
    layer = OUR_LAYERS[kind](reduction=reduction, **NUMBERS)
    for copied in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        function = OURS[kind](x, y, reduction=reduction, mask=m, sample_weight=s, **NUMBERS)
        np.testing.assert_array_equal(array(copied(x, y, mask=m, sample_weight=s)), array(function))
        assert repr(copied) == repr(layer)


def test_repr_shows_what_is_not_the_default():
    layer = face.BCEWithLogitsLoss(reduction="weighted_mean", **NUMBERS)
    assert (
        repr(layer) == "BCEWithLogitsLoss(reduction='weighted_mean', ignore_index=-100, label_smoothing=0.2, gamma=1.3)"
    )
    assert repr(face.BCELoss(gamma=2)) == "BCELoss(gamma=2)"


def test_options_are_read_at_each_call():
    layer = face.BCEWithLogitsLoss()
    x, y = tensor([[1.0, 2.0]]), tensor([[1.0, 0.0]])
    plain = layer(x, y).item()
    layer.reduction = "batchmean"
    assert layer(x, y).item() == np.float32(2 * plain)
    layer.ignore_index = 0
    np.testing.assert_allclose(layer(x, y).item(), np.log1p(np.exp(-1)), rtol=1e-6)


# Graphs


class Model(paddle.nn.Layer):
    """What a user compiles: something before the loss, and something after it."""

    def __init__(self, kind, reduction, given):
        super().__init__()
        self.kind = kind
        self.loss = OUR_LAYERS[kind](reduction=reduction, **{n: NUMBERS[n] for n in given if n in NUMBERS})

    def forward(self, input, label, mask=None):
        input = input * 2 if self.kind == "logits" else input**2
        return self.loss(input, label, mask=mask) * 3


def of_a_model(kind, given):
    values, options, _ = samples(kind, given)
    x, y = tensor(values["input"], learns=True), tensor(values["label"])
    return x, y, *([tensor(MASK, "bool")] if "mask" in options else [])


@every_option
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
@both_ways
def test_to_static(full_graph, kind, reduction, given):
    model, (x, *rest) = Model(kind, reduction, given), of_a_model(kind, given)
    eager = model(x, *rest)
    gradient = gradient_of(eager.sum(), x)
    compiled = paddle.jit.to_static(model, full_graph=full_graph)
    for _ in range(2):  # traced, and run again
        loss = compiled(x, *rest)
        np.testing.assert_allclose(array(loss), array(eager), rtol=2e-6, atol=1e-7)
        np.testing.assert_allclose(gradient_of(loss.sum(), x), gradient, rtol=1e-5, atol=1e-6)
    assert runs(lambda: compiled(x, *rest)) == (0 if full_graph else 1)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_saved_and_loaded(kind, reduction, tmp_path):
    model = Model(kind, reduction, ("mask", *NUMBERS))
    model.eval()
    specs = [InputSpec([-1, 3], "float32"), InputSpec([-1, 3], "float32"), InputSpec([-1, 3], "bool")]
    paddle.jit.save(model, str(tmp_path / "model"), input_spec=specs)
    loaded = paddle.jit.load(str(tmp_path / "model"))
    x, *rest = (operand.detach() for operand in of_a_model(kind, ("mask", *NUMBERS)))
    for rows in (slice(4), slice(1), slice(2, 3)):  # of the last, nothing is kept
        given = [operand[rows].clone() for operand in (x, *rest)]
        np.testing.assert_allclose(array(loaded(*given)), array(model(*given)), rtol=2e-6, atol=1e-7)


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


def placeholder(name, values, shape=None):
    value = paddle.static.data(name, list(values.shape) if shape is None else shape, str(values.dtype))
    value.stop_gradient = values.dtype == bool
    return value


@pytest.mark.parametrize("shape", [None, [-1, 3], [-1, -1]], ids=["known", "unknown rows", "unknown"])
@every_option
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_static_graph(static, kind, reduction, given, shape):
    values, options, _ = samples(kind, given)
    numbers = {name: value for name, value in options.items() if name != "mask"}
    feed = {**values, **({"mask": MASK} if "mask" in options else {})}
    inside = {n: placeholder(n, v, shape if v.shape == (4, 3) else None) for n, v in feed.items()}
    x, y, *rest = inside
    loss = OURS[kind](inside[x], inside[y], reduction=reduction, **{n: inside[n] for n in rest}, **numbers)
    result, *gradients = run([loss, *paddle.static.gradients([loss.sum()], [inside[n] for n in values])], **feed)
    exact = expected(*values.values(), **options, probabilities=kind == "probabilities")
    np.testing.assert_allclose(result, exact.value(reduction).astype(float), rtol=1e-12)
    # The gradients are those of the dynamic graph.
    paddle.disable_static()
    operands = {name: tensor(value, "float64", learns=True) for name, value in values.items()}
    outside = {**operands, **in_paddle(options)}
    loss = OURS[kind](outside.pop(x), outside.pop(y), reduction=reduction, **outside)
    loss.sum().backward()
    for operand, gradient in zip(operands.values(), gradients, strict=True):
        np.testing.assert_allclose(gradient, array(operand.grad), rtol=1e-11, atol=1e-15)


def test_a_mask_that_would_enlarge_the_input_is_refused_when_it_runs(static):
    values = {"x": uniform(1, 3), "y": uniform(1, 3), "m": MASK}
    x, y, m = (placeholder(name, value, [-1, 3]) for name, value in values.items())
    loss = face.binary_cross_entropy_with_logits(x, y, mask=m)
    with pytest.raises(ValueError, match="expand"):
        run([loss], **values)
    one = {**values, "m": MASK[:1]}
    (result,) = run([loss], **one)
    np.testing.assert_allclose(result, expected(one["x"], one["y"], mask=one["m"]).value("mean"))


def test_refusals_of_a_static_graph(static):
    x, y, m = placeholder("x", uniform(2, 3)), placeholder("y", uniform(2, 3)), placeholder("m", MASK[:2, :2])
    loss = face.binary_cross_entropy_with_logits
    for error, given, text in (
        *REFUSED.values(),
        (ValueError, {"mask": m}, "mask: shape (2, 2) does not broadcast to the input's shape (2, 3)"),
        (TypeError, {"mask": MASK}, "argument 'mask' must be Value, but got numpy.ndarray"),
    ):
        with pytest.raises(error, match=re.escape(text.replace("float32", "float64"))):
            loss(x, y, **given)
    with pytest.raises(ValueError, match="without a first axis"):
        loss(placeholder("a", uniform()), placeholder("b", uniform()), reduction="batchmean")


# Mixed precision


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.filterwarnings("ignore:amp_guard")
@both_kinds
def test_auto_cast_changes_nothing_on_cpu(kind, level, dtype):
    for given in OPTIONS:
        x, *rest = of_a_model(kind, given)
        for learns in (False, True):
            rest[0].stop_gradient = not learns
            model = Model(kind, "mean", given)
            alone = model(x, *rest)
            gradient = gradient_of(alone, x)
            with paddle.amp.auto_cast(level=level, dtype=dtype):
                loss = model.loss(x * 2 if kind == "logits" else x * x, rest[0], mask=rest[1] if rest[1:] else None) * 3
                assert loss.dtype == paddle.float32
            np.testing.assert_allclose(loss.item(), alone.item(), rtol=1e-6)
            np.testing.assert_allclose(gradient_of(loss, x), gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_half_precision_by_the_formula(kind, reduction, dtype):
    values, options, _ = samples(kind, ("mask", *NUMBERS))
    x, y, w, p, s = (tensor(value, dtype) for value in values.values())
    results = []
    for learns in (False, True):
        x.stop_gradient, y.stop_gradient = False, not learns
        loss = OURS[kind](x, y, w, reduction, pos_weight=p, sample_weight=s, **in_paddle(options))
        assert loss.dtype == x.dtype
        results.append((array(loss).astype(float), gradient_of(loss.sum(), x).astype(float)))
    unit = {"float16": 2**-10, "bfloat16": 2**-7}[dtype]
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=unit, atol=1e-6)
