"""How good predictions are, label by label, from data that may be larger than memory.

A ``Report`` counts what it is shown chunk by chunk, and forgets it. Reports over shards are merged by adding their
counts. Its memory depends on the number of labels alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from binxent import formula, kernel, measures, options
from binxent import numpy as face
from binxent.arrays import Array, as_array

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["InvalidValueError", "Report", "Scores"]

REDUCTIONS = ("mean", "sum", "batchmean", "weighted_mean")

_CHUNK = 1 << 17  # elements whose predictions, labels and losses lie in the second-level cache
_PLAIN_CHUNK = 1 << 20
_MIN_ROWS = 16  # of a chunk, however many labels there are
_EXPONENTS = 32  # powers of two that the score bins tell apart, on either side
_MAX_BINS = 1 << 22  # over all labels: 32 MiB
_BINS_IN_CACHE = 1 << 19
_COARSE, _FINE, _MOST_BITS = 6, 10, 14  # bits of a score below its power of two
_MAX_COUNT = (1 << 32) - 1


class InvalidValueError(ValueError):
    """A value that cannot be counted: NaN, or out of range. It knows where the value stands."""

    def __init__(self, argument: str, row: int, label: int, value: object, expected: str, name: str) -> None:
        super().__init__(f"{argument}: {value} in row {row}, label {name}; expected {expected}")
        self.argument, self.row, self.label, self.value, self.expected = argument, row, label, value, expected


@dataclass(frozen=True)
class Scores:
    """The figures of a report. Each is an array [labels]; NaN where it is 0/0.

    Attributes:
        known: how many elements of the label were counted.
        positive: how many of these have a target above ½.
        predicted: how many are predicted: the probability exceeds the threshold.
        found: how many are positive and predicted.
        loss: the mean loss; or what another reduction gives.
        base_rate: the mean of the targets.
        base_rate_loss: the loss, reduced alike, of the best constant prediction (for ``gamma``, of the one that is best
            without it). Without weights it is the entropy of the base rate.
        calibration_error: the expected calibration error, ECE: the mean distance, over bins of equal width weighted by
            their counts, of mean probability and mean target.
        precision: found / predicted.
        recall: found / positive.
        average_precision: the mean of the precision at each positive.
        average_precision_error: how far that may be off; see ``Report``.
    """

    known: Array
    positive: Array
    predicted: Array
    found: Array
    loss: Array
    base_rate: Array
    base_rate_loss: Array
    calibration_error: Array
    precision: Array
    recall: Array
    average_precision: Array
    average_precision_error: Array

    def as_dict(self) -> dict[str, list[float | int | None]]:
        """Lists that JSON can hold: None in the place of NaN."""
        return {
            field.name: [None if value != value else value for value in getattr(self, field.name).tolist()]
            for field in fields(self)
        }


def _score_bits(labels: int) -> int:
    """Bits of the mantissa that a score's bin keeps: fine bins for few labels, and bounded memory for many."""
    bits = _FINE
    while bits > 0 and labels * 2 * _EXPONENTS << bits > (_BINS_IN_CACHE if bits > _COARSE else _MAX_BINS):
        bits -= 1
    return bits


def _operand(array: Array) -> kernel.Operand:
    return array.ctypes.data, kernel.TAGS[array.dtype.name], array.shape, None


def _readable(array: Array) -> Array:
    """In a dtype that the kernel reads."""
    if array.dtype.name in kernel.TAGS and array.dtype.isnative:
        return array
    if array.dtype.name in kernel.TAGS:
        return array.astype(array.dtype.newbyteorder("="))
    return array.astype(np.int64 if array.dtype.kind in "iu" else np.float64)


