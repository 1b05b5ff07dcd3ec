"""What only a compiled graph has: shapes that are unknown until it runs, and options that it is compiled for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindspore import Tensor, nn, ops  # noqa: E402

from binxent import kernel  # noqa: E402
from binxent import mindspore as face  # noqa: E402
from binxent import numpy as numpy_face  # noqa: E402
from tests.faces.mindspore_samples import KINDS, OUR_CELLS, OURS, context, in_mode, refusal, tensor  # noqa: E402
from tests.reference import bits  # noqa: E402
from tests.turns import in_turn  # noqa: E402

both_kinds = pytest.mark.parametrize("kind", KINDS)


class Gradients(nn.Cell):
    def __init__(self, loss):
        super().__init__()
        self.loss = loss
        self.gradients = ops.GradOperation(get_all=True)

    def construct(self, x, y):
        return self.loss(x, y), self.gradients(self.loss)(x, y)


@pytest.mark.parametrize("mode", ["pynative", "graph"])
@pytest.mark.parametrize("given", ["", "wp"])
@pytest.mark.parametrize("rank", ["known", "unknown"])
@both_kinds
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_shapes_unknown_to_the_graph(mode, given, rank, kind, reduction):
    rng = np.random.default_rng(5)
    w, p = (tensor(rng.uniform(0, 2, 3)) if k in given else None for k in "wp")
    options = {"weight": None if w is None else w.asnumpy(), "pos_weight": None if p is None else p.asnumpy()}
    anything = Tensor(shape=(None, 3) if rank == "known" else None, dtype=ms.float32)
    with context(mode):
        network = Gradients(OUR_CELLS[kind](w, reduction, pos_weight=p))
        network.set_inputs(anything, anything)
        for shape in [(4, 3), (2, 3)] + [(2, 4, 3)] * (rank == "unknown"):
            x, y = (rng.uniform(0, 1, shape).astype(np.float32) for _ in range(2))
            value, gradients = network(Tensor(x), Tensor(y))
            exact = numpy_face.value_and_grad(x, y, reduction=reduction, **options, probabilities=kind != "logits")
            np.testing.assert_array_equal(bits(value.asnumpy()), bits(np.asarray(exact[0])))
            np.testing.assert_array_equal(bits(gradients[0].asnumpy()), bits(exact[1]))
            assert gradients[1].shape == shape


# What the graph knows of the shapes, and a target of another one.
BROADCAST = [((None, None), (1, 3)), ((None, None), (2, 1)), (None, (1, 3)), (None, (2, 1)), (None, (3,)), (None, ())]


@pytest.mark.parametrize(
    ("shapes", "way"), in_turn(BROADCAST, ways=[*itertools.product(("jit", "graph"), ("loss", "gradient"), KINDS)])
)
def test_a_target_that_would_broadcast_is_refused(shapes, way, tmp_path, monkeypatch):
    """By the operator, when the graph runs; MindSpore's own gradient of logits takes it."""
    (known, target), (mode, wanted, kind) = shapes, way
    monkeypatch.chdir(tmp_path)  # MindSpore writes a report there
    loss = OUR_CELLS[kind]()
    step = loss if wanted == "loss" else ms.grad(loss)

    class Network(nn.Cell):
        def construct(self, x, y):
            return step(x, y)

    with context(mode):
        network = Network()
        if mode == "jit":
            network.construct = ms.jit(network.construct)
        anything = Tensor(shape=known, dtype=ms.float32)
        network.set_inputs(anything, anything)
        x = tensor(np.full((2, 3), 0.5))
        assert network(x, x).shape == (() if wanted == "loss" else (2, 3))
        problem, message = refusal(network, x, tensor(np.full(target, 0.5)))
    assert problem is RuntimeError  # MindSpore makes one of every error of an operator
    assert f"target: shape {target} must be the same as the input's, (2, 3)" in message


@pytest.mark.parametrize("mode", ["pynative", "jit", "graph"])
@both_kinds
def test_sample_weight_of_a_cell(mode, kind):
    cell, s = OUR_CELLS[kind](), tensor([1, 3])
    x, y = tensor(np.linspace(0.1, 0.9, 6).reshape(2, 3)), tensor(np.full((2, 3), 0.3))

    def loss(x, y, s):
        return cell(x, y, sample_weight=s)

    value = in_mode(mode, loss)(x, y, s)
    np.testing.assert_array_equal(value.asnumpy(), OURS[kind](x, y, sample_weight=s).asnumpy())
    assert float(value) != float(cell(x, y))


@pytest.mark.parametrize("level", ["O0", "O1"])
@both_kinds
def test_a_jitted_step_takes_the_kernel(level, kind):
    rng = np.random.default_rng(1)
    x, y = (rng.random((50, 30)).astype(np.float32) for _ in range(2))
    step = ms.jit(ms.value_and_grad(OUR_CELLS[kind]()), jit_level=level)
    step(Tensor(x), Tensor(y))[1].asnumpy()
    runs = kernel.runs()
    value, gradient = (t.asnumpy() for t in step(Tensor(x), Tensor(y)))
    assert kernel.runs() - runs == 2  # the loss, and its gradient
    exact = numpy_face.value_and_grad(x, y, probabilities=kind != "logits")
    np.testing.assert_array_equal(bits(value), bits(np.asarray(exact[0])))
    np.testing.assert_array_equal(bits(gradient), bits(exact[1]))


def test_a_graph_without_gradient_computes_none():
    x, y = tensor(np.zeros((5, 4))), tensor(np.ones((5, 4)))
    loss = ms.jit(face.binary_cross_entropy_with_logits)
    loss(x, y).asnumpy()
    runs = kernel.runs()
    assert float(loss(x, y)) == np.float32(np.log(2))
    assert kernel.runs() - runs == 1


@both_kinds
def test_views_are_read_right(kind):
    """A graph is given contiguous memory by MindSpore."""
    rng = np.random.default_rng(2)
    x = ms.mint.transpose(tensor(rng.random((6, 8))), 0, 1)
    y = ms.mint.narrow(tensor(rng.random((8, 9))), 1, 2, 6)
    assert not x.is_contiguous()
    assert not y.is_contiguous()
    value, gradient = ms.jit(ms.value_and_grad(OUR_CELLS[kind]()))(x, y)
    exact = numpy_face.value_and_grad(
        np.ascontiguousarray(x.asnumpy()), np.ascontiguousarray(y.asnumpy()), probabilities=kind != "logits"
    )
    np.testing.assert_array_equal(bits(value.asnumpy()), bits(np.asarray(exact[0])))
    np.testing.assert_array_equal(bits(gradient.asnumpy()), bits(exact[1]))


def test_reduction_is_refused_when_the_graph_is_compiled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MindSpore writes a report there
    x = tensor([0.5])

    def loss(x, y):
        return face.binary_cross_entropy_with_logits(x, y, None, "avg")

    problem, message = refusal(ms.jit(loss), x, x)
    assert problem is ValueError
    assert "'avg' is not a valid value for reduction" in message
