"""Nothing is downloaded, and nothing is sent."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

# Before any of the libraries is imported.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "JAX_PLATFORMS": "cpu",
    "TQDM_DISABLE": "1",
}
os.environ.setdefault("KERAS_BACKEND", "torch")

torch.set_num_threads(1)  # the models are so small that threads would only wait for one another


def _operators_of_torchvision() -> torch.library.Library | None:
    """torchvision, which timm needs, is built for one build of torch, and beside another it cannot be imported.

    What it lacks then are the declarations of two operators, which no classifier calls.
    """
    found = importlib.util.find_spec("torchvision")
    assert found is not None
    assert found.origin is not None
    try:
        torch.ops.load_library(Path(found.origin).parent / "_C.so")
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


operators = _operators_of_torchvision()  # kept: its end would take them back


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers write beside the program."""
    monkeypatch.chdir(tmp_path)
