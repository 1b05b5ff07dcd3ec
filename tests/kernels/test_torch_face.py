"""The torch face on Triton's kernel, as it is on a CUDA card.

In Triton's interpreter, with BINXENT_KERNELS=triton, tensors of the CPU go to that kernel. What waits for the device
there cannot be seen, so a test makes every way of asking a tensor for its numbers raise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import binxent.torch as face
from binxent.kernels.triton import launch, programs
from binxent.torch import arrays, cuda

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LOSSES = {"logits": face.binary_cross_entropy_with_logits, "probabilities": face.binary_cross_entropy}
TORCHS = {
    "logits": torch.nn.functional.binary_cross_entropy_with_logits,
    "probabilities": torch.nn.functional.binary_cross_entropy,
}
SHAPE = (70, 50)  # two blocks, the second one not full
both = pytest.mark.parametrize("kind", LOSSES)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the programs that are launched, in their order."""
    seen: list[str] = []
    original = launch.launch

    def watched(program: Any, *arguments: Any, **kernel: Any) -> Any:
        names = {id(getattr(programs, name)): name for name in ("loss", "remake", "measure", "rescale")}
        seen.append(names[id(program)])
        return original(program, *arguments, **kernel)

    monkeypatch.setattr(launch, "launch", watched)
    return seen


@contextmanager
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever asks a tensor for its numbers would wait for the device."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("this waits for the device")

    with monkeypatch.context() as patch:
        if DEVICE.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        else:
            for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy", "nonzero"):
                patch.setattr(torch.Tensor, name, refuse)
            # The interpreter itself reads what a program is given, and the definition checks what lies on the CPU.
            patch.setattr(launch, "launch", lambda *_, **__: None)
            patch.setattr(arrays, "_check_range", lambda *_: None)
        try:
            yield
        finally:
            if DEVICE.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


def operands(kind: str, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = SHAPE) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = x.sigmoid() if kind == "probabilities" else 3 * x
    y = (torch.rand(shape, generator=generator) < 0.3).to(dtype)
    return x.to(dtype).to(DEVICE).requires_grad_(), y.to(DEVICE)


def gradient(loss: torch.Tensor, x: torch.Tensor, incoming: float = 1.0, **more: Any) -> torch.Tensor:
    (found,) = torch.autograd.grad(loss, x, torch.full_like(loss, incoming), **more)
    return found


@both
def test_what_is_no_tensor_is_named(kind: str) -> None:
    x, y = operands(kind)
    for given, name in (((x, None), "target"), ((x, [0.0]), "target"), ((None, y), "input"), ((x, y, "w"), "weight")):
        with pytest.raises(TypeError, match=f"argument '{name}' must be Tensor, not "):
            LOSSES[kind](*given)


@both
def test_a_step_is_two_launches(kind: str, launches: list[str]) -> None:
    x, y = operands(kind)
    loss = LOSSES[kind](x, y)
    assert launches == ["loss"]
    loss.backward()
    assert launches == ["loss", "remake"]
    torch.testing.assert_close(loss, TORCHS[kind](x, y))
    torch.testing.assert_close(x.grad, gradient(TORCHS[kind](x, y), x))


@both
@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean", "weighted_mean"])
@pytest.mark.parametrize("incoming", [1.0, 3.0, 0.0, -65536.0])
def test_any_incoming_gradient(kind: str, reduction: str, incoming: float) -> None:
    x, y = operands(kind)
    mask = torch.arange(SHAPE[1], device=DEVICE) % 3 > 0
    weight = torch.linspace(0.5, 2, SHAPE[1], device=DEVICE)
    found = gradient(LOSSES[kind](x, y, weight=weight, mask=mask, reduction=reduction), x, incoming)
    wide, y = x.detach().double().requires_grad_(), y.double()
    by = {"mean": mask.sum() * SHAPE[0], "sum": 1, "batchmean": SHAPE[0], "weighted_mean": (weight * mask).sum() * 70}
    exact = gradient(TORCHS[kind](wide, y, weight=weight * mask, reduction="sum") / by[reduction], wide, incoming)
    torch.testing.assert_close(found, exact.float())


