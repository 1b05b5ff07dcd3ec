"""Draws the charts from the CSV files alone. Each chart states its conditions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from benchmarks import results, targets
from benchmarks.results import Row

# With these settings the same figures give the same file.
STYLE = {
    "svg.hashsalt": "binxent",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
}
OURS = "#3949ab"
CASE_COLOURS = {"float32": "#3949ab", "with pos_weight": "#e64a19", "bfloat16": "#00897b"}
COLOURS = {
    "binxent": OURS,
    "torch": "#e64a19",
    "torch.compile": "#ff9e80",
    "paddle": "#00897b",
    "mindspore": "#8e24aa",
    "mindspore graph": "#ce93d8",
    "optax": "#f9a825",
    "formula": "#9e9e9e",
    "stream": "#212121",
}
GPU_COLOURS = {**COLOURS, "binxent compiled": "#7986cb"}
# Ways that lose the same digits have lines on top of each other: a broad one, with dashed ones over it.
LINES: dict[str, dict[str, Any]] = {
    "binxent": {"linewidth": 2.6, "zorder": 5},
    "torch": {"linewidth": 3.2},
    "torch.compile": {"linewidth": 1.3, "linestyle": (0, (6, 6))},
    "mindspore": {"linewidth": 1.6, "linestyle": (0, (2, 4))},
    "mindspore graph": {"linewidth": 1.6, "linestyle": (0, (1, 2))},
}
NAMES = {
    ("numpy", "formula"): "NumPy, formula",
    ("torch", "torch"): "torch",
    ("torch", "torch.compile"): "torch.compile",
    ("paddle", "paddle"): "Paddle",
    ("mindspore", "mindspore"): "MindSpore",
    ("mindspore", "mindspore graph"): "MindSpore, graph",
    ("jax", "optax"): "JAX, optax",
    ("jax", "formula"): "JAX, formula",
}


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def conditions(rows: Sequence[Row]) -> str:
    row = rows[0]
    threads = max((row["threads"] or 0 for row in rows), default=0) if "threads" in row else 0
    cores = f"{threads} of {row['cores']} cores" if threads else f"{row['cores']} cores"
    return f"{row['processor']}, {cores}, {row['instruction set']}; {row['date'][:10]}"


def note(figure: Figure, rows: Sequence[Row]) -> None:
    figure.supxlabel(conditions(rows), fontsize=8, color="#757575", x=0.01, ha="left")


def peers(rows: Sequence[Row]) -> Iterator[tuple[str, dict[str, Row]]]:
    """Yields each peer with its rows, by the targets' cases that it has."""
    for (framework, way), name in NAMES.items():
        found = {
            case: row
            for case, where in targets.CASES.items()
            if (row := results.headline(rows, framework=framework, way=way, **where)) and row["ratio"]
        }
        if found:
            yield name, found


def refused(rows: Sequence[Row], name: str, **case: Any) -> bool:
    """Whether the peer of that name has refused the case."""
    framework, way = next(key for key, known in NAMES.items() if known == name)
    asked = {"framework": framework, "way": way, **results.HEADLINE, **case}
    return any(row["error"] and all(row[key] == value for key, value in asked.items()) for row in rows)


def speed(rows: Sequence[Row]) -> Figure | None:
    """The time of each peer relative to ours."""
    known = list(peers(rows))
    if not known:
        return None
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.62 * len(known)))
    height = 0.26
    for place, (name, found) in enumerate(known):
        for line, (case, colour) in enumerate(CASE_COLOURS.items()):
            y = place + (line - 1) * height
            if row := found.get(case):
                axes.barh(y, row["ratio"], height * 0.92, color=colour)
                axes.text(row["ratio"], y, f"  {row['ratio']:.2g} ×", va="center", fontsize=8)
            else:
                why = "not supported" if refused(rows, name, **targets.CASES[case]) else "not measured"
                axes.text(1, y, f"  {case}: {why}", va="center", fontsize=7, color="#757575")
    axes.axvline(1, color="#212121", linewidth=1)
    axes.text(1, -0.62, "binxent = 1", fontsize=8, ha="left", va="bottom")
    axes.set_yticks(range(len(known)), [name for name, _ in known])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(row["ratio"] for _, found in known for row in found.values()))
    axes.set_title("Time of loss and gradient, relative to binxent", pad=14)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in CASE_COLOURS.values()]
    axes.legend(handles, CASE_COLOURS, loc="lower right", title="4096 × 4096, mean")
    note(figure, rows)
    return figure


