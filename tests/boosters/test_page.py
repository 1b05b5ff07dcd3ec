"""docs/boosting.md: its programs run, and train."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from binxent import kernel
from tests import pages
from tests.processes import ROOT

PAGE = ROOT / "docs" / "boosting.md"


@pytest.mark.parametrize("library", ["XGBoost", "LightGBM", "CatBoost"])
def test_the_program_trains(library: str) -> None:
    (code,) = pages.blocks(PAGE, library, "python")
    names: dict[str, Any] = {"__name__": "recipe"}
    before = kernel.runs()
    exec(compile(code, PAGE.name, "exec"), names)
    assert kernel.runs() >= before + 20
    logits, curve, test = (names[name] for name in ("logits", "curve", "test"))
    assert np.isfinite(logits).all()
    assert logits.shape == test.targets.shape
    assert curve[-1] < 0.6 * curve[0]
    assert ((logits > 0) == test.targets).mean() > 0.94


def test_the_versions_of_the_page() -> None:
    named = dict(re.findall(r"(xgboost|lightgbm|catboost) (\d+\.\d+\.\d+)", PAGE.read_text()))
    assert named == {name: import_module(name).__version__ for name in ("xgboost", "lightgbm", "catboost")}
