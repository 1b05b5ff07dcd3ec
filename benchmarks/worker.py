"""``python -m benchmarks.worker``: measures the cases of one framework in a process that processes.py starts.

The request comes as JSON on stdin. The rows of each case go to stdout as one line of JSON, as soon as it is done.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks import frameworks, memory, streaming, tails, ulps
from benchmarks.grid import BOTH, Case
from benchmarks.machine import cores, facts
from benchmarks.results import Row
from benchmarks.timing import Rounds, Step, in_turn
from binxent import kernel

ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def conditions(case: Case) -> Row:
    shape = "×".join(map(str, case.shape))
    return {
        "elements": case.elements,
        "shape": shape,
        "dtype": case.dtype,
        "options": case.options,
        "passes": case.passes,
    }


def refusal(step: Step) -> str | None:
    """Why a way cannot do a case, in a line; None if it can."""
    try:
        step()
    except Exception as error:
        return frameworks.refusal(error)
    return None


def fresh(step: Step) -> Step:
    """The step in fresh memory: the system clears the gradient's pages, as it does for the other losses."""

    def run() -> None:
        kernel.release_memory()
        step()

    return run


def times(framework: frameworks.Framework, case: Case, rounds: Rounds) -> Iterator[Row]:
    ways = framework.ways(case)
    if case.passes == BOTH and case.elements >= streaming.SMALLEST:
        roof = functools.partial(streaming.roof, case.shape, ITEMSIZE[case.dtype], cores())
        ways["stream"] = frameworks.Way(roof(kept=bool(framework.MEMORY_KEPT_BY)))
        if framework.MEMORY_KEPT_BY == "binxent":
            ways["binxent fresh"] = frameworks.Way(fresh(ways[frameworks.OURS].step))
            ways["stream fresh"] = frameworks.Way(roof(kept=False), "binxent fresh")
    refused = {name: why for name, way in ways.items() if (why := refusal(way.step))}
    for name, why in refused.items():
        yield {"way": name, "error": why}
    ways = {name: way for name, way in ways.items() if name not in refused}
    if not ways:
        return
    taken = in_turn({name: way.step for name, way in ways.items()}, rounds)
    for name, way in ways.items():
        spread = taken[name].spread()
        row = {"way": name, "unit": "s", **vars(spread), "rounds": len(taken[name].seconds)}
        row["page_faults"] = round(taken[name].page_faults, 1)
        if way.against in taken:
            ratio = taken[name].over(taken[way.against])
            row |= {
                "against": way.against,
                "ratio": ratio.median,
                "ratio_lower": ratio.lower,
                "ratio_upper": ratio.upper,
            }
        yield row


def peaks(framework: frameworks.Framework, case: Case, chosen: Sequence[str]) -> Iterator[Row]:
    """Yields the extra memory of each way, in tensors of the logits' size."""
    small = Case(4096, case.dtype, case.options, case.passes)
    size = case.elements * ITEMSIZE[case.dtype]
    for name in chosen or framework.ways(small):
        # New operands for each way, so that none finds what another has left.
        few, many = framework.ways(small)[name].step, framework.ways(case)[name].step
        if why := refusal(few):
            yield {"way": name, "error": why}
            continue
        tensors = memory.extra(few, many) / size
        yield {"way": name, "unit": "tensors", **dict.fromkeys(("median", "least", "lower", "upper"), tensors)}


def rows(wanted: dict[str, Any]) -> Iterator[list[Row]]:
    framework = frameworks.load(wanted["framework"])
    common = {"framework": wanted["framework"], "quantity": wanted["quantity"]}
    machine = facts() | {"versions": ", ".join(f"{p} {version(p)}" for p in framework.PACKAGES)}
    if wanted["quantity"] == "accuracy":
        for found in ulps.measure(framework, wanted["elements"]):
            yield [{**common, **row, **machine} for row in found]
        return
    if wanted["quantity"] == "tails":
        yield [{**common, **row, **machine} for row in tails.measure(framework)]
        return
    settings = {"threads": wanted["threads"], "memory": wanted["memory"]}
    rounds = Rounds(**wanted["rounds"])
    for case in (Case(**case) for case in wanted["cases"]):
        if case.dtype not in framework.DTYPES:
            yield []
            continue
        found = (
            times(framework, case, rounds) if wanted["quantity"] == "time" else peaks(framework, case, wanted["ways"])
        )
        yield [{**common, **settings, **conditions(case), **row, **machine} for row in found]


def main() -> None:
    # stdout goes to stderr from here on: what a framework prints must not mix with the rows.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    wanted = json.load(sys.stdin)
    np.seterr(all="ignore")  # the formulas overflow on purpose
    for found in rows(wanted):
        print(json.dumps(found), file=channel, flush=True)


if __name__ == "__main__":
    main()
