"""The command: options, their checks, and the order of events."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from binxent import __version__
from binxent.commands.paths import writable, write

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = (".png", ".svg", ".pdf")
AT_LEAST_1 = click.IntRange(min=1)


@click.command(
    epilog="""
    \b
    Examples:
      binxent demo
      binxent demo --output figures/digits.svg
      binxent demo --epochs 200 --seed 7
    """
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=str),
    default="binxent-demo.png",
    show_default=True,
    callback=writable(FORMATS),
    help="Where the picture goes: a .png, .svg or .pdf.",
)
@click.option("--epochs", type=AT_LEAST_1, default=60, show_default=True, help="Passes over the training images.")
@click.option("--batch-size", type=AT_LEAST_1, default=32, show_default=True, help="Images in each step.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For the split and the order.")
def demo(output: Path, epochs: int, batch_size: int, seed: int) -> None:
    """Train a multi-label classifier on real data.

    Trains one linear layer on 1797 handwritten digits with thirteen labels, on NumPy alone: without pos_weight, and
    with pos_weight taken from the training data. Prints loss, precision and recall of each label, and draws how the
    loss falls and what pos_weight changes. It takes seconds.
    """
    # matplotlib refuses to be imported where the environment names a backend that it does not know.
    os.environ["MPLBACKEND"] = "agg"
    # Here and not above: `binxent --help` is quick, and whatever is missing is named before the training.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from binxent.demo import digits, picture, table, training

    train, test = digits.load(seed)
    pos_weight = digits.balance(train.targets)

    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        console=Console(stderr=True),
    )

    def run(description: str, weights: digits.Array | None) -> training.Run:
        bar = bars.add_task(description, total=epochs)
        return training.train(
            train,
            test,
            pos_weight=weights,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            after_epoch=lambda: bars.advance(bar),
        )

    with bars:
        plain, weighted = run("without pos_weight", None), run("with pos_weight", pos_weight)

    conditions = (
        f"binxent {__version__}: one linear layer, {len(train.images)} training and {len(test.images)} test images of "
        f"the UCI digits; Adam with step {training.STEP:g}, epochs {epochs}, batch size {batch_size}, seed {seed}; "
        "a label is predicted where its logit exceeds 0."
    )
    drawn = picture.draw(plain, weighted, pos_weight, conditions, output.suffix.lower().removeprefix("."))
    write(output, drawn)

    console = Console()
    console.print(table.of(plain, weighted, train.targets, pos_weight, console.width))
    click.echo(f"Picture: {click.format_filename(output)}")
