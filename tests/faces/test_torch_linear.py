"""The linear head in PyTorch: equal to the definition on all logits, in chunks, and with memory for one of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from binxent import IndexTargets
from binxent import torch as face
from binxent.torch import LinearBCEOptions, LinearBCEWithLogitsLoss, arrays, linear_chunks
from binxent.torch import linear_binary_cross_entropy_with_logits as head
from tests.linear_heads import BIASES, GRADIENTS, OPTIONS, REDUCTIONS, Case, Csr, case, expected, lists, sizes
from tests.processes import python

DTYPES = {"float64": 1e-13, "float32": 2e-6, "bfloat16": 2e-2, "float16": 3e-3}
EACH_LABEL = LinearBCEOptions(max_chunk_bytes=1)


def tensors(given: Case, dtype: torch.dtype = torch.float64) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors that have a gradient, and the rest of the call."""
    made_of = {name: getattr(given, name) for name in GRADIENTS if getattr(given, name) is not None}
    leaves = {name: torch.tensor(array).to(dtype).requires_grad_() for name, array in made_of.items()}
    rest: dict[str, Any] = {name: torch.tensor(array) for name, array in given.arrays.items()}
    return leaves, {"target": torch.tensor(given.target), **rest, **given.numbers}


def rounded(given: Case, dtype: torch.dtype) -> Case:
    """The case whose numbers are those of the dtype."""
    made_of = {name: getattr(given, name) for name in GRADIENTS if getattr(given, name) is not None}
    exact = {name: torch.tensor(array).to(dtype).double().numpy() for name, array in made_of.items()}
    return Case(**{**vars(given), **exact})


def assert_near(found: Tensor, exact: Any, tolerance: float, scale: float | None = None) -> None:
    """Within the tolerance of the scale, which is the largest number if none is given."""
    exact = torch.as_tensor(exact, dtype=torch.float64)
    if scale is None:
        scale = float(exact.abs().max()) if exact.numel() else 0.0
    torch.testing.assert_close(found.detach().double(), exact, rtol=0, atol=tolerance * max(scale, 1e-30))


def check(given: Case, options: LinearBCEOptions | None = None, dtype: str = "float64", **more: Any) -> None:
    given = rounded(given, getattr(torch, dtype))
    leaves, rest = tensors(given, getattr(torch, dtype))
    loss = head(**leaves, **{**rest, **more}, options=options)
    value, gradients = expected(given, **more)
    scales = sizes(given, **more)
    assert_near(loss, value, DTYPES[dtype])
    loss.backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        assert leaf.grad.dtype == leaf.dtype
        assert_near(leaf.grad, gradients[name], DTYPES[dtype], scales[name])


# Values


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_alone_and_in_pairs(option: str) -> None:
    for number, reduction in enumerate(REDUCTIONS):
        check(case(**OPTIONS[option], bias=BIASES[number % 3]), EACH_LABEL, reduction=reduction)
        check(case(**OPTIONS[option]), LinearBCEOptions(max_chunk_bytes=7 * 8 * 4), reduction=reduction)


@settings(max_examples=150)
@given(
    rows=st.integers(0, 6),
    labels=st.integers(1, 200),
    features=st.integers(1, 4),
    chunk=st.integers(1, 9000),
    bias=st.sampled_from(BIASES),
    reduction=st.sampled_from(REDUCTIONS),
    option=st.sampled_from(list(OPTIONS)),
    dtype=st.sampled_from(["float64", "float32"]),
)
def test_chunks_of_any_size(
    rows: int, labels: int, features: int, chunk: int, bias: str | None, reduction: str, option: str, dtype: str
) -> None:
    sample = case(rows, labels, features, bias, **OPTIONS[option], seed=chunk)
    options = LinearBCEOptions(max_chunk_bytes=chunk)
    if rows:
        check(sample, options, dtype, reduction=reduction)
        return
    leaves, rest = tensors(sample)
    loss = head(**leaves, **rest, reduction=reduction, options=options)
    logits = leaves["input"] @ leaves["linear_weight"].T
    exact = face.binary_cross_entropy_with_logits(logits, **rest, reduction=reduction)
    torch.testing.assert_close(loss, exact.to(loss.dtype), equal_nan=True)
    loss.backward()
    assert all(leaf.grad is not None and leaf.grad.shape == leaf.shape for leaf in leaves.values())


