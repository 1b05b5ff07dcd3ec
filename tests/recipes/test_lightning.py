from __future__ import annotations

import lightning
import pytest
import torch

import binxent.torch
from tests.recipes import page


def test_the_switch() -> None:
    ours = page.check_switch("Lightning", rtol=1e-5)
    assert ours.kernel_runs == len(ours.losses) == 40


def test_checkpoints_load_both_ways() -> None:
    code = page.program("Lightning")
    removed, added = page.sides(page.blocks("Lightning", "diff")[0])
    ours, own = page.run(code).names, page.run(page.replaced(code, added, removed)).names
    assert type(ours["classifier"].loss) is binxent.torch.BCEWithLogitsLoss
    assert type(own["classifier"].loss) is torch.nn.BCEWithLogitsLoss
    for one, other in ((ours, own), (own, ours)):
        one["trainer"].save_checkpoint("checkpoint.ckpt")
        loaded = other["Classifier"].load_from_checkpoint("checkpoint.ckpt")
        assert "loss.pos_weight" in loaded.state_dict()


@pytest.mark.parametrize("name", ["binxent.torch", "torch.nn"])
def test_in_mixed_precision_the_loss_is_float32(name: str) -> None:
    code = page.program("Lightning").replace("binxent.torch", name)
    code = code.replace('accelerator="cpu"', 'accelerator="cpu", precision="bf16-mixed"')
    code = code.replace("self.losses.append(loss.item())", "self.losses.append(loss)")
    run = page.run(code)
    assert {loss.dtype for loss in run.losses} == {torch.float32}
    assert (run.kernel_runs == len(run.losses)) is (name == "binxent.torch")
    assert run.losses[-1] < run.losses[0]
    assert isinstance(run.names["trainer"], lightning.Trainer)
