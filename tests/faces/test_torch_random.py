"""Calls that nobody thought of: random shapes, layouts, dtypes, broadcasts and options, beside the textbook."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from tests.faces.torch_samples import FLOATING, KINDS, OURS

CALLS = 60


def laid_out(t, choice):
    """The same values at other places in memory, or some of them at several."""
    if t.dim() == 0 or t.numel() == 0:
        return t
    kind = choice.randrange(6)
    if kind == 1:
        order = choice.sample(range(t.dim()), t.dim())
        return t.permute(order).contiguous().permute([order.index(i) for i in range(t.dim())])
    if kind == 2:
        return torch.stack([t] * 3, -1)[..., choice.randrange(3)]
    if kind == 3:
        padded = torch.zeros([size + 2 for size in t.shape], dtype=t.dtype)
        return padded[tuple(slice(1, 1 + size) for size in t.shape)].copy_(t)
    if kind == 4:
        return t.narrow(choice.randrange(t.dim()), 0, 1).expand_as(t)
    if kind == 5:
        return torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape)
    return t


def broadcast_from(shape, choice):
    sizes = [1 if choice.random() < 0.4 else size for size in shape]
    return sizes[choice.randrange(len(sizes) + 1) :]


def textbook(kind, x, y, weight, pos_weight, sample_weight):
    weight = weight * sample_weight.reshape([-1] + [1] * (x.dim() - 1)) if x.dim() else weight
    if kind == "logits":
        positive, negative = F.softplus(-x, threshold=1000), F.softplus(x, threshold=1000)
    else:
        positive, negative = -torch.log(x), -torch.log1p(-x)
    return weight * (pos_weight * y * positive + (1 - y) * negative)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", KINDS)
def test_random_calls(kind, seed):
    choice = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(CALLS):
        sizes = [0, 1, 2, 17, 90] if choice.random() < 0.1 else [1, 2, 3, 5, 17]
        shape = [choice.choice(sizes) for _ in range(choice.randrange(4))]
        dtype = choice.choice(FLOATING)
        target = choice.choice([*FLOATING, *[dtype] * 4, torch.int64, torch.bool])
        result = torch.promote_types(dtype, target) if target.is_floating_point else dtype
        x = 4 * torch.randn(shape, dtype=torch.float64)
        x = laid_out((x if kind == "logits" else 0.01 + 0.98 * torch.sigmoid(x)).to(dtype), choice).requires_grad_()
        y = torch.rand(shape, dtype=torch.float64)
        y = laid_out((y if target.is_floating_point and choice.random() < 0.5 else y.round()).to(target), choice)
        options = {
            name: laid_out(torch.rand(size).to(choice.choice(FLOATING)), choice)
            for name, size in (
                ("weight", broadcast_from(shape, choice)),
                ("pos_weight", broadcast_from(shape, choice)),
                ("sample_weight", shape[:1]),
            )
            if choice.random() < 0.4 and (shape or name != "sample_weight")
        }
        # A sum may be more than float16 holds.
        reduction = choice.choice(["none", "mean"] if torch.float16 in (dtype, result) else ["none", "mean", "sum"])
        wide = x.detach().double().requires_grad_()
        one = torch.ones((), dtype=torch.float64)
        others = [options.get(name, one).double() for name in ("weight", "pos_weight", "sample_weight")]
        exact = textbook(kind, wide, y.double(), *others)
        exact = exact if reduction == "none" else getattr(exact, reduction)()

        loss = OURS[kind](x, y, reduction=reduction, **options)
        incoming = torch.randn(exact.shape).to(result)
        (gradient,) = torch.autograd.grad(loss, x, incoming)
        (slope,) = torch.autograd.grad(exact, wide, incoming.double())
        assert (loss.dtype, loss.shape) == (result, exact.shape)
        assert (gradient.dtype, gradient.shape) == (dtype, x.shape)
        for ours, wanted in ((loss, exact), (gradient, slope)):
            info = torch.finfo(ours.dtype)
            # Where two terms cancel, it is their size that counts.
            near_zero = 1e-6 if torch.float64 not in (dtype, target) or ours.dtype != torch.float64 else 1e-15
            size = wanted.abs().nan_to_num().max().item() if wanted.numel() else 0.0
            torch.testing.assert_close(
                ours.double(),
                wanted,
                rtol=4 * info.eps,
                atol=near_zero * size + info.tiny * info.eps,
                equal_nan=True,
            )
        with torch.no_grad():
            assert torch.equal(OURS[kind](x, y, reduction=reduction, **options), loss) or loss.isnan().any()
