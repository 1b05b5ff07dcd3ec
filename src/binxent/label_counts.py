"""Holds the positives and negatives of each label, and computes pos_weight from them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from binxent import formula
from binxent.label_names import are_places, listed, numbered, reordering

if TYPE_CHECKING:
    from binxent.arrays import Array

__all__ = ["METHODS", "LabelCounts", "add"]

METHODS = ("balanced", "sqrt", "effective")


def add(a: Array, b: Array) -> Array:
    """The sum. Integers stay integers, which add up exactly in any order."""
    return np.asarray(a + b)


@dataclass
class LabelCounts:
    """Positives and negatives of each label.

    ``positives`` and ``negatives`` are [labels]: int64 where every label was 0 or 1 and none was weighted, else float64
    sums (Σ w·y and Σ w·(1−y)). A label that is not known counts as neither. ``names`` are the labels' numbers if no
    names are given. ``rows`` is how many rows were counted.

    Examples:
        >>> import numpy as np
        >>> from binxent.labels import count_labels
        >>> counts = count_labels(np.array([[1, 0], [0, 0], [1, 1], [0, 0]]), names=["cat", "dog"])
        >>> counts.pos_weight()
        array([1., 3.], dtype=float32)
        >>> counts.merge(count_labels(np.array([[0, 1]]), names=["cat", "dog"]))
        >>> counts.positives, counts.negatives
        (array([2, 2]), array([3, 3]))
    """

    positives: Array
    negatives: Array
    names: list[str] = field(default_factory=list)
    rows: int = 0

    def __post_init__(self) -> None:
        self.positives, self.negatives = np.asarray(self.positives), np.asarray(self.negatives)
        if self.positives.ndim != 1 or self.positives.shape != self.negatives.shape:
            raise ValueError(f"positives of shape {self.positives.shape}, negatives of shape {self.negatives.shape}")
        self.names = [str(name) for name in self.names] or numbered(len(self.positives))
        if len(self.names) != len(self.positives):
            raise ValueError(f"names: {len(self.names)}, but there are {len(self.positives)} labels")

    def __repr__(self) -> str:
        """A table, where rich is installed, which the extra ``cli`` brings."""
        try:
            from binxent.commands import table
        except ImportError:
            return f"LabelCounts(rows={self.rows}, labels={len(self.names)})"
        return table.of_counts(self)

    def update(self, labels: Any, *, sample_weight: Any = None, ignore_index: float | None = None) -> None:
        """Counts more labels; arguments and errors are those of ``count_labels``. Columns that have names are matched
        by them."""
        from binxent.labels import count_labels  # here, because that module imports this one

        counts = count_labels(labels, sample_weight=sample_weight, ignore_index=ignore_index)
        if are_places(counts.names) and len(counts.names) == len(self.names):
            counts.names = self.names
        self.merge(counts)

    def merge(self, other: LabelCounts) -> None:
        """Adds what another worker has counted, to the labels of the same names. Any order gives the same integers.

        Raises:
            ValueError: the two have different labels.
        """
        order = list(range(len(self.names))) if self.names == other.names else reordering(other.names, self.names)
        if order is None:
            raise ValueError(f"labels differ: {listed(other.names)} are to be added to {listed(self.names)}")
        self.positives = add(self.positives, other.positives[order])
        self.negatives = add(self.negatives, other.negatives[order])
        self.rows += other.rows

    def as_dict(self) -> dict[str, Any]:
        """Returns names, rows and counts in types that JSON has."""
        counts = {"positives": self.positives.tolist(), "negatives": self.negatives.tolist()}
        return {"names": self.names, "rows": self.rows, **counts}

    def to_json(self) -> str:
        """Returns the counts as JSON text, without rounding; ``from_json`` reads it."""
        return json.dumps(self.as_dict())

    @classmethod
    def from_json(cls, text: str) -> LabelCounts:
        """Returns the counts of a text that ``to_json`` has made."""
        values = json.loads(text)
        return cls(values["positives"], values["negatives"], values["names"], values["rows"])

    def pos_weight(
        self,
        method: str = "balanced",
        *,
        beta: float = 0.999,
        clip: tuple[float, float] | None = None,
        without_positives: str | float = "error",
        dtype: Any = np.float32,
    ) -> Array:
        """Returns the ``pos_weight`` of each label, which has P positives and N negatives:

            balanced   N / P: positives and negatives weigh the same
            sqrt       √(N / P): half way to balanced, on a logarithmic scale
            effective  E(N) / E(P), E(n) = (1 − βⁿ)/(1 − β): the effective number of samples, which tends to 1/(1−β)

        ``effective`` is 1 for β = 0 and tends to ``balanced`` for β → 1.

        Args:
            method: ``"balanced"``, ``"sqrt"`` or ``"effective"``.
            beta: β of ``effective``, in [0, 1).
            clip: the least and the greatest value of the result.
            without_positives: what a label without positives gets, whose ratio is infinite: a number, or ``"error"``.
                ``clip`` does not act on that number. A label without negatives has 0, as the formulas give it.
            dtype: of the result.

        Returns:
            [labels], float32 by default.

        Raises:
            ValueError: labels without positives, which are named; or an argument is out of range.

        References:
            Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019 (`effective`).

        Examples:
            >>> LabelCounts([100, 1], [900, 999]).pos_weight("sqrt", clip=(1, 10))
            array([ 3., 10.], dtype=float32)
        """
        if method not in METHODS:
            raise ValueError(f"method: {method!r}; expected one of {METHODS}")
        if not 0 <= beta < 1:
            raise ValueError(f"beta: {beta}; expected at least 0 and less than 1")
        if clip is not None and not 0 <= clip[0] <= clip[1]:
            raise ValueError(f"clip: {clip}; expected (least, greatest), neither negative")
        positives, negatives = self.positives.astype(np.float64), self.negatives.astype(np.float64)
        none = positives == 0
        if without_positives == "error":
            if none.any():
                lacking = [name for name, lacks in zip(self.names, none.tolist(), strict=True) if lacks]
                raise ValueError(
                    f"{int(none.sum())} of {len(none)} labels have no positives: {listed(lacking)}; "
                    "give what they get, without_positives=1.0 for example, or leave them out"
                )
            instead = np.nan
        else:
            instead = float(without_positives)
            if not 0 <= instead < np.inf:
                raise ValueError(f"without_positives: {without_positives!r}; expected 'error' or a number, at least 0")
        if method == "effective" and beta > 0:
            positives, negatives = (formula.effective_number(np, n, beta) for n in (positives, negatives))
        elif method == "effective":
            positives, negatives = (np.minimum(n, 1.0) for n in (positives, negatives))  # E(n) for β = 0
        weight = negatives / np.where(none, 1, positives)
        if method == "sqrt":
            weight = np.sqrt(weight)
        if clip is not None:
            weight = np.clip(weight, *clip)
        return np.where(none, instead, weight).astype(dtype)
