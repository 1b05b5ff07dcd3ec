from __future__ import annotations

import re

import pytest
import timm.loss
import torch
from timm.data.mixup import one_hot

import binxent.torch
from binxent import kernel
from binxent.torch import BCEWithLogitsLoss
from tests.recipes import page


def test_the_switch() -> None:
    ours = page.check_switch("timm", rtol=1e-4)
    assert ours.kernel_runs == len(ours.losses) == 8


ROWS = re.findall(r"^\| `(.*?)`(?:, `(.*?)`, `(.*?)`)?(.*?) \| `(.*?)`", page.PAGE.read_text(), re.MULTILINE)
ROWS = [row for row in ROWS if "(x, " in row[-1] and "gamma" not in row[0]]
ASYMMETRIC = re.findall(r"^\| `(gamma_neg=.*?)` \| `(.*?)`", page.PAGE.read_text(), re.MULTILINE)


@pytest.fixture
def operands() -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 5, generator=generator)
    y = torch.rand(8, 5, generator=generator)
    return {"x": x, "y": y, "w": y[0] + 1, "p": y[1] + 2, "r": "sum", "t": 0.4, "s": 0.2, "C": 5}


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_timms_options(row: tuple[str, ...], operands: dict[str, object]) -> None:
    *options, note, code = row
    if "indices" in note:
        operands["y"] = torch.tensor([0, 1, 2, 3, 4, 3, 2, 1])
    x, y = operands["x"], operands["y"]
    theirs = eval(f"timm.loss.BinaryCrossEntropy({', '.join(filter(None, options))})", {"timm": timm, **operands})(x, y)
    before = kernel.runs()
    ours = eval(code, {"BCEWithLogitsLoss": BCEWithLogitsLoss, "one_hot": one_hot, **operands})
    assert kernel.runs() == before + 1
    torch.testing.assert_close(ours, theirs)


def test_every_option_of_timms_is_in_the_table() -> None:
    assert len(ROWS) == 6
    named = set(re.findall(r"(\w+)=", " ".join(" ".join(row[:3]) for row in ROWS)))
    assert named == set(timm.loss.BinaryCrossEntropy.__init__.__code__.co_varnames[1:8])


def test_timms_class_calls_ours(operands: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = operands["x"], torch.tensor([0, 1, 2, 3, 4, 3, 2, 1])
    criterion = timm.loss.BinaryCrossEntropy(pos_weight=2.0)
    own = criterion(x, y)
    module = timm.loss.binary_cross_entropy
    monkeypatch.setattr(module, "F", module.F)  # put back afterwards
    before = kernel.runs()
    exec(page.sides(page.blocks("timm", "diff")[1])[1], {"timm": timm, "binxent": binxent})
    torch.testing.assert_close(criterion(x, y), own)
    assert kernel.runs() == before + 1


@pytest.mark.parametrize(("theirs", "ours"), ASYMMETRIC)
@pytest.mark.parametrize("g", [0, 1, 2.0, 4])
def test_the_asymmetric_loss(theirs: str, ours: str, g: float, operands: dict[str, object]) -> None:
    names = {"timm": timm, "BCEWithLogitsLoss": BCEWithLogitsLoss, "x": operands["x"], "g": g, "r": "mean"}
    names["y"] = (operands["y"] > 0.5).float()
    found, wanted = eval(ours, names), eval(f"timm.loss.AsymmetricLossMultiLabel({theirs})(x, y)", names)
    torch.testing.assert_close(found, wanted)


def test_the_asymmetric_loss_is_in_the_table() -> None:
    assert len(ASYMMETRIC) == 2
