"""mask, ignore_index, label_smoothing, gamma, batchmean and weighted_mean: derivatives, graphs, and what is refused."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindspore import Tensor, ops  # noqa: E402

from binxent import definition, kernel  # noqa: E402
from binxent import numpy as numpy_face  # noqa: E402
from binxent.call import Operands, normalized, plan  # noqa: E402
from binxent.formula import LOGITS, PROBABILITIES  # noqa: E402
from binxent.mindspore import compiled  # noqa: E402
from binxent.mindspore.arrays import ARRAYS, column  # noqa: E402
from binxent.options import MEANS, NO_FOCAL, focal  # noqa: E402
from tests.faces.mindspore_samples import (  # noqa: E402
    KINDS,
    MINDSPORES_CELLS,
    OUR_CELLS,
    OURS,
    array,
    context,
    in_mode,
    refusal,
    tensor,
)
from tests.reference import bits, expected  # noqa: E402
from tests.turns import in_turn  # noqa: E402

both_kinds = pytest.mark.parametrize("kind", KINDS)
REDUCTIONS = ("mean", "sum", "none", "batchmean", "weighted_mean")
NAMES = ("input", "target", "weight", "sample_weight", "pos_weight")
MASK = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]], bool)
OPTIONS = {
    "none": {},
    "mask": {},
    "ignore_index": {"ignore_index": -100},
    "ignored NaN": {"ignore_index": float("nan")},
    "label_smoothing": {"label_smoothing": 0.1},
    "gamma": {"gamma": 2.0},
    "all": {"ignore_index": -100, "label_smoothing": 0.1, "gamma": 1.5},
}


def operands(kind, option, seed=3):
    """Of NAMES, and a mask or None; none of them near where the clamp or the least denominator bend the loss."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, (4, 3)) if kind == "logits" else rng.uniform(0.1, 0.9, (4, 3))
    y = rng.uniform(0, 1, (4, 3))
    if "ignore" in option or option == "all":
        y[1, 0] = y[3, 2] = OPTIONS[option]["ignore_index"]
    arrays = [x, y, rng.uniform(0.5, 2, 3), rng.uniform(0.5, 2, 4), rng.uniform(0.5, 3, 3)]
    return [a.astype(np.float32) for a in arrays], MASK if option in ("mask", "all") else None


def loss_of(kind, reduction, option):
    function, options = OURS[kind], OPTIONS[option]
    v, e, g = (
        options.get(name, off) for name, off in (("ignore_index", None), ("label_smoothing", 0.0), ("gamma", 0.0))
    )

    def loss(x, y, w, s, p, m):
        return function(
            x, y, w, reduction, pos_weight=p, sample_weight=s, mask=m, ignore_index=v, label_smoothing=e, gamma=g
        )

    return loss


def exact_value_and_gradient(kind, reduction, option, arrays, mask, incoming=1):
    x, y, w, s, p = arrays
    reference = expected(x, y, w, p, s, mask, probabilities=kind != "logits", wide=np.longdouble, **OPTIONS[option])
    return (reference.value(reduction) * incoming).sum(), (reference.gradient_of(reduction) * incoming)


def differences(function, arrays, step=1e-6):
    """The derivative of a number to each element of each array, by differences in extended precision."""
    arrays = [a.astype(np.longdouble) for a in arrays]
    results = []
    for a in arrays:
        result = np.zeros(a.shape)
        for i in np.ndindex(a.shape):
            value = a[i]
            if np.isnan(value) or value == -100:
                continue  # another target is not ignored
            a[i] = value + step
            above = function(arrays)
            a[i] = value - step
            result[i] = (above - function(arrays)) / (2 * step)
            a[i] = value
        results.append(result)
    return results


def gradients_in(mode, kind, reduction, option, arrays, mask, incoming):
    gradient = ms.ops.GradOperation(get_all=True, sens_param=True)(loss_of(kind, reduction, option))

    def run(x, y, w, s, p, m, incoming):
        return gradient(x, y, w, s, p, m, incoming)

    found = in_mode(mode, run)(*map(tensor, arrays), None if mask is None else Tensor(mask), tensor(incoming))
    return [g.asnumpy() for g in found[:5]]