@both
def test_what_a_divisor_counts_is_measured_once(kind: str, launches: list[str]) -> None:
    x, y = operands(kind)
    LOSSES[kind](x, y, mask=y > 0).backward()
    assert launches == ["measure", "loss", "remake"]


@both
def test_a_second_backward(kind: str) -> None:
    x, y = operands(kind)
    loss, reference = LOSSES[kind](x, y), TORCHS[kind](x, y)
    for incoming in (3.0, 1.0, 3.0):
        torch.testing.assert_close(
            gradient(loss, x, incoming, retain_graph=True), gradient(reference, x, incoming, retain_graph=True)
        )


@both
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_nothing_waits_for_the_device(kind: str, reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = operands(kind)
    weight, mask = torch.rand(SHAPE[1], device=DEVICE), torch.rand(SHAPE, device=DEVICE) > 0.5
    smoothing, gamma = (torch.tensor(number, device=DEVICE, requires_grad=True) for number in (0.1, 1.5))
    with no_waiting(monkeypatch):
        for options in ({}, {"mask": mask, "ignore_index": -100}, {"weight": weight, "label_smoothing": 0.1}):
            loss = LOSSES[kind](x, y, reduction=reduction, **options)
            loss.backward(torch.full_like(loss, 2.0))
        LOSSES[kind](x, y, mask=mask, label_smoothing=smoothing, gamma=gamma, reduction="weighted_mean").backward()


@both
def test_a_scale_is_remembered_for_large_tensors(
    kind: str, launches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward makes the gradient for the scale of the last backward on this stream."""
    monkeypatch.setattr(cuda, "_REMEMBERS_FROM", 1)
    monkeypatch.setattr(cuda, "_stream", lambda _: (0, 0))
    monkeypatch.setattr(cuda, "_remembered", {})
    made: list[Any] = []
    original = launch.remake

    def watched(*arguments: Any, made_for: Any, **named: Any) -> None:
        made.append(float(made_for))
        original(*arguments, made_for=made_for, **named)

    monkeypatch.setattr(cuda._triton(), "remake", watched)
    x, y = operands(kind)
    incoming = torch.tensor(1024.0, device=DEVICE)
    for _ in range(3):
        (found,) = torch.autograd.grad(LOSSES[kind](x, y), x, incoming)
        torch.testing.assert_close(found, gradient(TORCHS[kind](x, y), x, float(incoming)))
        incoming.mul_(2)  # whoever made it may write to it
    assert made == [1.0, 1024.0, 2048.0]


@both
def test_gradcheck(kind: str) -> None:
    x, y = operands(kind, torch.float64, (4, 3))
    y = (0.8 * y + 0.1).requires_grad_()
    weight, pos_weight = torch.rand(4, 3, dtype=torch.float64) + 0.5, torch.rand(3, dtype=torch.float64) + 0.5
    given = [x, y, weight.to(DEVICE).requires_grad_(), pos_weight.to(DEVICE).requires_grad_()]
    given += [torch.tensor(number, dtype=torch.float64, device=DEVICE, requires_grad=True) for number in (0.1, 1.5)]

    def loss(x: Any, y: Any, weight: Any, pos_weight: Any, smoothing: Any, gamma: Any, reduction: str) -> Any:
        return LOSSES[kind](
            x, y, weight, pos_weight=pos_weight, label_smoothing=smoothing, gamma=gamma, reduction=reduction
        )

    for reduction in ("mean", "none", "weighted_mean"):
        assert torch.autograd.gradcheck(
            lambda *given, by=reduction: loss(*given, by), given, check_forward_ad=True, check_batched_grad=True
        )
    assert torch.autograd.gradgradcheck(lambda *given: loss(*given, "mean"), given)


@both
def test_hooks_and_checkpoints_see_every_saved_tensor(kind: str) -> None:
    x, y = operands(kind)
    exact = gradient(TORCHS[kind](x, y), x)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor):
        torch.testing.assert_close(gradient(LOSSES[kind](x, y), x), exact)
    torch.testing.assert_close(gradient(checkpoint(LOSSES[kind], x, y, use_reentrant=False), x), exact)


@both
def test_transforms_go_to_the_definition(kind: str, launches: list[str]) -> None:
    x, y = operands(kind)
    exact = gradient(TORCHS[kind](x, y), x)
    torch.testing.assert_close(torch.func.grad(LOSSES[kind])(x.detach(), y), exact)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(LOSSES[kind](forward_ad.make_dual(x.detach(), torch.ones_like(x)), y)).tangent
    torch.testing.assert_close(tangent, exact.sum())
    assert not launches


def test_the_gradient_takes_the_place_of_the_logits(launches: list[str]) -> None:
    leaf, y = operands("logits")
    logits = leaf * 1
    address = logits.data_ptr()
    seen: list[int] = []
    logits.register_hook(lambda gradient: seen.append(gradient.data_ptr()))
    loss = face.binary_cross_entropy_with_logits(logits, y, mask=y < 1, inplace_backward=True)
    loss.backward(torch.tensor(3.0, device=DEVICE), retain_graph=True)
    assert seen == [address]
    exact = gradient(TORCHS["logits"](leaf, y, weight=(y < 1).float(), reduction="sum") / (y < 1).sum(), leaf, 3.0)
    torch.testing.assert_close(leaf.grad, exact)
    with pytest.raises(RuntimeError, match="second backward"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@both
def test_half_types(kind: str, dtype: torch.dtype) -> None:
    x, y = operands(kind, dtype)
    loss = LOSSES[kind](x, y.bool())
    assert loss.dtype == dtype
    wide = x.detach().double().requires_grad_()
    exact = TORCHS[kind](wide, y.double())
    torch.testing.assert_close(loss, exact.to(dtype))
    torch.testing.assert_close(gradient(loss, x), gradient(exact, wide).to(dtype))
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        assert LOSSES[kind](x, y).dtype == torch.float32


def test_a_probability_outside_is_nan_or_refused_on_request() -> None:
    x = torch.tensor([0.5, 1.5, -1.0], device=DEVICE)
    y = torch.tensor([1.0, 0.0, 0.0], device=DEVICE)
    assert face.binary_cross_entropy(x, y, reduction="none").isnan().tolist() == [False, True, True]
    with pytest.raises(RuntimeError, match=r"input\[1\] is 1.5"):
        face.binary_cross_entropy(x, y, check_range=True)
    ignored = torch.tensor([1.0, -100.0, -100.0], device=DEVICE)
    face.binary_cross_entropy(x, ignored, ignore_index=-100, check_range=True)


@pytest.mark.parametrize("odd", ["sparse", "expanded", "negated"])
def test_incoming_gradients_that_are_no_plain_memory(odd: str) -> None:
    x, y = operands("logits")
    loss, reference = LOSSES["logits"](x, y, reduction="none"), TORCHS["logits"](x, y, reduction="none")
    numbers = torch.linspace(-1, 1, SHAPE[0] * SHAPE[1], device=DEVICE).reshape(SHAPE)
    incoming = {
        "sparse": numbers.to_sparse(),
        "expanded": numbers[:1].expand(SHAPE),
        "negated": torch.complex(numbers, numbers).conj().imag,
    }[odd]
    dense = incoming.to_dense() if odd == "sparse" else incoming.clone()
    (found,) = torch.autograd.grad(loss, x, incoming)
    found = found.to_dense() if found.is_sparse else found
    torch.testing.assert_close(found, torch.autograd.grad(reference, x, dense)[0])


@both
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled(kind: str, reduction: str, dynamic: bool, launches: list[str]) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("inductor")
    loss: Callable[..., torch.Tensor] = torch.compile(
        lambda x, y, mask: LOSSES[kind](x, y, mask=mask, reduction=reduction),
        fullgraph=True,
        dynamic=dynamic,
        backend=counter,
    )
    for rows in (70, 45, 30) if dynamic else (70,):
        x, y = operands(kind, shape=(rows, 50))
        mask = torch.arange(50, device=DEVICE) % 3 > 0
        for incoming in (1.0, 3.0):
            launches.clear()
            found = gradient(loss(x, y, mask), x, incoming)
            assert torch.equal(found, gradient(LOSSES[kind](x, y, mask=mask, reduction=reduction), x, incoming))
            once = ["measure", "loss", "remake"] if reduction == "mean" else ["loss", "loss"]
            assert launches == 2 * once
    assert counter.frame_count == 1


def test_a_compiled_loss_may_be_differentiated_twice() -> None:
    """A token hands over the gradient once: the second backward finds it empty, and must not change the first one's."""
    loss = torch.compile(lambda x, y: LOSSES["logits"](x, y), fullgraph=True)
    x, y = operands("logits")
    value, reference = loss(x, y), TORCHS["logits"](x, y)
    first = gradient(value, x, 2.0, retain_graph=True)
    second = gradient(value, x, 5.0)
    torch.testing.assert_close(first, gradient(reference, x, 2.0, retain_graph=True))
    torch.testing.assert_close(second, gradient(reference, x, 5.0))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8, torch.float16], ids=str)
