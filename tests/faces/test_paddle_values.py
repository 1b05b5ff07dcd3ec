"""What comes out: Paddle's own test inputs, its known errors, and the bits of the other faces."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from binxent import kernel
from binxent import numpy as numpy_face
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
from tests.layouts import LAYOUTS
from tests.reference import (
    DTYPES,
    INTEGER_TARGETS,
    assert_close,
    assert_reduced_close,
    bits,
    expected,
    tolerance,
)

both_kinds = pytest.mark.parametrize("kind", KINDS)
INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", PADDLES_TESTS, ids=str)
def test_inputs_of_paddles_tests(case, reduction, dtype):
    kind, (x, y, weights) = case.kind, case.operands()
    x, y, weights = tensor(x, dtype), tensor(y, dtype), {name: tensor(w, dtype) for name, w in weights.items()}
    exact = expected(array(x), array(y), **{n: array(w) for n, w in weights.items()}, probabilities=kind != "logits")
    x.stop_gradient = False
    rtol = {"float64": 1e-13, "float32": 1e-5, "float16": 1e-3}[dtype]
    for loss in (OURS[kind], OUR_LAYERS[kind]):
        if loss is OURS[kind]:
            result = loss(x, y, reduction=reduction, **weights)
        else:
            result = loss(reduction=reduction, **weights)(x, y)
        assert result.dtype == x.dtype
        value = array(result).astype(float)
        np.testing.assert_allclose(value, exact.value(reduction).astype(float), rtol=rtol, atol=rtol)
        gradient = gradient_of(result, x, paddle.ones_like(result)).astype(float)
        np.testing.assert_allclose(gradient, exact.gradient_of(reduction), rtol=rtol, atol=rtol / 10)
    if dtype != "float16":
        paddles = PADDLES[kind](x, y, reduction=reduction, **weights)
        np.testing.assert_allclose(value, array(paddles), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gradient, gradient_of(paddles, x, paddle.ones_like(paddles)), rtol=1e-4, atol=1e-6)


# Accuracy, and the same bits


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_against_the_definition(kind, reduction, dtype):
    x, y = tensor(an_input(kind, 41, 67) * (3 if kind == "logits" else 1), dtype), tensor(uniform(41, 67), dtype)
    w, p, s = (tensor(uniform(n, seed=n) * 3) for n in (67, 67, 41))
    result = OURS[kind](x, y, w, reduction, pos_weight=p, sample_weight=s)
    exact = expected(
        array(x), array(y), array(w), array(p), array(s), probabilities=kind == "probabilities", wide=np.longdouble
    )
    rules = {
        "allowed": tolerance(kernel.instruction_set, weights=3),
        "computed_in": "float64" if dtype == "float64" else "float32",
    }
    if reduction == "none":
        assert_close(array(result), exact.loss, exact.larger_loss, dtype, **rules)
    else:
        assert_reduced_close(array(result), exact, reduction, dtype, **rules)


@pytest.mark.parametrize("label", [*DTYPES, *INTEGER_TARGETS])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_bits_of_the_numpy_face(kind, reduction, dtype, label):
    x, y = tensor(an_input(kind, 33, 5), dtype, learns=True), tensor(uniform(33, 5).round(), label)
    loss = OURS[kind](x, y, reduction=reduction)
    value, gradient = numpy_face.value_and_grad(
        array(x), array(y), reduction=reduction, probabilities=kind == "probabilities"
    )
    np.testing.assert_array_equal(bits(array(loss)), bits(np.asarray(value)))
    np.testing.assert_array_equal(bits(gradient_of(loss, x, paddle.full_like(loss, 1.0))), bits(gradient))


@pytest.mark.parametrize("layout", ["transposed", "middle_first", "stepped"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_bits_do_not_depend_on_the_layout(layout, dtype):
    x, y, w = an_input("logits", 50, 3, 70), uniform(50, 3, 70), uniform(50, 3, 70)
    plain = [tensor(a, dtype) for a in (x, y, w)]

    def laid_out(values):
        strided = LAYOUTS[layout](values.astype(DTYPES[dtype]))
        step = strided.dtype.itemsize
        base = strided if strided.base is None else strided.base
        while base.base is not None:
            base = base.base
        flat = paddle.to_tensor(np.ascontiguousarray(base).ravel() if base.flags.c_contiguous else base.ravel("K"))
        offset = strided.ctypes.data - base.ctypes.data
        return paddle.as_strided(flat, list(strided.shape), [s // step for s in strided.strides], offset)

    strided = [laid_out(a) for a in (x, y, w)]
    assert not strided[0].is_contiguous()
    np.testing.assert_array_equal(array(strided[0]), array(plain[0]))
    for reduction in ("mean", "none"):
        results = []
        for a, b, c in (plain, strided):
            a.stop_gradient = False
            loss = face.binary_cross_entropy_with_logits(a, b, c, reduction)
            results.append((array(loss), array(paddle.grad(loss, a)[0])))
        np.testing.assert_array_equal(*[bits(loss) for loss, _ in results])
        np.testing.assert_array_equal(*[bits(gradient) for _, gradient in results])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_do_not_depend_on_threads(threads, any_threads):
    x, y = tensor(an_input("logits", 400, 500)), tensor(uniform(400, 500))
    kernel.set_num_threads(1)
    alone = face.binary_cross_entropy_with_logits(x, y).item()
    kernel.set_num_threads(threads)
    assert face.binary_cross_entropy_with_logits(x, y).item() == alone


@both_kinds
def test_sample_weight_multiplies_weight(kind):
    x, y, w, s = tensor(an_input(kind, 4, 3)), tensor(uniform(4, 3)), tensor(uniform(3)), tensor(uniform(4))
    both = OURS[kind](x, y, w, sample_weight=s)
    np.testing.assert_allclose(both.item(), OURS[kind](x, y, w * s.reshape([4, 1])).item(), rtol=1e-6)


# Where Paddle is wrong


def test_gradient_at_zero():
    y = tensor([0.0, 0.5, 1.0])
    x = tensor([0.0, 0.0, -0.0], learns=True)
    exact = np.array([0.5, 0, -0.5])
    assert gradient_of(PADDLES["logits"](x, y, reduction="sum"), x).tolist() == (exact - 1).tolist()
    assert gradient_of(face.binary_cross_entropy_with_logits(x, y, reduction="sum"), x).tolist() == exact.tolist()
    label = y.clone()
    label.stop_gradient = False  # by the formula
    assert gradient_of(face.binary_cross_entropy_with_logits(x, label, reduction="sum"), x).tolist() == exact.tolist()


@pytest.mark.parametrize("learns", [False, True], ids=["kernel", "formula"])
def test_mean_of_many(learns):
    x, y = paddle.zeros([1 << 24]), paddle.full([1 << 24], 0.5)
    assert PADDLES["logits"](x, y).item() > 1.01 * np.log(2)
    y.stop_gradient = not learns
    assert abs(face.binary_cross_entropy_with_logits(x, y).item() - np.log(2)) < 2**-24


def test_more_than_two_to_the_31_elements():
    """As views of one element, with which Paddle's own gives zeros. The kernel reads them as they are."""
    size = (1 << 31) + 64
    x, y = (paddle.as_strided(paddle.full([1], value), [size], [0]) for value in (0.0, 1.0))
    result = face.binary_cross_entropy_with_logits(x.astype("float32") if x.dtype != paddle.float32 else x, y)
    assert abs(result.item() - np.log(2)) < 2**-24


