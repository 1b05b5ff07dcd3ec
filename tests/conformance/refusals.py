"""Bad input, asked of every face: each row is a call, and what its message has to say.

A message names the argument, what was given and what is expected. The exception is Python's own by kind, or what the
face's framework raises in its place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from binxent import options
from tests.conformance.differences import LOGITS, PROBABILITIES, Library

NAN, INF = float("nan"), float("inf")
X, Y = np.array([[0.25, 0.5, 0.75], [0.5, 0.5, 0.5]]), np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.5]])


@dataclass(frozen=True)
class Row:
    """``options`` that are lists or arrays become tensors of ``dtypes``, float32 where nothing else is said."""

    name: str
    error: type[Exception]
    words: str  # a regular expression
    options: dict[str, Any] = field(default_factory=dict)
    input: Any = field(default_factory=lambda: X)
    target: Any = field(default_factory=lambda: Y)
    dtypes: dict[str, str] = field(default_factory=dict)
    functions: tuple[str, ...] = (LOGITS, PROBABILITIES)
    errors: dict[str, type[Exception] | None] = field(default_factory=dict)  # of a framework's own; None: it is taken

    def expected(self, library: Library) -> type[Exception] | None:
        return self.errors.get(library.name, self.error)

    def call(self, library: Library, function: str) -> Any:
        def tensor(name: str, value: Any) -> Any:
            return library.tensor(value, self.dtypes.get(name, "float32"))

        given = {
            name: tensor(name, value) if isinstance(value, (list, np.ndarray)) else value
            for name, value in self.options.items()
        }
        x, y = tensor("input", self.input), tensor("target", self.target)
        return library.finished(getattr(library.face, function)(x, y, **given))


def numbers() -> list[Row]:
    between, not_negative = "; expected a number between 0 and 1", "; expected a finite number that is not negative"
    wanted = "; expected NaN or an integer that float32, the target's dtype, has exactly"
    rows = [
        *(("label_smoothing", value, ValueError, f"{value}{between}") for value in (1.5, -0.1, NAN, INF)),
        *(("gamma", value, ValueError, f"{value}{not_negative}") for value in (-1.0, INF, NAN)),
        *(("ignore_index", value, ValueError, f"{value}{wanted}") for value in (0.5, INF, 2**24 + 1)),
        ("gamma", 10**400, ValueError, "expected a number that fits into a float, got a larger int"),
        *(
            (name, value, TypeError, f"expected a number, got {type(value).__name__}")
            for name in ("label_smoothing", "gamma", "ignore_index")
            for value in ("0", True, (1.0,))
        ),
        *((name, None, TypeError, "expected a number, got NoneType") for name in ("label_smoothing", "gamma")),
    ]
    return [
        Row(f"{name}={str(value)[:9]}", error, rf"^{name}: {words}", {name: value})
        for name, value, error, words in rows
    ]


NUMBERS = numbers()
ALL_REDUCTIONS = "".join(f"(?=.*'{name}')" for name in options.REDUCTIONS)
# An operand's name and shape, the input's shape, and what the message ends with.
RESHAPINGS = [
    *(
        (name, (c,), (b, c, 4, 5), f"For one {name} per class, reshape it to ({c}, 1, 1).")
        for name in ("pos_weight", "weight", "mask")
        for b, c in ((2, 3), (3, 3))
    ),
    ("pos_weight", (3,), (2, 3, 4), "For one pos_weight per class, reshape it to (3, 1)."),
    ("pos_weight", (2,), (2, 3, 4), "For one pos_weight per sample, reshape it to (2, 1, 1)."),
    ("weight", (2,), (2, 3), "For one weight per sample, pass sample_weight= or reshape it to (2, 1)."),
    ("mask", (2, 4), (2, 4, 3), "If it has these axes, reshape it to (2, 4, 1)."),
    ("mask", (3, 3), (3, 3, 2), "If it has these axes, reshape it to (3, 3, 1)."),
    ("mask", (2, 4, 5), (2, 3, 4, 5), "If it has these axes, reshape it to (2, 1, 4, 5)."),
    ("weight", (2, 3), (2, 3, 3), "If it has these axes, reshape it to (2, 3, 1) or (2, 1, 3)."),
]
ROWS = [
    *NUMBERS,
    Row(
        "an ignored label that bfloat16 has not",
        ValueError,
        r"^ignore_index: -257(\.0)?; expected NaN or an integer that bfloat16, the target's dtype, has exactly",
        {"ignore_index": -257},
        dtypes={"target": "bfloat16"},
        functions=(LOGITS,),
    ),
    *(
        Row(
            f"reduction={wrong!r}",
            ValueError,
            rf"(?=.*'?{wrong}'? is not a valid value for reduction|.*received {wrong}){ALL_REDUCTIONS}",
            {"reduction": wrong},
        )
        for wrong in ("average", "avg")
    ),
    Row(
        "batchmean of a scalar",
        ValueError,
        "reduction: 'batchmean' of an input without a first axis",
        {"reduction": "batchmean"},
        0.5,
        1.0,
    ),
    *(
        Row(
            f"{name} of another shape",
            ValueError,
            rf"{name}: shape \(2,\) does not broadcast to the input's shape \(2, 3\)",
            {name: np.ones(2)},
            errors={"torch": RuntimeError},
        )
        for name in ("weight", "pos_weight", "mask")
    ),
    *(
        Row(
            f"{name} {list(shape)} beside {list(to)}",
            ValueError,
            re.escape(f"shape {shape} does not broadcast to the input's shape {to}. {hint}")
            + r"(\n|$)",  # JAX adds a note
            {name: np.ones(shape)},
            np.full(to, 0.5),
            np.ones(to),
            errors={"torch": RuntimeError},
        )
        for name, shape, to, hint in RESHAPINGS
    ),
    Row(
        "sample_weight of another shape",
        ValueError,
        r"^sample_weight: shape \(3,\), but the input's shape is \(2, 3\)",
        {"sample_weight": np.ones(3)},
    ),
    Row(
        "a weight of another shape, with an ignored label",
        ValueError,
        r"weight: shape \(5, 3\) does not broadcast to the input's shape \(2, 3\)",
        {"weight": np.ones((5, 3)), "ignore_index": -100},
        errors={"torch": RuntimeError},
    ),
    Row("a target of another shape", ValueError, r"shape \(2, 1\)|\[2, 1\]", target=np.ones((2, 1))),
    Row(
        "an integer input",
        TypeError,
        r"input|logit",
        input=np.ones((2, 3)),
        dtypes={"input": "int32"},
        errors={"torch": NotImplementedError, "paddle": RuntimeError},
    ),
    *(
        Row(
            f"{name} that is a tuple",
            TypeError,
            f"{name}.*tuple",
            {name: (1.0, 1.0, 1.0)},
            errors={"paddle": ValueError},
        )
        for name in ("weight", "pos_weight", "sample_weight", "mask")
    ),
    Row(
        "a probability outside",
        ValueError,
        r"input\[0, 1\] is 2\.0; logits belong to binary_cross_entropy_with_logits$",
        input=np.where(X == 0.5, 2.0, X),
        functions=(PROBABILITIES,),
        errors={"torch": RuntimeError},
    ),
    Row(
        "a target outside",
        ValueError,
        r"target\[0, 0\] is 3",
        target=np.where(Y == 1, 3.0, Y),
        functions=(PROBABILITIES,),
        errors={"torch": RuntimeError, "paddle": None, "mindspore": None},
    ),
]