def test_counts_are_the_kernels_for_targets_of_every_dtype(
    dtype: torch.dtype, launches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, y = operands("logits")
    weight, mask = torch.rand(SHAPE[1], device=DEVICE), torch.arange(SHAPE[1], device=DEVICE) % 3 > 0
    kept = int(mask.sum()) * SHAPE[0]
    assert face.count(y.to(dtype), mask=mask).item() == kept
    assert face.count(y.to(dtype), mask=mask, ignore_index=1).item() == kept - (y * mask).sum().item()
    counted = face.count(y.to(dtype), reduction="weighted_mean", weight=weight, mask=mask)
    torch.testing.assert_close(counted, (weight.double() * mask).sum() * SHAPE[0])
    assert launches == ["measure"] * 3
    with no_waiting(monkeypatch):
        face.count(y.to(dtype), mask=mask)


def test_a_normalizer_on_the_device_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = operands("logits")
    normalizer = torch.tensor(7, device=DEVICE)
    face.binary_cross_entropy_with_logits(x, y, normalizer=normalizer).backward()
    exact = x.detach().clone().requires_grad_()
    (torch.nn.functional.binary_cross_entropy_with_logits(exact, y, reduction="sum") / 7).backward()
    torch.testing.assert_close(x.grad, exact.grad)
    with no_waiting(monkeypatch):
        for given in (normalizer, 7.0, 0):
            face.binary_cross_entropy_with_logits(x, y, normalizer=given).backward()


HEAD = face.LinearBCEOptions(max_chunk_bytes=70 * 4 * 64)  # of 64 labels


def of_head(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, w = (torch.randn(rows, 8, generator=generator).to(DEVICE, dtype).requires_grad_() for rows in (70, 150))
    y, mask = (torch.rand(70, 150, generator=generator).to(DEVICE) < share for share in (0.3, 0.6))
    return x, w, y, mask


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean", "weighted_mean"])
def test_a_linear_head_is_the_loss_of_its_logits(reduction: str, dtype: torch.dtype) -> None:
    x, w, y, mask = of_head(dtype)
    weight = torch.linspace(0.5, 2, 150, device=DEVICE)
    rest = {"weight": weight, "mask": mask, "reduction": reduction, "gamma": 1.5}
    loss = face.linear_binary_cross_entropy_with_logits(x, w, y, **rest, options=HEAD)
    wide = [given.detach().double().requires_grad_() for given in (x, w)]
    exact = LOSSES["logits"](wide[0] @ wide[1].T, y, **rest)
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(loss.double(), exact, **tolerance)
    found = torch.autograd.grad(loss, (x, w), torch.full_like(loss, 3.0))
    for ours, theirs in zip(found, torch.autograd.grad(exact, wide, torch.full_like(exact, 3.0)), strict=True):
        scale = theirs.abs().max()
        torch.testing.assert_close(ours.double() / scale, theirs / scale, **tolerance)


def test_a_linear_head_launches_once_for_a_chunk(launches: list[str]) -> None:
    x, w, y, mask = of_head()
    loss = face.linear_binary_cross_entropy_with_logits(x, w, y, mask=mask, options=HEAD)
    assert launches == ["measure", "loss", "loss", "loss"]
    loss.backward()
    assert launches[4:] == ["rescale", "rescale"]


def test_a_linear_head_does_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, y, mask = of_head()
    with no_waiting(monkeypatch):
        for rest in ({}, {"mask": mask}, {"normalizer": torch.tensor(7.0, device=DEVICE)}):
            (2 * face.linear_binary_cross_entropy_with_logits(x, w, y, **rest, options=HEAD)).backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [0, 1, 2048, 5000])
def test_a_gradient_is_rescaled_in_place(size: int, dtype: torch.dtype) -> None:
    gradient = torch.randn(size, generator=torch.Generator().manual_seed(3)).to(DEVICE, dtype)
    for incoming, made_for in ((3.0, 1.0), (2.0, 8.0), (5.0, 5.0), (6.0, torch.tensor(4.0, device=DEVICE))):
        wide = gradient.to(torch.float64 if dtype == torch.float64 else torch.float32)
        exact = (wide * (incoming / float(made_for))).to(dtype)
        launch.rescale(gradient, incoming=torch.tensor(incoming, device=DEVICE), made_for=made_for)
        assert torch.equal(gradient, exact)


# The focal family


FAMILY: dict[str, dict[str, Any]] = {
    "alpha": {"alpha": 0.25, "gamma": 2.0},
    "asymmetric": {"gamma_positive": 1.0, "gamma_negative": 4.0, "margin": 0.05},
    "p_t": {"focal": "p_t", "gamma": 1.5, "alpha": 0.75},
    "neg_weight": {"neg_weight": torch.linspace(0.0, 2.0, SHAPE[1], device=DEVICE)},
}


@both
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", FAMILY)
def test_the_focal_family_is_computed_by_the_kernel(
    name: str, reduction: str, kind: str, launches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = operands(kind)
    loss = LOSSES[kind](x, y, reduction=reduction, **FAMILY[name])
    slope = gradient(loss, x)
    assert launches == (["loss", "remake"] if reduction == "mean" else ["loss", "loss"])
    wide = x.detach().double().requires_grad_()
    monkeypatch.setattr(cuda, "reads", lambda *_: False)
    monkeypatch.setattr(cuda, "_may_read", lambda *_: False)
    exact = LOSSES[kind](wide, y.double(), reduction=reduction, **FAMILY[name])
    assert len(launches) == 2
    torch.testing.assert_close(loss, exact.float(), rtol=5e-6, atol=1e-9)
    torch.testing.assert_close(slope, gradient(exact, wide).float(), rtol=2e-5, atol=1e-9)


@both
@pytest.mark.parametrize("name", ["target", "pos_weight", "neg_weight", "mask"])
def test_checked_targets_are_computed_by_the_kernel(name: str, kind: str, launches: list[str]) -> None:
    x, y = operands(kind)
    given = {"target": y, "pos_weight": torch.ones(SHAPE[1]), "neg_weight": torch.ones(1), "mask": torch.ones(70, 1)}
    given = {key: operand.to(DEVICE) for key, operand in given.items()}
    LOSSES[kind](x, check_targets=True, **given)
    assert launches == ["measure", "loss"]
    wrong = given[name].clone()
    wrong.view(-1)[-1] = 2 if name in ("target", "mask") else -1
    index = [size - 1 for size in wrong.shape]
    with pytest.raises(RuntimeError, match=re.escape(f"{name}: {name}{index} is ")):
        LOSSES[kind](x, check_targets=True, **given | {name: wrong})


def test_compiled_the_loss_of_wrong_targets_is_nan(launches: list[str]) -> None:
    x, y = operands("logits")
    torch._dynamo.reset()
    compiled = torch.compile(LOSSES["logits"], backend="aot_eager", fullgraph=True)
    assert compiled(x, y, check_targets=True).isfinite()
    wrong = y.clone()
    wrong[69, 49] = 2
    assert compiled(x, wrong, check_targets=True).isnan()
    assert launches == ["loss", "loss"]