def gain(rows: Sequence[Row]) -> Figure | None:
    """The time of each peer relative to ours, by the number of elements."""
    where = {k: v for k, v in results.HEADLINE.items() if k != "elements"}
    chosen = results.select(rows, **where, threads=max((row["threads"] or 0) for row in rows))
    figure, axes = plt.subplots(figsize=(8, 4.4))
    ends = []
    for (framework, way), name in NAMES.items():
        points = sorted(
            (row["elements"], row["ratio"])
            for row in chosen
            if (row["framework"], row["way"]) == (framework, way) and row["ratio"]
        )
        if len(points) > 2:
            colour = "#616161" if framework == "numpy" else COLOURS[way]
            dashes = {"linestyle": (0, (4, 2))} if way == "formula" else {}
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, color=colour, label=name, **dashes)
            ends.append(points[-1][1])
    if not ends:
        plt.close(figure)
        return None
    axes.axhline(1, color=OURS, linewidth=2.4)
    axes.text(2e7, 0.95, "binxent = 1", color=OURS, va="top", ha="center", fontsize=9)
    axes.set(xscale="log", yscale="log", xlabel="elements of the logits")
    axes.set_yticks([0.3, 1, 3, 10, 30], ["0.3 ×", "1 ×", "3 ×", "10 ×", "30 ×"])
    axes.minorticks_off()
    axes.grid(True, which="major", color="#eeeeee")
    axes.set_title("Time of loss and gradient, relative to binxent, by size (float32, mean)")
    figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside right center")
    note(figure, rows)
    return figure


