"""The command itself: its options, their checks, and the order of its steps."""

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
    help="File for the picture: .png, .svg or .pdf.",
)
@click.option("--epochs", type=AT_LEAST_1, default=60, show_default=True, help="Passes over the training images.")
@click.option("--batch-size", type=AT_LEAST_1, default=32, show_default=True, help="Images per step.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the split and the order.")
def demo(output: Path, epochs: int, batch_size: int, seed: int) -> None:
    """Train a multi-label classifier on real data.

    Trains one linear layer on 1797 handwritten digits with thirteen labels, in NumPy alone: once without pos_weight,
    and once with pos_weight taken from the training data. Prints the loss, precision and recall of each label, and
    draws how the loss falls and what pos_weight changes. It takes seconds.
    """
    # matplotlib cannot be imported if MPLBACKEND names a backend that it does not know. The picture needs no display.
    os.environ["MPLBACKEND"] = "agg"
    # Imported here and not above, so that `binxent --help` stays quick. A missing library is named before the training.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from binxent.demo import digits, picture, table, training
    from binxent.labels import count_labels

    train, test = digits.load(seed)
    counts = count_labels(train.targets, names=list(digits.LABELS))
    pos_weight = counts.pos_weight()

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
    console.print(table.of(plain, weighted, counts, console.width))
    click.echo(f"Picture: {click.format_filename(output)}")
