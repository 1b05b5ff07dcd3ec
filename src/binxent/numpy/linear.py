"""The loss of a linear head, whose logits are made in chunks of labels and never stored. The products are NumPy's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from binxent import linear
from binxent.call import KEPT, WEIGHTS, normalized
from binxent.formula import LOGITS
from binxent.kernels import Outputs, native
from binxent.numpy.eager import Array, Numbers, checked, described, described_all, new_array, planned
from binxent.options import focal as given_family

if TYPE_CHECKING:
    from collections.abc import Sequence

    from binxent.linear import LinearBCEOptions
    from binxent.targets import IndexTargets

_CHUNK = 16 * 2**20


class LinearGradients(NamedTuple):
    """The gradients of a linear head's loss; None for what was not asked for."""

    input: Array | None = None
    linear_weight: Array | None = None
    linear_bias: Any = None


def _compute(
    input: object,
    linear_weight: object,
    target: object,
    linear_bias: object,
    others: tuple[object, object, object, object, object],  # weight, sample_weight, pos_weight, mask, neg_weight
    numbers: Numbers,
    reduction: str,
    normalizer: object,
    options: object,
    wanted: Sequence[str],
) -> tuple[np.floating[Any], LinearGradients]:
    options = linear.checked_options(options)
    linear.check_reduction(reduction)
    for name in wanted:
        if name not in LinearGradients._fields:
            raise ValueError(f"gradients_to: {name!r}; expected some of {LinearGradients._fields}")
    x = checked("input", input, floating=True)
    w = checked("linear_weight", linear_weight, floating=True)
    bias = None if linear_bias is None else checked("linear_bias", linear_bias, floating=True)
    for name, array in (("linear_weight", w), ("linear_bias", bias)):
        if array is not None and array.dtype != x.dtype:
            raise TypeError(f"{name}: dtype {array.dtype}; expected the input's, {x.dtype}")
    rows, labels = shape = linear.shape_of_logits(x.shape, w.shape, None if bias is None else bias.shape)
    # NumPy's own products of half types take hundreds of times as long as those of float32.
    wide = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
    whole = np.broadcast_to(np.zeros((), x.dtype), shape)  # in the logits' place, of which there is only the shape
    of_whole, operands, divisor = planned(LOGITS, reduction, (whole, target, *others), numbers, normalizer)
    call = linear.call_of_chunks(of_whole)
    if call.divisor in (KEPT, WEIGHTS):
        divisor = float(native.measure(call, described_all(operands)))
        call = normalized(call, divisor)

    to_input, to_weight, to_bias = (name in wanted for name in LinearGradients._fields)
    bytes_of_label = linear.bytes_of_label(rows, w.shape[1], wide.itemsize, casts=x.dtype != wide)
    step = linear.labels_of_chunk(labels, bytes_of_label, options.max_chunk_bytes or _CHUNK)
    parts = list(linear.chunks(labels, step))
    factor, memory, totals = x.astype(wide, copy=False), np.empty(rows * step, wide), np.empty(len(parts))
    of_input = np.zeros(x.shape, options.accumulator(wide.name)) if to_input else None
    of_weight = new_array(w.shape, w.dtype) if to_weight else None
    of_bias = np.zeros(bias.shape, wide) if to_bias and bias is not None else None
    for number, (start, stop) in enumerate(parts):
        own = w[start:stop].astype(wide, copy=False)
        logits = memory[: rows * (stop - start)].reshape(rows, stop - start)
        np.matmul(factor, own.T, out=logits)
        if bias is not None:
            logits += linear.window(bias, start, stop)
        part = described_all(linear.operands_of_chunk(operands, logits, start, stop))
        gradient = part.input if to_input or to_weight or to_bias else None  # in the logits' place
        native.compute(call, part, Outputs(None, described(totals[number, ...]), gradient), divisor)
        if of_weight is not None and of_weight.dtype == wide:
            np.matmul(logits.T, factor, out=of_weight[start:stop])
        elif of_weight is not None:
            of_weight[start:stop] = logits.T @ factor
        if of_input is not None:
            of_input += logits @ own
        if of_bias is not None:
            if of_bias.ndim:
                of_bias[start:stop] = logits.sum(0)
            else:
                of_bias += logits.sum()
    dtype = x.dtype if of_whole.dtype == x.dtype.name else np.dtype(of_whole.dtype)
    narrow = (None if array is None else array.astype(x.dtype, copy=False)[()] for array in (of_input, of_bias))
    of_input, of_bias = narrow
    return totals.sum().astype(dtype), LinearGradients(of_input, of_weight, of_bias)


