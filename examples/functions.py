"""Reads the data of extreme.py: the functions of Python's standard library and of PyTorch, and the names they use.

These are real data that every installation has. A function is described by words: those of its name, its parameters,
its docstring and its module. Its labels are the names that its body mentions. Their frequencies follow a power law: a
few names are everywhere, and almost half of more than 100 000 occur in one function alone.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
KNOWN_WORDS = 50_000  # the most frequent ones
Described = list[tuple[list[str], list[str]]]  # words and names of each function


@dataclass(frozen=True)
class Ragged:
    """Lists of integers, one after another: row i is ``flat[offsets[i]:offsets[i + 1]]``."""

    flat: np.ndarray
    offsets: np.ndarray

    def rows(self, chosen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The chosen rows: their integers, and where each row begins."""
        sizes = self.offsets[chosen + 1] - self.offsets[chosen]
        begins = np.cumsum(sizes) - sizes
        places = np.arange(sizes.sum()) + np.repeat(self.offsets[chosen] - begins, sizes)
        return torch.from_numpy(self.flat[places]), torch.from_numpy(begins)


@dataclass(frozen=True)
class Functions:
    words: Ragged
    labels: Ragged
    names: list[str]  # of the labels, the most frequent first
    known_words: int
    training: np.ndarray  # which functions to train with
    test: np.ndarray  # those of every tenth file, so that no function is trained with its neighbours


def described(file: Path) -> Described:
    """The words and the names of each function in a file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the file's own escape sequences
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # the standard library has tests of files that are wrong
        return []
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        parameters = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        text = " ".join([file.parent.name, file.stem, node.name, *parameters, ast.get_docstring(node) or ""])
        names = set()
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name):
                names.add(inner.id)
            elif isinstance(inner, ast.Attribute):
                names.add(inner.attr)
        if names:
            found.append(([word.lower() for word in WORD.findall(text)], sorted(names)))
    return found


def _ragged(lists: Iterable[list[str]], place: dict[str, int]) -> Ragged:
    rows = [[place[word] for word in words if word in place] for words in lists]
    return Ragged(
        np.fromiter((number for row in rows for number in row), np.int64),
        np.cumsum([0, *map(len, rows)], dtype=np.int64),
    )


def load(every: int, advance: Callable[[int, int], None]) -> Functions:
    """Reads each n-th file, on all processors; ``advance`` is told how many of how many are read."""
    library, framework = Path(sysconfig.get_path("stdlib")), Path(torch.__file__).parent
    files = [file for file in sorted(library.rglob("*.py")) if "site-packages" not in file.parts]
    files = [*files, *sorted(framework.rglob("*.py"))][::every]
    functions: Described = []
    of_test = []
    with ProcessPoolExecutor() as pool:
        for number, found in enumerate(pool.map(described, files, chunksize=16)):
            functions += found
            of_test += [number % 10 == 0] * len(found)
            advance(number + 1, len(files))
    words, names = zip(*functions, strict=True)
    known = [word for word, _ in Counter(word for row in words for word in row).most_common(KNOWN_WORDS)]
    labels = [name for name, _ in Counter(name for row in names for name in row).most_common()]
    test = np.array(of_test)
    return Functions(
        words=_ragged(words, {word: place for place, word in enumerate(known)}),
        labels=_ragged(names, {name: place for place, name in enumerate(labels)}),
        names=labels,
        known_words=len(known),
        training=np.flatnonzero(~test),
        test=np.flatnonzero(test),
    )