def test_the_mean_of_no_labels_is_that_of_nothing() -> None:
    x, w = torch.zeros(3, 2), torch.zeros(0, 2)
    assert math.isnan(head(x, w, torch.zeros(3, 0)))
    assert head(x, w, torch.zeros(3, 0), reduction="sum") == 0
    assert head(x, w, torch.zeros(3, 0), mask=torch.ones(3, 0)) == 0


def test_the_mean_is_that_of_all_labels_and_not_of_a_chunk() -> None:
    sample = case(4, 128)
    leaves, rest = tensors(sample)
    one, many = (head(**leaves, **rest, options=options) for options in (None, EACH_LABEL))
    torch.testing.assert_close(one, many, rtol=1e-14, atol=0)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types(dtype: str, bias: str | None) -> None:
    for target in (torch.float64, torch.bool):
        sample = rounded(case(16, 300, 8, bias, pos_weight="[C]"), getattr(torch, dtype))
        leaves, rest = tensors(sample, getattr(torch, dtype))
        rest["target"] = rest["target"].to(target)
        loss = head(**leaves, **rest, options=LinearBCEOptions(max_chunk_bytes=5000))
        assert loss.dtype == (torch.float64 if target == torch.float64 else getattr(torch, dtype))
        value, gradients = expected(sample)
        assert_near(loss, value, DTYPES[dtype])
        for name, found in zip(leaves, torch.autograd.grad(loss, leaves.values()), strict=True):
            assert found.dtype == leaves[name].dtype
            assert_near(found, gradients[name], DTYPES[dtype])


def test_the_gradient_of_a_float16_mean_over_many_labels_is_not_0() -> None:
    """Each element's share of the mean is less than the smallest number of float16; a loss scale brings it back."""
    linear_chunks_of = {"input": torch.ones(4, 2), "linear_weight": torch.zeros(100_000, 2)}
    leaves = {name: each.half().requires_grad_() for name, each in linear_chunks_of.items()}
    for _ in range(2):  # for the incoming gradient that nobody has told, and for the one that is remembered
        loss = head(**leaves, target=torch.zeros(4, 100_000))
        found = torch.autograd.grad(loss * 65536, leaves.values())
        exact = 65536 * 0.5 / 100_000
        assert_near(found[1][:5], torch.full((5, 2), exact, dtype=torch.float64), 2e-3)


@pytest.mark.parametrize("options", [EACH_LABEL, LinearBCEOptions(max_chunk_bytes=2000), None])
def test_the_same_chunks_give_the_same_bits(options: LinearBCEOptions | None) -> None:
    sample = case(9, 400, 6, "for each label", mask="[N, C]")

    def once() -> list[Tensor]:
        leaves, rest = tensors(sample, torch.float32)
        loss = head(**leaves, **rest, options=options)
        return [loss.detach(), *torch.autograd.grad(loss, leaves.values())]

    assert all(map(torch.equal, once(), once()))


def test_operands_of_any_layout_and_dtype() -> None:
    sample = case(6, 40, 4, mask="[N, C]", pos_weight="[C]")
    leaves, rest = tensors(sample)
    value, gradients = expected(sample)
    rest["target"] = rest["target"].to(torch.int64).T.contiguous().T
    rest["mask"] = rest["mask"].to(torch.int32)
    rest["pos_weight"] = rest["pos_weight"][:, None].expand(-1, 2)[:, 1]
    leaves["linear_weight"] = leaves["linear_weight"].detach().T.contiguous().T.requires_grad_()
    loss = head(**leaves, **rest, options=LinearBCEOptions(max_chunk_bytes=700))
    assert_near(loss, value, 1e-13)
    for name, found in zip(leaves, torch.autograd.grad(loss, leaves.values()), strict=True):
        assert_near(found, gradients[name], 1e-13)


def test_learnt_numbers_without_a_gradient_and_normalizers() -> None:
    sample = case(label_smoothing=0.2, gamma=1.5)
    leaves, rest = tensors(sample)
    value, _ = expected(sample, normalizer=3.5)
    rest |= {"label_smoothing": torch.tensor(0.2), "gamma": torch.tensor([1.5], dtype=torch.float64)}
    for normalizer in (3.5, torch.tensor(3.5)):
        assert_near(head(**leaves, **rest, normalizer=normalizer, options=EACH_LABEL), value, 1e-7)
    zero = head(**leaves, **rest, normalizer=0)
    zero.backward()
    assert zero == 0
    assert not leaves["linear_weight"].grad.any()


