"""What Paddle's reference pages and its own layers promise: names, defaults, shapes, dtypes, and what is refused."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import numpy as np
import paddle
import pytest

from binxent import paddle as face
from tests.faces.paddle_samples import (
    KINDS,
    OUR_LAYERS,
    OURS,
    PADDLES,
    PADDLES_LAYERS,
    REDUCTIONS,
    an_input,
    array,
    runs,
    tensor,
    uniform,
)

both_kinds = pytest.mark.parametrize("kind", KINDS)


def parameters(function):
    own = {
        p.name: p.default for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD
    }
    return list(own.items())


@both_kinds
def test_parameters_are_paddles(kind):
    assert parameters(OURS[kind]) == parameters(PADDLES[kind])
    assert parameters(OUR_LAYERS[kind].__init__) == parameters(PADDLES_LAYERS[kind].__init__)
    assert parameters(OUR_LAYERS[kind].forward) == parameters(PADDLES_LAYERS[kind].forward)


@both_kinds
def test_layers_are_paddles(kind):
    ours = OUR_LAYERS[kind]()
    assert isinstance(ours, PADDLES_LAYERS[kind])
    assert isinstance(ours, paddle.nn.Layer)
    assert repr(ours) == repr(PADDLES_LAYERS[kind]())
    assert (ours.weight, ours.reduction, ours.name) == (None, "mean", None)


def test_repr_shows_what_is_not_the_default():
    layer = face.BCEWithLogitsLoss(tensor([1, 2]), "sum", tensor([3.0], "float64"))
    assert repr(layer) == "BCEWithLogitsLoss(reduction='sum', weight=float32[2], pos_weight=float64[1])"
    assert repr(face.BCELoss(pos_weight=tensor(2))) == "BCELoss(pos_weight=float32[])"


@both_kinds
def test_buffers_and_state_are_paddles(kind):
    for weight in (tensor([1, 2, 3]), paddle.create_parameter([3], "float32")):
        ours, paddles = OUR_LAYERS[kind](weight), PADDLES_LAYERS[kind](weight)
        assert list(ours.state_dict()) == list(paddles.state_dict())
        assert [n for n, _ in ours.named_buffers()] == [n for n, _ in paddles.named_buffers()]
        assert [n for n, _ in ours.named_parameters()] == [n for n, _ in paddles.named_parameters()]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@both_kinds
def test_copies(kind, copied):
    layer = OUR_LAYERS[kind](tensor([1, 2, 3]), reduction="sum", pos_weight=tensor([3, 2, 1]))
    other = copied(layer)
    x, y = tensor(an_input(kind, 2, 3)), tensor(uniform(2, 3))
    assert type(other) is type(layer)
    assert repr(other) == repr(layer)
    assert other(x, y).item() == layer(x, y).item()


@both_kinds
def test_to_converts_the_weights(kind):
    layer = OUR_LAYERS[kind](tensor([1, 2, 3]), pos_weight=tensor([1, 2, 3]))
    layer.to(dtype="float64")
    assert layer.weight.dtype == layer.pos_weight.dtype == paddle.float64
    x, y = an_input(kind, 2, 3), uniform(2, 3)
    assert layer(tensor(x, "float64"), tensor(y, "float64")).dtype == paddle.float64


def test_options_are_read_at_each_call():
    layer = face.BCEWithLogitsLoss()
    x, y = tensor([1.0, 2.0]), tensor([1.0, 0.0])
    layer.reduction = "none"
    assert layer(x, y).shape == [2]
    layer.reduction = "average"
    with pytest.raises(ValueError, match="average"):
        layer(x, y)


@both_kinds
def test_layer_is_its_function(kind):
    x, y = tensor(an_input(kind, 4, 3)), tensor(uniform(4, 3))
    weight, pos_weight, sample_weight = (tensor(uniform(n, seed=n) + 0.5) for n in (3, 3, 4))
    layer = OUR_LAYERS[kind](weight, "none", pos_weight=pos_weight)
    function = OURS[kind](x, y, weight, "none", pos_weight=pos_weight, sample_weight=sample_weight)
    np.testing.assert_array_equal(array(layer(x, y, sample_weight=sample_weight)), array(function))


# The examples of the reference pages. The first prints 0.45618808 there, which is 1.6 ulp below the exact 0.456188129.


def test_documented_example_of_the_logits():
    logit = paddle.to_tensor([5.0, 1.0, 3.0], dtype="float32")
    label = paddle.to_tensor([1.0, 0.0, 1.0], dtype="float32")
    output = face.BCEWithLogitsLoss()(logit, label)
    shown = re.fullmatch(
        r"Tensor\(shape=\[\], dtype=float32, place=Place\(cpu\), stop_gradient=True,\s+(0\.4561881\d)\)", str(output)
    )
    assert shown
    assert output.shape == []
    assert abs(output.item() - 0.4561881291936943) < 2**-25
    assert face.binary_cross_entropy_with_logits(logit, label).item() == output.item()


def test_documented_example_of_the_probabilities():
    input = paddle.to_tensor([0.5, 0.6, 0.7], "float32")
    label = paddle.to_tensor([1.0, 0.0, 1.0], "float32")
    for output in (face.binary_cross_entropy(input, label), face.BCELoss()(input, label)):
        shown = "Tensor(shape=[], dtype=float32, place=Place(cpu), stop_gradient=True,\n       0.65537095)"
        assert str(output) == shown


# Refusals: the type of Paddle's, and a text that says what to do


def refusal(function, *arguments, **options):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        function(*arguments, **options)
    return caught.type, str(caught.value)


X, Y = tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.5]]), tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.5]])
Q = tensor([[0.1, 0.2, 0.3], [0.0, 1.0, 0.5]])


BEYOND = "'per_label', 'per_sample', 'batchmean', 'weighted_mean', "


@pytest.mark.parametrize("reduction", ["avg", "Mean", None, 1])
@both_kinds
def test_reduction_is_refused_in_paddles_words(kind, reduction):
    """And the four that Paddle has not are named."""
    input = X if kind == "logits" else Q
    for ours, paddles in (
        (refusal(OURS[kind], input, Y, reduction=reduction), refusal(PADDLES[kind], input, Y, reduction=reduction)),
        (refusal(OUR_LAYERS[kind], reduction=reduction), refusal(PADDLES_LAYERS[kind], reduction=reduction)),
    ):
        assert ours == (paddles[0], paddles[1].replace("should be ", "should be " + BEYOND))


@pytest.mark.parametrize("given", [{"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}])
@both_kinds
def test_deprecated_options_are_refused_in_paddles_words(kind, given):
    assert refusal(OUR_LAYERS[kind], **given) == refusal(PADDLES_LAYERS[kind], **given)
    assert refusal(OUR_LAYERS[kind], None, False) == refusal(PADDLES_LAYERS[kind], None, False)
    assert refusal(OURS[kind], X, Y, **given)[0] is refusal(PADDLES[kind], X, Y, **given)[0] is TypeError


REFUSED = {
    "label of another rank": (("logits", X, Y[0]), {}, "label has shape [3]; expected that of logit, [2, 3]"),
    "label that would broadcast": (("logits", X, Y[:1]), {}, "label has shape [1, 3]; expected that of logit, [2, 3]"),
    "label of another shape": (("probabilities", Q, Y.T), {}, "label has shape [3, 2]; expected that of input, [2, 3]"),
    "weight": (("logits", X, Y, tensor([1, 2])), {}, "pass sample_weight= or reshape it to (2, 1)"),
    "weight of a product": (("probabilities", Q, Y, tensor([1, 2, 3, 4])), {}, "does not broadcast"),
    "pos_weight": (("logits", X, Y), {"pos_weight": tensor([1, 2])}, "pos_weight: shape (2,) does not broadcast"),
    "pos_weight of more dimensions": (("logits", X, Y), {"pos_weight": paddle.ones([4, 2, 3])}, "does not broadcast"),
    "no label": (("logits", X, None), {}, "argument 'label' must be Tensor, but got NoneType"),
    "list": (("logits", X, [1.0]), {}, "argument 'label' must be Tensor, but got list"),
    "ndarray": (("probabilities", np.zeros(3), Y), {}, "argument 'input' must be Tensor, but got numpy.ndarray"),
    "number as weight": (("logits", X, Y, 2.0), {}, "argument 'weight' must be Tensor, but got float"),
    "number as pos_weight": (
        ("logits", X, Y),
        {"pos_weight": 2.0},
        "argument 'pos_weight' must be Tensor, but got float",
    ),
    "complex label": (("logits", X, Y.astype("complex64")), {}, "argument 'label' is of dtype complex64"),
    "integer logit": (
        ("logits", X.astype("int32"), Y.astype("int32")),
        {},
        "argument 'logit' is of dtype int32; expected",
    ),
    "integer probability": (
        ("probabilities", Q.astype("int64"), Y),
        {},
        "argument 'input' is of dtype int64; expected",
    ),
    "above 1": (("probabilities", Q + 1, Y), {}, "input[0, 0] is 1.1"),
    "below 0": (("probabilities", Q - 0.1, Y), {}, "input[1, 0] is -0.1"),
    "not a number": (("probabilities", Q * float("nan"), Y), {}, "input[0, 0] is nan"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_paddles_type(case):
    (kind, *arguments), options, text = REFUSED[case]
    error, message = refusal(OURS[kind], *arguments, **options)
    assert error is refusal(PADDLES[kind], *arguments, **options)[0]
    assert text in message


def test_refused_though_paddle_takes_it():
    with pytest.raises(TypeError, match="'weight' is of dtype complex64; expected one of float64"):
        face.binary_cross_entropy_with_logits(X, Y, Y.astype("complex64"))
    one = paddle.ones([1, 1])  # Paddle compares two dimensions of [1, 1, 5] with those of [1, 1], and reads on
    with pytest.raises(ValueError, match="pos_weight: shape"):
        face.binary_cross_entropy_with_logits(one, one, pos_weight=paddle.ones([1, 1, 5]))


@pytest.mark.parametrize(("shape", "pos_weight"), [((), (1,)), ((1,), (1, 1)), ((1, 1), (1, 1, 1))])
def test_pos_weight_of_one_number_for_one_logit(shape, pos_weight):
    x, y, p = paddle.full(shape, 0.5), paddle.ones(shape), tensor(np.full(pos_weight, 3.0), learns=True)
    result, expected = (f(x, y, pos_weight=p, reduction="none") for f in (OURS["logits"], PADDLES["logits"]))
    assert result.shape == expected.shape
    assert result.item() == pytest.approx(expected.item())
    result.backward()
    assert p.grad.shape == p.shape


def test_sample_weight_is_refused():
    for given in (paddle.ones([3]), paddle.ones([2, 1]), paddle.ones([])):
        with pytest.raises(ValueError, match=re.escape("expected (2,), one weight for each entry of the first axis")):
            face.binary_cross_entropy_with_logits(X, Y, sample_weight=given)
    with pytest.raises(ValueError, match="argument 'sample_weight' must be Tensor, but got list"):
        face.binary_cross_entropy(Q, Y, sample_weight=[1.0, 2.0])


def test_probability_of_one_element_is_named_without_an_index():
    with pytest.raises(ValueError, match=r"but input is 2\.0;"):
        face.binary_cross_entropy(paddle.to_tensor(2.0), paddle.to_tensor(1.0))


# Shapes and dtypes


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 1), (2, 3, 4), (2, 1, 3, 1, 2)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_result_has_paddles_shape(kind, shape, reduction):
    x, y = tensor(an_input(kind, *shape)), tensor(uniform(*shape).round())
    result = OURS[kind](x, y, reduction=reduction)
    assert result.shape == PADDLES[kind](x, y, reduction=reduction).shape
    assert (result.dtype, result.stop_gradient, result.is_leaf) == (paddle.float32, True, True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("weight", ["float16", "float32", "float64", "int32", "bool"])
def test_weights_never_widen(dtype, weight):
    x, y, w = tensor([1.0, 2.0], dtype), tensor([1.0, 0.0], dtype), tensor([1, 1], weight)
    for given in ({"weight": w}, {"pos_weight": w}, {"sample_weight": w}):
        assert face.binary_cross_entropy_with_logits(x, y, **given).dtype == x.dtype


ENLARGING = [((2, 3), (4, 2, 3)), ((2, 1), (2, 3)), ((), (1,)), ((3,), (2, 1)), ((0, 3), (2, 1, 3))]


@pytest.mark.parametrize(("shape", "weight"), ENLARGING)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_weight_enlarges_the_result_as_in_paddle(kind, shape, weight, reduction):
    x, y, w = tensor(an_input(kind, *shape)), tensor(uniform(*shape)), tensor(uniform(*weight, seed=3))
    result, expected = OURS[kind](x, y, w, reduction), PADDLES[kind](x, y, w, reduction)
    assert result.shape == expected.shape
    np.testing.assert_allclose(array(result), array(expected), rtol=2e-6)


def test_weight_of_the_inputs_shape_reaches_the_kernel_and_an_enlarging_one_does_not():
    assert runs(lambda: face.binary_cross_entropy_with_logits(X, Y, paddle.ones([2, 1]))) == 1
    assert runs(lambda: face.binary_cross_entropy_with_logits(X, Y, paddle.ones([1, 2, 3]))) == 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_empty(kind, reduction):
    empty = paddle.zeros([0, 3])
    empty.stop_gradient = False
    for _ in range(2):  # the second adds to the gradient of the first
        result = OURS[kind](empty, paddle.zeros([0, 3]), reduction=reduction)
        np.testing.assert_array_equal(array(result), {"mean": np.nan, "sum": 0}.get(reduction, np.zeros((0, 3))))
        result.sum().backward()
    assert empty.grad.shape == [0, 3]


def test_name_changes_nothing():
    plain = face.binary_cross_entropy_with_logits(X, Y)
    assert face.binary_cross_entropy_with_logits(X, Y, name="loss").item() == plain.item()
    assert face.BCEWithLogitsLoss(name="loss").name == "loss"
