"""docs/recipes.md: BackPACK knows our class once it is told, and then gives what it gives of torch's own."""

from __future__ import annotations

from typing import Any

import torch
from backpack import backpack, extend
from backpack.extensions import BatchGrad

from binxent.torch import BCEWithLogitsLoss
from tests.recipes import page


def derivatives(names: dict[str, Any], loss: torch.nn.Module) -> list[torch.Tensor]:
    torch.manual_seed(1)
    model = extend(torch.nn.Linear(20, 1))
    with backpack(names["exact"], BatchGrad()):
        extend(loss)(model(names["inputs"]), names["targets"]).backward()
    return [found for p in model.parameters() for found in (p.grad, p.diag_ggn_exact, p.grad_batch)]


def test_the_program() -> None:
    ran = page.run(page.program("BackPACK"))
    assert ran.kernel_runs >= len(ran.losses) == 20
    assert ran.losses[-1] < 0.5 * ran.losses[0]
    ours, theirs = (derivatives(ran.names, loss) for loss in (BCEWithLogitsLoss(), torch.nn.BCEWithLogitsLoss()))
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted)
