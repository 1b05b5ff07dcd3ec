"""Makes the tables of the README and the documentation from the CSV files alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks import grid, results, targets
from benchmarks.charts import NAMES
from benchmarks.results import Row

Conditions = Mapping[str, Any]
NOTHING = "–"
NO_BREAK = "\N{NO-BREAK SPACE}"  # or a narrow column puts the unit below its number


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines))


def seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size or unit == "µs":
            digits = value / size
            return f"{digits:.0f} {unit}" if digits >= 99.5 else f"{digits:.2g} {unit}"
    raise AssertionError


def conditions(rows: Sequence[Row]) -> str:
    """The machine and the versions, as text."""
    row = rows[0]
    versions = dict.fromkeys(v for row in rows for v in (row.get("versions") or "").split(", ") if v)
    loads = [float(row["load"]) for row in rows if row["load"]]
    return (
        f"{row['processor']}, {row['cores']} cores, {row['memory size']}, kernel for {row['instruction set']}; "
        f"{row['system']}, transparent huge pages: {row['transparent huge pages']}; Python {row['Python']}, "
        f"NumPy {row['NumPy']}, {', '.join(versions)}; {row['date'][:10]}, load {min(loads):.1f} to {max(loads):.1f}."
    )


def ratio(row: Row | None) -> str:
    if row is None or not row["ratio"]:
        return NOTHING
    return f"{row['ratio']:.0f} ×" if row["ratio"] >= 99.5 else f"{row['ratio']:.2g} ×"


def ratio_and_time(row: Row | None) -> str:
    return f"{ratio(row)} ({seconds(row['median'])})" if row and row["ratio"] else NOTHING


def of_peers(
    rows: Sequence[Row], columns: Mapping[str, Conditions], cell: Callable[[Row | None], str], **common: Any
) -> str:
    lines = []
    for (framework, way), name in NAMES.items():
        cells = [
            cell(results.headline(rows, framework=framework, way=way, **{**common, **where}))
            for where in columns.values()
        ]
        if set(cells) != {NOTHING}:
            lines.append([name, *cells])
    return markdown(["time, as a multiple of ours", *columns], lines)


def elements(n: int) -> str:
    return f"{n / 1e6:.3g}{NO_BREAK}M" if n >= 10**6 else f"{n / 1000:.0f}{NO_BREAK}k" if n >= 10**4 else str(n)


def headline(rows: Sequence[Row]) -> str:
    return of_peers(rows, targets.CASES, ratio_and_time)


def ours(rows: Sequence[Row]) -> str:
    """The table of our own times, and their ratios to the roof."""
    lines = []
    for framework, kind in itertools.product(grid.FRAMEWORKS, ("", " fresh")):
        cells = []
        for where in targets.CASES.values():
            row = results.headline(rows, framework=framework, way="binxent" + kind, **where)
            stream = results.headline(rows, framework=framework, way="stream" + kind, **where)
            cells.append(seconds(row["median"]) if row else NOTHING)
            cells.append(f"{1 / stream['ratio']:.2f} ×" if stream and stream["ratio"] else NOTHING)
        if set(cells) != {NOTHING}:
            lines.append([f"{framework}, into{kind} memory" if kind else framework, *cells])
    return markdown(["", *(head for case in targets.CASES for head in (case, "of the roof"))], lines)


def peaks(rows: Sequence[Row]) -> str:
    names = {("numpy", "binxent"): "binxent.numpy", ("torch", "binxent"): "binxent.torch"}
    names |= {
        ("torch", "binxent in place"): "binxent.torch, in place",
        ("torch", "binxent compiled"): "binxent.torch, compiled",
    }
    names |= {(f, "binxent"): f"binxent.{f}" for f in ("paddle", "mindspore", "jax")}
    lines = []
    for (framework, way), name in (names | NAMES).items():
        found = [
            results.headline(rows, quantity="memory", framework=framework, way=way, **where)
            for where in targets.CASES.values()
        ]
        if any(found):
            lines.append([name, *(f"{row['median']:.2f}" if row else NOTHING for row in found)])
    return markdown(["tensors of the logits' size", *targets.CASES], lines)


def in_place(rows: Sequence[Row]) -> str:
    row = results.headline(rows, quantity="memory", framework="torch", way="binxent in place")
    return f"{row['median']:.2f}" if row else NOTHING


def settings(rows: Sequence[Row]) -> str:
    most = max((row["threads"] or 0) for row in rows)
    columns = {
        f"{most} threads": {"threads": most},
        "1 thread": {"threads": 1},
        "memory reused": {"threads": most, "memory": "reused"},
        "torch's huge pages": {"threads": most, "memory": "huge pages"},
    }
    return of_peers(rows, columns, ratio_and_time)


def bounds(rows: Sequence[Row]) -> str:
    lines = []
    for target in targets.of(list(rows)):
        sign = "≤" if target.at_most else "≥"
        found = NOTHING if target.measured is None else f"{target.measured:.3g} {target.unit}"
        stretch = "" if target.stretch in (None, target.bound) else f" ({target.stretch:g})"
        lines.append([target.name, f"{sign} {target.bound:g}{stretch} {target.unit}", found, target.verdict])
    return markdown(["target", "bound (stretch)", "measured", ""], lines)


def speed(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yields the tables of speed, by name."""
    sizes = {elements(n): {"elements": n} for n in grid.SIZES}
    yield "conditions", conditions(rows) + "\n"
    yield "headline", headline(rows)
    yield "ours", ours(rows)
    yield "sizes", of_peers(rows, sizes, ratio)
    yield "sizes-forward", of_peers(rows, sizes, ratio, passes=grid.FORWARD)
    for name, axis, values in (("dtypes", "dtype", grid.DTYPES), ("options", "options", grid.OPTIONS)):
        columns = {f"{v}, {elements(n)}": {axis: v, "elements": n} for v in values for n in (grid.MIDDLE, grid.LARGE)}
        yield name, of_peers(rows, columns, ratio)
    yield "settings", settings(rows)
    yield "memory", peaks(rows)
    yield "targets", bounds(rows)
    if log_loss := results.headline(rows, way="log_loss", passes=grid.FORWARD):
        yield "log-loss", f"scikit-learn's `log_loss`, forward: {ratio_and_time(log_loss)} ours.\n"
    if start := results.find(rows, quantity="import"):
        yield "import", f"`import binxent` takes {seconds(start['median'])} above Python's own start.\n"


SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def worst(value: float | None) -> str:
    if value is None:
        return NOTHING
    if value < 100:
        return f"{value:.2f}"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits}·10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def overview(speed: Sequence[Row], accuracy: Sequence[Row]) -> str:
    """The README's table, with a line for each peer."""
    lines = []
    ours = {("torch", "binxent"): "**binxent**", ("torch", "binxent fresh"): "binxent, fresh memory"}
    for (framework, way), name in (ours | NAMES).items():
        found = [results.headline(speed, framework=framework, way=way, **where) for where in targets.CASES.values()]
        if not any(found):
            continue
        times = [
            f"1 ({seconds(row['median'])})" if row and name == "**binxent**" else ratio_and_time(row) for row in found
        ]
        peak = results.headline(speed, quantity="memory", framework=framework, way=way)
        off = results.errors(accuracy, framework, way, loss="logits", dtype="float32", target="hard")
        worsts = [
            worst(max((v for (measured, _), v in off.items() if measured == output), default=None))
            for output in ("loss", "gradient")
        ]
        lines.append([name, *times, f"{peak['median']:.2f}" if peak else NOTHING, *worsts])
    return markdown(["", *targets.CASES, "extra memory", "error of the loss", "of the gradient"], lines)


def accuracy(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    names = {("", "binxent"): "**binxent**, every face"} | NAMES
    for loss in ("logits", "probabilities"):
        regions = dict.fromkeys(r["region"] for r in rows if r["loss"] == loss and r["measured"] == "loss")
        heads = [(output, region) for output in ("loss", "gradient") for region in regions if region]
        for dtype in ("float32", "bfloat16"):
            lines = []
            for kind in ("hard", "soft"):
                for (framework, way), name in names.items():
                    off = results.errors(rows, framework, way, loss=loss, dtype=dtype, target=kind)
                    if off:
                        lines.append([name, kind, *(worst(off.get(head)) for head in heads)])
            if lines:
                yield (
                    f"accuracy-{loss}-{dtype}",
                    markdown(["worst error in ulp", "targets", *map(", ".join, heads)], lines),
                )
    means = list(dict.fromkeys((r["measured"], r["region"]) for r in rows if r["measured"].startswith("mean of")))
    if means:
        lines = []
        for (framework, way), name in names.items():
            off = results.errors(rows, framework, way)
            if any(head in off for head in means):
                lines.append([name, *(worst(off.get(head)) for head in means)])
        number = int(means[0][0].removeprefix("mean of "))
        logits = {"all 0": "all logits 0", "normal": "logits N(0, 3)"}
        heads = [logits[region] for _, region in means]
        yield "accuracy-mean", markdown([f"mean of {elements(number)}, float32: error in ulp", *heads], lines)


def instructions(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    compilers = list(dict.fromkeys(row["compiler"] for row in rows))
    counts = {(row["case"], row["compiler"]): float(row["instructions per element"]) for row in rows}
    lines = [
        [case, *(f"{counts[case, compiler]:.2f}" if (case, compiler) in counts else NOTHING for compiler in compilers)]
        for case in dict.fromkeys(row["case"] for row in rows)
    ]
    yield "instructions", markdown(["loss and gradient, unless one is named", *compilers], lines)


def gpu(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yields the card and its software, and the table of times and shares of the copy bandwidth at the largest size."""
    row = rows[0]
    known = [row[name] for name in ("card", "card memory", "copy bandwidth") if row.get(name)]
    versions = [f"{name} {row[name]}" for name in ("CUDA", "torch", "Triton") if row.get(name)]
    yield "gpu-conditions", f"{', '.join(known)}; {', '.join(versions)}; {row['date'][:10]}.\n"
    measured = [row for row in rows if row["median"] is not None]
    largest = max((row["elements"] for row in measured if row["way"] == "torch.compile"), default=None)
    if largest is None:
        largest = max(row["elements"] for row in measured)
    ways = list(dict.fromkeys(row["way"] for row in measured if row["elements"] == largest))
    lines = []
    for dtype, target, option in dict.fromkeys((row["dtype"], row["target"], row["options"]) for row in measured):
        cells = []
        for way in ways:
            found = results.find(measured, dtype=dtype, target=target, options=option, way=way, elements=largest)
            share = f" ({found['share_of_copy']:.0%})" if found and found["share_of_copy"] else ""
            cells.append(f"{seconds(found['median'])}{share}" if found else NOTHING)
        lines.append([f"{dtype}, {target} targets, {option}", *cells])
    yield "gpu", markdown([f"{elements(largest)} elements", *ways], lines)


def attacks(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yields what was attacked, how often, and how many answers were wrong; and the machine."""
    row = rows[0]
    facts = f"{row['processor']}, {row['cores']} cores, {row['memory size']}, kernel for {row['instruction set']}"
    yield "attacks-conditions", f"{facts}; {row['system']}; Python {row['Python']}, NumPy {row['NumPy']}.\n"
    lines = [
        [f"{row['attack']}: {row['what']}", f"{row['calls']:,}", str(row["wrong"]), row["how"], row["date"][:10]]
        for row in rows
    ]
    yield "attacks", markdown(["attack", "calls", "wrong", "how", "on"], lines)


def step_conditions(rows: Sequence[Row]) -> str:
    """The machine on which whole training steps were measured, as text."""
    row = rows[0]
    loads = [float(row["load"]) for row in rows]
    threads = "one thread" if row["threads"] == 1 else f"{row['threads']} threads"
    clock = ", processor time, since other programs ran too" if row["clock"] == "processor" else ""
    return (
        f"{threads}{clock}; {row['processor']}, kernel for {row['instruction set']}; torch {row['torch']}; "
        f"{row['date'][:10]}, load {min(loads):.1f} to {max(loads):.1f}"
    )


def step_in_words(rows: Sequence[Row]) -> str:
    """The README's sentence about whole training steps."""
    gains = [(f"{row['ratio']:.2f} ×", row["model"]) for row in rows if row["way"] == "torch"]
    (first, model), *others = gains
    return (
        "A whole training step gains less than its loss. With torch's loss, forward and backward take "
        f"{first} as long as with binxent for a {model}; {'; '.join(f'{gain} for a {of}' for gain, of in others)} "
        f"({step_conditions(rows)}; [more](docs/performance.md#what-a-whole-step-gains))."
    )


def step(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yields the table of whole training steps, and its conditions."""
    conditions_of_all = step_conditions(rows)
    yield "step-conditions", f"{conditions_of_all[0].upper()}{conditions_of_all[1:]}.\n"
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        found = {row["way"]: row for row in rows if row["model"] == model}
        cells = [seconds(found[way]["median"]) for way in ("torch", "binxent", "plain sum")]
        lines.append([model, *cells, f"{found['torch']['ratio']:.2f} ×"])
    yield "step", markdown(["forward and backward", "torch's loss", "binxent", "a plain sum as loss", "gain"], lines)
