"""Where the faces differ on purpose: each row of docs/differences.md is a probe, and each cell what it finds.

``python -m tests.conformance.differences`` writes the columns of the installed frameworks into the page.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.reference import DTYPES

PAGE = Path(__file__).parents[2] / "docs" / "differences.md"

Api = ModuleType | SimpleNamespace
Probe = Callable[["Library", Api], str]

LOGITS, PROBABILITIES = "binary_cross_entropy_with_logits", "binary_cross_entropy"
INTEGERS = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
FLOATING = ("float16", "bfloat16", "float32", "float64")


def public(functions: Any, classes: Any) -> SimpleNamespace:
    """A framework's own, by the names that every face has."""
    names = {name: getattr(functions, name) for name in (LOGITS, PROBABILITIES)}
    return SimpleNamespace(**names, BCELoss=classes.BCELoss, BCEWithLogitsLoss=classes.BCEWithLogitsLoss)


@dataclass(frozen=True)
class Library:
    """A framework as the probes see it."""

    name: str

    @property
    def missing(self) -> str | None:
        for package in (self.name, f"binxent.{self.name}"):
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed"
        return None

    @cached_property
    def module(self) -> ModuleType:
        return importlib.import_module(self.name)

    @cached_property
    def face(self) -> ModuleType:
        return importlib.import_module(f"binxent.{self.name}")

    @property
    def own(self) -> Api | None:
        if self.name in ("torch", "paddle"):
            return public(self.module.nn.functional, self.module.nn)
        if self.name == "mindspore":
            return public(self.module.mint.nn.functional, self.module.mint.nn)
        return None

    @property
    def mode(self) -> AbstractContextManager[Any]:
        return self.module.enable_x64(True) if self.name == "jax" else nullcontext()

    def tensor(self, values: Any, dtype: str = "float32") -> Any:
        array = np.asarray(values).astype(DTYPES.get(dtype, dtype))
        if self.name == "numpy":
            return array
        if self.name == "jax":
            return self.module.numpy.asarray(array)
        name = {"bool": "bool_"}.get(dtype, dtype) if self.name == "mindspore" else dtype
        kind = getattr(self.module, name)
        wide = array.astype(np.float32) if dtype == "bfloat16" else array
        if self.name == "torch":
            return self.module.from_numpy(np.ascontiguousarray(wide).reshape(wide.shape)).to(kind)
        if self.name == "paddle":
            return self.module.to_tensor(wide).astype(kind)
        return self.module.Tensor(wide).astype(kind)

    def finished(self, tensor: Any) -> Any:
        """MindSpore raises when a value is asked for."""
        if self.name == "mindspore":
            tensor.asnumpy()
        return tensor

    def shape(self, loss: Any) -> str:
        return f"of shape {list(self.finished(loss).shape)}"

    def dtype(self, loss: Any) -> str:
        return str(self.finished(loss).dtype).rpartition(".")[2].lower()


LIBRARIES = [Library(name) for name in ("numpy", "torch", "paddle", "mindspore", "jax")]


@dataclass(frozen=True)
class Row:
    name: str
    probe: Probe
    follows: bool  # whether each face does as its framework's own loss

    def outcome(self, library: Library, api: Api) -> str | type[Exception]:
        with library.mode:
            try:
                return self.probe(library, api)
            except Exception as error:
                return type(error)

    @property
    def heading(self) -> str:
        return self.name if self.follows else f"*{self.name}*"

    def cell(self, library: Library) -> str:
        found = self.outcome(library, library.face)
        if isinstance(found, str):
            return found
        builtin = found.__bases__ if found.__module__.startswith("binxent") else (found,)
        return " and ".join(f"`{kind.__name__}`" for kind in builtin)


@dataclass(frozen=True)
class Part:
    title: str
    rows: list[Row] = field(default_factory=list)


PARTS: list[Part] = []


def part(title: str) -> None:
    PARTS.append(Part(title))


def row(name: str, *, follows: bool = True) -> Callable[[Probe], Probe]:
    def register(probe: Probe) -> Probe:
        PARTS[-1].rows.append(Row(name, probe, follows))
        return probe

    return register


def called(library: Library, api: Api, x: Any, y: Any, function: str = LOGITS, **given: Any) -> Any:
    """A call on arrays; an option that is a list becomes a tensor."""
    given = {n: library.tensor(v) if isinstance(v, (list, np.ndarray)) else v for n, v in given.items()}
    return getattr(api, function)(library.tensor(x), library.tensor(y), **given)