def sizes(rows: Sequence[Row]) -> Figure | None:
    """The time per element by the number of elements, with a panel for each framework."""
    conditions = {k: v for k, v in results.HEADLINE.items() if k != "elements"}
    chosen = results.select(rows, **conditions, threads=max((row["threads"] or 0) for row in rows))
    frameworks = [
        f
        for f in ("torch", "jax", "paddle", "mindspore")
        if len({r["elements"] for r in chosen if r["framework"] == f}) > 2
    ]
    if not frameworks:
        return None
    figure, grid = plt.subplots(2, -(-len(frameworks) // 2), figsize=(9, 6.4), sharex=True, sharey=True, squeeze=False)
    for axes, framework in zip(grid.T.flat, frameworks, strict=False):
        for way in dict.fromkeys(row["way"] for row in chosen if row["framework"] == framework):
            if way not in COLOURS:
                continue
            points = sorted(
                (r["elements"], 1e9 * r["median"] / r["elements"])
                for r in chosen
                if (r["framework"], r["way"]) == (framework, way)
            )
            style = {"linestyle": ":"} if way == "stream" else {"marker": "o", "markersize": 3.5}
            label = "memory alone" if way == "stream" else way
            axes.plot(
                *zip(*points, strict=True),
                color=COLOURS[way],
                linewidth=2.4 if way == "binxent" else 1.4,
                label=label,
                **style,
            )
        axes.set(
            xscale="log",
            yscale="log",
            title={"torch": "PyTorch", "jax": "JAX", "paddle": "PaddlePaddle", "mindspore": "MindSpore"}[framework],
        )
        axes.grid(True, which="major", color="#eeeeee")
        axes.legend(fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("elements")
    for axes in grid[:, 0]:
        axes.set_ylabel("ns per element, forward + backward")
    note(figure, rows)
    return figure


def peaks(rows: Sequence[Row]) -> Figure | None:
    """The extra memory of a step, in tensors of the logits' size."""
    ours = {("torch", "binxent"): "binxent", ("torch", "binxent in place"): "binxent, in place"}
    bars = [
        (name, row)
        for (framework, way), name in (ours | NAMES).items()
        if (row := results.headline(rows, quantity="memory", framework=framework, way=way))
    ]
    if len(bars) < 2:
        return None
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.34 * len(bars)))
    for place, (name, row) in enumerate(bars):
        axes.barh(place, row["median"], 0.7, color=OURS if name.startswith("binxent") else "#bdbdbd")
        axes.text(row["median"], place, f"  {row['median']:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.invert_yaxis()
    axes.set_title("Most memory beyond the operands, in tensors of the logits' size (the gradient is one)")
    note(figure, rows)
    return figure


def tail(rows: Sequence[Row]) -> Figure | None:
    """The true loss and gradient, and what each framework computes, where a model is already right."""
    shown = {("torch", "binxent"): "binxent, in every framework"} | NAMES
    figure, both = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True)
    lowest = 1e-45  # below the smallest float32: where a result of 0 is drawn
    for axes, output, target in ((both[0], "loss", 0), (both[1], "gradient", 1)):
        here = [row for row in rows if row["output"] == output and row["target"] == str(target)]
        truth = sorted({(row["logit"], abs(row["value"])) for row in here if row["way"] == "exact"})
        lines = {
            name: [(row["logit"], abs(row["value"])) for row in here if (row["framework"], row["way"]) == key]
            for key, name in shown.items()
        }
        axes.plot(
            *zip(*truth, strict=True), color="#bdbdbd", linewidth=7, label="the true value", solid_capstyle="butt"
        )
        zeros: dict[float, list[str]] = {}
        for (framework, way), name in shown.items():
            points = [(x, max(value, lowest)) for x, value in lines[name]]
            if points:
                colour = "#616161" if framework == "numpy" else COLOURS[way]
                axes.plot(*zip(*points, strict=True), color=colour, label=name, **LINES.get(way, {"linewidth": 1.3}))
            gone = [x for x, value in lines[name] if value == 0]
            if gone and gone[0] < truth[-1][0] - 30:
                zeros.setdefault(gone[0], []).append(name)
        for height, (x, names) in enumerate(sorted(zeros.items())):
            axes.annotate(
                f"0 from {x:g} on:\n" + "\n".join(names),
                (x, 10.0 ** (-38 + 8 * height)),
                xytext=(x + 3, 10.0 ** (-38 + 8 * height)),
                fontsize=7.5,
                va="center",
            )
        sign = "−" if target == 0 else ""
        label = f"the logit is {sign}x: the label is {target}, and the model is right"
        axes.set(yscale="log", ylim=(lowest / 10, 10), xlabel=label)
        axes.set_title({"loss": "Loss of a negative", "gradient": "Gradient of a positive (its size)"}[output])
        axes.grid(True, which="major", color="#eeeeee")
    powers = range(-40, 1, 10)
    both[0].set_yticks([*(10.0**e for e in powers), lowest], [*(f"$10^{{{e}}}$" for e in powers), "0"])
    figure.legend(*both[0].get_legend_handles_labels(), fontsize=8, loc="outside right center")
    note(figure, rows)
    return figure


def gpu(rows: Sequence[Row]) -> Figure | None:
    """The time per element by size, with a panel for each dtype."""
    plain = [row for row in results.select(rows, options="plain") if row["target"] == row["dtype"]]
    dtypes = list(dict.fromkeys(row["dtype"] for row in plain))
    if not dtypes:
        return None
    figure, grid = plt.subplots(1, len(dtypes), figsize=(9, 3.8), sharey=True, squeeze=False)
    for axes, dtype in zip(grid[0], dtypes, strict=True):
        of_dtype = [row for row in plain if row["dtype"] == dtype]
        for way in ("torch", "torch.compile", "binxent", "binxent compiled"):
            points = [(row["elements"], 1e9 * row["median"] / row["elements"]) for row in of_dtype if row["way"] == way]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=way, color=GPU_COLOURS[way])
        axes.set(xscale="log", yscale="log", title=dtype, xlabel="elements")
    grid[0][0].set_ylabel("ns per element")
    grid[0][0].legend(fontsize=8)
    row = rows[0]
    figure.supxlabel(
        f"{row['card']}; torch {row['torch']}; {row['date'][:10]}", fontsize=8, color="#757575", x=0.01, ha="left"
    )
    return figure


def draw(speed_rows: Sequence[Row], tail_rows: Sequence[Row], folder: Path, gpu_rows: Sequence[Row] = ()) -> None:
    with mpl.rc_context(STYLE), mpl.rc_context({"backend": "svg"}):
        for name, chart, rows in (
            ("speed", speed, speed_rows),
            ("gain", gain, speed_rows),
            ("sizes", sizes, speed_rows),
            ("memory", peaks, speed_rows),
            ("tail", tail, tail_rows),
            ("gpu", gpu, gpu_rows),
        ):
            if rows and (figure := chart(rows)):
                save(figure, folder / f"{name}.svg")