def test_tails():
    x, y = tensor([40.0, -40.0, 80.0, -80.0], learns=True), tensor([1, 0, 1, 0])
    loss = face.binary_cross_entropy_with_logits(x, y, reduction="none", pos_weight=tensor([1.0]))
    tail = np.exp(-np.abs(array(x).astype(float)))
    np.testing.assert_allclose(array(loss), tail, rtol=2e-7)
    np.testing.assert_allclose(gradient_of(loss.sum(), x), tail * [-1, 1, -1, 1], rtol=2e-7)


def test_a_label_of_minus_100_counts():
    x, y = tensor([0.5, 2.0], learns=True), tensor([-100.0, 1.0])
    loss = face.binary_cross_entropy_with_logits(x, y, reduction="none")
    exact = expected(array(x), array(y))
    np.testing.assert_allclose(array(loss), exact.loss, rtol=1e-6)
    np.testing.assert_allclose(gradient_of(loss.sum(), x), exact.gradient, rtol=1e-6)
    assert PADDLES["logits"](x, y, reduction="none")[0].item() == 0


@pytest.mark.parametrize("learns", [False, True], ids=["kernel", "formula"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_infinite_logits(dtype, learns):
    x = tensor([INF, -INF, INF, -INF, NAN, 1.0], dtype)
    y = tensor([1, 0, 0, 1, 1, NAN], dtype, learns=learns)
    loss = face.binary_cross_entropy_with_logits(x, y, reduction="none")
    # Paddle's exp(−∞) is 6e-309 in float64.
    np.testing.assert_allclose(array(loss).astype(float), [0, 0, INF, INF, NAN, NAN], atol=1e-300)


def test_ends_of_probabilities():
    q, y = tensor([0, 1, 0, 1, 1e-30]), tensor([0, 1, 1, 0, 1])
    ours = array(face.binary_cross_entropy(q, y, reduction="none"))
    np.testing.assert_allclose(ours, [0, 0, 100, 100, 30 * np.log(10)], rtol=1e-6)
    np.testing.assert_allclose(ours, array(PADDLES["probabilities"](q, y, reduction="none")), rtol=1e-6)
    small = face.binary_cross_entropy(tensor([1e-10]), tensor([0]))
    assert small.item() == np.float32(1e-10)  # where log(1 − 1e-10) is 0 in float32


def test_labels_outside_the_unit_interval_are_not_checked():
    for kind in KINDS:
        x, y = tensor(an_input(kind, 5)), tensor([-1.0, 2.0, 3.5, 0.5, 1.25])
        exact = expected(array(x), array(y), probabilities=kind == "probabilities")
        x.stop_gradient = False
        loss = OURS[kind](x, y, reduction="none")
        np.testing.assert_allclose(array(loss), exact.loss, rtol=1e-5)
        np.testing.assert_allclose(gradient_of(loss.sum(), x), exact.gradient, rtol=1e-5)


@both_kinds
def test_operands_are_not_written(kind):
    operands = [tensor(an_input(kind, 6, 4), learns=True), tensor(uniform(6, 4)), tensor(uniform(4))]
    before = [array(operand).copy() for operand in operands]
    OURS[kind](*operands).backward()
    for operand, values in zip(operands, before, strict=True):
        np.testing.assert_array_equal(array(operand), values)


# Which of the two computes


@pytest.mark.filterwarnings("ignore:amp_guard")
def test_kernel_or_formula():
    x, y, w = tensor(an_input("logits", 3, 4), learns=True), tensor(uniform(3, 4)), tensor(uniform(4))
    loss = face.binary_cross_entropy_with_logits
    learning = tensor(uniform(3, 4), learns=True)
    assert runs(lambda: loss(x, y, w, pos_weight=w, sample_weight=tensor(uniform(3))).backward()) == 1
    assert runs(lambda: loss(x.t(), y.t())) == 1
    by_element = loss(x, y, reduction="none")
    assert [runs(lambda: by_element.sum().backward(retain_graph=True)) for _ in range(2)] == [1, 1]
    mean = loss(x, y)
    assert [runs(lambda: mean.backward(retain_graph=True)) for _ in range(2)] == [0, 1]
    assert runs(lambda: paddle.grad(mean, x, create_graph=True)) == 0
    assert runs(lambda: loss(x.astype("float16"), y.astype("int64"))) == 1
    assert runs(lambda: loss(x, learning)) == 0
    with paddle.no_grad():
        assert runs(lambda: loss(x, learning)) == 1
    with paddle.amp.auto_cast(level="O2", dtype="bfloat16"):
        assert runs(lambda: loss(x, y)) == 1
        assert loss(x, learning).dtype == paddle.float32
