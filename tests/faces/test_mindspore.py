"""binxent.mindspore in every mode, against the definition, the NumPy face, and MindSpore's own losses."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from binxent import formula, kernel
from binxent import numpy as reference_face

from tests.kernel_calls import compute
from tests.reference import DTYPES, assert_close, assert_reduced_close, bits, expected, tolerance

ms = pytest.importorskip("mindspore")
import binxent.mindspore as face  # noqa: E402
from mindspore import Tensor, mint, nn, ops  # noqa: E402

ms.runtime.launch_blocking()  # else MindSpore raises the error of a call in a later one
own = mint.nn.functional

MODES = ("pynative", "jit", "bytecode", "graph")
REDUCTIONS = ("mean", "sum", "none")
NAMES = ("input", "target", "weight", "sample_weight", "pos_weight")
FORMS = {True: face.binary_cross_entropy, False: face.binary_cross_entropy_with_logits}


@pytest.fixture(autouse=True)
def _pynative_afterwards():
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def in_mode(mode, function):
    """The function as the mode runs it; the next test is in PyNative mode again."""
    if mode == "graph":
        ms.set_context(mode=ms.GRAPH_MODE)

        class Network(nn.Cell):
            def construct(self, *operands):
                return function(*operands)

        return Network()
    capture = {"jit": "ast", "bytecode": "bytecode"}
    return ms.jit(function, capture_mode=capture[mode]) if mode in capture else function


def tensor(array):
    if array is None:
        return None
    if array.dtype == DTYPES["bfloat16"]:
        return Tensor(array.astype(np.float32)).astype(ms.bfloat16)
    return Tensor(array)


def array(tensor):
    if tensor.dtype == ms.bfloat16:
        return tensor.astype(ms.float32).asnumpy().astype(DTYPES["bfloat16"])
    return tensor.asnumpy()


def example(shape, dtype="float32", target="float32", weights="", *, probabilities=False, seed=0):
    """x, y, w, s and p, each of the last three if its letter is in ``weights``."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, shape) if probabilities else rng.normal(0, 5, shape)
    last = shape[-1:]
    given = {"w": rng.uniform(0, 2, last), "s": rng.uniform(0, 2, shape[:1]), "p": rng.uniform(0, 4, last)}
    y = rng.uniform(0, 1, shape) if target in DTYPES else rng.integers(0, 2, shape)
    operands = [np.asarray(x, DTYPES[dtype]), np.asarray(y, DTYPES.get(target, target))]
    return operands + [given[k].astype(np.float32) if k in weights else None for k in "wsp"]


def loss_of(probabilities, reduction):
    function = FORMS[probabilities]

    def loss(x, y, w, s, p):
        return function(x, y, w, reduction, pos_weight=p, sample_weight=s)

    return loss


