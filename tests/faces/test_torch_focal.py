"""α, two gammas, a margin, p_t, neg_weight, means by axis and checked targets, in every mode of torch.

Every value and gradient is compared with the formula as its papers write it, which autograd differentiates in float64.
"""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import binxent
from binxent import kernel
from binxent import torch as face
from binxent.torch import blocks, cpu
from tests.faces.torch_samples import KINDS, OUR_MODULES, OURS, TORCHS_MODULES, all_operands, an_input, leaves, uniform
from tests.turns import in_turn
from tests.wrong_places import every_operand, every_place, wrong_operand

both_kinds = pytest.mark.parametrize("kind", KINDS)
MASK = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)
NEG_WEIGHT = uniform(3, seed=7) + 0.5
SINGLE: dict[str, dict[str, Any]] = {
    "alpha": {"alpha": 0.25},
    "gammas": {"gamma_positive": 1.0, "gamma_negative": 3.0},
    "gamma_negative": {"gamma_negative": 0.5},
    "margin": {"margin": 0.05},
    "p_t": {"focal": "p_t", "gamma": 2.0},
    "neg_weight": {"neg_weight": NEG_WEIGHT},
    "gamma": {"gamma": 1.5},
    "label_smoothing": {"label_smoothing": 0.2},
    "mask": {"mask": MASK},
    "ignore_index": {"ignore_index": -100},
}
_EXCLUDED = {
    ("gammas", "gamma_negative"), ("gammas", "p_t"), ("gammas", "gamma"), ("gamma_negative", "p_t"),
    ("gamma_negative", "gamma"), ("margin", "p_t"), ("p_t", "gamma"),
}  # fmt: skip
_OLD = {"gamma", "label_smoothing", "mask", "ignore_index"}
CASES: dict[str, dict[str, Any]] = {name: options for name, options in SINGLE.items() if name not in _OLD} | {
    f"{one} and {other}": SINGLE[one] | SINGLE[other]
    for one, other in itertools.combinations(SINGLE, 2)
    if (one, other) not in _EXCLUDED and not {one, other} <= _OLD
}
FEW = ("alpha", "gammas", "p_t and neg_weight", "alpha and p_t", "alpha and margin", "margin and gamma")
REDUCTIONS = ("none", "mean", "sum", "batchmean", "weighted_mean", "per_label", "per_sample")