class Report:
    """Counts predictions and labels; tells loss, calibration, precision, recall and average precision of each label.

    Loss and options are those of ``binxent.numpy``. ``weight``, ``sample_weight`` and ``pos_weight`` act on the losses;
    everything else counts elements. A soft target counts as positive above ½ for precision, recall and average
    precision, and as it is for the base rate and the calibration.

    **Average precision** is that of the scores rounded to bins, which keep the high bits of a score: as narrow,
    relative to the score, everywhere in 32 powers of two on either side (of 0 for a logit, of ½ for a probability).
    ``scores().average_precision_error`` bounds what the rounding can have changed.

    Args:
        labels: how many there are, or their names.
        probabilities: whether the predictions are probabilities rather than logits.
        threshold: of the probability, for precision and recall; a label is predicted above it.
        pos_weight: [labels] or one for all, as in the loss.
        reduction: what ``scores().loss`` is of a label: ``"mean"`` over what is known, ``"sum"``, ``"batchmean"``,
            divided by all rows, or ``"weighted_mean"``, divided by the sum of the weights.
        calibration_bins: bins of probability, of equal width, that the calibration error compares.
        score_bits: bits of a score, below its power of two, that average precision tells apart: 0 to 14; by default
            what fits into 4 MiB, at most 10 (65536 bins for a label), at least 6 while that fits into 32 MiB.
        ignore_index, label_smoothing, gamma: as in the loss.

    Raises:
        ValueError: an option is out of range.

    Examples:
        >>> import numpy as np
        >>> report = Report(["cat", "dog"])
        >>> report.update(np.array([[2.0, -1.0], [-3.0, 1.0]]), np.array([[1, 0], [0, 0]]))
        >>> report.update(np.array([[0.5, -2.0]]), np.array([[1, 1]]))
        >>> scores = report.scores()
        >>> scores.loss.round(4)
        array([0.2165, 1.2512])
        >>> scores.precision, scores.recall
        (array([1., 0.]), array([1., 0.]))
    """

    def __init__(
        self,
        labels: int | Sequence[str],
        *,
        probabilities: bool = False,
        threshold: float = 0.5,
        pos_weight: Any = None,
        reduction: str = "mean",
        calibration_bins: int = 15,
        score_bits: int | None = None,
        ignore_index: float | None = None,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
    ) -> None:
        self.names = [str(i) for i in range(labels)] if isinstance(labels, int) else [str(name) for name in labels]
        count = len(self.names)
        if count == 0:
            raise ValueError("labels: there is none")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold: {threshold} is no probability; expected a number between 0 and 1")
        if calibration_bins < 1:
            raise ValueError(f"calibration_bins: {calibration_bins}; expected at least 1")
        if score_bits is not None and not 0 <= score_bits <= _MOST_BITS:
            raise ValueError(f"score_bits: {score_bits}; expected 0 to {_MOST_BITS}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction: {reduction!r}; expected one of {REDUCTIONS}")
        self.probabilities = probabilities
        self.threshold = float(threshold)
        self.reduction = reduction
        self.calibration_bins = calibration_bins
        self.score_bits = _score_bits(count) if score_bits is None else score_bits
        self.terms = options.terms(ignore_index, label_smoothing, gamma, "float32") or options.Terms()
        self.pos_weight: Array | None = None
        if pos_weight is not None:
            self.pos_weight = _readable(as_array("pos_weight", pos_weight))
            options.check_broadcast("pos_weight", self.pos_weight.shape, (count,))

        self.rows = 0
        self._loss, self._loss_lost = np.zeros(count), np.zeros(count)
        self._softness = np.zeros((count, calibration_bins))
        self._cells = np.zeros((count, calibration_bins, 2, 2), np.uint64)
        self._rows_in_cells = 0
        self._counts: Array | None = None  # what the cells were emptied into
        self._probabilities: Array | None = None
        self._padded_scores = np.zeros((count, (4 * _EXPONENTS << self.score_bits) + kernel.SCORE_PADDING), np.uint32)
        self._rows_in_scores = 0
        self._more_scores: Array | None = None
        # Σ w and Σ w·y, where there are weights.
        self._weight: Array | None = None
        self._positive_weight: Array | None = None

    def _loss_of(self, predictions: Array, labels: Array, weight: Array | None, sample_weight: Array | None) -> Array:
        function = face.binary_cross_entropy if self.probabilities else face.binary_cross_entropy_with_logits
        loss = function(
            predictions,
            labels,
            weight,
            reduction="none",
            pos_weight=self.pos_weight,
            sample_weight=sample_weight,
            label_smoothing=self.terms.label_smoothing,
            gamma=self.terms.gamma,
        )
        return np.ascontiguousarray(loss)

    def update(
        self,
        predictions: Any,
        labels: Any,
        *,
        weight: Any = None,
        sample_weight: Any = None,
        mask: Any = None,
    ) -> None:
        """Counts a batch.

        Args:
            predictions: logits or probabilities, [rows, labels]; for a single label also [rows]. An array, or a
                tensor in the processor's memory.
            labels: of the same shape, in [0, 1]; of any number type or bool.
            weight: broadcasts to the predictions.
            sample_weight: [rows].
            mask: of the predictions' shape; where it is false nothing is counted, whatever stands there.

        Raises:
            TypeError: an argument has no numbers.
            ValueError: a shape does not fit.
            InvalidValueError: a prediction is NaN, or a label or a probability is not in [0, 1]. Of a large batch the
                part before it may have been counted: the report is not to be used any more.
        """
        x, y = (as_array(*pair) for pair in (("predictions", predictions), ("labels", labels)))
        count = len(self.names)
        if x.shape != y.shape:
            raise ValueError(f"labels: shape {y.shape} must be that of the predictions, {x.shape}")
        if x.ndim == 1 and count == 1:
            x, y = x[:, None], y[:, None]
        if x.ndim != 2 or x.shape[1] != count:
            raise ValueError(f"predictions: shape {x.shape}; expected [rows, {count}], a column for each label")
        x, y = _readable(x), _readable(y)
        if x.dtype.name not in kernel.FLOATING:
            x = x.astype(np.float64)
        weights = None
        if weight is not None:
            weights = _readable(as_array("weight", weight))
            options.check_broadcast("weight", weights.shape, x.shape)
            weights = np.broadcast_to(weights, x.shape)
        samples = None
        if sample_weight is not None:
            samples = _readable(as_array("sample_weight", sample_weight))
            options.check_sample_weight(samples.shape, x.shape)
        shown = None
        if mask is not None:
            shown = as_array("mask", mask) != 0
            if shown.ndim == 1 and count == 1:
                shown = shown[:, None]
            if shown.shape != x.shape:
                raise ValueError(f"mask: shape {shown.shape} must be that of the predictions, {x.shape}")

        chunk = _PLAIN_CHUNK if self._is_plain(weights, samples) else _CHUNK
        step = min(max(_MIN_ROWS, chunk // count), kernel.MAX_ROWS_IN_CELL)
        for first in range(0, len(x), step):
            rows = slice(first, first + step)
            w, s, known = (None if array is None else array[rows] for array in (weights, samples, shown))
            self._update(first, x[rows], y[rows], w, s, known)

    def _is_plain(self, weight: Array | None, sample_weight: Array | None) -> bool:
        """Then the loss is made where it is counted. Another is made before, and shall still lie in the cache."""
        weighted = weight is not None or sample_weight is not None or self.pos_weight is not None
        return not weighted and self.terms.label_smoothing == 0 == self.terms.gamma

    def _update(
        self,
        first: int,
        x: Array,
        y: Array,
        weight: Array | None,
        sample_weight: Array | None,
        known: Array | None,
    ) -> None:
        known = formula.kept(y, known, self.terms.ignore_index)
        if known is not None:
            # What is not known may be anything. A place-holder makes it harmless; no count and no sum has it.
            x, y = np.where(known, x, x.dtype.type(0)), np.where(known, y, y.dtype.type(0))
            known = np.ascontiguousarray(known).view(np.uint8)
        x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
        self._make_room(len(x))
        try:
            loss = None if self._is_plain(weight, sample_weight) else self._loss_of(x, y, weight, sample_weight)
        except ValueError:
            self._refuse(first, x, y)  # if that is the reason: it knows rows and names
            raise
        flags = kernel.count(
            self.probabilities,
            _operand(x),
            _operand(y),
            None if loss is None else _operand(loss),
            None if known is None else _operand(known),
            self._limit,
            self.calibration_bins,
            self._score_bins,
            (
                self._loss.ctypes.data,
                self._loss_lost.ctypes.data,
                self._cells.ctypes.data,
                self._softness.ctypes.data,
                self._padded_scores.ctypes.data,
            ),
        )
        if flags:
            self._refuse(first, x, y)
        self.rows += len(x)
        self._rows_in_cells += len(x)
        self._rows_in_scores += len(x)
        if weight is not None or sample_weight is not None or self._weight is not None:
            self._add_weights(y, weight, sample_weight, known)

    @property
    def _limit(self) -> float:
        """The prediction beyond which a label is predicted."""
        if self.probabilities:
            return self.threshold
        with np.errstate(divide="ignore"):
            return float(formula.log_odds(np, self.threshold, 1 - self.threshold))

    @property
    def _score_bins(self) -> tuple[int, int, int]:
        """By how much a float32's bits are shifted to be a bin, the least bin, and how many there are above it."""
        highest = -1 if self.probabilities else 10  # a power of two that no magnitude reaches, or that takes the rest
        lowest = 127 + highest - _EXPONENTS
        return 23 - self.score_bits, lowest << self.score_bits, (_EXPONENTS << self.score_bits) - 1

    def _refuse(self, first: int, x: Array, y: Array) -> None:
        low, high = (0, 1) if self.probabilities else (-np.inf, np.inf)
        number = "a number between 0 and 1"
        for name, array, least, most in (("predictions", x, low, high), ("labels", y, 0, 1)):
            wrong = np.argwhere(~((array >= least) & (array <= most)))
            if len(wrong):
                row, label = (int(i) for i in wrong[0])
                expected = number if name == "labels" or self.probabilities else "a number"
                raise InvalidValueError(name, first + row, label, array[row, label], expected, self.names[label])

    def _make_room(self, rows: int) -> None:
        """Empties the tables before they overflow."""
        if self._rows_in_cells + rows > kernel.MAX_ROWS_IN_CELL:
            self._counts, self._probabilities = self._cell_counts(), self._cell_probabilities()
            self._cells[...] = 0
            self._rows_in_cells = 0
        if self._rows_in_scores + rows > _MAX_COUNT:
            self._more_scores = self._all_scores().astype(np.uint64)
            self._padded_scores[...] = 0
            self._rows_in_scores = 0

    def _cell_counts(self) -> Array:
        """[labels, calibration bins, predicted, positive]"""
        counts = self._cells >> np.uint64(kernel.CELL_COUNT_SHIFT)
        return counts if self._counts is None else counts + self._counts

    def _cell_probabilities(self) -> Array:
        """Sums of probability·2²⁴, of the same shape: integers, so that their order does not matter."""
        sums = self._cells & np.uint64((1 << kernel.CELL_COUNT_SHIFT) - 1)
        return sums if self._probabilities is None else sums + self._probabilities

    @property
    def _scores(self) -> Array:
        """[labels, positive, bins of rising scores], in the table that the kernel adds to."""
        return self._padded_scores[:, : -kernel.SCORE_PADDING].reshape(len(self.names), 2, -1)

    def _all_scores(self) -> Array:
        if self._more_scores is None:
            return self._scores
        return self._more_scores + self._scores

    def _add_weights(self, y: Array, weight: Array | None, sample_weight: Array | None, known: Array | None) -> None:
        product = np.ones(y.shape) if weight is None else weight.astype(np.float64)
        if sample_weight is not None:
            product = product * sample_weight.astype(np.float64)[:, None]
        if known is not None:
            product = np.where(known, product, 0)
        if self._weight is None or self._positive_weight is None:
            # What was counted before without weights has a weight of 1.
            counts = self._cell_counts()
            self._weight = counts.sum(axis=(1, 2, 3)).astype(np.float64)
            self._positive_weight = counts[..., 1].sum(axis=(1, 2)) + self._softness.sum(axis=1)
            # This chunk has been counted already.
            kept = np.full(y.shape[1], len(y)) if known is None else known.sum(axis=0, dtype=np.int64)
            self._weight -= kept
            self._positive_weight -= y.sum(axis=0, dtype=np.float64)
        self._weight += product.sum(axis=0)
        self._positive_weight += (product * y).sum(axis=0)

    def merge(self, other: Report) -> None:
        """Adds what another report, of the same settings, has counted.

        Counts are integers, and sums of losses keep what rounding loses: any order of merging gives the same counts,
        and the same losses within a rounding.

        Raises:
            ValueError: a setting differs.
        """
        for name in ("names", "probabilities", "threshold", "reduction", "calibration_bins", "score_bits"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"reports differ in {name}: {getattr(self, name)} and {getattr(other, name)}")
        if repr(self.terms) != repr(other.terms):  # NaN is not NaN
            raise ValueError(f"reports differ in the options of the loss: {self.terms} and {other.terms}")
        one = np.ones(1)
        mine, theirs = (one if report.pos_weight is None else report.pos_weight for report in (self, other))
        if not np.array_equal(mine, theirs):
            raise ValueError("reports differ in pos_weight")
        if self._weight is not None or other._weight is not None:
            pairs = zip(self._weights(), other._weights(), strict=True)
            self._weight, self._positive_weight = (a + b for a, b in pairs)
        emptied = self._counts is not None or other._counts is not None
        if emptied or self._rows_in_cells + other._rows_in_cells > kernel.MAX_ROWS_IN_CELL:
            self._counts = self._cell_counts() + other._cell_counts()
            self._probabilities = self._cell_probabilities() + other._cell_probabilities()
            self._cells[...] = 0
            self._rows_in_cells = 0
        else:
            self._cells += other._cells
            self._rows_in_cells += other._rows_in_cells
        if self._more_scores is None and other._more_scores is None and self.rows + other.rows <= _MAX_COUNT:
            self._padded_scores += other._padded_scores
            self._rows_in_scores += other._rows_in_scores
        else:
            self._more_scores = self._all_scores().astype(np.uint64) + other._all_scores()
            self._padded_scores[...] = 0
            self._rows_in_scores = 0
        self._softness += other._softness
        self.rows += other.rows
        total = self._loss + other._loss
        with np.errstate(invalid="ignore"):  # an infinite loss is its own sum
            part = total - self._loss
            lost = (self._loss - (total - part)) + (other._loss - part)
        self._loss_lost += other._loss_lost + np.nan_to_num(lost, nan=0)
        self._loss = total

    def _weights(self) -> tuple[Array, Array]:
        """Σ w and Σ w·y."""
        if self._weight is not None and self._positive_weight is not None:
            return self._weight, self._positive_weight
        counts = self._cell_counts()
        positive = counts[..., 1].sum(axis=(1, 2)) + self._softness.sum(axis=1)
        return counts.sum(axis=(1, 2, 3)).astype(np.float64), positive

    def _loss_sum(self) -> Array:
        return self._loss + self._loss_lost

    def _constant_loss(self) -> Array:
        """The sum of the losses that one prediction for all elements would get: the odds of the weighted data."""
        weight, positive = self._weights()
        negative = weight - positive
        # The loss is linear in the target, so a label's elements are as good as two: one of each class.
        target = np.array([[1.0], [0.0]])
        coefficient = np.stack([positive, negative])
        smooth = formula.smoothed(target, self.terms.label_smoothing)
        toward_1, toward_0 = (coefficient * smooth).sum(axis=0), (coefficient * (1 - smooth)).sum(axis=0)
        if self.pos_weight is not None:
            toward_1 = toward_1 * self.pos_weight
        with np.errstate(divide="ignore", invalid="ignore"):
            constant = np.nan_to_num(formula.log_odds(np, toward_1, toward_0), nan=0, posinf=np.inf, neginf=-np.inf)
        pair = np.broadcast_to(constant, coefficient.shape).copy()
        both = np.broadcast_to(target, coefficient.shape).copy()
        p = None if self.pos_weight is None else self.pos_weight.astype(np.float64)
        loss: Array = face.binary_cross_entropy_with_logits(
            pair,
            both,
            coefficient,
            reduction="none",
            pos_weight=p,
            label_smoothing=self.terms.label_smoothing,
            gamma=self.terms.gamma,
        )
        return np.asarray(loss.sum(axis=0))

    def _divisor(self) -> Array | float:
        """What the sum of a label's losses is divided by."""
        if self.reduction == "sum":
            return 1.0
        if self.reduction == "batchmean":
            return float(self.rows)
        if self.reduction == "weighted_mean":
            return self._weights()[0]
        return np.asarray(self._cell_counts().sum(axis=(1, 2, 3), dtype=np.float64))

    def scores(self) -> Scores:
        """The figures of each label, of all that has been counted."""
        counts = self._cell_counts()
        known = counts.sum(axis=(1, 2, 3), dtype=np.int64)
        positive = counts[..., 1].sum(axis=(1, 2), dtype=np.int64)
        predicted = counts[:, :, 1].sum(axis=(1, 2), dtype=np.int64)
        found = counts[:, :, 1, 1].sum(axis=1, dtype=np.int64)
        count, probability, target = self.calibration()
        average_precision, error = measures.average_precision(self._all_scores())
        return Scores(
            known=known,
            positive=positive,
            predicted=predicted,
            found=found,
            loss=measures.ratio(self._loss_sum(), self._divisor()),
            base_rate=measures.ratio(target.sum(axis=1), known),
            base_rate_loss=measures.ratio(self._constant_loss(), self._divisor()),
            calibration_error=measures.calibration_error(count, probability, target),
            precision=measures.ratio(found, predicted),
            recall=measures.ratio(found, positive),
            average_precision=average_precision,
            average_precision_error=error,
        )

    def calibration(self) -> tuple[Array, Array, Array]:
        """Of each label and each bin of probability, [labels, calibration_bins]: the number of elements, the sum of
        their probabilities (each rounded to 2⁻²⁴), and the sum of their targets."""
        counts = self._cell_counts()
        sums = self._cell_probabilities().sum(axis=(2, 3)) / float(1 << kernel.PROBABILITY_BITS)
        return counts.sum(axis=(2, 3), dtype=np.int64), sums, counts[..., 1].sum(axis=2) + self._softness

    def overall(self, scores: Scores | None = None) -> dict[str, float | int | None]:
        """The figures of all labels together; of ``scores``, if they have been made already.

        Counts are added. The loss and its base-rate loss are those of all elements at once, as the loss functions
        reduce a matrix. Every other figure is the mean over the labels that have it (macro average). None where there
        is none. ``average_precision_error`` bounds the error of that mean.
        """
        if scores is None:
            scores = self.scores()
        result: dict[str, float | int | None] = {}
        for field in fields(scores):
            values = getattr(scores, field.name)
            if values.dtype.kind == "i":
                result[field.name] = int(values.sum())
            else:
                there = values[~np.isnan(values)]
                result[field.name] = float(there.mean()) if len(there) else None
        divisor = self._divisor()
        whole = divisor if isinstance(divisor, float) else float(divisor.sum())
        for name, losses in (("loss", self._loss_sum()), ("base_rate_loss", self._constant_loss())):
            total = float(losses.sum()) / whole if whole else None
            result[name] = total
        return result
