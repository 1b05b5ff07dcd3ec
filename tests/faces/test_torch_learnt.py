"""gamma and label_smoothing as tensors, with gradients of their own, and as numbers that change under torch.compile."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jvp, vmap

from binxent import kernel
from tests.faces.torch_samples import KINDS, OUR_MODULES, OURS, TORCHS_MODULES, all_operands, an_input, leaves, uniform
from tests.turns import in_turn

both_kinds = pytest.mark.parametrize("kind", KINDS)
VALUES = {"gamma": 1.5, "label_smoothing": 0.2}
either = pytest.mark.parametrize("name", VALUES)
every_reduction = pytest.mark.parametrize("reduction", ["none", "mean", "sum", "batchmean", "weighted_mean"])
MASK = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)


def learnt(name: str, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(VALUES[name], dtype=dtype, requires_grad=True)


def of_option(kind: str, name: str, **options: Any) -> Any:
    """The loss as a function of one option."""
    operands = all_operands(kind)
    return lambda option: OURS[kind](**operands, **{name: option}, **options)


def numerically(function: Any, at: float, step: float = 1e-5) -> torch.Tensor:
    """A derivative from numbers, in which no tensor is learnt."""
    return (function(at + step) - function(at - step)) / (2 * step)


@pytest.mark.parametrize(("name", "value", "slope"), [("gamma", 2.0, -0.099414), ("label_smoothing", 0.1, 1.75)])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_of_three_logits(name: str, value: float, slope: float, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    option = torch.nn.Parameter(torch.full(shape, value, dtype=dtype))
    x, y = torch.tensor([0.5, -1, 2]), torch.tensor([1, 0, 1])
    loss = OURS["logits"](x, y, reduction="sum", **{name: option})
    assert loss.dtype == torch.float32
    loss.backward()
    assert option.grad is not None
    assert (option.grad.shape, option.grad.dtype) == (shape, dtype)
    assert option.grad.item() == pytest.approx(slope, rel=5e-6 if dtype != torch.bfloat16 else 1e-2)


@both_kinds
@every_reduction
def test_gradcheck(kind: str, reduction: str) -> None:
    given = leaves({**all_operands(kind), **{name: learnt(name) for name in VALUES}})

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        return OURS[kind](**dict(zip(given, tensors, strict=True)), reduction=reduction, mask=MASK)

    before = kernel.runs()
    assert gradcheck(loss, tuple(given.values()), check_forward_ad=True, check_batched_grad=True)
    assert kernel.runs() > before
    assert gradgradcheck(loss, tuple(given.values()), atol=1e-4)


@both_kinds
@either
@every_reduction
@pytest.mark.parametrize("mode", ["eager", "func.grad", "jvp", "jacfwd", "compile", "create_graph"])
def test_every_mode_gives_the_same(kind: str, name: str, reduction: str, mode: str) -> None:
    function = of_option(kind, name, reduction=reduction, mask=MASK)
    wanted = numerically(lambda number: function(number).sum(), VALUES[name])
    option, one = learnt(name), torch.ones((), dtype=torch.float64)

    def total(option: torch.Tensor) -> torch.Tensor:
        return function(option).sum()

    if mode == "func.grad":
        found = grad(total)(option.detach())
    elif mode == "jvp":
        found = jvp(total, (option.detach(),), (one,))[1]
    elif mode == "jacfwd":
        found = jacfwd(total)(option.detach())
    else:
        if mode == "compile":
            torch._dynamo.reset()
            total = torch.compile(total, backend="aot_eager", fullgraph=True)
        before = kernel.runs()
        loss = total(option)
        assert kernel.runs() > before
        torch.testing.assert_close(loss, function(VALUES[name]).sum(), rtol=1e-14, atol=0)
        (found,) = torch.autograd.grad(loss, option, create_graph=mode == "create_graph")
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-6, atol=1e-9)


@both_kinds
def test_second_derivatives(kind: str) -> None:
    operands = all_operands(kind)

    def loss(smoothing: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        return OURS[kind](**operands, label_smoothing=smoothing, gamma=gamma)

    at = (learnt("label_smoothing"), learnt("gamma"))
    for row, slopes in enumerate(torch.autograd.grad(loss(*at), at, create_graph=True)):
        on_the_tape = torch.autograd.grad(slopes, at, allow_unused=True, retain_graph=True)
        by_transform = hessian(loss, argnums=(0, 1))(*(option.detach() for option in at))[row]
        step = 1e-5
        for k, (found, wanted) in enumerate(zip(on_the_tape, by_transform, strict=True)):
            moved = [[o.detach().clone().requires_grad_() for o in at] for _ in range(2)]
            with torch.no_grad():
                moved[0][k] += step
                moved[1][k] -= step
            ahead, behind = (torch.autograd.grad(loss(*options), options)[row] for options in moved)
            torch.testing.assert_close(wanted, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-8)
            torch.testing.assert_close(0 * wanted if found is None else found, wanted, rtol=1e-9, atol=1e-12)


@both_kinds
@either
def test_vmap_over_an_option(kind: str, name: str) -> None:
    function = of_option(kind, name)
    several = VALUES[name] + torch.arange(3, dtype=torch.float64) / 10
    together = vmap(function)(several)
    torch.testing.assert_close(together, torch.stack([function(float(value)) for value in several]))
    slopes = vmap(grad(function))(several)
    torch.testing.assert_close(
        slopes, torch.stack([numerically(function, float(v)) for v in several]), rtol=1e-6, atol=0
    )


@both_kinds
@either
def test_a_number_in_a_tensor_is_a_number_to_the_kernel(kind: str, name: str) -> None:
    function = of_option(kind, name)
    wanted = function(VALUES[name])
    option = learnt(name)
    before = kernel.runs()
    with torch.no_grad():
        assert torch.equal(function(option), wanted)
    assert torch.equal(function(option.detach()), wanted)
    assert torch.equal(function(option), wanted)
    assert kernel.runs() == before + 3


@both_kinds
@either
def test_an_option_changed_before_the_backward_is_torchs_error(kind: str, name: str) -> None:
    option = learnt(name)
    loss = of_option(kind, name)(option)
    with torch.no_grad():
        option += 0.1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@either
def test_in_place(name: str) -> None:
    leaf, target = an_input("logits", 4, 3).requires_grad_(), uniform(4, 3)
    found = []
    for inplace in (False, True):
        option = learnt(name)
        loss = OURS["logits"](leaf * 2, target, **{name: option}, inplace_backward=inplace)
        found.append(torch.autograd.grad(loss, (leaf, option)))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_a_learnt_gamma_of_0_at_infinite_logits() -> None:
    x, y = torch.tensor([math.inf, -math.inf, 0.3], requires_grad=True), torch.tensor([1.0, 0.0, 1.0])
    wanted = torch.autograd.grad(OURS["logits"](x, y), x)[0]
    gamma = torch.zeros((), requires_grad=True)
    slope, to_gamma = torch.autograd.grad(OURS["logits"](x, y, gamma=gamma), (x, gamma))
    assert torch.equal(slope, wanted)
    assert torch.isfinite(to_gamma)
    by_formula = grad(lambda x, gamma: OURS["logits"](x, y, gamma=gamma))(x.detach(), torch.zeros(()))
    torch.testing.assert_close(by_formula, wanted)


# What is refused


@both_kinds
@either
@pytest.mark.parametrize(
    ("option", "error", "words"),
    [
        (torch.zeros(2, requires_grad=True), TypeError, r"{name}: expected a number, got a tensor of .*shape \(2,\)"),
        (torch.zeros(0, requires_grad=True), TypeError, r"{name}: expected a number, got a tensor of .*shape \(0,\)"),
        (torch.tensor(0j, requires_grad=True), NotImplementedError, "'{name}' is of dtype torch.complex64"),
        (torch.tensor(-0.5, requires_grad=True), ValueError, "{name}: -0.5; expected a"),
        (torch.tensor(math.nan, requires_grad=True), ValueError, "{name}: nan; expected a"),
        (torch.tensor(math.inf, requires_grad=True), ValueError, "{name}: inf; expected a"),
    ],
)
@pytest.mark.parametrize("mode", ["eager", "grad", "vmap", "compile"])
def test_refusals(kind: str, name: str, option: torch.Tensor, error: type[Exception], words: str, mode: str) -> None:
    function = of_option(kind, name)
    if mode == "compile":
        torch._dynamo.reset()
        function = torch.compile(function, backend="aot_eager")
        error = Exception  # Dynamo wraps what is raised while it traces
    elif mode == "grad":
        function, option = grad(function), option.detach()
    elif mode == "vmap":
        function, option = vmap(function), torch.stack([torch.full_like(option, 0.5).detach(), option.detach()])
    with pytest.raises(error, match=words.format(name=name)):
        function(option)


@either
def test_a_boolean_is_no_number_to_a_graph(name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name}: expected a number, got a tensor of torch.bool"):
        vmap(of_option("logits", name))(torch.tensor([True, False]))


@both_kinds
@either
def test_in_a_graph_an_option_out_of_range_is_nan(kind: str, name: str) -> None:
    operands = all_operands(kind)

    def loss(option: torch.Tensor) -> torch.Tensor:
        return OURS[kind](**operands, **{name: option})

    traced = torch.jit.trace(loss, torch.tensor(VALUES[name]), check_trace=False)
    torch.testing.assert_close(traced(torch.tensor(0.4)), loss(torch.tensor(0.4)), rtol=1e-6, atol=0)
    assert traced(torch.tensor(-0.4)).isnan()


# Modules


@both_kinds
@either
def test_a_module_learns_its_option(kind: str, name: str) -> None:
    parameter = torch.nn.Parameter(torch.tensor(VALUES[name]))
    module = OUR_MODULES[kind](**{name: parameter})
    assert dict(module.named_parameters()) == {name: parameter}
    assert getattr(module, name) is parameter
    assert repr(module) == f"{type(module).__name__}({name}=Parameter)"
    x, y = an_input(kind, 4, 3), uniform(4, 3)
    module(x, y).backward()
    assert parameter.grad is not None
    wanted = parameter.grad.clone()
    for same in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), OUR_MODULES[kind](**{name: 0})):
        if not dict(same.named_parameters()):
            setattr(same, name, torch.nn.Parameter(torch.zeros(())))
        same.load_state_dict(module.state_dict())
        same.zero_grad()
        same(x, y).backward()
        torch.testing.assert_close(getattr(same, name).grad, wanted, rtol=0, atol=0)
    torch.optim.SGD(module.parameters(), lr=0.01).step()
    assert getattr(module, name) == VALUES[name] - 0.01 * wanted
    assert module.double().state_dict()[name].dtype == torch.float64
    other = torch.tensor(VALUES[name] / 2, dtype=torch.float64)
    torch.testing.assert_close(
        functional_call(module, {name: other}, (x, y)), OURS[kind](x, y, **{name: VALUES[name] / 2})
    )
    with pytest.raises(NotImplementedError, match=rf"TorchScript cannot take .* with {name}: "):
        torch.jit.script(module)


@both_kinds
@either
def test_where_a_module_keeps_an_option(kind: str, name: str) -> None:
    """A number may become a parameter; a module of torch's may become ours, and then learn."""
    x, y = an_input(kind, 4, 3), uniform(4, 3)
    converted = TORCHS_MODULES[kind]()
    converted.__class__ = OUR_MODULES[kind]
    for module in (converted, OUR_MODULES[kind](**{name: VALUES[name] / 2})):
        setattr(module, name, torch.nn.Parameter(torch.tensor(VALUES[name], dtype=torch.float64)))
        assert list(module.state_dict()) == [name]
        assert torch.equal(module(x, y), OURS[kind](x, y, **{name: VALUES[name]}))
    with pytest.raises(ValueError, match=f"{name}: -1.0; expected a"):
        OUR_MODULES[kind](**{name: torch.nn.Parameter(torch.tensor(-1.0))})
    with torch.device("meta"):
        assert getattr(OUR_MODULES[kind](**{name: torch.nn.Parameter(torch.tensor(0.5))}), name).is_meta


