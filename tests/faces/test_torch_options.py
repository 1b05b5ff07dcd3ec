"""The options that torch does not have, in every mode of torch.

Loss and gradient to the input, with every option alone and in pairs, stand in tests/conformance.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from binxent import kernel
from binxent import torch as face
from tests.faces.torch_samples import KINDS, OUR_MODULES, OURS, TORCHS_MODULES, all_operands, leaves
from tests.turns import in_turn

both_kinds = pytest.mark.parametrize("kind", KINDS)
MASK = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)
OPTIONS: dict[str, dict[str, Any]] = {
    "mask": {"mask": MASK},
    "mask of rows": {"mask": MASK[:, 1:2]},
    "ignore_index": {"ignore_index": -100},
    "label_smoothing": {"label_smoothing": 0.1},
    "gamma": {"gamma": 1.5},
    "a small gamma": {"gamma": 0.5},
    "all": {"mask": MASK, "ignore_index": -100, "label_smoothing": 0.2, "gamma": 2.0},
}
REDUCTIONS = ("none", "mean", "sum", "batchmean", "weighted_mean")
every_option = pytest.mark.parametrize("option", OPTIONS)


def operands_for(kind: str, option: str) -> dict[str, torch.Tensor]:
    operands = all_operands(kind)
    if "ignore_index" in OPTIONS[option]:
        operands["target"][2, :2] = -100
    return operands


@every_option
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_gradients_to_every_operand(kind: str, reduction: str, option: str) -> None:
    given = leaves(operands_for(kind, option))

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        return OURS[kind](**dict(zip(given, tensors, strict=True)), reduction=reduction, **OPTIONS[option])

    # A step away from the ignored target it would not be ignored.
    fixed = {"target"} if "ignore_index" in OPTIONS[option] else set()
    for name in fixed:
        given[name].requires_grad_(False)
    assert gradcheck(loss, tuple(given.values()), check_forward_ad=True)
    if kind == "logits" and reduction in ("mean", "weighted_mean"):
        assert gradgradcheck(loss, tuple(given.values()), atol=1e-4)


@every_option
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_kernel_and_formula_agree(kind: str, reduction: str, option: str) -> None:
    operands = operands_for(kind, option)
    names = [name for name in operands if name != "target"]

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        given = operands | dict(zip(names, tensors, strict=True))
        return OURS[kind](**given, reduction=reduction, **OPTIONS[option]).sum()

    by_formula = torch.func.grad(loss, argnums=tuple(range(len(names))))(*(operands[n] for n in names))
    given = leaves({n: operands[n] for n in names})
    before = kernel.runs()
    loss(*given.values()).backward()
    assert kernel.runs() > before
    for name, wanted in zip(names, by_formula, strict=True):
        torch.testing.assert_close(given[name].grad, wanted, rtol=1e-10, atol=1e-12)


@both_kinds
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("mode", ["eager", "func", "create_graph", "compile"])
def test_nothing_of_what_is_hidden_gets_out(kind: str, reduction: str, mode: str) -> None:
    operands = all_operands(kind, dtype=torch.float32)
    hidden = ~MASK
    wanted_operands = leaves(operands)
    for name in ("input", "target", "weight"):
        operands[name] = operands[name].masked_fill(hidden, torch.nan)
    given = leaves(operands)

    def loss(given: dict[str, torch.Tensor]) -> torch.Tensor:
        return OURS[kind](**given, reduction=reduction, mask=MASK).sum()

    loss(wanted_operands).backward()
    if mode == "func":
        gradients = torch.func.grad(loss)({n: o.detach() for n, o in given.items()})
    elif mode == "compile":
        torch._dynamo.reset()
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        gradients = dict(zip(given, torch.autograd.grad(compiled(given), list(given.values())), strict=True))
    else:
        create = mode == "create_graph"
        found = torch.autograd.grad(loss(given), list(given.values()), create_graph=create)
        gradients = dict(zip(given, found, strict=True))
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient.detach(), wanted_operands[name].grad, rtol=2e-5, atol=1e-6)
        if gradient.shape == MASK.shape:
            assert (gradient[hidden] == 0).all()


@both_kinds
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("by_formula", [False, True])
def test_all_ignored_is_0(kind: str, reduction: str, by_formula: bool) -> None:
    given = leaves(all_operands(kind))

    def loss(given: dict[str, torch.Tensor]) -> torch.Tensor:
        return OURS[kind](**given, reduction=reduction, mask=torch.zeros(4, 1)).sum()

    if by_formula:
        gradients = torch.func.grad(loss)({n: o.detach() for n, o in given.items()})
    else:
        assert loss(given) == 0
        gradients = dict(zip(given, torch.autograd.grad(loss(given), list(given.values())), strict=True))
    for gradient in gradients.values():
        assert (gradient == 0).all()


@pytest.mark.parametrize(("option", "kind"), in_turn([*OPTIONS], ways=KINDS))
def test_compiled_as_uncompiled(option: str, kind: str) -> None:
    operands = {name: o.to(torch.float32) for name, o in operands_for(kind, option).items()}
    for reduction in REDUCTIONS:
        torch._dynamo.reset()

        def loss(x: torch.Tensor, rest: dict[str, torch.Tensor], reduction: str = reduction) -> torch.Tensor:
            return OURS[kind](x, **rest, reduction=reduction, **OPTIONS[option]).sum()

        rest = {name: o for name, o in operands.items() if name != "input"}
        x, z = (operands["input"].clone().requires_grad_() for _ in range(2))
        before = kernel.runs()
        torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=True)(x, rest).backward()
        assert kernel.runs() > before
        loss(z, rest).backward()
        torch.testing.assert_close(x.grad, z.grad, rtol=0, atol=0)


@both_kinds
def test_vmap_and_hessian(kind: str) -> None:
    operands = all_operands(kind)
    x, y = operands["input"], operands["target"]

    def loss(x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return OURS[kind](x, y, mask=mask, label_smoothing=0.1)

    by_row = torch.vmap(loss)(x, y, MASK)
    torch.testing.assert_close(by_row, torch.stack([loss(*row) for row in zip(x, y, MASK, strict=True)]))
    hessian = torch.func.hessian(loss)(x[0], y[0], MASK[0])
    assert torch.isfinite(hessian).all()
    assert (hessian[2] == 0).all()


@both_kinds
def test_export(kind: str) -> None:
    operands = {n: o.to(torch.float32) for n, o in operands_for(kind, "all").items()}
    module = OUR_MODULES[kind](ignore_index=-100, label_smoothing=0.1, gamma=2.0)
    x, y = operands["input"], operands["target"]
    program = torch.export.export(module, (x, y), {"mask": MASK})
    torch.testing.assert_close(program.module()(x, y, mask=MASK), module(x, y, mask=MASK))


def test_in_place_with_a_mask() -> None:
    operands = all_operands("logits", dtype=torch.float32)
    leaf = operands["input"].clone().requires_grad_()
    plain = face.binary_cross_entropy_with_logits(leaf * 2, operands["target"], mask=MASK)
    (wanted,) = torch.autograd.grad(plain, leaf)
    loss = face.binary_cross_entropy_with_logits(leaf * 2, operands["target"], mask=MASK, inplace_backward=True)
    (found,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@both_kinds
def test_modules(kind: str) -> None:
    operands = operands_for(kind, "all")
    x, y = operands["input"], operands["target"]
    options: dict[str, Any] = {"ignore_index": -100, "label_smoothing": 0.1, "gamma": 2.0, "reduction": "batchmean"}
    module = OUR_MODULES[kind](**options)
    shown = "reduction='batchmean', ignore_index=-100, label_smoothing=0.1, gamma=2.0"
    assert repr(module) == f"{type(module).__name__}({shown})"
    wanted = OURS[kind](x, y, mask=MASK, **options)
    for same in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert same(x, y, mask=MASK) == wanted
    ignoring = OUR_MODULES[kind](ignore_index=0, gamma=2)
    assert repr(ignoring) == f"{type(module).__name__}(ignore_index=0, gamma=2)"
    assert repr(OUR_MODULES[kind]()) == f"{type(module).__name__}()"
    with pytest.raises(NotImplementedError, match=r"TorchScript cannot take .* with .*gamma"):
        torch.jit.script(module)
    with pytest.raises(NotImplementedError, match=r"TorchScript cannot take .* with ignore_index, gamma: "):
        torch.jit.script(ignoring)


@both_kinds
def test_a_module_of_torch_may_become_ours(kind: str) -> None:
    module = TORCHS_MODULES[kind](reduction="sum")
    module.__class__ = OUR_MODULES[kind]
    operands = all_operands(kind)
    before = kernel.runs()
    torch.testing.assert_close(
        module(operands["input"], operands["target"]),
        TORCHS_MODULES[kind](reduction="sum")(operands["input"], operands["target"]),
    )
    assert kernel.runs() > before


def test_what_is_hidden_may_be_out_of_range() -> None:
    x, y = torch.tensor([0.2, 7, 0.9]), torch.tensor([1, 0.5, -3])
    loss = face.binary_cross_entropy(x, y, mask=torch.tensor([True, False, False]))
    torch.testing.assert_close(loss, -torch.tensor(0.2).log())
    with pytest.raises(RuntimeError, match=r"target\[2\] is -3"):
        face.binary_cross_entropy(x, y, mask=torch.tensor([True, False, True]))
