"""``binxent info``: shows what is installed, and whether it works."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass

import click

SECONDS = 120  # a framework's first import may have to read a gigabyte

# The gradient of the mean loss of the logits 0 and 2 with the targets 1 and 0: −σ(0)/2 and σ(2)/2.
EXPECTED = (-0.25, 0.4403985)
CHECK = """
from binxent.{face} import binary_cross_entropy_with_logits as loss
{imports}
def check():
    {body}
value, gradient = check()
assert abs(value - 1.4100376) < 1e-5, f"the loss is {{value}}"
assert all(abs(g - e) < 1e-5 for g, e in zip(gradient, {expected})), f"the gradient is {{gradient}}"
"""


@dataclass(frozen=True)
class Face:
    """A face, the distributions that its framework may come in, and the code that gets a loss and a gradient."""

    name: str
    title: str
    distributions: tuple[str, ...]
    imports: str
    body: str


@dataclass(frozen=True)
class Row:
    face: str
    framework: str
    version: str | None  # None: not installed
    state: str  # "works", or why not
    works: bool | None  # None: not tried


FACES = (
    Face(
        "numpy",
        "NumPy",
        ("numpy",),
        "import numpy as np; from binxent.numpy import value_and_grad",
        "v, g = value_and_grad(np.array([0.0, 2.0], np.float32), np.array([1, 0])); return float(v), g.tolist()",
    ),
    Face(
        "torch",
        "PyTorch",
        ("torch",),
        "import torch",
        "x = torch.tensor([0.0, 2.0], requires_grad=True); v = loss(x, torch.tensor([1.0, 0.0])); v.backward(); "
        "return v.item(), x.grad.tolist()",
    ),
    Face(
        "paddle",
        "PaddlePaddle",
        ("paddlepaddle", "paddlepaddle-gpu"),
        "import paddle",
        "x = paddle.to_tensor([0.0, 2.0], stop_gradient=False); v = loss(x, paddle.to_tensor([1.0, 0.0])); "
        "v.backward(); return float(v), x.grad.tolist()",
    ),
    Face(
        "mindspore",
        "MindSpore",
        ("mindspore",),
        "import mindspore",
        "x, y = mindspore.Tensor([0.0, 2.0], mindspore.float32), mindspore.Tensor([1.0, 0.0], mindspore.float32); "
        "v, g = mindspore.value_and_grad(lambda x: loss(x, y))(x); return float(v), g.asnumpy().tolist()",
    ),
    Face(
        "jax",
        "JAX",
        ("jax",),
        "import jax, jax.numpy as jnp",
        "v, g = jax.value_and_grad(lambda x: loss(x, jnp.array([1.0, 0.0])))(jnp.array([0.0, 2.0])); "
        "return float(v), g.tolist()",
    ),
)


def _version(distributions: tuple[str, ...]) -> str | None:
    from importlib import metadata

    found = (next(iter(metadata.distributions(name=name)), None) for name in distributions)
    return next((distribution.version for distribution in found if distribution), None)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def try_face(face: Face) -> Row:
    """Tries a face in a process of its own, so that a crash becomes a row and does not end the command."""
    import subprocess
    from importlib import util

    version = _version(face.distributions)
    if version is None:
        return Row(face.name, face.title, None, "not installed", None)
    if util.find_spec(f"binxent.{face.name}") is None:
        return Row(face.name, face.title, version, "binxent has no face for it here", None)
    program = CHECK.format(face=face.name, imports=face.imports, body=face.body, expected=EXPECTED)
    try:
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return Row(face.name, face.title, version, f"no answer within {SECONDS} s", False)
    if run.returncode < 0:
        return Row(face.name, face.title, version, f"crashed: signal {-run.returncode}", False)
    if run.returncode > 0:
        return Row(face.name, face.title, version, _last_line(run.stderr), False)
    return Row(face.name, face.title, version, "works", True)


@click.command(
    epilog="""
    \b
    Examples:
      binxent info
      binxent info --json
      binxent info --no-test
    """
)
@click.option("--test/--no-test", default=True, help="Try each face on two logits, in a process of its own.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(test: bool, as_json: bool) -> None:
    """Show versions, and which framework works here.

    Exit code 1 if a framework is installed and its face does not work.
    """
    import platform
    from concurrent.futures import ThreadPoolExecutor

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from binxent import __version__, kernel

    if test:
        with ThreadPoolExecutor(len(FACES)) as pool:
            rows = list(pool.map(try_face, FACES))
    else:
        versions = [(face, _version(face.distributions)) for face in FACES]
        rows = [Row(f.name, f.title, v, "not tried" if v else "not installed", None) for f, v in versions]

    facts = {
        "binxent": __version__,
        "Python": f"{platform.python_version()}, {platform.system()} {platform.machine()}",
        "instruction set": kernel.instruction_set,
        "threads": kernel.num_threads(),
    }
    if as_json:
        faces = {row.face: {k: v for k, v in asdict(row).items() if k != "face"} for row in rows}
        click.echo(json.dumps({**facts, "faces": faces}, indent=2))
    else:
        console = Console()
        for name, fact in facts.items():
            console.print(Text(f"{name + ':':<17}{fact}"))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("face", "framework", "version", "state"):
            table.add_column(heading, overflow="fold")
        for row in rows:
            style = {True: "green", False: "red", None: "dim"}[row.works]
            table.add_row(f"binxent.{row.face}", row.framework, row.version or "-", Text(row.state, style=style))
        console.print(table)
    if any(row.works is False for row in rows):
        raise click.exceptions.Exit(1)