def value_and_grad(mode, loss, operands, wanted=(0,)):
    """The loss, the wanted gradients, and how often the kernel ran."""
    loss_and_gradients = ms.value_and_grad(loss, wanted)

    def both(x, y, w, s, p):
        return loss_and_gradients(x, y, w, s, p)

    runs = kernel.runs()
    value, gradients = in_mode(mode, both)(*map(tensor, operands))
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    return array(value), [array(g) for g in gradients], kernel.runs() - runs


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("weights", ["", "w", "p", "wsp"])
def test_loss_and_gradient(mode, reduction, probabilities, weights):
    operands = example((7, 5), weights=weights, probabilities=probabilities)
    x, y, w, s, p = operands
    value, (gradient,), runs = value_and_grad(mode, loss_of(probabilities, reduction), operands)

    exact = expected(x, y, w, p, s, probabilities=probabilities)
    allowed = tolerance(kernel.instruction_set, weights=len(weights), scaled=True)
    if reduction == "none":
        assert_close(value, exact.loss, exact.larger_loss, "float32", allowed=allowed)
    else:
        assert_reduced_close(value, exact, reduction, "float32", allowed=allowed)
    larger = exact.larger_gradient / exact.divisor(reduction)
    assert_close(gradient, exact.gradient_of(reduction), larger, "float32", allowed=allowed)
    # In PyNative mode, where bytecode returns to, the loss and its gradient are one pass, but for those of each element.
    assert runs == (1 if mode in ("pynative", "bytecode") and reduction != "none" else 2)

    ours = {"weight": w, "reduction": reduction, "pos_weight": p, "sample_weight": s}
    numpy_value, numpy_gradient = reference_face.value_and_grad(x, y, **ours, probabilities=probabilities)
    np.testing.assert_array_equal(bits(value), bits(np.asarray(numpy_value)))
    np.testing.assert_array_equal(bits(gradient), bits(numpy_gradient))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [3.0, 0.7])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_incoming_gradient_is_one_factor(mode, scale, reduction):
    """Scaled before the only rounding: not a float32 gradient multiplied afterwards."""
    x, y, w, s, p = example((6, 5), weights="wp")
    function = loss_of(False, reduction)
    sens = np.full((6, 5) if reduction == "none" else (), scale, np.float32)

    def loss(x, y, w, s, p):
        return ops.sum(function(x, y, w, s, p) * tensor_sens)

    tensor_sens = Tensor(sens)
    _, (gradient,), _ = value_and_grad(mode, loss, (x, y, w, s, p))
    exact = np.empty_like(x)
    more = (sens,) if reduction == "none" else ()
    divisor = x.size if reduction == "mean" else 1.0
    factor = 1.0 if reduction == "none" else float(np.float32(scale)) / divisor
    compute(x, y, w, *more, pos_weight=p, gradient=exact, factor=factor)
    np.testing.assert_array_equal(bits(gradient), bits(exact))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize(
    ("dtype", "target", "result"),
    [
        ("float16", "float16", "float16"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float16", "float32", "float32"),
        ("float32", "float16", "float32"),
        ("bfloat16", "float32", "float32"),
        ("float16", "bfloat16", "float32"),
        ("float32", "bool", "float32"),
        ("float16", "int32", "float16"),
        ("bfloat16", "int64", "bfloat16"),
        ("float32", "uint8", "float32"),
        ("float32", "int8", "float32"),
        ("float32", "int16", "float32"),
    ],
)
def test_dtypes(mode, probabilities, dtype, target, result):
    operands = example((4, 3), dtype, target, weights="w", probabilities=probabilities)
    value, gradients, _ = value_and_grad(mode, loss_of(probabilities, "mean"), operands, (0, 1))
    exact = expected(*operands[:3], probabilities=probabilities)
    allowed = tolerance(kernel.instruction_set, weights=1, scaled=True)
    assert_reduced_close(value, exact, "mean", result, allowed=allowed)
    larger = exact.larger_gradient / exact.loss.size
    assert_close(gradients[0], exact.gradient_of("mean"), larger, dtype, allowed=allowed)
    assert gradients[1].dtype == operands[1].dtype
    if target not in DTYPES:
        assert not gradients[1].any()


def first_derivatives(probabilities, operands, incoming):
    """Of the sum of incoming · loss to each operand, in float64."""
    x, y, w, s, p = (None if o is None else o.astype(np.float64) for o in operands)
    column = s if s is None else s.reshape(-1, *[1] * (x.ndim - 1))
    product = w if s is None else column if w is None else w * column
    kind = "probabilities" if probabilities else "logits"

    def to(suffix, *arguments):
        return getattr(formula, f"{kind}_gradient{suffix}")(np, *arguments)

    def fitted(gradient, operand):
        gradient = np.broadcast_to(gradient * incoming, x.shape)
        gradient = gradient.sum(axis=tuple(range(x.ndim - operand.ndim)))
        axes = tuple(i for i, size in enumerate(operand.shape) if size == 1 and gradient.shape[i] != 1)
        return gradient.sum(axis=axes, keepdims=True)

    def bracket(others):
        return getattr(formula, f"{kind}_loss")(np, x, y, others, p)

    return [
        to("", x, y, product, p) * incoming,
        to("_to_target", x, product, p) * incoming,
        None if w is None else fitted(bracket(column), w),
        None if s is None else (bracket(w) * incoming).reshape(len(s), -1).sum(1),
        None if p is None else fitted(to("_to_pos_weight", x, y, product), p),
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("weights", ["", "w", "s", "p", "wsp"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradients_to_every_operand(mode, probabilities, weights, reduction):
    """MindSpore's own gives zeros for weight and pos_weight."""
    operands = example((4, 3), weights=weights, probabilities=probabilities)
    wanted = tuple(i for i, o in enumerate(operands) if o is not None)
    _, gradients, _ = value_and_grad(mode, loss_of(probabilities, reduction), operands, wanted)
    exact = first_derivatives(probabilities, operands, 1 / operands[0].size if reduction == "mean" else 1.0)
    for i, gradient in zip(wanted, gradients, strict=True):
        assert gradient.shape == operands[i].shape
        np.testing.assert_allclose(gradient, exact[i], rtol=4e-7, atol=1e-7 if i == 0 else 1e-12, err_msg=NAMES[i])


@pytest.mark.parametrize("mode", ["pynative", "jit", "graph"])
def test_gradients_in_the_tails(mode):
    """exp and log1p of MindSpore's own on CPU lose them."""
    x = np.array([[-80.0, -40.0, -20.0, 20.0, 40.0, 80.0]], np.float32)
    y, p = np.full_like(x, 0.5), np.full(x.shape[1:], 2.0, np.float32)
    operands = (x, y, None, None, p)
    _, gradients, _ = value_and_grad(mode, loss_of(False, "sum"), operands, (0, 1, 4))
    exact = first_derivatives(False, operands, 1.0)
    for gradient, i in zip(gradients, (0, 1, 4), strict=True):
        np.testing.assert_allclose(gradient, exact[i], rtol=3e-7, atol=0)


@pytest.mark.parametrize("mode", ["pynative", "jit", "graph"])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("weights", ["", "wsp"])
def test_second_derivatives(mode, probabilities, weights):
    operands = example((3, 2), weights=weights, probabilities=probabilities)
    if probabilities:
        operands[0] = operands[0] * np.float32(0.8) + np.float32(0.1)
    loss = loss_of(probabilities, "mean")
    gradient = ms.grad(loss, 0)
    direction = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)
    along = Tensor(direction)

    def slope(x, y, w, s, p):
        return ops.sum(gradient(x, y, w, s, p) * along)

    wanted = tuple(i for i, o in enumerate(operands) if o is not None)
    _, found, _ = value_and_grad(mode, slope, operands, wanted)
    step = 1e-6  # of central differences of the definition, in float64
    for i, second in zip(wanted, found, strict=True):
        exact = np.empty(operands[i].shape)
        for at in np.ndindex(exact.shape):
            sides = []
            for sign in (1, -1):
                moved = [None if o is None else o.astype(np.float64) for o in operands]
                moved[i][at] += sign * step
                sides.append((first_derivatives(probabilities, moved, 1 / direction.size)[0] * direction).sum())
            exact[at] = (sides[0] - sides[1]) / (2 * step)
        np.testing.assert_allclose(second, exact, rtol=2e-6, atol=1e-7, err_msg=NAMES[i])


@pytest.mark.parametrize("mode", ["pynative", "jit"])
def test_third_derivative(mode):
    x, y = (Tensor(a) for a in example((2, 3))[:2])
    first = ms.grad(face.binary_cross_entropy_with_logits)

    def once(x, y):
        return ops.sum(first(x, y, None, "sum"))

    second = ms.grad(once)

    def twice(x, y):
        return ops.sum(second(x, y))

    third = in_mode(mode, ms.grad(twice))(x, y).asnumpy()
    s = 1 / (1 + np.exp(-x.asnumpy().astype(np.float64)))
    np.testing.assert_allclose(third, s * (1 - s) * (1 - 2 * s), rtol=1e-6, atol=1e-9)


def two_elementwise(x, y):
    return face.binary_cross_entropy_with_logits(x, y, None, "none")


def two_mean(x, y):
    return face.binary_cross_entropy_with_logits(x, y)


def test_transforms():
    """They compile the function, and run the kernel for each sample, or differentiate its derivative."""
    x, y, *_ = example((4, 3))
    tx, ty = Tensor(x), Tensor(y)
    exact = expected(x, y)

    runs = kernel.runs()
    batched = ms.vmap(two_mean)(tx, ty)
    np.testing.assert_allclose(batched.asnumpy(), exact.loss.mean(1), rtol=1e-6)
    assert kernel.runs() - runs == 4
    shared = ms.vmap(two_mean, (0, None))(tx, ty[0])
    np.testing.assert_allclose(shared.asnumpy(), expected(x, y[[0] * 4]).loss.mean(1), rtol=1e-6)
    gradients = ms.vmap(ms.grad(two_mean))(tx, ty)
    np.testing.assert_allclose(gradients.asnumpy(), exact.gradient / 3, rtol=1e-5, atol=1e-7)

    _, tangent = ms.jvp(two_mean, (tx, ty), (ty, tx))
    np.testing.assert_allclose(tangent.asnumpy(), (exact.gradient * y - x.astype(np.float64) * x).mean(), rtol=1e-5)
    value, pull = ms.vjp(two_elementwise, tx, ty)
    np.testing.assert_allclose(value.asnumpy(), exact.loss, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pull(ty)[0].asnumpy(), exact.gradient * y, rtol=1e-5, atol=1e-6)

    diagonal = np.zeros((4, 3, 4, 3))
    for at in np.ndindex(4, 3):
        diagonal[at + at] = exact.gradient[at]
    for jacobian in (ms.jacrev(two_elementwise), ms.jacfwd(two_elementwise)):
        np.testing.assert_allclose(jacobian(tx, ty).asnumpy(), diagonal, rtol=1e-5, atol=1e-6)

    def total(x):
        return ops.sum(two_elementwise(x, ty))

    curvature = formula.logits_curvature(np, x.astype(np.float64), y)
    hessian = ms.jacfwd(ms.jacrev(total))(tx).asnumpy()
    np.testing.assert_allclose(hessian.reshape(12, 12), np.diag(curvature.ravel()), rtol=1e-5, atol=1e-7)


def test_mean_gradient_after_another_batch():
    """MindSpore's own keeps the divisor of the first batch, in PyNative mode."""
    gradient = ms.grad(face.BCEWithLogitsLoss())
    for n in (64, 32, 128):
        zeros = Tensor(np.zeros((n, 3), np.float32))
        np.testing.assert_array_equal(gradient(zeros, zeros + 1).asnumpy(), np.float32(-0.5 / (3 * n)))


def test_gradient_twice():
    """Neither a second backward nor another scale writes into a gradient that was given away."""
    x, y = (Tensor(a) for a in example((5, 4))[:2])
    _, pull = ms.vjp(two_mean, x, y)
    first = pull(Tensor(np.float32(1)))[0]
    kept = first.asnumpy().copy()
    pull(Tensor(np.float32(7)))
    again = pull(Tensor(np.float32(1)))[0]
    np.testing.assert_array_equal(first.asnumpy(), kept)
    np.testing.assert_array_equal(again.asnumpy(), kept)


def test_only_what_is_asked_for():
    """Though MindSpore says that every operand of a differentiated function needs a gradient."""
    x, y = (Tensor(a) for a in example((5, 4))[:2])
    from binxent.mindspore import composite, eager

    asked = []
    plain = eager._TO_OTHERS
    eager._TO_OTHERS = tuple(lambda *a, to=to: asked.append(to.__name__) or to(*a) for to in plain)
    try:
        ms.value_and_grad(two_mean, 0)(x, y)
        assert asked == []
        ms.value_and_grad(two_mean, (0, 1))(x, y)
        assert asked == [composite.to_target.__name__]
    finally:
        eager._TO_OTHERS = plain


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 3), (3, 0), (1, 1, 1), (2, 3, 4, 5)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("probabilities", [False, True])
def test_shapes(mode, shape, reduction, probabilities):
    """One probability is not counted twice, an empty mean is NaN and an empty sum 0."""
    x, y, *_ = example(shape, probabilities=probabilities)
    value, (gradient,), _ = value_and_grad(mode, loss_of(probabilities, reduction), (x, y, None, None, None))
    exact = expected(x, y, probabilities=probabilities)
    assert value.shape == (shape if reduction == "none" else ())
    assert gradient.shape == shape
    if x.size == 0 and reduction != "none":
        np.testing.assert_equal(float(value), np.nan if reduction == "mean" else 0.0)
    else:
        np.testing.assert_allclose(value, np.asarray(exact.value(reduction), np.float64), rtol=2e-6)
        np.testing.assert_allclose(gradient, exact.gradient_of(reduction), rtol=2e-6, atol=1e-6)


def test_layouts():
    """Views are read in place, and give the same bits as what is contiguous."""
    rng = np.random.default_rng(3)
    base, soft = (Tensor(rng.normal(size=(6, 8)).astype(np.float32)) for _ in range(2))
    views = {
        "transposed": lambda t: mint.transpose(t, 0, 1),
        "rows": lambda t: t[1:5],
        "columns": lambda t: mint.narrow(t, 1, 2, 3),
        "one column": lambda t: mint.select(t, 1, 3),
        "expanded": lambda t: mint.broadcast_to(t[:1], (6, 8)),
    }
    strided = 0
    for name, view in views.items():
        x, y = view(base), view(soft)
        strided += not x.is_contiguous()
        for reduction in REDUCTIONS:
            exact = reference_face.value_and_grad(
                np.ascontiguousarray(x.asnumpy()), np.ascontiguousarray(y.asnumpy()), reduction=reduction
            )
            value, gradient = ms.value_and_grad(face.binary_cross_entropy_with_logits)(x, y, None, reduction)
            np.testing.assert_array_equal(bits(value.asnumpy()), bits(np.asarray(exact[0])), err_msg=name)
            np.testing.assert_array_equal(bits(gradient.asnumpy()), bits(exact[1]), err_msg=name)
    assert strided >= 3
    weight = mint.transpose(base, 0, 1)[:, :1]
    value = face.binary_cross_entropy_with_logits(base[:, :1].T, soft[:, :1].T, weight[:6].T)
    assert np.isfinite(float(value))


@pytest.mark.parametrize("mode", ["pynative", "jit"])
def test_dtypes_and_threads_of_a_large_loss(mode):
    """From MindSpore's pool of memory, on several threads."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(1100, 1000)).astype(np.float32), rng.integers(0, 2, (1100, 1000)).astype(np.float32)
    for dtype in ("float32", "bfloat16"):
        narrow = x.astype(DTYPES[dtype])
        value, (gradient,), _ = value_and_grad(mode, loss_of(False, "mean"), (narrow, y, None, None, None))
        exact = reference_face.value_and_grad(narrow, y)
        np.testing.assert_array_equal(bits(value), bits(np.asarray(exact[0])))
        np.testing.assert_array_equal(bits(gradient), bits(exact[1]))


@pytest.mark.parametrize("mode", MODES)
def test_extreme_values(mode):
    x = np.array([np.inf, np.inf, -np.inf, -np.inf, np.nan, 200.0], np.float32)
    y = np.array([1, 0, 1, 0, 0, 1], np.float32)
    value, (gradient,), _ = value_and_grad(mode, loss_of(False, "none"), (x, y, None, None, None))
    np.testing.assert_array_equal(value, np.array([0, np.inf, np.inf, 0, np.nan, 0], np.float32))
    np.testing.assert_array_equal(gradient, np.array([0, 1, -1, 0, np.nan, 0], np.float32))
    q = np.array([0, 0, 1, 1, np.nan], np.float32)
    y = np.array([0, 1, 0, 1, 1], np.float32)
    value, gradients, _ = value_and_grad(mode, loss_of(True, "none"), (q, y, None, None, None), (0, 1))
    np.testing.assert_array_equal(value, np.array([0, 100, 100, 0, np.nan], np.float32))
    np.testing.assert_allclose(gradients[0], np.array([0, -1e12, 1e12, 0, np.nan], np.float32), rtol=1e-6)
    np.testing.assert_array_equal(gradients[1], np.array([100, 100, -100, -100, np.nan], np.float32))
    half = value_and_grad(mode, loss_of(True, "none"), (q.astype(np.float16), y, None, None, None))[1][0]
    np.testing.assert_array_equal(half, np.array([0, -65504, 65504, 0, np.nan], np.float16))


def refusal(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except Exception as problem:
        return type(problem), str(problem)
    return None, ""


X, Y = (Tensor(np.full((2, 3), 0.5, np.float32)) for _ in range(2))
REFUSED = {
    "target of another shape": ((X, Y[0]), {}),
    "target of more dimensions": ((X, Y.reshape(1, 2, 3)), {}),
    "target of as many elements": ((X.reshape(6), Y), {}),
    "weight of another length": ((X, Y, Y[:, 0]), {}),
    "weight of more dimensions": ((X, Y, Y.reshape(1, 2, 3)), {}),
    "weight of float64": ((X, Y, Y.astype(ms.float64)), {}),
    "weight of int32": ((X, Y, Y.astype(ms.int32)), {}),
    "weight a float": ((X, Y, 2.0), {}),
    "weight an array": ((X, Y, Y.asnumpy()), {}),
    "weight a list": ((X, Y, [1.0, 2.0, 3.0]), {}),
    "input of float64": ((X.astype(ms.float64), Y.astype(ms.float64)), {}),
    "input of int32": ((X.astype(ms.int32), Y), {}),
    "target of float64": ((X, Y.astype(ms.float64)), {}),
    "input a float": ((1.0, Y), {}),
    "input None": ((None, Y), {}),
    "target a float": ((X, 1.0), {}),
    "target an array": ((X, Y.asnumpy()), {}),
    "reduction unknown": ((X, Y), {"reduction": "avg"}),
    "reduction empty": ((X, Y), {"reduction": ""}),
    "reduction an int": ((X, Y), {"reduction": 1}),
    "reduction a bool": ((X, Y), {"reduction": True}),
    "reduction bytes": ((X, Y), {"reduction": b"mean"}),
    "no target": ((X,), {}),
    "an unknown option": ((X, Y), {"size_average": True}),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", ["binary_cross_entropy_with_logits", "binary_cross_entropy"])
def test_refused_as_by_mindspore(case, name):
    arguments, given = REFUSED[case]
    theirs, _ = refusal(getattr(own, name), *arguments, **given)
    ours, message = refusal(getattr(face, name), *arguments, **given)
    assert theirs is not None
    assert ours is theirs
    subject = case.split()[0]
    if subject in ("target", "weight", "input", "reduction"):
        assert message.startswith(f"{subject}: ")


@pytest.mark.parametrize("case", ["weight of another length", "weight of more dimensions", "weight of float64"])
def test_pos_weight_refused_as_by_mindspore(case):
    (x, y, pos_weight), _ = REFUSED[case]
    theirs, _ = refusal(own.binary_cross_entropy_with_logits, x, y, pos_weight=pos_weight)
    for ours in (face.binary_cross_entropy_with_logits, face.binary_cross_entropy):
        assert refusal(ours, x, y, pos_weight=pos_weight)[0] is theirs


def test_sample_weight_refused():
    for ours, wrong in itertools.product(FORMS.values(), (Y, Y[0], Tensor(np.float32(1)))):
        problem, message = refusal(ours, X, Y, sample_weight=wrong)
        assert problem is ValueError
        assert message.startswith("sample_weight: ")
    with pytest.raises(ValueError, match="sample_weight="):
        face.binary_cross_entropy_with_logits(X, Y, Y[:, 0])


@pytest.mark.parametrize("case", ["target of another shape", "weight of another length", "input of float64"])
@pytest.mark.parametrize("mode", ["jit", "graph"])
def test_refused_in_graphs(mode, case):
    arguments, _ = REFUSED[case]
    theirs, _ = refusal(own.binary_cross_entropy_with_logits, *arguments)
    ours, _ = refusal(in_mode(mode, face.binary_cross_entropy_with_logits), *arguments)
    assert ours is theirs


@pytest.mark.parametrize("reduction", ["mean", "Mean", "SUM", "None", "avg", None, 1, True])
@pytest.mark.parametrize("name", ["BCEWithLogitsLoss", "BCELoss"])
def test_constructors_refuse_as_mindspore(name, reduction):
    theirs, _ = refusal(getattr(mint.nn, name), reduction=reduction)
    ours, _ = refusal(getattr(face, name), reduction=reduction)
    assert ours is theirs
    if ours is None:
        theirs, _ = refusal(getattr(mint.nn, name)(reduction=reduction), X, Y)
        ours, _ = refusal(getattr(face, name)(reduction=reduction), X, Y)
        assert ours is theirs


def test_probabilities_out_of_range():
    wrong = np.full((2, 3), 0.5, np.float32)
    wrong[1, 2] = 1.5
    for dtype in (ms.float32, ms.float16, ms.bfloat16):
        with pytest.raises(ValueError, match=r"input\[1, 2\] is 1\.5.*binary_cross_entropy_with_logits"):
            face.binary_cross_entropy(Tensor(wrong).astype(dtype), Y)
    with pytest.raises(ValueError, match=r"but input is -0\.5"):
        face.binary_cross_entropy(Tensor(np.float32(-0.5)), Tensor(np.float32(1)))
    outside = Y * 5 - 2  # MindSpore lets any target pass
    np.testing.assert_allclose(
        face.binary_cross_entropy(X, outside, None, "none").asnumpy(),
        own.binary_cross_entropy(X, outside, None, "none").asnumpy(),
        rtol=1e-6,
    )


INPUT = [[-0.8, 1.2, 0.7], [-0.1, -0.4, 0.7]]
TARGET = [[0.3, 0.8, 1.2], [-0.6, 0.1, 2.2]]


def test_documented_examples():
    input, target = ms.tensor(INPUT), ms.tensor(TARGET)
    ones = ms.tensor([1.0, 1.0, 1.0])
    # The page has 0.3463612, of another processor; on this one MindSpore's own prints as ours does.
    for ours, theirs in (
        (face.BCEWithLogitsLoss()(input, target), mint.nn.BCEWithLogitsLoss()(input, target)),
        (
            face.binary_cross_entropy_with_logits(input, target, ones, "mean", ones),
            own.binary_cross_entropy_with_logits(input, target, ones, "mean", ones),
        ),
    ):
        assert str(ours) == str(theirs)
        np.testing.assert_allclose(float(ours), 0.3463612, rtol=2e-7)
    weight = ms.tensor([[1.0, 2.0, 3.0], [4.0, 3.3, 2.2]])
    loss = face.BCELoss(weight=weight, reduction="mean")
    input = ms.tensor([[0.1, 0.2, 0.3], [0.5, 0.7, 0.9]])
    target = ms.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert str(loss(input, target)) == "1.8952923"
    input, target, weight = ms.tensor([0.2, 0.7, 0.1]), ms.tensor([0.0, 1.0, 0.0]), ms.tensor([1.0, 2.0, 2.0])
    np.testing.assert_allclose(float(face.binary_cross_entropy(input, target, weight)), 0.38240486, rtol=1e-7)


@pytest.mark.parametrize("mode", ["pynative", "jit", "graph"])
@pytest.mark.parametrize(
    ("reduction", "value", "scale"),
    [
        ("mean", 0.3463612, 6),
        ("sum", 2.078167, 1),
        ("none", [[0.6111006, 0.5032824, 0.26318604], [0.58439666, 0.55301523, -0.43681395]], 1),
    ],
)
def test_published_inputs(mode, reduction, value, scale):
    """The inputs and results of MindSpore's own tests; the loss, and its gradient inside and outside the graph."""
    gradient = np.array([[0.0100254714, -0.031475246, -0.53181231], [1.07502079, 0.301312357, -1.53181231]]) / scale
    ones = ms.tensor([1.0, 1.0, 1.0])
    input, target = ms.tensor(INPUT), ms.tensor(TARGET)
    cell = face.BCEWithLogitsLoss(ones, reduction, ones)

    def loss(input, target):
        return cell(input, target)

    def gradients(input, target):
        return ms.grad(cell, (0, 1))(input, target)

    np.testing.assert_allclose(in_mode(mode, loss)(input, target).asnumpy(), value, rtol=1e-4)
    np.testing.assert_allclose(in_mode(mode, gradients)(input, target)[0].asnumpy(), gradient, rtol=1e-4)
    outer = ms.grad(cell, (0, 1))(input, target)
    np.testing.assert_allclose(outer[0].asnumpy(), gradient, rtol=1e-4)


@pytest.mark.parametrize("mode", ["pynative", "graph"])
@pytest.mark.parametrize("given", ["", "wp"])
@pytest.mark.parametrize("rank", ["known", "unknown"])
@pytest.mark.parametrize("name", ["BCEWithLogitsLoss", "BCELoss"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_shapes_unknown_to_the_graph(mode, given, rank, name, reduction):
    if mode == "graph":
        ms.set_context(mode=ms.GRAPH_MODE)
    rng = np.random.default_rng(5)
    w, p = (Tensor(rng.uniform(0, 2, 3).astype(np.float32)) if k in given else None for k in "wp")
    loss = getattr(face, name)(w, reduction, pos_weight=p)
    anything = Tensor(shape=(None, 3) if rank == "known" else None, dtype=ms.float32)

    class Gradients(nn.Cell):
        def __init__(self):
            super().__init__()
            self.loss = loss
            self.gradients = ops.GradOperation(get_all=True)

        def construct(self, x, y):
            return self.loss(x, y), self.gradients(self.loss)(x, y)

    network = Gradients()
    network.set_inputs(anything, anything)
    for shape in [(4, 3), (2, 3)] + [(2, 4, 3)] * (rank == "unknown"):
        x, y = (rng.uniform(0, 1, shape).astype(np.float32) for _ in range(2))
        value, gradients = network(Tensor(x), Tensor(y))
        options = {"weight": None if w is None else w.asnumpy(), "pos_weight": None if p is None else p.asnumpy()}
        exact = reference_face.value_and_grad(x, y, reduction=reduction, **options, probabilities=name == "BCELoss")
        np.testing.assert_array_equal(bits(value.asnumpy()), bits(np.asarray(exact[0])))
        np.testing.assert_array_equal(bits(gradients[0].asnumpy()), bits(exact[1]))
        assert gradients[1].shape == shape


def test_cells_are_mindspores():
    weight = Tensor(np.array([1, 2, 3], np.float32))
    for name in ("BCEWithLogitsLoss", "BCELoss"):
        ours, theirs = getattr(face, name), getattr(mint.nn, name)
        assert isinstance(ours(), theirs)
        assert repr(ours()) == repr(theirs())
        assert repr(ours(weight)) == repr(theirs(weight))
        assert "reduction='sum'" in repr(ours(reduction="sum"))
        cell = ours(weight, "sum", pos_weight=weight)
        assert cell.trainable_params() == []
        assert str(copy.deepcopy(cell)(X, Y)) == str(cell(X, Y))
        assert str(cell(input=X, target=Y)) == str(cell(X, target=Y)) == str(cell(X, Y))
        sample_weight = Tensor(np.array([1, 3], np.float32))
        function = FORMS[name == "BCELoss"]
        expected = function(X, Y, weight, "sum", pos_weight=weight, sample_weight=sample_weight)
        assert str(cell(X, Y, sample_weight=sample_weight)) == str(expected)
        with pytest.raises(TypeError):
            cell(X, Y, sample_weight)


@pytest.mark.parametrize("mode", ["pynative", "jit"])
def test_sample_weight_of_a_cell_in_a_graph(mode):
    cell, s = face.BCEWithLogitsLoss(), Tensor(np.array([1, 3], np.float32))

    def loss(x, y, s):
        return cell(x, y, sample_weight=s)

    value = in_mode(mode, loss)(X, Y, s)
    np.testing.assert_array_equal(value.asnumpy(), loss(X, Y, s).asnumpy())
    assert float(value) != float(cell(X, Y))


@pytest.mark.parametrize("mode", ["pynative", "jit"])
def test_training_with_a_trainable_pos_weight(mode):
    """A weight that is a Parameter is trained; MindSpore's own leaves it as it is."""
    rng = np.random.default_rng(6)
    x, y = Tensor(rng.normal(size=(8, 4)).astype(np.float32)), Tensor(rng.integers(0, 2, (8, 3)).astype(np.float32))

    class Network(nn.Cell):
        def __init__(self):
            super().__init__()
            self.dense = nn.Dense(4, 3, weight_init="ones")
            self.loss = face.BCEWithLogitsLoss(pos_weight=ms.Parameter(Tensor(np.ones(3, np.float32)), name="pw"))

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
    x, y = Tensor(rng.normal(size=(8, 4)).astype(np.float32)), Tensor(rng.integers(0, 2, (8, 3)).astype(np.float32))
    network = nn.Dense(4, 3, weight_init="ones")
    step = nn.TrainOneStepCell(
        nn.WithLossCell(network, face.BCEWithLogitsLoss()), nn.SGD(network.trainable_params(), 0.5)
    )
    runs = kernel.runs()
    losses = [float(step(x, y)) for _ in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert kernel.runs() - runs == 4


def test_a_loss_scale_runs_the_kernel_twice_only_once():
    x, y = (Tensor(a) for a in example((5, 4))[:2])
    gradient = ms.grad(lambda x: two_mean(x, y) * 1024)
    gradient(x)
    runs = kernel.runs()
    gradient(x)
    assert kernel.runs() - runs == 1
    two_mean_gradient = ms.grad(two_mean)
    two_mean_gradient(x, y)
    runs = kernel.runs()
    two_mean_gradient(x, y)
    assert kernel.runs() - runs == 1


@pytest.mark.parametrize("mode", ["pynative", "graph"])
@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16, ms.float32])
def test_to_float(mode, dtype):
    if mode == "graph":
        ms.set_context(mode=ms.GRAPH_MODE)
    assert face.BCEWithLogitsLoss().to_float(dtype)(X, Y).dtype == dtype
    assert face.BCELoss(reduction="none").to_float(dtype)(X.astype(ms.float16), Y).dtype == dtype


class Network(nn.Cell):
    def __init__(self, loss):
        super().__init__()
        self.dense = nn.Dense(4, 3, weight_init="ones", bias_init="zeros")
        self.loss = loss

    def construct(self, x, y):
        return self.loss(self.dense(x), y)


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3", "auto"])
def test_mixed_precision(level, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # O1 writes the network anew, here
    x = Tensor(np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4))
    y = Tensor(np.linspace(0, 1, 24, dtype=np.float32).reshape(8, 3))
    ours, theirs = (
        ms.amp.auto_mixed_precision(Network(loss), level, ms.float16)(x, y)
        for loss in (face.BCEWithLogitsLoss(), mint.nn.BCEWithLogitsLoss())
    )
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(float(ours), float(theirs), rtol=1e-3)
