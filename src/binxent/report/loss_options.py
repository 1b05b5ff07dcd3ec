"""The options of the loss that a report adds up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from binxent import options
from binxent.arrays import as_array
from binxent.options import RefusalError, Terms
from binxent.report.batch import readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from binxent.arrays import Array


@dataclass(frozen=True, eq=False)
class LossOptions:
    """The options of the loss that are the same in every batch.

    Attributes:
        terms: those that are numbers.
        pos_weight, neg_weight: [labels] or one for all; None where the weight is 1.
    """

    terms: Terms
    pos_weight: Array | None = None
    neg_weight: Array | None = None

    @property
    def are_default(self) -> bool:
        """Whether the loss of an element that is counted is the one without any option."""
        return self.pos_weight is self.neg_weight is None and self.terms._replace(ignore_index=None) == Terms()

    def arguments(self) -> dict[str, Any]:
        """The options as the loss functions take them, but for ``ignore_index``: what it hides is never counted."""
        terms = self.terms
        if terms.gamma_negative is None:
            gammas = {"gamma": terms.gamma}
        else:
            gammas = {"gamma_positive": terms.gamma, "gamma_negative": terms.gamma_negative}
        return {
            "label_smoothing": terms.label_smoothing,
            **gammas,
            "alpha": terms.alpha,
            "margin": terms.margin,
            "focal": terms.focal,
            "pos_weight": self.pos_weight,
            "neg_weight": self.neg_weight,
        }

    def given(self) -> dict[str, Any]:
        """The options that do not have their defaults, by name."""
        defaults = {**options.DEFAULTS, "gamma_positive": 0, "gamma_negative": None}
        every = {"ignore_index": self.terms.ignore_index, **self.arguments()}
        return {
            name: value
            for name, value in every.items()
            if (value is not None if isinstance(value, np.ndarray) else value != defaults.get(name))
        }

    def __str__(self) -> str:
        """The options in words, for a line below a table: a weight is named, a number shown."""
        shown = {name: value for name, value in self.given().items() if name != "ignore_index"}
        return ", ".join(
            name if isinstance(value, np.ndarray) else f"{name}={value if isinstance(value, str) else f'{value:g}'}"
            for name, value in shown.items()
        )

    def check_alike(self, other: LossOptions) -> None:
        """Raises ValueError unless the other options make the same loss."""
        mine, theirs = (terms._replace(ignore_index=None) for terms in (self.terms, other.terms))
        # ignore_index by its text, because NaN does not equal NaN.
        if mine != theirs or str(self.terms.ignore_index) != str(other.terms.ignore_index):
            raise ValueError(f"reports differ in the options of the loss: {self.terms} and {other.terms}")
        for name in ("pos_weight", "neg_weight"):
            one, two = (
                np.ones(1) if weight is None else weight for weight in (getattr(self, name), getattr(other, name))
            )
            if not (one == two).all():
                raise ValueError(f"reports differ in {name}")


def checked(
    names: Sequence[str],
    pos_weight: Any,
    neg_weight: Any,
    ignore_index: object,
    label_smoothing: object,
    gamma: object,
    **family: object,
) -> LossOptions:
    """The options, of which ``family`` are those of ``options.focal``.

    Raises:
        TypeError: an option is no number.
        ValueError: one is out of range, or a weight does not fit the labels, is negative or not finite.
    """
    terms = options.terms(ignore_index, label_smoothing, gamma, "float32", options.focal(**family))  # type: ignore[arg-type]
    weights = (_weight(*pair, names) for pair in (("pos_weight", pos_weight), ("neg_weight", neg_weight)))
    return LossOptions(terms or Terms(), *weights)


def _weight(name: str, given: Any, names: Sequence[str]) -> Array | None:
    if given is None:
        return None
    weight = readable(as_array(name, given))
    options.check_broadcast(name, weight.shape, (len(names),))
    wrong = np.flatnonzero(~((weight >= 0) & (weight < math.inf)))
    if len(wrong):
        which = f" of label {names[wrong[0]]}" if weight.size > 1 else ""
        raise RefusalError(name, f"{weight.flat[wrong[0]]}{which}; expected a finite number of at least 0")
    return weight