def words(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def parameters(function: Any) -> str:
    found = inspect.signature(function).parameters.values()
    return words(p.name for p in found if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self")


X, Y = np.zeros((2, 3)), np.ones((2, 3))

part("Names")


@row("parameters of the logits form")
def _(library: Library, api: Api) -> str:
    return parameters(getattr(api, LOGITS))


@row("of the probability form")
def _(library: Library, api: Api) -> str:
    return parameters(getattr(api, PROBABILITIES))


@row("of `BCEWithLogitsLoss`")
def _(library: Library, api: Api) -> str:
    return parameters(api.BCEWithLogitsLoss)


@row("of `BCELoss`")
def _(library: Library, api: Api) -> str:
    return parameters(api.BCELoss)


@row("a class is a", follows=False)
def _(library: Library, api: Api) -> str:
    for base in api.BCEWithLogitsLoss.__mro__:
        if not base.__module__.startswith("binxent") and base is not object:
            root = "mint.nn" if library.name == "mindspore" else f"{library.name}.nn"
            return f"`{root}.{base.__name__}`"
    return "pytree" if library.name == "jax" else "plain class"


@row("options that NumPy's face has not", follows=False)
def _(library: Library, api: Api) -> str:
    def options(module: Any) -> set[str]:
        functions = [inspect.signature(getattr(module, name)) for name in (LOGITS, PROBABILITIES)]
        return {p.name for function in functions for p in function.parameters.values() if p.kind is p.KEYWORD_ONLY}

    return words(sorted(options(api) - options(LIBRARIES[0].face)))


@row("functions besides", follows=False)
def _(library: Library, api: Api) -> str:
    return words(sorted({*api.__all__} - {LOGITS, PROBABILITIES, "BCELoss", "BCEWithLogitsLoss"}))


@row("derivatives", follows=False)
def _(library: Library, api: Api) -> str:
    operands = [library.tensor(values) for values in ([0.5], [0.25], [2.0], [3.0])]
    loss = getattr(api, LOGITS)

    def total(x: Any, y: Any, w: Any, p: Any) -> Any:
        return loss(x, y, weight=w, pos_weight=p, reduction="sum")

    if library.name == "numpy":
        return "to the input, by `value_and_grad`"
    if library.name in ("mindspore", "jax"):
        slopes = library.module.grad(total, (0, 1, 2, 3))(*operands)
    else:
        for operand in operands:
            operand.stop_gradient, operand.requires_grad = False, True
        total(*operands).backward()
        slopes = [operand.grad for operand in operands]
    names = ("input", "target", "`weight`", "`pos_weight`")
    given = [name for name, slope in zip(names, slopes, strict=True) if float(slope.sum()) != 0]
    return f"to {', '.join(given)}"


@row("what is kept under the name `weight`")
def _(library: Library, api: Api) -> str:
    loss = api.BCEWithLogitsLoss(library.tensor([1.0]))
    if library.name == "jax":
        return "a leaf" if len(library.module.tree.leaves(loss)) == 1 else "nothing"
    if library.name == "numpy":
        return "an attribute" if "weight" in vars(loss) else "nothing"
    if library.name == "mindspore":
        return "a parameter" if loss.parameters_dict() else "an attribute"
    buffers = dict(loss.named_buffers())
    saved = "in `state_dict`" if "weight" in loss.state_dict() else "not in `state_dict`"
    return f"a buffer, {saved}" if "weight" in buffers else "nothing"


part("Reductions")


@row("the default")
def _(library: Library, api: Api) -> str:
    (value,) = {
        inspect.signature(getattr(api, name)).parameters["reduction"].default for name in (LOGITS, PROBABILITIES)
    }
    return f"`{value}`"


@row("an unknown one, given to the class")
def _(library: Library, api: Api) -> str:
    api.BCEWithLogitsLoss(reduction="average")
    return "accepted until the call"


@row('`"MEAN"`, logits form')
def _(library: Library, api: Api) -> str:
    return library.shape(called(library, api, X, Y, reduction="MEAN"))


@row("a number in place of a name")
def _(library: Library, api: Api) -> str:
    return library.shape(called(library, api, X, Y, reduction=1))


@row("shape of a mean")
def _(library: Library, api: Api) -> str:
    return library.shape(called(library, api, X, Y))


@row("a mean is a", follows=False)
def _(library: Library, api: Api) -> str:
    kind = type(called(library, api, X, Y))
    return (
        "`numpy.float32`"
        if library.name == "numpy"
        else "`jax.Array`"
        if library.name == "jax"
        else f"`{library.name}.{kind.__name__}`"
    )


part("Shapes, beside logits [2, 3]")


@row("target [1, 3]")
def _(library: Library, api: Api) -> str:
    return library.shape(called(library, api, X, Y[:1]))


@row("weight [2], one for each sample")
def _(library: Library, api: Api) -> str:
    return library.shape(called(library, api, X, Y, weight=[1.0, 2.0]))


@row("weight [4, 2, 3], which would enlarge the result")
def _(library: Library, api: Api) -> str:
    return library.shape(called(library, api, X, Y, weight=np.ones((4, 2, 3)), reduction="none"))


@row("pos_weight [2]")
def _(library: Library, api: Api) -> str:
    return library.shape(called(library, api, X, Y, pos_weight=[1.0, 2.0]))


@row("pos_weight [4, 2, 3]")
def _(library: Library, api: Api) -> str:
    return library.shape(called(library, api, X, Y, pos_weight=np.ones((4, 2, 3))))


@row("sample_weight [3]", follows=False)
def _(library: Library, api: Api) -> str:
    return library.shape(called(library, api, X, Y, sample_weight=[1.0, 2.0, 3.0]))


part("Types")


@row("a number as weight")
def _(library: Library, api: Api) -> str:
    return library.shape(called(library, api, X, Y, weight=2.0))


@row("a number as pos_weight")
def _(library: Library, api: Api) -> str:
    return library.shape(called(library, api, X, Y, pos_weight=2.0))


@row("a list as target")
def _(library: Library, api: Api) -> str:
    return library.shape(getattr(api, LOGITS)(library.tensor(X[0]), [1.0, 0.0, 1.0]))


def taken(library: Library, names: tuple[str, ...], loss: Callable[[str], Any]) -> str:
    accepted = []
    for name in names:
        try:
            library.finished(loss(name))
            accepted.append(name)
        except Exception:  # noqa: PERF203
            continue
    return words(accepted)


@row("logits of", follows=False)
def _(library: Library, api: Api) -> str:
    loss = getattr(api, LOGITS)
    return taken(library, FLOATING, lambda name: loss(library.tensor(X, name), library.tensor(Y, name)))


@row("integer and boolean targets", follows=False)
def _(library: Library, api: Api) -> str:
    loss = getattr(api, LOGITS)
    return taken(library, INTEGERS, lambda name: loss(library.tensor(X), library.tensor(Y, name)))


@row("weights of", follows=False)
def _(library: Library, api: Api) -> str:
    loss = getattr(api, LOGITS)
    return taken(
        library,
        (*FLOATING, "int64", "bool"),
        lambda name: loss(library.tensor(X), library.tensor(Y), weight=library.tensor(Y, name)),
    )


@row("integer logits and targets")
def _(library: Library, api: Api) -> str:
    return library.dtype(getattr(api, LOGITS)(library.tensor(X, "int32"), library.tensor(Y, "int32")))


@row("complex targets", follows=False)
def _(library: Library, api: Api) -> str:
    return library.dtype(getattr(api, LOGITS)(library.tensor(X), library.tensor(Y, "complex64")))


part("Probabilities")


@row("1.5", follows=False)
def _(library: Library, api: Api) -> str:
    return library.shape(called(library, api, [1.5], [1.0], PROBABILITIES))


@row("NaN")
def _(library: Library, api: Api) -> str:
    return library.shape(called(library, api, [np.nan], [1.0], PROBABILITIES))


@row("a target of 2")
def _(library: Library, api: Api) -> str:
    return library.shape(called(library, api, [0.5, 0.5], [2.0, 2.0], PROBABILITIES))


HEADER = ["", *(library.name for library in LIBRARIES)]


def cells(page: str) -> dict[tuple[str, str, str], str]:
    """What the page says, by part, row and library."""
    found, title = {}, ""
    for line in page.splitlines():
        if line.startswith("## "):
            title = line[3:]
        elif line.startswith("| ") and not line.startswith("| |"):
            name, *texts = (text.strip() for text in line.strip("|").split(" | "))
            found.update({(title, name, library.name): text for library, text in zip(LIBRARIES, texts, strict=True)})
    return found


def table(part: Part, known: dict[tuple[str, str, str], str]) -> str:
    lines = ["|" + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
    for row in part.rows:
        texts = [
            row.cell(li) if not li.missing else known.get((part.title, row.heading, li.name), "") for li in LIBRARIES
        ]
        lines.append(f"| {row.heading} | {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> None:
    page = PAGE.read_text()
    known = cells(page)
    introduction = page.partition("\n## ")[0].rstrip()
    parts = [f"## {part.title}\n\n{table(part, known)}" for part in PARTS]
    PAGE.write_text("\n\n".join([introduction, *parts]) + "\n")


if __name__ == "__main__":
    main()