def linear_binary_cross_entropy_with_logits(
    input: Array,
    linear_weight: Array,
    target: Array | IndexTargets | Any,
    *,
    linear_bias: Array | None = None,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    sample_weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    alpha: float | None = None,
    gamma_positive: float | None = None,
    gamma_negative: float | None = None,
    margin: float = 0,
    focal: str = "branch",
    neg_weight: Array | None = None,
    reduction: str = "mean",
    normalizer: float | Array | None = None,
    options: LinearBCEOptions | None = None,
) -> np.floating[Any]:
    """Binary cross-entropy of the logits that a linear layer gives; they are made in chunks of labels, never stored.

    ``binary_cross_entropy_with_logits(input @ linear_weight.T + linear_bias, target, …)``, with memory for one chunk.

    Args:
        input: [N, D]; float16, bfloat16, float32 or float64. Products of half types are computed in float32.
        linear_weight: [C, D], of the input's dtype; one row for each label.
        target: [N, C], as in ``binary_cross_entropy_with_logits``. Or sparse, and never made dense: ``IndexTargets``,
            or SciPy's matrices in CSR format.
        linear_bias: [C]; or one number for all labels, of shape ().
        weight, pos_weight, mask: broadcast to [N, C], as there.
        sample_weight: [N].
        alpha, gamma_positive, gamma_negative, margin, focal, neg_weight: as there.
        ignore_index, label_smoothing, gamma, normalizer: as there. The divisor of a mean is that of all labels.
        reduction: ``"mean"``, ``"sum"``, ``"batchmean"`` or ``"weighted_mean"``. ``"none"`` is refused.
        options: how it is computed; see ``LinearBCEOptions``.

    Returns:
        A scalar, of the wider floating dtype of input and target.

    Raises:
        TypeError: an argument is no array, or of a dtype that is not supported; dtypes of input and weight differ.
        ValueError: a shape does not fit, or an option is out of its range.

    Examples:
        >>> import numpy as np
        >>> target = np.array([[1, 0, 0], [0, 0, 1]])
        >>> print(f"{linear_binary_cross_entropy_with_logits(np.ones((2, 4)), np.zeros((3, 4)), target):.4f}")
        0.6931
    """
    others = (weight, sample_weight, pos_weight, mask, neg_weight)
    numbers = Numbers(
        ignore_index, label_smoothing, gamma, given_family(alpha, gamma_positive, gamma_negative, margin, focal)
    )
    given = (input, linear_weight, target, linear_bias, others, numbers)
    return _compute(*given, reduction, normalizer, options, ())[0]


def linear_value_and_grad(
    input: Array,
    linear_weight: Array,
    target: Array | IndexTargets | Any,
    *,
    linear_bias: Array | None = None,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    sample_weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    alpha: float | None = None,
    gamma_positive: float | None = None,
    gamma_negative: float | None = None,
    margin: float = 0,
    focal: str = "branch",
    neg_weight: Array | None = None,
    reduction: str = "mean",
    normalizer: float | Array | None = None,
    options: LinearBCEOptions | None = None,
    gradients_to: Sequence[str] = LinearGradients._fields,
) -> tuple[np.floating[Any], LinearGradients]:
    """The loss of a linear head and its gradients to input, weight and bias; each chunk of logits is made once.

    Args:
        input, linear_weight, target, linear_bias: as in ``linear_binary_cross_entropy_with_logits``.
        weight, pos_weight, sample_weight, mask: likewise.
        ignore_index, label_smoothing, gamma, alpha, gamma_positive, gamma_negative, margin, focal: likewise.
        neg_weight, reduction, normalizer, options: likewise.
        gradients_to: which gradients are computed, by the arguments' names; nothing is computed for the others.

    Returns:
        The loss; and the gradients, of the shapes and the dtype of their operands, as a ``LinearGradients`` with the
        arguments' names. A gradient that was not asked for is None, and so is that of a bias which is not there.

    Raises:
        TypeError, ValueError: as the loss, and for an unknown name in ``gradients_to``.

    Examples:
        >>> import numpy as np
        >>> target = np.array([[1, 0, 0], [0, 0, 1]])
        >>> loss, gradients = linear_value_and_grad(np.ones((2, 4)), np.zeros((3, 4)), target)
        >>> print(f"{loss:.4f}", gradients.input.shape, gradients.linear_weight.shape)
        0.6931 (2, 4) (3, 4)
    """
    others = (weight, sample_weight, pos_weight, mask, neg_weight)
    numbers = Numbers(
        ignore_index, label_smoothing, gamma, given_family(alpha, gamma_positive, gamma_negative, margin, focal)
    )
    given = (input, linear_weight, target, linear_bias, others, numbers)
    return _compute(*given, reduction, normalizer, options, tuple(gradients_to))