@both_kinds
@either
def test_a_compiled_module_learns_its_option(kind: str, name: str) -> None:
    torch._dynamo.reset()
    x, y = an_input(kind, 4, 3), uniform(4, 3)
    modules = [OUR_MODULES[kind](**{name: torch.nn.Parameter(torch.tensor(VALUES[name]))}) for _ in range(2)]
    compiled = torch.compile(modules[0], backend="aot_eager", fullgraph=True)
    for call, module in zip((compiled, modules[1]), modules, strict=True):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            call(x, y).backward()
            optimizer.step()
    torch.testing.assert_close(modules[0].state_dict(), modules[1].state_dict(), rtol=1e-6, atol=0)


# A schedule under torch.compile

STEPS = 12  # more than the eight that Dynamo compiles before it gives up


def argument(kind: str, name: str, compiler: Any) -> Any:
    return compiler(lambda x, y, option: OURS[kind](x, y, **{name: option}))


def attribute(kind: str, name: str, compiler: Any) -> Any:
    module = OUR_MODULES[kind](**{name: VALUES[name]})
    compiled = compiler(module)

    def call(x: torch.Tensor, y: torch.Tensor, option: float) -> torch.Tensor:
        setattr(module, name, option)
        return compiled(x, y)

    return call


def tensor(kind: str, name: str, compiler: Any) -> Any:
    compiled = argument(kind, name, compiler)
    return lambda x, y, option: compiled(x, y, torch.tensor(option))