def test_micro_batches_add_up_to_the_whole() -> None:
    sample = case(8, 30, 4, mask="[N, C]")
    leaves, rest = tensors(sample)
    value, gradients = expected(sample)
    counted = face.count(rest["target"], mask=rest["mask"])
    total = 0.0
    for part in (slice(0, 3), slice(3, 8)):
        own = {name: rest[name][part] for name in ("target", "mask")}
        loss = head(leaves["input"][part], leaves["linear_weight"], **own, normalizer=counted, options=EACH_LABEL)
        loss.backward()
        total += loss.detach()
    assert_near(total, value, 1e-13)
    for name, leaf in leaves.items():
        assert_near(leaf.grad, gradients[name], 1e-13)


# Sparse targets

SPARSE: dict[str, Callable[[Case], Any]] = {
    "indices": lambda sample: IndexTargets.from_lists(lists(sample), num_labels=sample.target.shape[1]),
    "torch's CSR": lambda sample: torch.tensor(sample.target).to_sparse_csr(),
    "SciPy's CSR": lambda sample: Csr(sample.target),
}
WITHOUT_IGNORE_INDEX = [name for name, option in OPTIONS.items() if "ignore_index" not in option]


@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("option", WITHOUT_IGNORE_INDEX)
def test_sparse_targets_are_the_dense_ones(option: str, kind: str) -> None:
    for number, reduction in enumerate(REDUCTIONS):
        sample = case(**OPTIONS[option], bias=BIASES[number % 3])
        value, gradients = expected(sample, reduction=reduction)
        leaves, rest = tensors(sample)
        rest["target"] = SPARSE[kind](sample)
        options = LinearBCEOptions(max_chunk_bytes=7 * 8 * (1 + 5 * number))
        loss = head(**leaves, **rest, reduction=reduction, options=options)
        assert_near(loss, value, 1e-13)
        for name, found in zip(leaves, torch.autograd.grad(loss, leaves.values()), strict=True):
            assert_near(found, gradients[name], 1e-13)


def test_soft_values_and_ignored_ones_in_csr() -> None:
    sample = case(ignore_index=-100)
    sample.target[sample.target == 1] = 0.75
    value, _ = expected(sample)
    leaves, rest = tensors(sample)
    rest["target"] = rest["target"].to_sparse_csr()
    assert_near(head(**leaves, **rest, options=EACH_LABEL), value, 1e-13)


def test_sparse_targets_are_never_made_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("the target was made dense")

    monkeypatch.setattr(arrays, "dense", refuse)
    sample = case(6, 500, 4, mask="[N, C]")
    leaves, rest = tensors(sample)
    for kind in SPARSE.values():
        head(**leaves, **{**rest, "target": kind(sample)}, options=EACH_LABEL).backward()


def test_sparse_targets_in_a_compiled_program_and_under_checkpoint() -> None:
    sample = case(6, 40, 4)
    value, gradients = expected(sample)
    leaves, _ = tensors(sample)
    indices = torch.full((6, 40), -1)
    for row, labels in enumerate(lists(sample)):
        indices[row, : len(labels)] = torch.tensor(labels)

    def loss(x: Tensor, w: Tensor, indices: Tensor) -> Tensor:
        return head(x, w, IndexTargets(indices, padding=-1), options=LinearBCEOptions(max_chunk_bytes=500))

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for way in (compiled, lambda *given: checkpoint(loss, *given, use_reentrant=False)):
        found = way(*leaves.values(), indices)
        assert_near(found, value, 1e-13)
        for name, slope in zip(leaves, torch.autograd.grad(found, leaves.values()), strict=True):
            assert_near(slope, gradients[name], 1e-13)
    torch.compiler.reset()