def by_formula(
    kind: str, input: Tensor, target: Tensor, weight: Tensor | None = None, sample_weight: Tensor | None = None,
    pos_weight: Tensor | None = None, neg_weight: Tensor | None = None, mask: Tensor | None = None,
    ignore_index: float | None = None, label_smoothing: Any = 0.0, gamma: Any = 0.0, alpha: float | None = None,
    gamma_positive: float | None = None, gamma_negative: float | None = None, margin: float = 0.0,
    focal: str = "branch", reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """The loss as it is written; none of these numbers is near 0 or 1, so that nothing has to be clamped."""
    keep = torch.ones_like(input, dtype=torch.bool) if mask is None else mask.expand_as(input)
    if ignore_index is not None:
        keep = keep & (target != ignore_index)
        target = torch.where(keep, target, 0.5)
    p = torch.sigmoid(input) if kind == "logits" else input
    y = target * (1 - label_smoothing) + label_smoothing / 2
    up, down = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    positive = y * (1.0 if pos_weight is None else pos_weight)
    negative = (1 - y) * (1.0 if neg_weight is None else neg_weight)
    if focal == "p_t":
        p_t, alpha_t = p * y + (1 - p) * (1 - y), up * y + down * (1 - y)
        each = alpha_t * (1 - p_t) ** gamma * -(positive * p.log() + negative * (1 - p).log())
    else:
        one_power = gamma_positive is gamma_negative is None
        of_positive, of_negative = (gamma, gamma) if one_power else (gamma_positive or 0.0, gamma_negative or 0.0)
        below = (p - margin).clamp(min=0) if margin else p
        each = -up * positive * (1 - p) ** of_positive * p.log()
        each = each - down * negative * below**of_negative * (1 - below).log()
    w = torch.ones_like(each) if weight is None else weight.expand_as(each)
    if sample_weight is not None:
        w = w * sample_weight[:, None]
    each, w = torch.where(keep, w * each, 0.0), torch.where(keep, w, 0.0)
    if reduction == "none":
        return each
    if reduction in ("per_label", "per_sample"):
        axis = 0 if reduction == "per_label" else 1
        return each.sum(axis) / keep.sum(axis).clamp(min=1)
    has_weights = weight is not None or sample_weight is not None
    by = {"sum": torch.tensor(1.0), "mean": keep.sum(), "batchmean": torch.tensor(len(each))}
    by["weighted_mean"] = w.sum() if has_weights else keep.sum()
    return each.sum() / by[reduction]


def operands_for(kind: str, options: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Leaves, and the options that are none."""
    operands = all_operands(kind)
    rest = {name: option for name, option in options.items() if name != "neg_weight"}
    if "neg_weight" in options:
        operands["neg_weight"] = options["neg_weight"]
    given = leaves(operands)
    if "ignore_index" in options:
        given["target"] = operands["target"].clone()
        given["target"][2, 1] = given["target"][0, 0] = -100
    return given, rest


def gradients(loss: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
    learnt = {name: operand for name, operand in given.items() if operand.requires_grad}
    incoming = torch.linspace(0.5, 2, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    return dict(zip(learnt, torch.autograd.grad(loss, list(learnt.values()), incoming), strict=True))


def assert_same(found: Any, exact: Any) -> None:
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@both_kinds
def test_values_and_gradients_to_every_operand(kind: str, reduction: str, case: str) -> None:
    given, rest = operands_for(kind, CASES[case])
    exact = by_formula(kind, **given, **rest, reduction=reduction)
    wanted = gradients(exact, given)
    before = kernel.runs()
    loss = OURS[kind](**given, **rest, reduction=reduction)
    assert kernel.runs() > before
    assert_same(loss, exact)
    assert_same(gradients(loss, given), wanted)
    with torch.no_grad():
        assert_same(OURS[kind](**given, **rest, reduction=reduction), exact.detach())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["module", "func", "create_graph", "blocks"])
@both_kinds
def test_every_mode_gives_the_same(kind: str, mode: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given, rest = operands_for(kind, CASES[case])
    exact = by_formula(kind, **given, **rest)
    wanted = gradients(exact, given)
    loss, found = OURS[kind](**given, **rest), {}
    if mode == "module":
        call, own = {n: given[n] for n in ("input", "target", "sample_weight")}, dict(rest)
        call |= {"mask": own.pop("mask")} if "mask" in own else {}
        fixed = {n: given[n] for n in ("weight", "pos_weight", "neg_weight") if n in given}
        loss = OUR_MODULES[kind](**fixed, **own)(**call)
    elif mode == "func":
        learnt = {name: operand.detach() for name, operand in given.items() if operand.requires_grad}
        scale = torch.tensor(0.5, dtype=torch.float64)  # the incoming gradient of one number
        found = torch.func.grad(lambda some: scale * OURS[kind](**(given | some), **rest))(learnt)
    elif mode == "create_graph":
        learnt = {name: operand for name, operand in given.items() if operand.requires_grad}
        slopes = torch.autograd.grad(0.5 * loss, list(learnt.values()), create_graph=True)
        assert all(slope.requires_grad for slope in slopes)
        found = {name: slope.detach() for name, slope in zip(learnt, slopes, strict=True)}
    else:
        monkeypatch.setattr(cpu, "_MAY_READ", False)
        monkeypatch.setattr(blocks, "_BLOCK", 7)
        before = kernel.runs()
        loss = OURS[kind](**given, **rest)
        found = gradients(loss, given)
        assert kernel.runs() == before
    assert_same(loss, exact)
    assert_same(found or gradients(loss, given), wanted)


@pytest.mark.parametrize("case", FEW)
@pytest.mark.parametrize("reduction", ["mean", "none", "per_label"])
@both_kinds
def test_derivatives_of_higher_order_and_forward_mode(kind: str, reduction: str, case: str) -> None:
    given, rest = operands_for(kind, CASES[case])

    def loss(*tensors: Tensor) -> Tensor:
        return OURS[kind](**dict(zip(given, tensors, strict=True)), **rest, reduction=reduction)

    assert gradcheck(loss, tuple(given.values()), check_forward_ad=True, check_batched_grad=True)
    if reduction == "mean":
        assert gradgradcheck(loss, tuple(given.values()), atol=1e-4)


@pytest.mark.parametrize(
    ("case", "reduction", "by_kernel", "kind"),
    in_turn(FEW, ["mean", "none", "per_sample"], [True, False], ways=KINDS),
)
def test_compiled(case: str, reduction: str, by_kernel: bool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_MAY_READ", by_kernel)
    torch._dynamo.reset()
    given, rest = operands_for(kind, CASES[case])
    exact = by_formula(kind, **given, **rest, reduction=reduction)
    compiled = torch.compile(OURS[kind], backend="aot_eager", fullgraph=True)
    before = kernel.runs()
    loss = compiled(**given, **rest, reduction=reduction)
    found = gradients(loss, given)
    assert (kernel.runs() > before) == by_kernel
    assert_same(loss, exact)
    assert_same(found, gradients(exact, given))


def test_a_number_that_changes_is_compiled_again() -> None:
    torch._dynamo.reset()
    given = all_operands("logits")
    compiled = torch.compile(OURS["logits"], backend="aot_eager", fullgraph=True)
    for alpha, margin in ((0.25, 0.0), (0.5, 0.1), (0.75, 0.2)):
        rest = {"alpha": alpha, "margin": margin, "gamma_negative": 2.0}
        assert_same(compiled(**given, **rest), by_formula("logits", **given, **rest))


# As other libraries write them


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("alpha", [0.25, None])
def test_of_torchvision(alpha: float | None, soft: bool) -> None:
    """torchvision.ops.sigmoid_focal_loss."""
    x, y = an_input("logits", 6, 5).requires_grad_(), uniform(6, 5)
    y = y if soft else y.round()
    p = torch.sigmoid(x)
    ce = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    p_t = p * y + (1 - p) * (1 - y)
    exact = ce * ((1 - p_t) ** 2)
    if alpha is not None:
        exact = (alpha * y + (1 - alpha) * (1 - y)) * exact
    found = OURS["logits"](x, y, alpha=alpha, gamma=2.0, focal="p_t", reduction="none")
    assert_same(found, exact)
    assert_same(torch.autograd.grad(found.sum(), x), torch.autograd.grad(exact.sum(), x))
    if not soft:
        assert_same(OURS["logits"](x, y, alpha=alpha, gamma=2.0, reduction="none"), exact)


@pytest.mark.parametrize(("positive", "negative", "clip"), [(1, 4, 0.05), (0, 2, 0.0), (1.5, 1.5, 0.2)])
def test_of_timm(positive: float, negative: float, clip: float) -> None:
    """timm.loss.AsymmetricLossMultiLabel."""
    x, y = an_input("logits", 6, 5).requires_grad_(), uniform(6, 5).round()
    xs_pos = torch.sigmoid(x)
    xs_neg = 1 - xs_pos
    if clip > 0:
        xs_neg = (xs_neg + clip).clamp(max=1)
    loss = y * torch.log(xs_pos) + (1 - y) * torch.log(xs_neg)
    pt = xs_pos * y + xs_neg * (1 - y)
    exact = -(loss * torch.pow(1 - pt, positive * y + negative * (1 - y))).sum()
    options = {"gamma_positive": positive, "gamma_negative": negative, "margin": clip}
    found = OURS["logits"](x, y, **options, reduction="sum")
    assert_same(found, exact)
    assert_same(torch.autograd.grad(found, x), torch.autograd.grad(exact, x))


# Probabilities at 0 and 1, where logarithms are clamped


@pytest.mark.parametrize("case", ["gammas", "p_t", "alpha", "margin"])
@pytest.mark.parametrize("mode", ["func", "create_graph", "blocks"])
def test_the_edges_are_the_kernels(mode: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.tensor([0.0, 1.0, 0.0, 1.0, 1e-40, 1 - 1e-16], dtype=torch.float64)
    y = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)

    def loss(q: Tensor) -> Tensor:
        return OURS["probabilities"](q, y, reduction="sum", **SINGLE[case])

    leaf = q.clone().requires_grad_()
    exact = loss(leaf)
    wanted = torch.autograd.grad(exact, leaf)[0]
    if mode == "func":
        found, value = torch.func.grad_and_value(loss)(q)
    elif mode == "create_graph":
        value = loss(leaf)
        found = torch.autograd.grad(value, leaf, create_graph=True)[0].detach()
    else:
        monkeypatch.setattr(cpu, "_MAY_READ", False)
        value = loss(leaf)
        found = torch.autograd.grad(value, leaf)[0]
    assert_same(value, exact)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-11)  # torch clamps by a float32
    assert wanted.isfinite().all()


# Means by axis


@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 4), (2, 0, 3), (0, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["per_label", "per_sample"])
@both_kinds
def test_means_over_all_axes_but_one(kind: str, reduction: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, y = an_input(kind, *shape, dtype=dtype).requires_grad_(), uniform(*shape, dtype=dtype)
    mask = uniform(*shape, seed=5) < 0.6
    found = OURS[kind](x, y, mask=mask, reduction=reduction)
    each = OURS[kind](x.detach().double().requires_grad_(), y.double(), mask=mask, reduction="none")
    if reduction == "per_label" and len(shape) == 1:
        axes: tuple[int, ...] = (0,)
    else:
        axes = tuple(range(len(shape) - 1)) if reduction == "per_label" else tuple(range(1, len(shape)))
    exact = each.sum(axes) / mask.sum(axes).clamp(min=1) if axes else each
    assert found.dtype == dtype
    assert found.shape == exact.shape
    torch.testing.assert_close(found, exact.to(dtype))
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert (x.grad[~mask] == 0).all()


def test_means_by_axis_count_what_is_kept_and_no_weight() -> None:
    x = torch.zeros(2, 2)
    y = torch.tensor([[1, 0], [-100, -100]])
    log2 = math.log(2)
    for reduction, wanted in (("per_label", [2 * log2, 2 * log2]), ("per_sample", [2 * log2, 0.0])):
        loss = OURS["logits"](x, y, torch.tensor(2.0), ignore_index=-100, reduction=reduction)
        torch.testing.assert_close(loss, torch.tensor(wanted))
    assert OURS["logits"](torch.tensor(0.0), torch.tensor(1.0), reduction="per_label").shape == ()


@pytest.mark.parametrize("reduction", ["per_label", "per_sample"])
def test_means_by_axis_under_autocast_are_float32(reduction: str) -> None:
    half = torch.ones(2, 3).bfloat16()
    with torch.autocast("cpu"):
        for target in (half, half.float()):
            assert OURS["logits"](half, target, reduction=reduction).dtype == torch.float32


def test_means_by_axis_refuse() -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="normalizer: reduction='per_label' divides by what it keeps along its axes"):
        OURS["logits"](x, y, reduction="per_label", normalizer=3)
    with pytest.raises(ValueError, match="'per_sample' of an input without a first axis"):
        OURS["logits"](x[0, 0], y[0, 0], reduction="per_sample")
    with pytest.raises(ValueError, match="'per_label' has a divisor for each entry"):
        face.count(y, reduction="per_label")
    with pytest.raises(ValueError, match="process_group: reduction='per_label'"):
        face.BCEWithLogitsLoss(reduction="per_label", process_group="any", gradients="summed")
    with pytest.raises(ValueError, match="'per_sample' of a linear head is not computed"):
        face.linear_binary_cross_entropy_with_logits(x, torch.zeros(3, 3), y, reduction="per_sample")


@pytest.mark.parametrize("reduction", ["per_label", "per_sample"])
def test_means_by_axis_of_sparse_targets(reduction: str) -> None:
    x, dense = an_input("logits", 4, 3), torch.tensor([[0, 1, 0], [0, 0, 0], [1, 0, -100], [0, 1, 1]]).double()
    wanted = OURS["logits"](x, dense, reduction=reduction, ignore_index=-100, mask=MASK)
    assert_same(OURS["logits"](x, dense.to_sparse_csr(), reduction=reduction, ignore_index=-100, mask=MASK), wanted)
    targets = binxent.IndexTargets(torch.tensor([[1, -1], [0, 2]]), padding=-1)
    dense = torch.tensor([[0, 1, 0], [1, 0, 1]])
    assert_same(OURS["logits"](x[:2], targets, reduction=reduction), OURS["logits"](x[:2], dense, reduction=reduction))


# Checked targets

WRONG = {
    "target": (
        torch.tensor([[0.0, 1.0], [1.5, 0.5]]),
        {},
        r"target: target\[1, 0\] is 1.5; expected a number between 0",
    ),
    "hint": (torch.tensor([[0, 1], [-100, 0]]), {}, r"target\[1, 0\] is -100; .*pass ignore_index=-100"),
    "pos_weight": (
        torch.ones(2, 2),
        {"pos_weight": torch.tensor([1.0, -1.0])},
        r"pos_weight\[1\] is -1.0; expected no",
    ),
    "neg_weight": (torch.ones(2, 2), {"neg_weight": torch.tensor(-2.0)}, "neg_weight: neg_weight is -2.0; expected no"),
    "mask": (torch.ones(2, 2), {"mask": torch.tensor([[1.0], [0.5]])}, r"mask: mask\[1, 0\] is 0.5; expected 0 or 1"),
    "half": (torch.tensor([[0.0, 1.0], [2.0, 0.5]]).bfloat16(), {}, r"target: target\[1, 0\] is 2.0"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("mode", ["eager", "no_grad", "module", "blocks", "func", "vmap", "compile"])
@both_kinds
def test_what_is_wrong_is_refused(kind: str, mode: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, rest, words = WRONG[case]
    if kind == "probabilities" and mode != "eager" and case in ("target", "hint", "half"):
        pytest.skip("refused in this form of the loss without check_targets")
    input = torch.full((2, 2), 0.5).requires_grad_(mode != "no_grad")
    check = {"check_targets": True}
    OURS[kind](input, torch.full((2, 2), 0.5), **check)

    def loss(input: Tensor) -> Tensor:
        return OURS[kind](input, target, **rest, **check)

    run: Any = {
        "func": lambda: torch.func.grad(loss)(input),
        "vmap": lambda: torch.func.vmap(loss)(input[None]),
        "compile": lambda: torch.compile(loss, backend="aot_eager", fullgraph=True)(input),
    }.get(mode, lambda: loss(input))
    if mode == "blocks":
        monkeypatch.setattr(cpu, "_MAY_READ", False)
    elif mode == "compile":
        torch._dynamo.reset()
    elif mode == "module":
        call = {"mask": rest["mask"]} if "mask" in rest else {}
        fixed = {name: option for name, option in rest.items() if name != "mask"}
        module = OUR_MODULES[kind](**fixed, **check)
        run = lambda: module(input, target, **call)  # noqa: E731
    with pytest.raises(RuntimeError, match=words):
        run()


@both_kinds
def test_what_is_ignored_may_hold_anything(kind: str) -> None:
    input, target = torch.full((2, 2), 0.5), torch.tensor([[1.0, -100.0], [7.0, 0.0]])
    rest = {
        "mask": torch.tensor([[1, 1], [0, 1]]),
        "ignore_index": -100,
        "pos_weight": torch.tensor([[1.0, -1], [-1, 1]]),
    }
    wanted = OURS[kind](input, target, **rest)
    assert torch.equal(OURS[kind](input, target, **rest, check_targets=True), wanted)


@pytest.mark.parametrize("ignores", [False, True])
@every_place
@every_operand
def test_the_index_under_vmap_is_that_of_the_operand(name: str, place: str, ignores: bool) -> None:
    shape, operand, message = wrong_operand(name, place)
    given = {"target": torch.ones(shape), name: torch.from_numpy(operand)}
    options: dict[str, Any] = {"ignore_index": -100} if ignores else {}

    def loss(x: Tensor) -> Tensor:
        return OURS["logits"](x, check_targets=True, **given, **options)

    with pytest.raises(RuntimeError, match=re.escape(message)):
        torch.func.vmap(loss)(torch.zeros(2, *shape))


def test_an_operand_with_the_axis_of_vmap_has_it_in_its_index() -> None:
    p = torch.ones(4, 3)
    p[3, 1] = -1
    for options in ({}, {"ignore_index": -100}):

        def loss(x: Tensor, p: Tensor, options: dict[str, Any] = options) -> Tensor:
            return OURS["logits"](x, torch.ones(2, 3), pos_weight=p, check_targets=True, **options)

        with pytest.raises(RuntimeError, match=r"pos_weight: pos_weight\[3, 1\] is -1"):
            torch.func.vmap(loss)(torch.zeros(4, 2, 3), p)


def test_in_a_graph_without_the_kernel_an_assertion_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_MAY_READ", False)
    torch._dynamo.reset()
    compiled = torch.compile(OURS["logits"], backend="aot_eager", fullgraph=True)
    compiled(torch.zeros(3), torch.ones(3), check_targets=True)
    with pytest.raises(RuntimeError, match="check_targets: a target, a weight or a mask"):
        compiled(torch.zeros(3), 2 * torch.ones(3), check_targets=True)


def test_where_nobody_can_look_the_loss_is_nan() -> None:
    def loss(x: Tensor, y: Tensor) -> Tensor:
        return OURS["logits"](x, y, check_targets=True)

    traced = torch.jit.trace(loss, (torch.zeros(3), torch.ones(3)))
    assert torch.equal(traced(torch.zeros(3), torch.ones(3)), loss(torch.zeros(3), torch.ones(3)))
    assert traced(torch.zeros(3), 2 * torch.ones(3)).isnan()
    assert loss(torch.zeros(3, device="meta"), torch.ones(3, device="meta")).is_meta


def test_checks_of_sparse_and_of_complex_targets() -> None:
    x = torch.zeros(2, 3)
    csr = torch.tensor([[0.0, 1, 0], [0, 0, 2.5]]).to_sparse_csr()
    with pytest.raises(RuntimeError, match=r"target\[1, 2\] is 2.5"):
        OURS["logits"](x, csr, check_targets=True)
    targets = binxent.IndexTargets(torch.tensor([[1], [0]]))
    assert torch.equal(OURS["logits"](x, targets, check_targets=True), OURS["logits"](x, targets))
    with pytest.raises(NotImplementedError, match=r"check_targets: a target of dtype torch\.complex64"):
        OURS["logits"](x, x.to(torch.complex64), check_targets=True)


def test_the_backward_does_not_look_again() -> None:
    x, y = torch.zeros(3, requires_grad=True), torch.ones(3)
    w = torch.ones(3, requires_grad=True)
    loss = OURS["logits"](x, y, w, check_targets=True)
    loss.backward(create_graph=True)
    assert w.grad is not None


# Learnt options


@pytest.mark.parametrize("rest", [{"alpha": 0.3}, {"margin": 0.05}, {"focal": "p_t", "alpha": 0.3}], ids=str)
@pytest.mark.parametrize("mode", ["eager", "func", "compile"])
@both_kinds
def test_a_learnt_gamma_beside_the_others(kind: str, mode: str, rest: dict[str, Any]) -> None:
    operands = leaves(all_operands(kind) | {"neg_weight": NEG_WEIGHT, "gamma": torch.tensor(1.5).double()})
    exact = by_formula(kind, **operands, **rest)
    wanted = gradients(exact, operands)

    def loss(given: dict[str, Tensor]) -> Tensor:
        return OURS[kind](**given, **rest)

    if mode == "func":
        found = torch.func.grad(lambda given: 0.5 * loss(given))({n: o.detach() for n, o in operands.items()})
    else:
        torch._dynamo.reset()
        run = torch.compile(loss, backend="aot_eager", fullgraph=True) if mode == "compile" else loss
        value = run(operands)
        assert_same(value, exact)
        found = gradients(value, operands)
    assert_same(found, wanted)


def test_one_gamma_or_two() -> None:
    x, y = torch.zeros(3), torch.ones(3)
    words = "gamma_positive: and gamma are given; expected gamma for both branches, or one for each"
    learnt = torch.tensor(1.0, requires_grad=True)
    for gamma in (2, 2.0, learnt, learnt.detach()):
        with pytest.raises(ValueError, match=words):
            OURS["logits"](x, y, gamma=gamma, gamma_positive=1.0)
        with pytest.raises(ValueError, match=words):
            face.BCEWithLogitsLoss(gamma=gamma, gamma_positive=1.0)
    torch._dynamo.reset()
    compiled = torch.compile(OURS["logits"], backend="aot_eager", fullgraph=False)
    with pytest.raises(Exception, match="gamma for both branches"):
        compiled(x, y, gamma=learnt, gamma_positive=1.0)
    for name in ("alpha", "gamma_positive", "gamma_negative", "margin"):
        with pytest.raises((TypeError, ValueError), match=name):
            OURS["logits"](x, y, **{name: torch.ones(2)})
        with pytest.raises(ValueError, match=name):
            face.BCELoss(**{name: -1})
    with pytest.raises(ValueError, match="focal: 'pt'; expected one of"):
        OURS["logits"](x, y, focal="pt")
    with pytest.raises(RuntimeError, match=r"with_logits\(\): neg_weight: shape"):
        OURS["logits"](x, y, neg_weight=torch.ones(2))
    with pytest.raises(TypeError, match="argument 'neg_weight' must be Tensor, not float"):
        OURS["logits"](x, y, neg_weight=2.0)


# Modules


@both_kinds
def test_a_module_without_them_is_torchs(kind: str) -> None:
    module, torchs = OUR_MODULES[kind](), TORCHS_MODULES[kind]()
    assert list(module.state_dict()) == list(torchs.state_dict()) == []
    assert repr(module) == repr(torchs)
    assert [n for n, _ in module.named_buffers()] == []


@both_kinds
def test_a_modules_options_are_seen_and_kept(kind: str) -> None:
    options = {"alpha": 0.25, "gamma_negative": 2.0, "margin": 0.05}
    module = OUR_MODULES[kind](**options, neg_weight=NEG_WEIGHT, check_targets=True)
    name = type(module).__name__
    assert repr(module) == f"{name}(alpha=0.25, gamma_negative=2.0, margin=0.05, check_targets=True)"
    assert list(module.state_dict()) == ["neg_weight"]
    assert repr(OUR_MODULES[kind](focal="p_t", gamma=2.0)) == f"{name}(gamma=2.0, focal='p_t')"
    given = {"input": an_input(kind, 4, 3), "target": uniform(4, 3)}
    wanted = by_formula(kind, **given, **options, neg_weight=NEG_WEIGHT)
    for same in (module, copy.copy(module), copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_same(same(**given), wanted)
        assert repr(same) == repr(module)
    other = OUR_MODULES[kind](**options, neg_weight=torch.zeros(3).double())
    other.load_state_dict(module.state_dict())
    assert_same(other(**given), wanted)
    assert module.half().neg_weight.dtype == torch.float16
    module.neg_weight = None
    assert_same(module(**given), by_formula(kind, **given, **options))
    module.neg_weight = torch.nn.Parameter(NEG_WEIGHT.clone())
    assert [n for n, _ in module.named_parameters()] == ["neg_weight"]
    loss = module(**given)
    assert_same(loss, wanted)
    loss.backward()
    assert module.neg_weight.grad is not None


@both_kinds
def test_a_module_that_was_made_before_has_the_defaults(kind: str) -> None:
    module = OUR_MODULES[kind](gamma=2.0)
    wanted = module(an_input(kind, 4, 3), uniform(4, 3))
    for name in ("alpha", "gamma_positive", "gamma_negative", "margin", "focal", "check_targets"):
        del vars(module)[name]
    del module._buffers["neg_weight"]
    old = pickle.loads(pickle.dumps(module))
    assert torch.equal(old(an_input(kind, 4, 3), uniform(4, 3)), wanted)
    assert repr(old) == f"{type(old).__name__}(gamma=2.0)"
    torchs = TORCHS_MODULES[kind]()
    torchs.__class__ = OUR_MODULES[kind]
    assert torchs(an_input(kind, 4, 3), uniform(4, 3)).isfinite()


@both_kinds
def test_weights_at_the_call_replace_the_modules_own(kind: str) -> None:
    operands = all_operands(kind)
    weights = {"weight": operands.pop("weight"), "pos_weight": operands.pop("pos_weight")}
    module = OUR_MODULES[kind](weight=torch.tensor(7.0).double(), pos_weight=torch.tensor(3.0).double(), alpha=0.25)
    assert_same(module(**operands, **weights), by_formula(kind, **operands, **weights, alpha=0.25))
    one = module(**operands, weight=weights["weight"])
    assert_same(one, by_formula(kind, **operands, weight=weights["weight"], pos_weight=torch.tensor(3.0), alpha=0.25))


@both_kinds
def test_torchscript_is_told_what_it_would_lose(kind: str) -> None:
    for options in ({"alpha": 0.5}, {"neg_weight": torch.ones(3)}, {"reduction": "per_label"}, {"check_targets": True}):
        with pytest.raises(NotImplementedError, match=f"TorchScript cannot take .* with {next(iter(options))}"):
            torch.jit.script(OUR_MODULES[kind](**options))


def test_a_subclass_is_told_of_them() -> None:
    seen: dict[str, Any] = {}

    class Watching(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is OURS["logits"]:
                seen.update(kwargs)
                return torch.zeros(())
            return super().__torch_function__(func, types, args, kwargs)

    x = torch.zeros(3)
    OURS["logits"](x, x, neg_weight=torch.ones(3).as_subclass(Watching), alpha=0.5, focal="p_t", check_targets=True)
    ours = {name: seen[name] for name in ("alpha", "focal", "check_targets")}
    assert ours == {"alpha": 0.5, "focal": "p_t", "check_targets": True}
    assert "margin" not in seen
    seen.clear()
    OURS["logits"](x.as_subclass(Watching), x)
    assert set(seen) == {"weight", "size_average", "reduce", "reduction", "pos_weight"}


# Beside what else a call may be


@pytest.mark.parametrize("case", FEW)
def test_in_place_of_the_logits(case: str) -> None:
    given, rest = operands_for("logits", CASES[case])
    wanted = gradients(by_formula("logits", **given, **rest), given)["input"]
    leaf = given["input"].detach().requires_grad_()
    logits = leaf * 1
    loss = OURS["logits"](**(given | {"input": logits}), **rest, inplace_backward=True)
    assert_same(torch.autograd.grad(loss, leaf, torch.tensor(0.5).double())[0], wanted)


@pytest.mark.parametrize("case", FEW)
@pytest.mark.parametrize("mode", ["eager", "compile"])
def test_sparse_targets(mode: str, case: str) -> None:
    dense = torch.tensor([[0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 1]]).double()
    rest = CASES[case]
    x = an_input("logits", 4, 3).requires_grad_()
    exact = by_formula("logits", x, dense, **rest)
    loss = OURS["logits"]
    if mode == "compile":
        torch._dynamo.reset()
        loss = torch.compile(loss, backend="aot_eager", fullgraph=True)
    indices, offsets = torch.tensor([1, 0, 2, 1, 2]), torch.tensor([0, 1, 1, 3])
    found = loss(x, binxent.IndexTargets(indices, offsets=offsets), **rest)
    assert_same(found, exact)
    assert_same(torch.autograd.grad(found, x), torch.autograd.grad(exact, x))


@pytest.mark.parametrize("case", FEW)
@pytest.mark.parametrize("mode", ["eager", "module", "compile", "func", "blocks"])
def test_linear_heads(mode: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = CASES[case]
    input, weight = uniform(4, 6).requires_grad_(), (uniform(3, 6, seed=5) - 0.5).requires_grad_()
    target = uniform(4, 3, seed=6)
    logits = F.linear(input, weight)
    exact = by_formula("logits", logits, target, **rest)
    wanted = torch.autograd.grad(exact, (input, weight), retain_graph=True)
    options = face.LinearBCEOptions(max_chunk_bytes=1)

    def loss(input: Tensor, weight: Tensor) -> Tensor:
        return face.linear_binary_cross_entropy_with_logits(input, weight, target, options=options, **rest)

    if mode == "func":
        assert_same(torch.func.grad(loss, (0, 1))(input.detach(), weight.detach()), wanted)
        return
    if mode == "module":
        head = face.LinearBCEWithLogitsLoss(6, 3, dtype=torch.float64, options=options, **rest)
        head.linear.weight = torch.nn.Parameter(weight.detach())
        found = head(input, target)
        assert_same(found, exact)
        assert_same(torch.autograd.grad(found, (input, head.linear.weight)), wanted)
        again = copy.deepcopy(head)
        at_call = {"pos_weight": torch.tensor(2.0).double()}
        assert_same(again(input, target, **at_call), by_formula("logits", logits, target, **at_call, **rest))
        for name in ("alpha", "gamma_positive", "gamma_negative", "margin", "focal"):
            del vars(again)[name]
        del again._buffers["neg_weight"]
        again(input, target)
        return
    if mode == "blocks":
        monkeypatch.setattr(cpu, "_MAY_READ", False)
    torch._dynamo.reset()
    run = torch.compile(loss, backend="aot_eager", fullgraph=True) if mode == "compile" else loss
    found = run(input, weight)
    assert_same(found, exact)
    assert_same(torch.autograd.grad(found, (input, weight)), wanted)


def test_a_linear_head_shows_its_options_and_gives_no_gradient_to_neg_weight() -> None:
    head = face.LinearBCEWithLogitsLoss(6, 3, alpha=0.25, gamma_negative=2.0, neg_weight=torch.ones(3))
    assert "alpha=0.25, gamma_negative=2.0" in repr(head)
    assert list(head.state_dict()) == ["neg_weight", "linear.weight"]
    assert list(face.LinearBCEWithLogitsLoss(6, 3).state_dict()) == ["linear.weight"]
    learnt = torch.ones(3, requires_grad=True)
    with pytest.raises(NotImplementedError, match="neg_weight requires a gradient"):
        face.linear_binary_cross_entropy_with_logits(
            torch.ones(4, 6), torch.ones(3, 6), torch.ones(4, 3), neg_weight=learnt
        )


@pytest.mark.parametrize("case", ["alpha and margin", "alpha and p_t", "gammas"])
@pytest.mark.parametrize("reduction", ["mean", "per_label"])
@both_kinds
def test_exported(kind: str, reduction: str, case: str) -> None:
    module = OUR_MODULES[kind](**CASES[case], neg_weight=NEG_WEIGHT, reduction=reduction, check_targets=True)
    x, y = an_input(kind, 4, 3), uniform(4, 3)
    rows = torch.export.Dim("rows", min=2)
    exported = torch.export.export(module, (x, y), dynamic_shapes=({0: rows}, {0: rows})).module()
    for n in (4, 7):
        x, y = an_input(kind, n, 3), uniform(n, 3)
        rest = CASES[case] | {"neg_weight": NEG_WEIGHT, "reduction": reduction}
        assert_same(exported(x, y), by_formula(kind, x, y, **rest))
    with pytest.raises(RuntimeError, match=r"check_targets: a target, a weight or a mask|between 0 and 1"):
        exported(x, y + 1)


def test_half_types_and_strides() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for kind in KINDS:
            x, y = an_input(kind, 5, 4, dtype=dtype).t().requires_grad_(), uniform(4, 5, dtype=dtype)
            rest: dict[str, Any] = {"alpha": 0.25, "gamma_positive": 1.0, "gamma_negative": 3.0, "margin": 0.05}
            loss = OURS[kind](x, y, **rest)
            wide = x.detach().double().requires_grad_()
            exact = by_formula(kind, wide, y.double(), **rest)
            assert loss.dtype == dtype
            torch.testing.assert_close(loss.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)
            slope, wanted = torch.autograd.grad(loss, x)[0], torch.autograd.grad(exact, wide)[0]
            torch.testing.assert_close(slope.double(), wanted, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)