SCHEDULES = (
    (argument, 1.0, "eager"),
    (argument, 1.0, "aot_eager"),
    (argument, 0.0, "aot_eager"),
    (argument, 0.25, "aot_eager"),  # through 0
    (attribute, 1.0, "aot_eager"),
    (tensor, 1.0, "aot_eager"),
    (argument, 1.0, "inductor"),
)


@pytest.mark.parametrize(("schedule", "name", "kind"), in_turn(SCHEDULES, [*VALUES], ways=KINDS))
def test_a_schedule_costs_two_compilations(schedule: tuple[Any, float, str], name: str, kind: str) -> None:
    way, first, backend = schedule
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    call = way(kind, name, lambda function: torch.compile(function, backend=counter, fullgraph=True))
    x, y = an_input(kind, 4, 3, dtype=torch.float32), uniform(4, 3, dtype=torch.float32)
    for step in range(STEPS):
        option = abs(first - step / 16)
        ours, theirs = (x.clone().requires_grad_() for _ in range(2))
        call(ours, y, option).backward()
        OURS[kind](theirs, y, **{name: option}).backward()
        assert torch.equal(ours.grad, theirs.grad)
    assert counter.frame_count <= 2


@both_kinds
def test_a_schedule_of_both_options_beside_a_learnt_one(kind: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(OURS[kind], backend=counter, fullgraph=True)
    x, y = an_input(kind, 4, 3), uniform(4, 3)
    for step in range(STEPS):
        option = learnt("gamma", torch.float32)
        smoothing = step / 20
        loss = compiled(x, y, label_smoothing=smoothing, gamma=option)
        assert torch.equal(loss, OURS[kind](x, y, label_smoothing=smoothing, gamma=option))
    assert counter.frame_count <= 2


@both_kinds
@either
def test_a_compiled_schedule_is_checked(kind: str, name: str) -> None:
    torch._dynamo.reset()
    call = argument(kind, name, lambda function: torch.compile(function, backend="aot_eager"))
    x, y = an_input(kind, 4, 3), uniform(4, 3)
    for option in (0.1, 0.2, 0.3):
        call(x, y, option)
    with pytest.raises(Exception, match=f"{name}: -0.5; expected a"):
        call(x, y, -0.5)