def test_wrong_labels_are_refused() -> None:
    x, w = torch.zeros(2, 3), torch.zeros(5, 3)
    with pytest.raises(ValueError, match="row 1 has label 5; expected 0 to 4"):
        head(x, w, IndexTargets([[0], [5]]))
    with pytest.raises(ValueError, match="num_labels=6"):
        head(x, w, IndexTargets([[0], [4]], num_labels=6))
    with pytest.raises(ValueError, match="ignore_index"):
        head(x, w, IndexTargets([[0], [4]]), ignore_index=0)


# What is made, and what is not


class Products(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the products, and sees the largest tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.products, self.largest = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.products += function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.untyped_storage().nbytes())
        return result


NEEDED = [
    ((True, True), 3),
    ((False, True), 2),
    ((True, False), 2),
    ((False, False), 1),
]


@pytest.mark.parametrize(("needed", "products"), NEEDED)
def test_nothing_is_made_for_what_needs_no_gradient(
    needed: tuple[bool, bool], products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = case(4, 64, 3, "for each label")
    leaves, rest = tensors(sample, torch.float32)
    for name, need in zip(("input", "linear_weight"), needed, strict=True):
        leaves[name].requires_grad_(need)
    leaves["linear_bias"].requires_grad_(False)
    seen: list[tuple[bool, ...]] = []
    original = linear_chunks.compute

    def watched(head: Any, made_of: Any, operands: Any, needed: Any, *rest: Any, **more: Any) -> Any:
        seen.append(tuple(needed))
        with Products() as mode:
            found = original(head, made_of, operands, needed, *rest, **more)
        assert mode.products == 4 * products
        return found

    monkeypatch.setattr(linear_chunks, "compute", watched)
    loss = head(**leaves, **rest, options=LinearBCEOptions(max_chunk_bytes=4 * 4 * 16))
    if any(needed):
        loss.backward()
    assert seen == [(*needed, False)]  # once, and not again in the backward
    for name, need in zip(("input", "linear_weight"), needed, strict=True):
        assert (leaves[name].grad is not None) == need


def test_without_grad_no_gradient_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, rest = tensors(case())
    seen: list[Any] = []
    original = linear_chunks.compute
    monkeypatch.setattr(
        linear_chunks, "compute", lambda *args, **more: (seen.append(args[3]), original(*args, **more))[1]
    )
    with torch.no_grad():
        assert not head(**leaves, **rest).requires_grad
    with torch.inference_mode():
        head(**leaves, **rest)
    assert seen == [(False, False, False)] * 2


def test_gradients_are_handed_over_and_not_copied() -> None:
    """The weight's gradient becomes .grad itself: a copy would take its memory twice."""
    leaves, rest = tensors(case(4, 64, 3), torch.float32)
    loss = head(**leaves, **rest)
    node = loss.grad_fn
    token = node.saved_tensors[0]
    made = token.untyped_storage().made.gradients[1].data_ptr()
    del token
    loss.backward()
    assert leaves["linear_weight"].grad.data_ptr() == made


def test_an_incoming_gradient_scales_once_and_is_remembered() -> None:
    sample = case(5, 50)
    value, gradients = expected(sample)
    for scale in (8.0, 8.0, 3.0, 3.0, 0.0, 2.0, -1.0):
        leaves, rest = tensors(sample)
        loss = head(**leaves, **rest, options=EACH_LABEL)
        assert_near(loss, value, 1e-13)
        (loss * scale).backward()
        for name, leaf in leaves.items():
            assert_near(leaf.grad, scale * gradients[name], 1e-13)
    leaves, rest = tensors(sample)
    loss = head(**leaves, **rest)
    assert loss.grad_fn.saved_tensors[0].untyped_storage().made.incoming == -1.0


def test_not_even_an_infinite_incoming_gradient_is_remembered() -> None:
    for scale in (math.inf, math.nan, 0.0):
        leaves, rest = tensors(case())
        (head(**leaves, **rest) * scale).backward()
        check(case())


def test_accumulation_into_a_gradient() -> None:
    sample = case()
    leaves, rest = tensors(sample)
    _, gradients = expected(sample)
    for _ in range(3):
        head(**leaves, **rest).backward()
    for name, leaf in leaves.items():
        assert_near(leaf.grad, 3 * gradients[name], 1e-13)


# The backward


def test_a_second_backward_is_refused_or_recomputed() -> None:
    sample = case()
    leaves, rest = tensors(sample)
    loss = head(**leaves, **rest)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"a second backward.*allow_retain_graph=True"):
        loss.backward()
    leaves, rest = tensors(sample)
    loss = head(**leaves, **rest, options=LinearBCEOptions(allow_retain_graph=True))
    loss.backward(retain_graph=True)
    (loss * 2).backward()
    _, gradients = expected(sample)
    for name, leaf in leaves.items():
        assert_near(leaf.grad, 3 * gradients[name], 1e-13)


