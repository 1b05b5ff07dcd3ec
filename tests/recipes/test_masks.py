"""docs/recipes.md: masks that choose within the batch, and an alpha for each label, beside torch's own operations."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as torchs
from torch.nn.functional import softplus

from binxent.torch import binary_cross_entropy_with_logits
from tests.recipes import page


def check_mask(logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> None:
    """The loss of what the mask keeps, and its gradient, are torch's of these elements alone."""
    ours, own = (logits.detach().clone().requires_grad_() for _ in range(2))
    loss = binary_cross_entropy_with_logits(ours, targets, mask=mask)
    wanted = torchs(own[mask], targets[mask])
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(value, x)[0] for value, x in ((loss, ours), (wanted, own))))


def test_hard_examples() -> None:
    ran = page.run(page.program("Hard examples"))
    assert ran.losses[-1] < 0.9 * ran.losses[0]
    logits, targets = ran.names["logits"].detach(), ran.names["targets"]
    positive = targets > 0.5
    for per_positive in (1, 3, 10_000):
        mask = ran.names["hard"](logits, targets, per_positive)
        check_mask(logits, targets, mask)
        kept, left = (softplus(logits[(~positive) & chosen]) for chosen in (mask, ~mask))
        assert bool(mask[positive].all())
        assert len(kept) == min(per_positive * int(positive.sum()), int((~positive).sum()))
        assert not len(left) or left.max() <= kept.min()
    nothing = ran.names["hard"](logits, torch.zeros_like(targets))
    assert binary_cross_entropy_with_logits(logits, torch.zeros_like(targets), mask=nothing) == 0


def test_balance_within_the_batch() -> None:
    ran = page.run(page.program("Balance within the batch"))
    assert ran.losses[-1] < 0.9 * ran.losses[0]
    targets = ran.names["targets"]
    few = targets.clone()
    few[:, 0], few[:, 1] = 1, 0  # a label without negatives, and one without positives
    for given in (targets, few):
        mask = ran.names["balanced"](given)
        check_mask(torch.randn_like(given), given, mask)
        positive = given > 0.5
        assert bool(mask[positive].all())
        wanted = torch.minimum(positive.sum(dim=0), (~positive).sum(dim=0))
        assert torch.equal((mask & ~positive).sum(dim=0), wanted)
    assert not torch.equal(ran.names["balanced"](targets), ran.names["balanced"](targets))


def test_an_alpha_for_each_label() -> None:
    ours = page.check_switch("An alpha for each label", rtol=1e-5)
    assert ours.kernel_runs == len(ours.losses) == 20


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_alpha_is_that_of_the_focal_loss(gamma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, dtype=torch.float64, generator=generator)
    y = torch.randn(8, 3, dtype=torch.float64, generator=generator).gt(0).double()
    alpha = torch.tensor([0.25, 0.5, 0.9], dtype=torch.float64)
    p_t = torch.where(y == 1, x.sigmoid(), (-x).sigmoid())
    alpha_t = torch.where(y == 1, alpha, 1 - alpha)
    wanted = -alpha_t * (1 - p_t) ** gamma * p_t.log()
    found = binary_cross_entropy_with_logits(
        x, y, reduction="none", pos_weight=alpha, neg_weight=1 - alpha, gamma=gamma
    )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
