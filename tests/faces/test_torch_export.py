"""torch.export, ONNX, make_fx, and TorchScript: graphs of torch's own operations, for machines without binxent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx

from tests.faces.torch_samples import DIVIDED, KINDS, OUR_MODULES, OURS, TORCHS, TORCHS_MODULES, an_input, uniform
from tests.processes import python

both_kinds = pytest.mark.parametrize("kind", KINDS)
pytestmark = pytest.mark.filterwarnings("ignore")  # of the tools: TorchScript is deprecated
TAILS = [104.0, -104.0, 200.0, -200.0, 100.0, -100.0, 17.0, -17.0, 0.0]


def module_of(kind, reduction="mean"):
    return OUR_MODULES[kind](weight=uniform(3) + 0.5, pos_weight=uniform(3, seed=2) + 0.5, reduction=reduction)


def exported(kind, reduction="mean", dynamic=False, strict=False, target=torch.float64):
    module = module_of(kind, reduction)
    example = an_input(kind, 4, 3), uniform(4, 3).round().to(target)
    rows = {0: Dim("rows")} if dynamic else None
    shapes = (rows, rows) if dynamic else None
    return module, torch.export.export(module, example, strict=strict, dynamic_shapes=shapes)


def operations(program):
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@both_kinds
def test_export(kind, reduction, dynamic, strict):
    module, program = exported(kind, reduction, dynamic, strict)
    decomposed = program.run_decompositions()
    assert not any("binxent" in name for name in operations(program))
    assert not any("sigmoid" in name or "binary" in name for name in operations(decomposed))
    for rows in (4, 9) if dynamic else (4,):
        x, y = an_input(kind, rows, 3, seed=5), uniform(rows, 3, seed=6)
        for graph in (program, decomposed):
            torch.testing.assert_close(graph.module()(x, y), module(x, y))


@pytest.mark.parametrize("target", [torch.int64, torch.bool], ids=str)
@both_kinds
def test_export_of_integer_targets(kind, target):
    module, program = exported(kind, target=target)
    x, y = an_input(kind, 4, 3, seed=5), uniform(4, 3, seed=6).round().to(target)
    loss = program.run_decompositions().module()(x, y)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, module(x, y))


@pytest.mark.parametrize("name", ["input", "target"])
@pytest.mark.parametrize("strict", [False, True])
def test_range_checks_survive_export_and_decomposition(strict, name):
    _, program = exported("probabilities", dynamic=True, strict=strict)
    q, y = uniform(5, 3), uniform(5, 3)
    (q if name == "input" else y)[1, 2] = 1.5
    for graph in (program, program.run_decompositions()):
        with pytest.raises(RuntimeError, match=f"all elements of {name} should be between 0 and 1"):
            graph.module()(q, y)


@both_kinds
def test_an_exported_program_needs_no_binxent(kind, tmp_path):
    module, program = exported(kind, dynamic=True)
    x, y = an_input(kind, 7, 3, seed=5), uniform(7, 3, seed=6)
    torch.export.save(program, tmp_path / "program.pt2")
    torch.save((x, y, module(x, y)), tmp_path / "values.pt")
    code = f"""
        import sys
        class Forbidden:
            def find_spec(self, name, path=None, target=None):
                assert name.partition(".")[0] != "binxent", name
        sys.meta_path.insert(0, Forbidden())
        import torch
        x, y, loss = torch.load({str(tmp_path / "values.pt")!r})
        torch.testing.assert_close(torch.export.load({str(tmp_path / "program.pt2")!r}).module()(x, y), loss)
        print("done")
    """
    assert python(code, timeout=120).endswith("done")


# ONNX


class Net(torch.nn.Module):
    def __init__(self, criterion):
        super().__init__()
        self.criterion = criterion

    def forward(self, x, y):
        return self.criterion(x, y)


def run_onnx(path, x, y):
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    names = [given.name for given in session.get_inputs()]
    return session.run(None, dict(zip(names, (x.numpy(), y.numpy()), strict=True)))[0]


def onnx_operators(path):
    return {node.op_type for node in pytest.importorskip("onnx").load(path).graph.node}


@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx_of_logits_has_exact_tails(dynamo, tmp_path):
    pytest.importorskip("onnxscript")
    path = str(tmp_path / "loss.onnx")
    x = torch.tensor([TAILS, TAILS, TAILS])
    y = torch.stack([torch.zeros(9), torch.ones(9), torch.full((9,), 0.3)])
    module = OUR_MODULES["logits"](reduction="none")
    torch.onnx.export(Net(module), (x, y), path, dynamo=dynamo, verbose=False)
    assert "Sigmoid" not in onnx_operators(path)  # whose logarithm is lost from 17 on
    loss = run_onnx(path, x, y)
    expected = module(x, y).numpy()
    assert np.isfinite(loss).all()
    # ONNX has no log1p: beyond 16 the small side is 0, which is off by less than 1e-7.
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-7)
    torchs = str(tmp_path / "torchs.onnx")
    torch.onnx.export(TORCHS_MODULES["logits"](reduction="none"), (x, y), torchs, dynamo=dynamo, verbose=False)
    assert not np.isfinite(run_onnx(torchs, x, y)).all()


def test_onnx_of_probabilities(tmp_path):
    pytest.importorskip("onnxscript")
    path = str(tmp_path / "loss.onnx")
    q = torch.tensor([0.0, 1.0, 0.5, 1e-7, 0.999]).repeat(3, 1)
    y = torch.stack([torch.zeros(5), torch.ones(5), torch.full((5,), 0.3)])
    module = OUR_MODULES["probabilities"](reduction="none", pos_weight=torch.full((5,), 2.0))
    torch.onnx.export(module, (q, y), path, dynamo=True, verbose=False)
    np.testing.assert_allclose(run_onnx(path, q, y), module(q, y).numpy(), rtol=1e-5, atol=1e-7)


# make_fx


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@both_kinds
def test_make_fx(kind, mode):
    def value_and_gradient(x, y):
        return torch.func.grad_and_value(OURS[kind])(x, y)

    graph = make_fx(value_and_gradient, tracing_mode=mode)(an_input(kind, 4, 3), uniform(4, 3))
    assert all("binxent" not in str(node.target) for node in graph.graph.nodes)
    shape = (6, 3) if mode == "symbolic" else (4, 3)
    x, y = an_input(kind, *shape, seed=5), uniform(*shape, seed=6)
    torch.testing.assert_close(graph(x, y), value_and_gradient(x, y))


def test_a_traced_graph_refuses_what_is_out_of_range():
    q, y = uniform(3), uniform(3, seed=2)
    graph = make_fx(lambda q, y: OURS["probabilities"](q, y), tracing_mode="fake")(q, y)
    for name, operands in (("input", (q + 1, y)), ("target", (q, y + 1))):
        with pytest.raises(RuntimeError, match=f"all elements of {name} should be between 0 and 1"):
            graph(*operands)


# TorchScript


@pytest.mark.parametrize("reduction", ["mean", "none"])
@both_kinds
def test_jit_trace(kind, reduction):
    module = module_of(kind, reduction)
    traced = torch.jit.trace(module, (an_input(kind, 4, 3), uniform(4, 3)))
    for rows in (4, 9):  # the divisor is not the example's
        x, y = an_input(kind, rows, 3, seed=5).requires_grad_(), uniform(rows, 3, seed=6)
        loss, expected = traced(x, y), module(x, y)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(*(torch.autograd.grad(value.sum(), x)[0] for value in (loss, expected)))


def test_a_traced_module_refuses_what_is_out_of_range():
    q, y = uniform(3), uniform(3, seed=2)
    traced = torch.jit.trace(OUR_MODULES["probabilities"](), (q, y))
    for name, operands in (("input", (q + 1, y)), ("target", (q, y + 1))):
        with pytest.raises(RuntimeError, match=f"all elements of {name} should be between 0 and 1"):
            traced(*operands)


@both_kinds
def test_jit_script_takes_torchs_own_module(kind):
    weights = {"weight": uniform(3), "reduction": "sum"} | ({"pos_weight": uniform(3)} if kind == "logits" else {})
    module = OUR_MODULES[kind](**weights)
    x, y = an_input(kind, 4, 3), uniform(4, 3)
    scripted = torch.jit.script(module)
    assert scripted.original_name == type(module).__name__
    assert set(scripted.state_dict()) == set(module.state_dict())
    torch.testing.assert_close(scripted(x, y), TORCHS_MODULES[kind](**weights)(x, y))
    net = torch.jit.script(Net(OUR_MODULES[kind](**weights)))
    torch.testing.assert_close(net(x, y), TORCHS[kind](x, y, **weights))


def calls_logits(x, y):
    return logits_loss(x, y)


def calls_probabilities(x, y):
    return probabilities_loss(x, y)


logits_loss, probabilities_loss = OURS["logits"], OURS["probabilities"]


@pytest.mark.parametrize("function", [logits_loss, probabilities_loss, calls_logits, calls_probabilities])
def test_jit_script_of_a_function_says_what_to_do(function):
    with pytest.raises(NotImplementedError, match=r"script the module BCELoss or BCEWithLogitsLoss"):
        torch.jit.script(function)


@both_kinds
@pytest.mark.parametrize("replaced", ["class", "function", "both"])
def test_jit_script_where_ours_stand_in_torchs_place(kind, replaced, monkeypatch):
    torchs_module, torchs_function = TORCHS_MODULES[kind], TORCHS[kind]
    if replaced != "function":
        monkeypatch.setattr(torch.nn, torchs_module.__name__, OUR_MODULES[kind])
    if replaced != "class":
        monkeypatch.setattr(torch.nn.functional, torchs_function.__name__, OURS[kind])
    x, y = an_input(kind, 4, 3), uniform(4, 3)
    made = getattr(torch.nn, torchs_module.__name__)(weight=uniform(3), reduction="sum")
    wanted = torchs_function(x, y, uniform(3), reduction="sum")
    for module in (made, OUR_MODULES[kind](weight=uniform(3), reduction="sum")):
        torch.testing.assert_close(torch.jit.script(module)(x, y), wanted)
        torch.testing.assert_close(torch.jit.script(Net(module))(x, y), wanted)
    calls = {"logits": calls_torchs_logits, "probabilities": calls_torchs_probabilities}[kind]
    torch.testing.assert_close(torch.jit.script(calls)(x, y), torchs_function(x, y))
    refusal = r"TorchScript cannot take .*gamma"
    with pytest.raises(NotImplementedError, match=refusal):
        torch.jit.script(OUR_MODULES[kind](gamma=2.0))


def calls_torchs_logits(x, y):
    return torch.nn.functional.binary_cross_entropy_with_logits(x, y)


def calls_torchs_probabilities(x, y):
    return torch.nn.functional.binary_cross_entropy(x, y)


def test_jit_script_of_bceloss_with_pos_weight_says_why_not():
    with pytest.raises(NotImplementedError, match="torch's own class has none"):
        torch.jit.script(OUR_MODULES["probabilities"](pos_weight=uniform(3)))


def fx(function, example):
    return make_fx(function, tracing_mode="symbolic")(*example)


def pre_dispatched(function, example):
    return make_fx(function, pre_dispatch=True, tracing_mode="symbolic")(*example)


def jit(function, example):
    return torch.jit.trace(function, example, check_trace=False)


def program(function, example):
    class Module(torch.nn.Module):
        def forward(self, x, y):
            return function(x, y)

    rows = {0: Dim("rows", min=2)}
    return torch.export.export(Module(), example, dynamic_shapes=(rows, rows)).module()


@pytest.mark.parametrize("trace", [fx, pre_dispatched, jit, program])
@pytest.mark.parametrize("options", [{}, *DIVIDED], ids=str)
@both_kinds
def test_a_traced_batch_size_is_no_constant(kind, options, trace):
    def loss(x, y):
        return OURS[kind](x, y, **options)

    traced = trace(loss, (an_input(kind, 4, 3), uniform(4, 3)))
    x, y = an_input(kind, 7, 3, seed=5), uniform(7, 3, seed=6)
    torch.testing.assert_close(traced(x, y), loss(x, y))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@both_kinds
def test_the_loss_is_no_constant_of_a_graph_before_dispatch(kind, mode):
    example = an_input(kind, 4), uniform(4)
    traced = make_fx(lambda x, y: OURS[kind](x, y), pre_dispatch=True, tracing_mode=mode)(*example)
    x, y = an_input(kind, 4, seed=5), uniform(4, seed=6)
    torch.testing.assert_close(traced(x, y), OURS[kind](x, y))