def test_derivatives_of_higher_order_are_those_of_the_definition() -> None:
    sample = case(3, 6, 2, "for each label", pos_weight="[C]", gamma=2.0)
    leaves, rest = tensors(sample)
    inputs = tuple(leaves.values())

    def loss(*given: Tensor) -> Tensor:
        options = LinearBCEOptions(max_chunk_bytes=1, allow_retain_graph=True)
        return head(**dict(zip(leaves, given, strict=True)), **rest, options=options)

    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)
    assert torch.autograd.gradcheck(loss, inputs, check_batched_grad=True)


def test_torch_func_sees_the_definition() -> None:
    leaves, rest = tensors(case(3, 6, 2))
    x, w = (leaves[name].detach() for name in ("input", "linear_weight"))
    _, gradients = expected(case(3, 6, 2))
    found = torch.func.grad(lambda w: head(x, w, **rest))(w)
    assert_near(found, gradients["linear_weight"], 1e-13)
    losses = torch.func.vmap(lambda w: head(x, w, **rest))(torch.stack((w, 2 * w)))
    assert_near(losses[1], head(x, 2 * w, **rest), 1e-13)


def test_an_operand_that_was_changed_since_is_refused() -> None:
    leaves, rest = tensors(case())
    loss = head(**leaves, **rest)
    with torch.no_grad():
        leaves["linear_weight"].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant: bool) -> None:
    leaves, rest = tensors(case())
    loss = checkpoint(
        lambda x, w: head(torch.sin(x), w, **rest), *leaves.values(), use_reentrant=reentrant, preserve_rng_state=False
    )
    loss.backward()
    inner = torch.sin(leaves["input"].detach()).requires_grad_()
    exact = face.binary_cross_entropy_with_logits(inner @ leaves["linear_weight"].detach().T, **rest)
    exact.backward()
    assert_near(leaves["input"].grad, inner.grad * torch.cos(leaves["input"].detach()), 1e-12)
    assert_near(loss, exact.detach(), 1e-13)


def test_saved_tensor_hooks_see_no_gradient_beside_the_operands() -> None:
    """What is offloaded is what F.linear would save; the gradients are made when the backward asks."""
    sample = case()
    leaves, rest = tensors(sample)
    _, gradients = expected(sample)
    with torch.autograd.graph.save_on_cpu():
        loss = head(**leaves, **rest)
    assert loss.grad_fn.saved_tensors[0] is None
    loss.backward(retain_graph=True)
    loss.backward()
    for name, leaf in leaves.items():
        assert_near(leaf.grad, 2 * gradients[name], 1e-13)


# Autocast and half types


