"""How good predictions are, label by label, from data that may be larger than memory.

A ``Report`` counts what it is shown chunk by chunk, and forgets it. Reports over shards are merged by adding their
counts. Its memory is bounded, whatever the number of rows.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from binxent import formula, kernel, options
from binxent import numpy as face
from binxent.arrays import Array, as_array
from binxent.report import batch, measures
from binxent.report.batch import Batch, InvalidValueError
from binxent.report.cells import Cells
from binxent.report.loss_sums import LossSums, WeightSums
from binxent.report.ranking import Ranking
from binxent.report.score_bins import default_bins, score_keys
from binxent.report.scores import Scores

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EXACT_SCORES", "InvalidValueError", "Report", "Scores"]

REDUCTIONS = ("mean", "sum", "batchmean", "weighted_mean")
EXACT_SCORES = 10_000_000  # that are kept for average precision, before they are counted in bins

_CHUNK = 1 << 17  # elements whose predictions, labels and losses lie in the second-level cache
_PLAIN_CHUNK = 1 << 20
_MIN_ROWS = 16  # of a chunk, however many labels there are
_FIRST_LOOK, _LOOK = 1 << 16, 1 << 9  # elements whose scores are given bins at once: later ones hardly need any
_SETTINGS = ("names", "probabilities", "threshold", "reduction", "calibration_bins", "exact_scores", "score_bins")


class Report:
    """Counts predictions and labels; tells loss, calibration, precision, recall and average precision of each label.

    Loss and options are those of ``binxent.numpy``. ``weight``, ``sample_weight`` and ``pos_weight`` act on the losses;
    everything else counts elements. A soft target counts as positive above ½ for precision, recall and average
    precision, and as it is for the base rate and the calibration.

    **Average precision** is that of the scores themselves while there are at most ``exact_scores``. More are counted
    in bins, which keep as many high bits of a score as fit, wherever the scores lie; the scores of one bin are taken as
    tied. ``scores().average_precision_error`` bounds what this can have changed.

    Args:
        labels: how many there are, or their names.
        probabilities: whether the predictions are probabilities rather than logits.
        threshold: of the probability, for precision and recall; a label is predicted above it.
        pos_weight: [labels] or one for all, as in the loss.
        reduction: what ``scores().loss`` is of a label: ``"mean"`` over what is known, ``"sum"``, ``"batchmean"``,
            divided by all rows, or ``"weighted_mean"``, divided by the sum of the weights.
        calibration_bins: bins of probability, of equal width, that the calibration error compares.
        exact_scores: how many scores are kept for average precision, of all labels together: a float32 one takes 5
            bytes.
        score_bins: bins of a label, for more scores: by default 65536 up to 8 labels, then what takes 4 MiB, at least
            4096 while that takes no more than 32 MiB.
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
        exact_scores: int = EXACT_SCORES,
        score_bins: int | None = None,
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
        self.terms = options.terms(ignore_index, label_smoothing, gamma, "float32") or options.Terms()
        self.pos_weight: Array | None = None
        if pos_weight is not None:
            self.pos_weight = batch.readable(as_array("pos_weight", pos_weight))
            options.check_broadcast("pos_weight", self.pos_weight.shape, (count,))

        self.rows = 0
        self._losses, self._weights = LossSums(count), WeightSums()
        self._cells = Cells(count, calibration_bins)
        self._ranking = Ranking(count, probabilities, exact_scores, self.score_bins)

    def stop_keeping_scores(self) -> None:
        """Counts all scores in bins from now on, and those that have been kept."""
        self._ranking.stop_keeping()

    def _loss_of(self, x: Array, y: Array, shown: Batch) -> Array:
        function = face.binary_cross_entropy if self.probabilities else face.binary_cross_entropy_with_logits
        loss = function(
            x,
            y,
            shown.weight,
            reduction="none",
            pos_weight=self.pos_weight,
            sample_weight=shown.sample_weight,
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
        whole = batch.read(len(self.names), predictions, labels, weight, sample_weight, mask)
        chunk = _PLAIN_CHUNK if self._is_plain(whole) else _CHUNK
        step = min(max(_MIN_ROWS, chunk // len(self.names)), kernel.MAX_ROWS_IN_CELL)
        for first in range(0, len(whole.predictions), step):
            self._update(first, whole.part(slice(first, first + step)))

    def _is_plain(self, shown: Batch) -> bool:
        """Then the loss is made where it is counted. Another is made before, and shall still lie in the cache."""
        weights = (shown.weight, shown.sample_weight, self.pos_weight)
        return all(weight is None for weight in weights) and self.terms.label_smoothing == 0 == self.terms.gamma

    def _update(self, first: int, shown: Batch) -> None:
        x, y = shown.predictions, shown.labels
        known = formula.kept(y, shown.mask, self.terms.ignore_index)
        if known is not None:
            # What is not known may be anything. A place-holder makes it harmless; no count and no sum has it.
            x, y = np.where(known, x, x.dtype.type(0)), np.where(known, y, y.dtype.type(0))
            known = np.ascontiguousarray(known).view(np.uint8)
        x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
        try:
            loss = None if self._is_plain(shown) else self._loss_of(x, y, shown)
        except ValueError:
            batch.refuse(first, x, y, self.probabilities, self.names)  # if that is the reason: it knows the names
            raise
        weighted = self._weights.sums is not None or shown.weight is not None or shown.sample_weight is not None
        before = self._weights.of(self._cells) if weighted else None
        if self._count(x, y, loss, known):
            batch.refuse(first, x, y, self.probabilities, self.names)
        if before is not None:
            self._weights.add(before, y, shown.weight, shown.sample_weight, known)
        self.rows += len(x)

    def _count(self, x: Array, y: Array, loss: Array | None, known: Array | None) -> int:
        """Adds to every table. Returns a flag of the kernel where a value is not to be counted."""
        self._cells.make_room(len(x))
        bins = self._ranking.bins_for(x)
        losses_waiting = np.zeros(kernel.loss_sums(len(self.names)))
        [
            batch.operand(x),
            batch.operand(y),
            *(None if a is None else batch.operand(a) for a in (loss, known)),
        ]
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
        """The prediction beyond which a label is predicted."""
        if self.probabilities:
            return self.threshold
        with np.errstate(divide="ignore"):
            return float(formula.log_odds(np, self.threshold, 1 - self.threshold))

    def merge(self, other: Report) -> None:
        """Adds what another report, of the same settings, has counted.

        Counts are integers, and sums of losses keep what rounding loses: any order of merging gives the same counts,
        and the same losses within a rounding.

        Raises:
            ValueError: a setting differs.
        """
        for name in _SETTINGS:
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"reports differ in {name}: {getattr(self, name)} and {getattr(other, name)}")
        if repr(self.terms) != repr(other.terms):  # NaN is not NaN
            raise ValueError(f"reports differ in the options of the loss: {self.terms} and {other.terms}")
        one = np.ones(1)
        mine, theirs = (one if report.pos_weight is None else report.pos_weight for report in (self, other))
        if not np.array_equal(mine, theirs):
            raise ValueError("reports differ in pos_weight")
        self._weights.merge(self._cells, other._weights, other._cells)
        self._cells.merge(other._cells)
        self._ranking.merge(other._ranking)
        self._losses.merge(other._losses)
        self.rows += other.rows

    def _constant_loss(self) -> Array:
        """The sum of the losses that one prediction for all elements would get: the odds of the weighted data."""
        weight, positive = self._weights.of(self._cells)
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
            return self._weights.of(self._cells)[0]
        return self._cells.known().astype(np.float64)

    def scores(self) -> Scores:
        """The figures of each label, of all that has been counted."""
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
        """Of each label and each bin of probability, [labels, calibration_bins]: the number of elements, the sum of
        their probabilities (each rounded to 2⁻²⁴), and the sum of their targets."""
        counts = self._cells.counts()
        sums = self._cells.probabilities().sum(axis=(2, 3)) / float(1 << kernel.PROBABILITY_BITS)
        return counts.sum(axis=(2, 3), dtype=np.int64), sums, self._cells.targets()

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
        for name, losses in (("loss", self._losses.total()), ("base_rate_loss", self._constant_loss())):
            total = float(losses.sum()) / whole if whole else None
            result[name] = total
        return result
