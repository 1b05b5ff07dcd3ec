"""Each dtype, input and reduction, with what leaves elements out, smoothed targets, and all of it together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from binxent.numpy import grad_and_hess, value_and_grad
from binxent.options import BY_AXIS, REDUCTIONS
from tests.digests.digest import digest
from tests.reference import DTYPES, Array

SHAPE = (1009, 67)  # over the serial limit, and no whole number of blocks, tiles or groups
NAN = float("nan")


def cases(rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """The options of each call. Weights are no powers of two, and made without NumPy's exp."""
    weight, sample_weight, pos_weight, neg_weight = (
        np.ldexp(1 + rng.random(shape), rng.integers(-3, 3, shape)).astype(np.float32)
        for shape in (SHAPE, SHAPE[:1], SHAPE[1:], SHAPE[1:])
    )
    weights = {"weight": weight, "sample_weight": sample_weight, "pos_weight": pos_weight, "neg_weight": neg_weight}
    return {
        "mask": {"mask": rng.random(SHAPE) < 0.7},
        "mask of rows": {"mask": rng.integers(0, 2, (SHAPE[0], 1)).astype(np.uint8), "weight": weight},
        "ignore_index": {"ignore_index": -100},
        "ignore_index NaN": {"ignore_index": NAN, "sample_weight": sample_weight},
        "label_smoothing": {"label_smoothing": 0.1},
        "together": {
            **weights,
            "mask": rng.random(SHAPE[1:]) < 0.7,
            "ignore_index": -1,
            "label_smoothing": 0.1,
            "gamma": 2.0,
        },
    }


def operands(dtype: str, source: str, options: dict[str, Any], rng: np.random.Generator) -> tuple[Array, Array]:
    """Input and target: NaN where the mask or the target leaves an element out, which no result may show."""
    ends = (-40.0, 40.0) if source == "logits" else (0.0, 1.0)
    x = rng.uniform(*ends, SHAPE)
    y = np.where(rng.random(SHAPE) < 0.5, rng.integers(0, 2, SHAPE), rng.random(SHAPE))
    if "ignore_index" in options:
        ignored = rng.random(SHAPE) < 0.3
        x, y = np.where(ignored, NAN, x), np.where(ignored, options["ignore_index"], y)
    if "mask" in options:
        x, y = (np.where(options["mask"], array, NAN) for array in (x, y))
    return x.astype(DTYPES[dtype]), y.astype(DTYPES[dtype])


def reductions(options: dict[str, Any]) -> list[str]:
    """All of them, but for the mean by weights where there are none: it is the mean then."""
    weighted = not options.keys().isdisjoint(("weight", "sample_weight"))
    return [name for name in (*REDUCTIONS, *BY_AXIS) if weighted or name != "weighted_mean"]


def digests() -> Iterator[tuple[str, str]]:
    rng = np.random.default_rng(12)
    named = cases(rng)
    for dtype, source, (name, options) in itertools.product(DTYPES, ("logits", "probabilities"), named.items()):
        x, y = operands(dtype, source, options, rng)
        for reduction in reductions(options):
            results = value_and_grad(x, y, reduction=reduction, probabilities=source == "probabilities", **options)
            assert not any(np.isnan(array).any() for array in results)
            yield f"{dtype} {source} {name} {reduction}", digest(*results)
        for kind, gamma in (("exact", 0.0), ("expected", 2.0)) if source == "logits" else ():
            hessian = grad_and_hess(x, y, hessian=kind, **{"gamma": gamma, **options})
            yield f"{dtype} {kind} hessian {name}", digest(*hessian)