def test_autocast_computes_as_f_linear_does() -> None:
    sample = case(8, 64, 16, "for each label")
    leaves, rest = tensors(sample, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = head(**leaves, **rest, options=LinearBCEOptions(max_chunk_bytes=3000))
        logits = torch.nn.functional.linear(leaves["input"], leaves["linear_weight"], leaves["linear_bias"])
        dense = face.binary_cross_entropy_with_logits(logits, rest["target"].float())
    rest["target"] = rest["target"].bool()
    with torch.autocast("cpu", torch.bfloat16):
        assert head(**leaves, **rest).dtype == torch.float32
    assert_near(loss, float(dense.detach()), 5e-3)
    for ours, theirs in zip(
        torch.autograd.grad(loss, leaves.values()), torch.autograd.grad(dense, leaves.values()), strict=True
    ):
        assert ours.dtype == torch.float32
        assert_near(ours, theirs, 2e-2)


def test_emulated_products_are_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the processor does not multiply bfloat16, its products take 20 times as long as float32's."""
    seen: list[torch.dtype] = []
    original = torch.mm

    def watched(one: Tensor, other: Tensor, **more: Any) -> Tensor:
        seen.append(one.dtype)
        return original(one, other, **more)

    x, w = torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(4, 3, dtype=torch.bfloat16)
    monkeypatch.setattr(torch, "mm", watched)
    for native, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(linear_chunks, "_has_products", lambda dtype, native=native: native)
        loss = head(x, w, torch.ones(2, 4))
        assert loss.dtype == torch.float32  # the target's
        assert seen.pop() == dtype


@pytest.mark.parametrize("native", [False, True])
def test_half_types_in_products_of_their_own(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_chunks, "_has_products", lambda dtype: native)
    check(case(8, 100, 8, "for each label"), LinearBCEOptions(max_chunk_bytes=700), "bfloat16")


# torch.compile


def test_compiled_without_a_graph_break() -> None:
    sample = case(6, 40, 4, "for each label", mask="[N, C]", pos_weight="[C]")
    leaves, rest = tensors(sample, torch.float32)
    value, gradients = expected(sample)
    options = LinearBCEOptions(max_chunk_bytes=500)
    for backend in ("aot_eager", "inductor"):
        step = torch.compile(
            lambda x, w, b, t, m, p: head(x, w, t, linear_bias=b, mask=m, pos_weight=p, gamma=0.0, options=options),
            fullgraph=True,
            backend=backend,
        )
        for scale in (1.0, 4.0):
            loss = step(*leaves.values(), rest["target"], rest["mask"], rest["pos_weight"])
            assert_near(loss, value, 1e-6)
            for name, found in zip(leaves, torch.autograd.grad(loss * scale, leaves.values()), strict=True):
                assert_near(found, scale * gradients[name], 2e-6)
        torch.compiler.reset()


def test_compiled_with_sizes_that_change() -> None:
    step = torch.compile(
        lambda x, w, t: head(x, w, t, reduction="mean", label_smoothing=0.1), fullgraph=True, dynamic=True,
        backend="aot_eager",
    )  # fmt: skip
    for rows in (3, 5):
        sample = case(rows, 20, 4, label_smoothing=0.1)
        leaves, rest = tensors(sample)
        loss = step(*leaves.values(), rest["target"])
        value, gradients = expected(sample)
        assert_near(loss, value, 1e-13)
        for name, found in zip(leaves, torch.autograd.grad(loss, leaves.values()), strict=True):
            assert_near(found, gradients[name], 1e-13)
    torch.compiler.reset()


# The module


def test_the_module_has_the_state_of_a_linear_layer() -> None:
    linear = torch.nn.Linear(4, 9)
    module = LinearBCEWithLogitsLoss(4, 9, bias=True, pos_weight=torch.full((9,), 2.0))
    assert set(module.state_dict()) == {"linear.weight", "linear.bias", "pos_weight"}
    module.linear.load_state_dict(linear.state_dict())
    x, y = torch.randn(5, 4), torch.rand(5, 9) < 0.3
    dense = face.binary_cross_entropy_with_logits(linear(x), y, pos_weight=torch.full((9,), 2.0))
    torch.testing.assert_close(module(x, y), dense)
    assert set(LinearBCEWithLogitsLoss(4, 9).state_dict()) == {"linear.weight"}
    twin = copy.deepcopy(module)
    assert torch.equal(twin(x, y), module(x, y))
    assert repr(LinearBCEWithLogitsLoss(4, 9, reduction="sum", gamma=2.0)) == (
        "LinearBCEWithLogitsLoss(\n  reduction='sum', gamma=2.0\n"
        "  (linear): Linear(in_features=4, out_features=9, bias=False)\n)"
    )
    assert module.to(torch.float64)(x.double(), y).dtype == torch.float64
    assert LinearBCEWithLogitsLoss(4, 9, device="meta").linear.weight.is_meta


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("k", [1, 3, 50])
def test_predict_finds_the_most_probable_labels(k: int, bias: bool) -> None:
    module = LinearBCEWithLogitsLoss(4, 37, bias=bias, options=LinearBCEOptions(max_chunk_bytes=6 * 4 * 5))
    x = torch.randn(6, 4)
    found = module.predict(x, k)
    probabilities, labels = torch.sigmoid(module.linear(x)).topk(min(k, 37))
    torch.testing.assert_close(found.probabilities, probabilities)
    assert torch.equal(found.labels, labels)
    assert not found.probabilities.requires_grad


# Memory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_is_that_of_one_chunk(dtype: str) -> None:
    """The peak of a step in a process of its own, above what is there before, beside the weight's gradient."""
    found = python(
        f"""
        import torch
        from pathlib import Path
        from binxent.torch import LinearBCEOptions, linear_binary_cross_entropy_with_logits as head

        def status(key):
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

        torch.set_num_threads(2)
        dtype = torch.{dtype}
        options = LinearBCEOptions(max_chunk_bytes=2**20)
        def step(rows, labels):
            x = torch.randn(rows, 64, dtype=dtype).requires_grad_()
            w = torch.zeros(labels, 64, dtype=dtype, requires_grad=True)
            y = torch.zeros(1, dtype=torch.bool).expand(rows, labels)
            return lambda: head(x, w, y, options=options).backward()
        step(8, 100)()
        rows, labels = 256, 200_000
        large = step(rows, labels)
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        large()
        print((status("VmHWM") - before) / (labels * 64 * dtype.itemsize))
        """
    )
    # All logits would be four times the weight's gradient or more.
    assert float(found) < 1.25


# Refusals


X, W, Y = torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(3, 4)
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "none": (lambda: head(X, W, Y, reduction="none"), ValueError, "reduction: 'none' asks for the loss of each"),
    "unknown reduction": (lambda: head(X, W, Y, reduction="median"), ValueError, "reduction: 'median'"),
    "another shape of targets": (lambda: head(X, W, Y.T), ValueError, r"target: shape \(4, 3\)"),
    "indices as targets": (lambda: head(X, W, Y[:, :2].long()), ValueError, r"target: shape \(3, 2\)"),
    "three axes": (lambda: head(X[None], W, Y), ValueError, r"input: shape .* expected \[N, features\]"),
    "another number of features": (lambda: head(X[:, :1], W, Y), ValueError, "linear_weight: shape"),
    "bias": (lambda: head(X, W, Y, linear_bias=torch.zeros(3)), ValueError, "linear_bias: shape"),
    "mask": (lambda: head(X, W, Y, mask=torch.ones(3)), ValueError, "mask: shape"),
    "dtypes": (lambda: head(X, W.double(), Y), RuntimeError, "linear_weight is of dtype torch.float64"),
    "integers": (lambda: head(X.long(), W, Y), NotImplementedError, "input is of dtype torch.int64"),
    "no tensor": (lambda: head(X, W, [1]), TypeError, "argument 'target' must be Tensor, not list"),
    "device": (lambda: head(X, W, Y.to("meta")), RuntimeError, "target is on meta; expected cpu"),
    "learnt weight": (
        lambda: head(X, W, Y, pos_weight=torch.ones(4, requires_grad=True)),
        NotImplementedError,
        "pos_weight requires a gradient, which a linear head does not give",
    ),
    "learnt gamma": (
        lambda: head(X, W, Y, gamma=torch.ones((), requires_grad=True)), NotImplementedError,
        "gamma requires a gradient",
    ),
    "soft target": (lambda: head(X, W, Y.clone().requires_grad_()), NotImplementedError, "target requires a gradient"),
    "options": (lambda: head(X, W, Y, options={}), TypeError, "options: expected LinearBCEOptions"),
    "no chunk": (lambda: LinearBCEOptions(max_chunk_bytes=0), ValueError, "max_chunk_bytes: 0"),
    "half a byte": (lambda: LinearBCEOptions(max_chunk_bytes=0.5), TypeError, "max_chunk_bytes: expected an integer"),
    "accumulator": (
        lambda: LinearBCEOptions(accumulate_dtype=torch.bfloat16), ValueError, "accumulate_dtype: torch.bfloat16",
    ),
    "k": (lambda: LinearBCEWithLogitsLoss(2, 4).predict(X, 0), ValueError, "k: 0"),
    "module": (lambda: LinearBCEWithLogitsLoss(2, 4, reduction="none"), ValueError, "reduction: 'none'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("accumulate", [None, "float64", torch.float64, np.float64, torch.float32])
def test_accumulators(accumulate: Any) -> None:
    check(case(), LinearBCEOptions(max_chunk_bytes=1, accumulate_dtype=accumulate), "float32")
