"""One digest of the bits that Triton's kernel writes, for each of some calls.

``python -m tests.kernels.bits`` prints them as JSON. Both ways of running the programs without a card must agree.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np

from binxent import options
from tests.digests.digest import digest
from tests.kernels.rows import ROWS, compute
from tests.kernels.test_contract import some, weights
from tests.operands import SPECIAL

SHAPE = (3, 5, 300)  # several blocks


def cases(dtype: str) -> dict[str, dict[str, Any]]:
    row, rng = weights(SHAPE[-1:], dtype), np.random.default_rng(3)
    return {
        "plain": {},
        "mask": {"mask": rng.random(SHAPE) < 0.7},
        "weights": {"weight": weights(SHAPE, dtype), "sample_weight": weights(SHAPE[:1], dtype), "pos_weight": row},
        "options": {"ignore_index": 1, "label_smoothing": 0.1, "gamma": 2.0},
        "alpha": {"focal": options.focal(alpha=0.25), "neg_weight": row},
        "powers": {"focal": options.focal(gamma_positive=1.0, gamma_negative=4.0, margin=0.05), "pos_weight": row},
        "p_t": {"focal": options.focal(alpha=0.25, focal="p_t"), "gamma": 1.5, "label_smoothing": 0.1},
    }


def digests() -> dict[str, str]:
    (triton,) = (row for row in ROWS if row.name == "triton")
    found = {}
    for dtype, source in itertools.product(("float32", "float64"), ("logits", "probabilities")):
        x, y = some(dtype, SHAPE, source)
        if source == "logits":
            with np.errstate(over="ignore"):
                x.ravel()[: len(SPECIAL)] = SPECIAL
        for (name, given), reduction in itertools.product(cases(dtype).items(), ("mean", "weighted_mean")):
            results = compute(triton, x, y, probabilities=source == "probabilities", reduction=reduction, **given)
            found[f"{dtype} {source} {name} {reduction}"] = digest(*(one for one in results if one is not None))
    return found


if __name__ == "__main__":
    print(json.dumps(digests()))
