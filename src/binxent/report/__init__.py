"""Measures how good predictions are, label by label, on data that may be larger than memory.

A ``Report`` counts its batches in chunks, in memory that is bounded for any number of rows. Reports of shards are
merged by adding their counts.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from binxent import formula, kernel
from binxent import numpy as face
from binxent.label_names import numbered
from binxent.report import batch, constant, loss_options, measures
from binxent.report.batch import Batch, InvalidValueError
from binxent.report.cells import Cells
from binxent.report.loss_sums import LossSums, WeightSums
from binxent.report.ranking import Ranking
from binxent.report.score_bins import default_bins, score_keys
from binxent.report.scores import Scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from binxent.arrays import Array

__all__ = ["EXACT_SCORES", "InvalidValueError", "Report", "Scores"]

REDUCTIONS = ("mean", "sum", "batchmean", "weighted_mean")
EXACT_SCORES = 10_000_000  # scores that are stored for average precision; of more, all are counted in bins

_CHUNK = 1 << 17  # elements: their predictions, labels and losses fit into the second-level cache
_PLAIN_CHUNK = 1 << 20  # elements, where no losses are stored
_MIN_ROWS = 16  # the least rows of a chunk, for any number of labels
# Elements whose scores get bins at once: at first, and each time that a later score has none, which is rare.
_FIRST_LOOK, _LOOK = 1 << 16, 1 << 9
_SETTINGS = ("names", "probabilities", "threshold", "reduction", "calibration_bins", "exact_scores", "score_bins")


class Report:
    """Counts predictions and labels; computes loss, calibration, precision, recall, average precision of each label.

    Loss and options are those of ``binxent.numpy``. Weights and the options of the loss act on the losses and on the
    base-rate loss; every other figure counts elements. A soft target is a positive above ½ for precision, recall and
    average precision; base rate and calibration take its value.

    **Average precision** is exact up to ``exact_scores`` scores. More are counted in bins, each of which holds the
    scores with the same high bits, as many bits as the table has room for; scores of one bin count as tied.
    ``scores().average_precision_error`` bounds the error that this makes.

    Args:
        labels: their number, or their names.
        probabilities: whether the predictions are probabilities rather than logits.
        threshold: the probability above which a label is predicted, for precision and recall.
        pos_weight, neg_weight: [labels] or one for all, as in the loss.
        reduction: how the losses of a label become ``scores().loss``: ``"mean"`` over the known elements, ``"sum"``,
            ``"batchmean"`` (the sum divided by all rows), or ``"weighted_mean"`` (divided by the sum of the weights).
        calibration_bins: how many bins of probability, of equal width, the calibration error has.
        exact_scores: how many scores, of all labels together, are stored for average precision; each takes 5 bytes in
            float32.
        score_bins: how many bins a label has for more scores: by default 65536 for up to 8 labels; for more labels what
            takes 4 MiB in all, but at least 4096 as long as that takes no more than 32 MiB.
        ignore_index, label_smoothing, gamma: as in the loss.
        alpha, gamma_positive, gamma_negative, margin, focal: likewise.

    Raises:
        ValueError: an option is out of range, or a weight is negative or not finite.

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
        exact_scores: int = EXACT_SCORES,
        score_bins: int | None = None,
        ignore_index: float | None = None,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
        alpha: float | None = None,
        gamma_positive: float | None = None,
        gamma_negative: float | None = None,
        margin: float = 0,
        focal: str = "branch",
        neg_weight: Any = None,
    ) -> None:
        self.names = numbered(labels) if isinstance(labels, int) else [str(name) for name in labels]
        count = len(self.names)
        if count == 0:
            raise ValueError("labels: there is none")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold: {threshold} is no probability; expected a number between 0 and 1")
        if calibration_bins < 1:
            raise ValueError(f"calibration_bins: {calibration_bins}; expected at least 1")
        if exact_scores < 0:
            raise ValueError(f"exact_scores: {exact_scores}; expected at least 0")
        if score_bins is not None and score_bins < 1:
            raise ValueError(f"score_bins: {score_bins}; expected at least 1")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction: {reduction!r}; expected one of {REDUCTIONS}")
        self.probabilities = probabilities
        self.threshold = float(threshold)
        self.reduction = reduction
        self.calibration_bins = calibration_bins
        self.exact_scores = exact_scores
        self.score_bins = default_bins(count) if score_bins is None else score_bins
        self.loss_options = loss_options.checked(
            self.names,
            pos_weight,
            neg_weight,
            ignore_index,
            label_smoothing,
            gamma,
            alpha=alpha,
            gamma_positive=gamma_positive,
            gamma_negative=gamma_negative,
            margin=margin,
            focal=focal,
        )

        self.rows = 0
        self._soft_targets = False  # whether there were any, beside a loss that is not linear in them
        self._losses, self._weights = LossSums(count), WeightSums()
        self._cells = Cells(count, calibration_bins)
        self._ranking = Ranking(count, probabilities, exact_scores, self.score_bins)

    def __repr__(self) -> str:
        """A table, where rich is installed, which the extra ``cli`` brings."""
        try:
            from binxent.commands import table
        except ImportError:
            return f"Report(rows={self.rows}, labels={len(self.names)})"
        return table.of_report(self)

    def stop_keeping_scores(self) -> None:
        """Counts the scores in bins from now on, including those that have been stored."""
        self._ranking.stop_keeping()

    def _loss_of(self, x: Array, y: Array, shown: Batch) -> Array:
        function = face.binary_cross_entropy if self.probabilities else face.binary_cross_entropy_with_logits
        loss = function(
            x,
            y,
            shown.weight,
            reduction="none",
            sample_weight=shown.sample_weight,
            **self.loss_options.arguments(),
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
                tensor in the CPU's memory.
            labels: of the same shape, in [0, 1]; of any number type or bool.
            weight: broadcasts to the predictions.
            sample_weight: [rows].
            mask: of the predictions' shape; an element where it is false is not counted, whatever it holds.

        Raises:
            TypeError: an argument has no numbers.
            ValueError: a shape does not fit.
            InvalidValueError: a prediction is NaN, or a label or a probability is not in [0, 1]. Part of the batch may
                have been counted then, so do not use the report any more.
        """
        whole = batch.read(len(self.names), predictions, labels, weight, sample_weight, mask)
        chunk = _PLAIN_CHUNK if self._is_plain(whole) else _CHUNK
        step = min(max(_MIN_ROWS, chunk // len(self.names)), kernel.MAX_ROWS_IN_CELL)
        for first in range(0, len(whole.predictions), step):
            self._update(first, whole.part(slice(first, first + step)))

    def _is_plain(self, shown: Batch) -> bool:
        """Whether the kernel computes the loss while it counts. Another loss is computed before, into the cache."""
        return shown.weight is shown.sample_weight is None and self.loss_options.are_default

    def _update(self, first: int, shown: Batch) -> None:
        x, y = shown.predictions, shown.labels
        known = formula.kept(y, shown.mask, self.loss_options.terms.ignore_index)
        if known is not None:
            # An element that is not known may hold anything. It becomes 0, which is valid, and is never counted.
            x, y = np.where(known, x, x.dtype.type(0)), np.where(known, y, y.dtype.type(0))
            known = np.ascontiguousarray(known).view(np.uint8)
        x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
        try:
            loss = None if self._is_plain(shown) else self._loss_of(x, y, shown)
        except ValueError:
            batch.refuse(first, x, y, self.probabilities, self.names)  # names the element, if one was the reason
            raise
        weighted = self._weights.sums is not None or shown.weight is not None or shown.sample_weight is not None
        before = self._weights.of(self._cells) if weighted else None
        if self._count(x, y, loss, known):
            batch.refuse(first, x, y, self.probabilities, self.names)
        if not (self._soft_targets or constant.is_linear(self.loss_options)):
            self._soft_targets = bool(((y != 0) & (y != 1)).any())
        if before is not None:
            self._weights.add(before, y, shown.weight, shown.sample_weight, known)
        self.rows += len(x)

    def _count(self, x: Array, y: Array, loss: Array | None, known: Array | None) -> int:
        """Adds a chunk to every table. Returns the kernel's flag, which is not 0 if a value cannot be counted."""
        self._cells.make_room(len(x))
        bins = self._ranking.bins_for(x)
        losses_waiting = np.zeros(kernel.loss_sums(len(self.names)))
        done, ahead = 0, _FIRST_LOOK
        while True:
            flag, done = kernel.count(
                self.probabilities,
                batch.operand(x),
                batch.operand(y),
                None if loss is None else batch.operand(loss),
                None if known is None else batch.operand(known),
                self._limit,
                self.calibration_bins,
                bins.operand,
                done,
                (
                    self._losses.sum.ctypes.data,
                    self._losses.lost.ctypes.data,
                    self._cells.packed.ctypes.data,
                    self._cells.softness.ctypes.data,
                    bins.address,
                    losses_waiting.ctypes.data,
                ),
            )
            if flag != kernel.SCORE_WITHOUT_BIN:
                break
            bins.admit(score_keys(x.reshape(-1)[done : done + ahead], self.probabilities))
            ahead = _LOOK
        self._cells.rows += len(x)
        self._ranking.counted(x, y, known)
        return int(flag)

    @property
    def _limit(self) -> float:
        """The threshold as a logit, or as a probability, whichever the predictions are."""
        if self.probabilities:
            return self.threshold
        with np.errstate(divide="ignore"):
            return float(formula.log_odds(np, self.threshold, 1 - self.threshold))

    def merge(self, other: Report) -> None:
        """Adds what another report of the same settings has counted.

        Any order of merging gives the same counts, which are integers, and the same losses within one rounding, because
        what rounding takes from their sums is added up too.

        Raises:
            ValueError: a setting differs.
        """
        for name in _SETTINGS:
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"reports differ in {name}: {getattr(self, name)} and {getattr(other, name)}")
        self.loss_options.check_alike(other.loss_options)
        self._weights.merge(self._cells, other._weights, other._cells)
        self._cells.merge(other._cells)
        self._ranking.merge(other._ranking)
        self._losses.merge(other._losses)
        self.rows += other.rows
        self._soft_targets = self._soft_targets or other._soft_targets

    def _constant_loss(self) -> Array:
        """The sum of each label's losses at the best constant prediction; NaN where the counts do not give it."""
        weight, positive = self._weights.of(self._cells)
        if self._soft_targets:
            return np.full(len(self.names), np.nan)
        return constant.least_loss(positive, weight - positive, self.loss_options)

    def _divisor(self) -> Array | float:
        """The divisor of the sum of each label's losses."""
        if self.reduction == "sum":
            return 1.0
        if self.reduction == "batchmean":
            return float(self.rows)
        if self.reduction == "weighted_mean":
            return self._weights.of(self._cells)[0]
        return self._cells.known().astype(np.float64)

    def scores(self) -> Scores:
        """Returns the figures of each label, from all that has been counted."""
        counts = self._cells.counts()
        known = self._cells.known()
        positive = counts[..., 1].sum(axis=(1, 2), dtype=np.int64)
        predicted = counts[:, :, 1].sum(axis=(1, 2), dtype=np.int64)
        found = counts[:, :, 1, 1].sum(axis=1, dtype=np.int64)
        count, probability, target = self.calibration()
        average_precision, error = self._ranking.average_precision()
        return Scores(
            known=known,
            positive=positive,
            predicted=predicted,
            found=found,
            loss=measures.ratio(self._losses.total(), self._divisor()),
            base_rate=measures.ratio(target.sum(axis=1), known),
            base_rate_loss=measures.ratio(self._constant_loss(), self._divisor()),
            calibration_error=measures.calibration_error(count, probability, target),
            precision=measures.ratio(found, predicted),
            recall=measures.ratio(found, positive),
            average_precision=average_precision,
            average_precision_error=error,
        )

    def calibration(self) -> tuple[Array, Array, Array]:
        """Returns, for each label and bin of probability, [labels, calibration_bins]: the number of elements, the sum
        of their probabilities (each rounded to 2⁻²⁴), and the sum of their targets."""
        counts = self._cells.counts()
        sums = self._cells.probabilities().sum(axis=(2, 3)) / float(1 << kernel.PROBABILITY_BITS)
        return counts.sum(axis=(2, 3), dtype=np.int64), sums, self._cells.targets()

    def overall(self, scores: Scores | None = None) -> dict[str, float | int | None]:
        """Returns the figures of all labels together, from ``scores`` if they have been computed already.

        Counts are added. The loss and its base-rate loss are those of all elements at once, as the loss functions
        reduce a matrix. Every other figure is the mean over the labels that have it (macro average), or None if none
        has it. ``average_precision_error`` bounds the error of that mean.
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
        for name, losses in (("loss", self._losses.total()), ("base_rate_loss", self._constant_loss())):
            total = float(losses.sum()) / whole if whole else math.nan
            result[name] = None if math.isnan(total) else total
        return result