SOME = [("all", reduction) for reduction in REDUCTIONS]
SOME += [("none", "weighted_mean"), ("mask", "mean"), ("ignored NaN", "mean"), ("label_smoothing", "none")]


@pytest.mark.parametrize(("case", "kind", "mode"), in_turn(SOME, KINDS, ways=("jit", "graph")))
def test_gradients_to_every_operand_in_graphs(case, kind, mode):
    option, reduction = case
    arrays, mask = operands(kind, option)
    incoming = np.float32(1.5)
    if reduction == "none":
        incoming = np.linspace(0.5, 2, 12, dtype=np.float32).reshape(4, 3)
    found = gradients_in(mode, kind, reduction, option, arrays, mask, incoming)
    wanted = differences(
        lambda given: exact_value_and_gradient(kind, reduction, option, given, mask, incoming)[0], arrays
    )
    for name, gradient, exact in zip(NAMES, found, wanted, strict=True):
        np.testing.assert_allclose(gradient, exact, rtol=2e-5, atol=2e-6, err_msg=name)


@both_kinds
@pytest.mark.parametrize("mode", ["jit", "graph"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_graphs_have_the_kernels_bits(kind, mode, reduction):
    arrays, mask = operands(kind, "all")
    value_and_gradient = ms.value_and_grad(loss_of(kind, reduction, "all"))

    def run(x, y, w, s, p, m):
        return value_and_gradient(x, y, w, s, p, m)

    runs = kernel.runs()
    value, gradient = (t.asnumpy() for t in in_mode(mode, run)(*map(tensor, arrays), Tensor(mask)))
    assert kernel.runs() - runs == 2  # the loss, and its gradient
    x, y, w, s, p = arrays
    options = OPTIONS["all"] | {"sample_weight": s, "mask": mask, "probabilities": kind != "logits"}
    exact = numpy_face.value_and_grad(x, y, w, reduction, p, **options)
    np.testing.assert_array_equal(bits(value), bits(np.asarray(exact[0])))
    np.testing.assert_array_equal(bits(gradient), bits(exact[1]))


@both_kinds
@pytest.mark.parametrize("mode", ["pynative", "graph"])
@pytest.mark.parametrize("rank", ["known", "unknown"])
@pytest.mark.parametrize("reduction", ["mean", "batchmean", "weighted_mean"])
def test_shapes_unknown_to_the_graph(kind, mode, rank, reduction):
    rng = np.random.default_rng(5)
    w = rng.uniform(0, 2, 3).astype(np.float32)
    options = {"reduction": reduction, "label_smoothing": 0.1, "ignore_index": -100}
    with context(mode):
        cell = OUR_CELLS[kind](tensor(w), **options)
        anything = Tensor(shape=(None, 3) if rank == "known" else None, dtype=ms.float32)

        class Both(ms.nn.Cell):
            def __init__(self):
                super().__init__()
                self.loss, self.gradients = cell, ms.ops.GradOperation(get_all=True)

            def construct(self, x, y):
                return self.loss(x, y), self.gradients(self.loss)(x, y)

        network = Both()
        network.set_inputs(anything, anything)
        for shape in [(4, 3), (2, 3)] + [(2, 4, 3)] * (rank == "unknown"):
            x, y = (rng.uniform(0, 1, shape).astype(np.float32) for _ in range(2))
            y[0] = -100
            value, gradients = network(Tensor(x), Tensor(y))
            exact = numpy_face.value_and_grad(x, y, w, **options, probabilities=kind != "logits")
            np.testing.assert_array_equal(bits(value.asnumpy()), bits(np.asarray(exact[0])))
            np.testing.assert_array_equal(bits(gradients[0].asnumpy()), bits(exact[1]))
            assert not gradients[1].asnumpy()[0].any()


@pytest.mark.parametrize(
    ("reduction", "option", "weights", "kind"), in_turn(REDUCTIONS, [*OPTIONS], ["", "ws", "wsp"], ways=KINDS)
)
def test_compiled_is_the_definition(reduction, option, weights, kind):
    """To the bit: what graphs take operand by operand, and what takes them together."""
    arrays, mask = operands(kind, option)
    given = [tensor(a) if letter in f"xy{weights}" else None for letter, a in zip("xywsp", arrays, strict=True)]
    given.append(None if mask is None else Tensor(mask))
    shapes = [None if a is None else a.shape for a in given]
    loss = PROBABILITIES if kind == "probabilities" else LOGITS
    n = tensor([0.5, 1, 2]) if weights == "wsp" else None
    family = focal(alpha=0.3, margin=0.05) if weights == "ws" else NO_FOCAL
    more = {"neg_weight": None if n is None else n.shape, "focal": family}
    call = plan(loss, reduction, ("float32", "float32"), *shapes, **OPTIONS[option], **more)
    given += [Tensor(6.5) if weights == "wsp" and reduction in MEANS else None, n]
    if given[6] is not None:
        call = normalized(call, None)
    together = Operands(*given[:6], normalizer=given[6], neg_weight=n)
    if together.sample_weight is not None:
        together = together._replace(sample_weight=column(together.sample_weight, together.input))
    known = definition.with_own_loss(call)
    value = compiled.loss(known, *given)
    np.testing.assert_array_equal(bits(value.asnumpy()), bits(definition.loss(ARRAYS, call, together).asnumpy()))
    incoming, values = ops.ones_like(value) * 1.5, definition.prepare(ARRAYS, call, together)
    for name, operand in zip((*NAMES, "neg_weight"), (*given[:5], n), strict=True):
        found = compiled.gradient(known, name, operand, *given, incoming)
        if operand is None:
            assert found is None
            continue
        exact = definition.gradient(ARRAYS, call, together, values, name, "float32", incoming)
        np.testing.assert_array_equal(bits(found.asnumpy()), bits(exact.asnumpy()).reshape(operand.shape), err_msg=name)


@both_kinds
@pytest.mark.parametrize("mode", ["pynative", "jit"])
@pytest.mark.parametrize("reduction", ["mean", "none", "weighted_mean"])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_nothing_of_what_is_hidden_gets_out(kind, mode, reduction, gamma):
    function = OURS[kind]
    (x, y, _, s, p), _ = operands(kind, "none")
    w = np.random.default_rng(1).uniform(0.5, 2, (4, 3)).astype(np.float32)
    ones = np.ones((4, 3) if reduction == "none" else (), np.float32)
    gradient = ms.ops.GradOperation(get_all=True, sens_param=True)

    def loss(x, y, w, s, p):
        return function(x, y, w, reduction, pos_weight=p, sample_weight=s, mask=Tensor(MASK), gamma=gamma)

    def run(x, y, w, s, p, incoming):
        return gradient(loss)(x, y, w, s, p, incoming)

    run = in_mode(mode, run)
    wanted = [g.asnumpy() for g in run(*map(tensor, (x, y, w, s, p, ones)))]
    hidden = [np.where(MASK, o, bad).astype(np.float32) for o, bad in ((x, np.nan), (y, np.inf), (w, np.nan))]
    found = [g.asnumpy() for g in run(*map(tensor, (*hidden, s, p, ones)))]
    for name, one, other in zip(NAMES, found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9, err_msg=name)
        if one.shape == MASK.shape:
            assert not one[~MASK].any()


@both_kinds
@pytest.mark.parametrize("mode", ["pynative", "jit"])
@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
def test_the_mean_of_nothing_is_0(kind, mode, reduction):
    arrays, _ = operands(kind, "none")
    function = OURS[kind]

    def loss(x, y, w, s, p, m):
        return function(x, y, w, reduction, pos_weight=p, sample_weight=s, mask=m)

    value_and_gradients = ms.value_and_grad(loss, (0, 1, 2, 3, 4))

    def run(x, y, w, s, p, m):
        return value_and_gradients(x, y, w, s, p, m)

    value, gradients = in_mode(mode, run)(*map(tensor, arrays), tensor(np.zeros((4, 1))))
    assert float(value) == 0
    for gradient in gradients:
        assert not gradient.asnumpy().any()


@both_kinds
@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
@pytest.mark.parametrize("option", ["mask", "label_smoothing", "all"])
def test_second_derivatives_in_graphs(kind, reduction, option):
    """Of the gradient to the input, along a direction, to each operand."""
    arrays, mask = operands(kind, option)
    along = np.random.default_rng(9).normal(0, 1, (4, 3)).astype(np.float32)
    first = ms.grad(loss_of(kind, reduction, option))
    second = ms.ops.GradOperation(get_all=True, sens_param=True)(first)

    def run(x, y, w, s, p, m, along):
        return second(x, y, w, s, p, m, along)

    given = [*map(tensor, arrays), None if mask is None else Tensor(mask)]
    found = in_mode("jit", run)(*given, tensor(along))[:5]
    wanted = differences(
        lambda given: (exact_value_and_gradient(kind, reduction, option, given, mask)[1] * along).sum(), arrays
    )
    for name, gradient, exact in zip(NAMES, found, wanted, strict=True):
        np.testing.assert_allclose(gradient.asnumpy(), exact, rtol=2e-5, atol=2e-6, err_msg=name)


@both_kinds
def test_vmap(kind):
    function = OURS[kind]
    (x, y, *_), _ = operands(kind, "ignore_index")

    def loss(x, y, m):
        return function(x, y, mask=m, ignore_index=-100, label_smoothing=0.1, gamma=2.0)

    found = ms.vmap(loss)(tensor(x), tensor(y), Tensor(MASK)).asnumpy()
    wanted = [loss(tensor(a), tensor(b), Tensor(m)).asnumpy() for a, b, m in zip(x, y, MASK, strict=True)]
    np.testing.assert_array_equal(bits(found), bits(np.stack(wanted)))


@both_kinds
@pytest.mark.parametrize("mode", ["pynative", "jit", "graph"])
@pytest.mark.parametrize("copied", [False, True])
def test_cells(kind, mode, copied):
    options = {"reduction": "batchmean", "ignore_index": -100, "label_smoothing": 0.1, "gamma": 2.0}
    (x, y, _, s, _), mask = operands(kind, "all")
    cell = OUR_CELLS[kind](**options)
    wanted = OURS[kind](tensor(x), tensor(y), sample_weight=tensor(s), mask=Tensor(mask), **options).asnumpy()
    if copied:
        cell = copy.deepcopy(cell)

    def loss(x, y, s, m):
        return cell(x, y, sample_weight=s, mask=m)

    found = in_mode(mode, loss)(tensor(x), tensor(y), tensor(s), Tensor(mask)).asnumpy()
    np.testing.assert_array_equal(bits(found), bits(wanted))


@both_kinds
def test_repr(kind):
    cell = OUR_CELLS[kind](reduction="batchmean", ignore_index=-100, label_smoothing=0.1, gamma=2.0)
    assert "reduction='batchmean', ignore_index=-100, label_smoothing=0.1, gamma=2.0" in repr(cell)
    assert "ignore_index=0" in repr(OUR_CELLS[kind](ignore_index=0))
    assert repr(OUR_CELLS[kind]()) == repr(MINDSPORES_CELLS[kind]())


@pytest.mark.parametrize(
    ("dtype", "mode", "way"),
    in_turn(
        ("bool", "uint8", "int64", "float16", "bfloat16", "float32"),
        ("pynative", "jit", "graph"),
        ways=[*itertools.product(KINDS, ("mean", "weighted_mean"))],
    ),
)
def test_masks_of_any_dtype(dtype, mode, way):
    """For the loss, and for the gradients, which are those of a mask of bool."""
    kind, reduction = way
    arrays, _ = operands(kind, "none")
    called, loss = [tensor(a) for a in arrays], loss_of(kind, reduction, "mask")
    value_and_gradients = ms.value_and_grad(loss, (0, 1, 2, 3, 4))

    def run(x, y, w, s, p, m):
        return value_and_gradients(x, y, w, s, p, m)

    value, gradients = in_mode(mode, run)(*called, tensor(MASK * 0.25 if "float" in dtype else MASK * 3, dtype))
    exact, exact_gradients = value_and_gradients(*called, Tensor(MASK))
    assert float(value) == float(exact)
    for name, gradient, right in zip(NAMES, gradients, exact_gradients, strict=True):
        np.testing.assert_allclose(gradient.asnumpy(), right.asnumpy(), rtol=1e-6, err_msg=name)


@both_kinds
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("mode", ["pynative", "jit"])
def test_gradients_where_everything_is_half(kind, dtype, mode):
    arrays, mask = operands(kind, "all")
    value_and_gradients = ms.value_and_grad(loss_of(kind, "weighted_mean", "all"), (0, 1, 2, 3, 4))

    def run(x, y, w, s, p, m):
        return value_and_gradients(x, y, w, s, p, m)

    given = [tensor(a, dtype) for a in (*arrays, mask)]
    _, gradients = in_mode(mode, run)(*given)
    _, exact = value_and_gradients(*(a.astype(ms.float32) for a in given))
    for name, gradient, right in zip(NAMES, gradients, exact, strict=True):
        assert gradient.dtype == given[0].dtype
        np.testing.assert_array_equal(bits(array(gradient)), bits(array(right.astype(given[0].dtype))), err_msg=name)


REFUSED = [
    ({"label_smoothing": 1.5}, ValueError, "label_smoothing: 1.5; expected a number between 0 and 1"),
    ({"gamma": -1}, ValueError, "gamma: -1; expected a finite number that is not negative"),
    ({"gamma": "2"}, TypeError, "gamma: expected a number, got str"),
    ({"ignore_index": 0.5}, ValueError, "ignore_index: 0.5; expected NaN or an integer"),
    ({"mask": tensor(np.ones(5))}, ValueError, "mask: shape (5,) does not broadcast"),
    ({"mask": 1}, TypeError, "mask: expected a mindspore.Tensor, got"),
    ({"reduction": "batch"}, ValueError, "'batch' is not a valid value for reduction"),
]


@pytest.mark.parametrize(("options", "error", "words"), REFUSED)
def test_refused_in_graphs(options, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MindSpore writes a report there
    x = tensor(np.ones((4, 3)))
    m, rest = options.get("mask"), {name: value for name, value in options.items() if name != "mask"}

    def loss(x):
        return OURS["logits"](x, x, mask=m, **rest)

    problem, message = refusal(ms.jit(loss), x)
    assert problem is error
    assert words in message


@pytest.mark.parametrize("name", ["label_smoothing", "gamma"])
@pytest.mark.parametrize("kind", [Tensor, ms.Parameter])
def test_what_would_get_no_gradient_is_refused(kind, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MindSpore writes a report there
    option = kind(tensor(0.5)) if kind is ms.Parameter else tensor(0.5)
    function, x = OURS["logits"], tensor([0.5])

    def in_a_graph(x):
        return function(x, x, **{name: option})

    for call in (
        lambda: function(x, x, **{name: option}),
        lambda: ms.grad(lambda value: function(x, x, **{name: value}))(option),
        lambda: ms.jit(in_a_graph)(x),
        lambda: OUR_CELLS["logits"](**{name: option}),
    ):
        problem, message = refusal(call)
        assert problem is TypeError
        assert f"{name}: expected a number, got Tensor, to which there would be no gradient" in message


@pytest.mark.parametrize("variable", ["tensor", "number"])
@pytest.mark.parametrize("name", ["ignore_index", "label_smoothing", "gamma"])
def test_a_variable_of_a_graph_is_no_option(name, variable, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function = OURS["logits"]

    def loss(x, value):
        return function(x, x, **{name: value})

    value = tensor(1.0) if variable == "tensor" else ms.mutable(1.0)
    problem, message = refusal(ms.jit(loss), tensor([0.5]), value)
    assert problem is TypeError
    assert f"{name}: expected a number" in message


@both_kinds
def test_refused_for_the_targets_dtype(kind):
    half = tensor([0.5], "bfloat16")
    problem, message = refusal(OURS[kind], half, half, ignore_index=-999)
    assert problem is ValueError
    assert "bfloat16, the target's dtype" in message
    assert refusal(OURS[kind], half, half.astype(ms.int32), ignore_index=-999) == (None, "")


@pytest.mark.parametrize("mode", ["pynative", "jit"])
def test_what_is_hidden_may_be_out_of_range(mode, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function = OURS["probabilities"]
    x, y = tensor([0.25, 7, -3]), tensor([1, 0.5, -100])

    def loss(x, y, m):
        return function(x, y, mask=m, ignore_index=-100)

    assert float(in_mode(mode, loss)(x, y, Tensor([True, False, True]))) == pytest.approx(np.log(4))
    problem, message = refusal(in_mode(mode, loss), x, y, Tensor([True, True, True]))
    assert problem is (ValueError if mode == "pynative" else RuntimeError)
    assert "element 1 is 7" in message or "input[1] is 7" in message
