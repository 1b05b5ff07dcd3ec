"""docs/architecture.md: its steps lead to a face. One for array-api-strict has the NumPy face's results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

standard = pytest.importorskip("array_api_strict")

from binxent.numpy import value_and_grad  # noqa: E402
from tests import array_api_face  # noqa: E402
from tests.processes import ROOT  # noqa: E402

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "weight": {"weight": np.linspace(0.5, 2, 5, dtype=np.float32), "reduction": "weighted_mean"},
    "pos_weight": {"pos_weight": np.linspace(1, 3, 5, dtype=np.float32)},
    "mask": {"mask": np.arange(20).reshape(4, 5) % 3 > 0},
    "ignore_index": {"ignore_index": 1},
    "smoothing and gamma": {"label_smoothing": 0.1, "gamma": 2.0},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_has_the_results_of_the_numpy_face(name: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    logits = (8 * rng.standard_normal((4, 5))).astype(dtype)
    target = (rng.random((4, 5)) < 0.5).astype(dtype)
    options = OPTIONS[name]
    given = {key: standard.asarray(o) if isinstance(o, np.ndarray) else o for key, o in options.items()}
    loss, gradient = array_api_face.value_and_grad(standard.asarray(logits), standard.asarray(target), **given)
    wanted, slope = value_and_grad(logits, target, **options)
    assert str(gradient.dtype).endswith(dtype)
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(np.asarray(loss), wanted, rtol=tolerance)
    np.testing.assert_allclose(np.asarray(gradient), slope, rtol=tolerance)


def test_the_page_names_it() -> None:
    assert "`tests/array_api_face.py`" in (ROOT / "docs" / "architecture.md").read_text()
