"""Each power and each case of the focal family, from end to end of the range, in both widths of the arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from binxent.numpy import value_and_grad
from tests.digests.digest import digest
from tests.focal_cases import CASES, GAMMAS
from tests.operands import SOURCES, targets

SIZE = 22_000  # whose operands, three times as long, are over the serial limit
NEG_WEIGHT = np.full((), 0.7, np.float32)


def digests() -> Iterator[tuple[str, str]]:
    cases: dict[str, dict[str, Any]] = {f"gamma {gamma}": {"gamma": gamma} for gamma in GAMMAS} | CASES
    rng = np.random.default_rng(9)
    for dtype, (source, inputs) in itertools.product(("float32", "float64"), SOURCES.items()):
        x = inputs(dtype, SIZE, rng)
        for kind in ("hard", "soft"):
            y = targets(kind, x, rng)
            for name, case in cases.items():
                given: Any = {"probabilities": source == "probabilities", **case}
                # A call without weights has a loop of its own.
                elements = value_and_grad(x, y, reduction="none", **given)
                mean, gradient = value_and_grad(x, y, neg_weight=NEG_WEIGHT, **given)
                assert np.isfinite(mean)
                yield f"{dtype} {source} {kind} {name}", digest(*elements, mean, gradient)
