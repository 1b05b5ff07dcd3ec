"""The worst error of the kernel, in ulp, with the instruction set that BINXENT_ISA names.

``python -m tests.accuracy`` prints, as JSON, one number for each dtype, kind of input, kind of target, weighting and
output. The tests run it once for each instruction set.
"""

from __future__ import annotations

import itertools
import json
import sys

import numpy as np

from binxent import kernel
from tests.kernel_calls import compute
from tests.operands import SOURCES, targets
from tests.reference import error, expected

WEIGHTINGS = ("plain", "incoming", "weight", "pos_weight", "both")
INCOMING = (3.0, 0.7, 1 / 16777213, 1024.0)


def measure(size: int) -> dict[str, float]:
    worst = {}
    kinds = {"logits": ("hard", "soft", "outside"), "probabilities": ("hard", "soft")}
    for dtype, source in itertools.product(("float32", "float64"), kinds):
        for kind, weighting in itertools.product(kinds[source], WEIGHTINGS):
            rng = np.random.default_rng(2)
            # longdouble, the reference of float64, is slow.
            x = SOURCES[source](dtype, size if dtype == "float32" else size // 5, rng)
            y = targets(kind, x, rng)
            w = p = None
            if weighting in ("weight", "both"):
                w = rng.lognormal(0, 3, x.shape).astype(x.dtype)
            if weighting in ("pos_weight", "both"):
                p = rng.lognormal(0, 3, x.shape).astype(x.dtype)
            exact = expected(
                x,
                y,
                w,
                p,
                probabilities=source == "probabilities",
                wide=np.float64 if dtype == "float32" else np.longdouble,
            )
            loss, gradient = np.empty_like(x), np.empty_like(x)
            for incoming in INCOMING if weighting == "incoming" else (1.0,):
                compute(
                    x,
                    y,
                    *(() if w is None else (w,)),
                    pos_weight=p,
                    probabilities=source == "probabilities",
                    loss=loss,
                    gradient=gradient,
                    incoming=incoming,
                )
                off = error(gradient, exact.gradient * incoming, exact.larger_gradient * incoming, dtype)
                key = f"{dtype} {source} {kind} {weighting} gradient"
                worst[key] = max(worst.get(key, 0.0), float(off.max()))
                at = int(off.argmax())
                print(f"{key}: {off[at]:.2f} at x = {x[at]!r}, y = {y[at]!r}, incoming {incoming}", file=sys.stderr)
            off = error(loss, exact.loss, exact.larger_loss, dtype)
            worst[f"{dtype} {source} {kind} {weighting} loss"] = float(off.max())
            at = int(off.argmax())
            print(
                f"{dtype} {source} {kind} {weighting} loss: {off[at]:.2f} at x = {x[at]!r}, y = {y[at]!r}",
                file=sys.stderr,
            )
    return worst


if __name__ == "__main__":
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    json.dump({"instruction_set": kernel.instruction_set, "worst": measure(size)}, sys.stdout)
