"""What MindSpore's reference pages and its own losses promise: names, defaults, results, and what is refused."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindspore import Tensor, mint, nn  # noqa: E402

from binxent import kernel  # noqa: E402
from binxent import mindspore as face  # noqa: E402
from tests.faces.mindspore_samples import (  # noqa: E402
    COMPILED,
    KINDS,
    MINDSPORES,
    MINDSPORES_CELLS,
    OUR_CELLS,
    OURS,
    REDUCTIONS,
    context,
    in_mode,
    refusal,
    tensor,
)

both_kinds = pytest.mark.parametrize("kind", KINDS)

X, Y = (tensor(np.full((2, 3), 0.5)) for _ in range(2))


def parameters(function):
    given = inspect.signature(function).parameters.values()
    return [(p.name, p.default) for p in given if p.kind is p.POSITIONAL_OR_KEYWORD]


@both_kinds
def test_parameters_are_mindspores(kind):
    assert parameters(OURS[kind]) == parameters(MINDSPORES[kind])
    assert parameters(OUR_CELLS[kind].__init__) == parameters(MINDSPORES_CELLS[kind].__init__)


@both_kinds
def test_cells_are_mindspores(kind):
    weight = tensor([1, 2, 3])
    ours, mindspores = OUR_CELLS[kind], MINDSPORES_CELLS[kind]
    assert isinstance(ours(), mindspores)
    assert isinstance(ours(), nn.Cell)
    assert repr(ours()) == repr(mindspores())
    assert "weight=float32[3]" in repr(ours(weight))
    learnt = ours(ms.Parameter(weight, name="w"), pos_weight=weight)
    assert "weight=Parameter(float32[3]), pos_weight=float32[3]" in repr(learnt)
    assert "reduction='sum'" in repr(ours(reduction="sum"))
    cell = ours(weight, "sum", pos_weight=weight)
    assert cell.trainable_params() == []
    assert cell.parameters_dict() == {}


@both_kinds
def test_a_cell_is_its_function(kind):
    weight, pos_weight, sample_weight = tensor([1, 2, 3]), tensor([3, 1, 2]), tensor([1, 3])
    for reduction in REDUCTIONS:
        cell = OUR_CELLS[kind](weight, reduction, pos_weight=pos_weight)
        value = OURS[kind](X, Y, weight, reduction, pos_weight=pos_weight).asnumpy()
        for called in (cell(X, Y), cell(input=X, target=Y), cell(X, target=Y), copy.deepcopy(cell)(X, Y)):
            np.testing.assert_array_equal(called.asnumpy(), value)
        value = OURS[kind](X, Y, weight, reduction, pos_weight=pos_weight, sample_weight=sample_weight)
        np.testing.assert_array_equal(cell(X, Y, sample_weight=sample_weight).asnumpy(), value.asnumpy())
    with pytest.raises(TypeError):
        cell(X, Y, sample_weight)


@pytest.mark.parametrize("mode", ["pynative", "jit", "graph"])
def test_documented_example_of_logits(mode):
    input = ms.tensor([[-0.8, 1.2, 0.7], [-0.1, -0.4, 0.7]])
    target = ms.tensor([[0.3, 0.8, 1.2], [-0.6, 0.1, 2.2]])
    loss = face.BCEWithLogitsLoss()
    output = in_mode(mode, loss)(input, target)
    np.testing.assert_allclose(float(output), 0.3463612, rtol=2e-7)
    if kernel.instruction_set != "baseline":
        assert str(output) == "0.3463612"


@pytest.mark.parametrize("mode", ["pynative", "jit", "graph"])
def test_documented_example_of_probabilities(mode):
    weight = ms.tensor([[1.0, 2.0, 3.0], [4.0, 3.3, 2.2]])
    loss = face.BCELoss(weight=weight, reduction="mean")
    input = ms.tensor([[0.1, 0.2, 0.3], [0.5, 0.7, 0.9]])
    target = ms.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert str(in_mode(mode, loss)(input, target)) == "1.8952923"


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
@both_kinds
def test_refused_with_mindspores_type(case, kind):
    arguments, given = REFUSED[case]
    mindspores, _ = refusal(MINDSPORES[kind], *arguments, **given)
    ours, message = refusal(OURS[kind], *arguments, **given)
    assert mindspores is not None
    assert ours is mindspores
    subject = case.split()[0]
    if subject in ("target", "weight", "input", "reduction"):
        assert message.startswith(f"{subject}: ")


@pytest.mark.parametrize("case", ["weight of another length", "weight of more dimensions", "weight of float64"])
def test_pos_weight_is_refused_as_mindspore_refuses_it(case):
    (x, y, pos_weight), _ = REFUSED[case]
    mindspores, _ = refusal(MINDSPORES["logits"], x, y, pos_weight=pos_weight)
    for ours in OURS.values():
        problem, message = refusal(ours, x, y, pos_weight=pos_weight)
        assert problem is mindspores
        assert message.startswith("pos_weight: ")


@both_kinds
def test_sample_weight_is_refused(kind):
    for wrong in (Y, Y[0], tensor(1)):
        problem, message = refusal(OURS[kind], X, Y, sample_weight=wrong)
        assert problem is ValueError
        assert message.startswith("sample_weight: ")
    with pytest.raises(ValueError, match="sample_weight="):
        OURS[kind](X, Y, Y[:, 0])


@pytest.mark.parametrize("case", ["target of another shape", "weight of another length", "input of float64"])
@pytest.mark.parametrize("mode", COMPILED)
def test_refused_in_graphs(mode, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MindSpore writes a report there
    arguments, _ = REFUSED[case]
    mindspores, _ = refusal(MINDSPORES["logits"], *arguments)
    ours, _ = refusal(in_mode(mode, face.binary_cross_entropy_with_logits), *arguments)
    assert ours is mindspores


@pytest.mark.parametrize("reduction", ["mean", "Mean", "SUM", "None", "avg", None, 1, True])
@both_kinds
def test_constructors_refuse_as_mindspores(kind, reduction):
    mindspores, _ = refusal(MINDSPORES_CELLS[kind], reduction=reduction)
    ours, _ = refusal(OUR_CELLS[kind], reduction=reduction)
    assert ours is mindspores
    if ours is None:
        mindspores, _ = refusal(MINDSPORES_CELLS[kind](reduction=reduction), X, Y)
        ours, _ = refusal(OUR_CELLS[kind](reduction=reduction), X, Y)
        assert ours is mindspores


def test_a_probability_out_of_range_is_named():
    wrong = np.full((2, 3), 0.5, np.float32)
    wrong[1, 2] = 1.5
    for dtype in (ms.float32, ms.float16, ms.bfloat16):
        with pytest.raises(ValueError, match=r"input\[1, 2\] is 1\.5.*binary_cross_entropy_with_logits"):
            face.binary_cross_entropy(Tensor(wrong).astype(dtype), Y)
    with pytest.raises(ValueError, match=r"but input is -0\.5"):
        face.binary_cross_entropy(tensor(-0.5), tensor(1))


@pytest.mark.parametrize(
    ("transform", "error"),
    [
        (ms.grad, ValueError),
        (lambda f: lambda x, y: ms.vjp(f, x, y), ValueError),
        (ms.jit, RuntimeError),
        (ms.vmap, RuntimeError),
        (lambda f: lambda x, y: ms.jvp(f, (x, y), (x, y))[0].asnumpy(), RuntimeError),
    ],
    ids=["grad", "vjp", "jit", "vmap", "jvp"],
)
def test_a_probability_out_of_range_in_transforms(transform, error, tmp_path, monkeypatch):
    """MindSpore compiles some of them, and makes a RuntimeError of every error of an operator in a graph."""
    monkeypatch.chdir(tmp_path)  # MindSpore writes a report there
    problem, message = refusal(transform(face.binary_cross_entropy), X + 1, Y)
    assert problem is error
    assert "all elements of input should be between 0 and 1" in message


@pytest.mark.parametrize("mode", ["pynative", "graph"])
@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16, ms.float32])
def test_to_float(mode, dtype):
    with context(mode):
        assert face.BCEWithLogitsLoss().to_float(dtype)(X, Y).dtype == dtype
        assert face.BCELoss(reduction="none").to_float(dtype)(X.astype(ms.float16), Y).dtype == dtype


class Network(nn.Cell):
    """Mixed precision O1 needs its source in a file."""

    def __init__(self, loss):
        super().__init__()
        self.dense = nn.Dense(4, 3, weight_init="ones", bias_init="zeros")
        self.loss = loss

    def construct(self, x, y):
        return self.loss(self.dense(x), y)


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3", "auto"])
def test_mixed_precision(level, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # O1 writes the network anew, here
    x, y = tensor(np.linspace(-1, 1, 32).reshape(8, 4)), tensor(np.linspace(0, 1, 24).reshape(8, 3))
    ours, mindspores = (
        ms.amp.auto_mixed_precision(Network(loss), level, ms.float16)(x, y)
        for loss in (face.BCEWithLogitsLoss(), mint.nn.BCEWithLogitsLoss())
    )
    assert ours.dtype == mindspores.dtype
    np.testing.assert_allclose(float(ours), float(mindspores), rtol=1e-3)
