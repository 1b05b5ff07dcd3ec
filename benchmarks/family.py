"""``python -m benchmarks.family``: times the options of the focal family beside the same pass without them.

One thread, float32, hard targets, the gradient written to memory of its own; each way in turn. ``--check`` asks for the
ratios that alpha, neg_weight and the margin may reach: exit code 1 if one of them is above. ``--hessian`` times the
second derivative of some of them in the place of the loss.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.timing import Rounds, Step, in_turn
from binxent import kernel
from binxent.numpy import grad_and_hess, value_and_grad

MOST = 1.15  # times the time of the same pass without the option

POWERS = {"gamma_positive": 1.0, "gamma_negative": 4.0}
# Each way with its options, and the way that it is compared with. {"soft": True} chooses targets between 0 and 1.
WAYS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "plain": ({}, "plain"),
    "pos_weight": ({"pos_weight": True}, "plain"),
    "alpha": ({"alpha": 0.25}, "plain"),
    "neg_weight": ({"neg_weight": True}, "plain"),
    "pos_weight, neg_weight": ({"pos_weight": True, "neg_weight": True}, "pos_weight"),
    "weight": ({"weight": True}, "plain"),
    "weight, neg_weight": ({"weight": True, "neg_weight": True}, "weight"),
    "margin": ({"margin": 0.05}, "plain"),
    "gamma": ({"gamma": 2.0}, "plain"),
    "gamma, alpha": ({"gamma": 2.0, "alpha": 0.25}, "gamma"),
    "gamma, neg_weight": ({"gamma": 2.0, "neg_weight": True}, "gamma"),
    "two gammas": (POWERS, "plain"),
    "two gammas, margin": ({**POWERS, "margin": 0.05}, "two gammas"),
    "two gammas, margin, soft": ({**POWERS, "margin": 0.05, "soft": True}, "two gammas"),
    "p_t": ({"gamma": 2.0, "focal": "p_t"}, "gamma"),
}
ASKED = ("alpha", "neg_weight", "margin", "gamma, alpha", "gamma, neg_weight", "two gammas, margin")


CURVED = ("plain", "alpha", "neg_weight", "margin", "gamma", "two gammas", "two gammas, margin", "p_t")


def ways(rows: int, columns: int, *, curved: bool = False) -> Mapping[str, Step]:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (rows, columns)).astype(np.float32)
    hard = (rng.random(logits.shape) < 0.3).astype(np.float32)
    soft = rng.random(logits.shape).astype(np.float32)
    of_labels = rng.uniform(0.5, 1.5, columns).astype(np.float32)
    out = np.empty_like(logits)

    def step(given: Mapping[str, Any]) -> Step:
        options = {name: of_labels if value is True else value for name, value in given.items() if name != "soft"}
        target = soft if "soft" in given else hard
        return lambda: value_and_grad(logits, target, out=out, **options)

    if not curved:
        return {name: step(given) for name, (given, _) in WAYS.items()}

    second = np.empty_like(logits)

    def curve(hessian: str, given: Mapping[str, Any]) -> Step:
        options = {name: of_labels if value is True else value for name, value in given.items()}
        return lambda: grad_and_hess(logits, hard, out=(out, second), hessian=hessian, **options)

    # Without a power and a margin both are one.
    return {
        name if kind == "exact" else f"{name}, {kind}": curve(kind, WAYS[name][0])
        for name in CURVED
        for kind in (("exact", "expected") if name not in ("plain", "alpha", "neg_weight") else ("exact",))
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--columns", type=int, default=1024)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--hessian", action="store_true")
    given = parser.parse_args()
    kernel.set_num_threads(1)
    print(f"[{given.rows}, {given.columns}] logits of float32, 1 thread, {kernel.instruction_set}")
    times = in_turn(ways(given.rows, given.columns, curved=given.hessian), Rounds(20, least=15, most=60))
    missed = False
    if given.hessian:
        for name, taken in times.items():
            least, plain, gamma = (
                taken.spread().least,
                taken.over(times["plain"]).median,
                taken.over(times["gamma"]).median,
            )
            print(f"{name:30} {1e3 * least:7.3f} ms at least; {plain:5.2f} times plain, {gamma:4.2f} times gamma")
        return 0
    for name, taken in times.items():
        against = WAYS[name][1]
        ratio, plain = taken.over(times[against]).median, taken.over(times["plain"]).median
        above = name in ASKED and ratio > MOST
        missed |= above
        least = 1e3 * taken.spread().least
        print(
            f"{name:26} {least:7.3f} ms at least; {plain:4.2f} times plain, {ratio:4.2f} times {against}"
            f"{f' (asked {MOST})' if name in ASKED else ''}{'  missed' if above else ''}"
        )
    return int(given.check and missed)


if __name__ == "__main__":
    sys.exit(main())
