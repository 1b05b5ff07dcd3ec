"""The loss on NumPy arrays, with torch's parameters, and ``value_and_grad`` to train without an autograd framework.

float16, float32, float64 and (through ``ml_dtypes``) bfloat16; targets also bool, uint8, int8, int16, int32, int64.
Arrays of any layout and byte order are read in place where the processor can.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from binxent import formula, kernel, options

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "value_and_grad",
]

Array = np.ndarray[Any, np.dtype[Any]]

# input, target, weight, sample_weight, pos_weight, mask
_Given = tuple[object, object, object, object, object, object]
# ignore_index, label_smoothing, gamma
_Numbers = tuple[object, object, object]


def _checked(name: str, value: object, *, floating: bool = False) -> Array:
    """An array that the kernel can read: of a dtype that it knows, in native byte order."""
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"{name}: expected a numpy.ndarray, got {type(value).__name__}; wrap it in numpy.asarray(…)")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: the mask of a numpy.ma.MaskedArray would be ignored; pass its .filled(…) or .data")
    value = np.asarray(value)  # a subclass may say anything of its shape, strides and dtype
    known = kernel.FLOATING if floating else tuple(kernel.TAGS)
    if value.dtype.name not in known:
        raise TypeError(f"{name}: dtype {value.dtype} is not supported; expected one of {', '.join(known)}")
    if not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    return value


def _operand(array: Array) -> kernel.Operand:
    return array.ctypes.data, kernel.TAGS[array.dtype.name], array.shape, array.strides


def _result_dtype(input: Array, target: Array) -> np.dtype[Any]:
    """The wider of input and target; an integer target or a weight never widens it."""
    if target.dtype.name not in kernel.FLOATING or target.dtype == input.dtype:
        return input.dtype
    if {input.dtype.name, target.dtype.name} == {"float16", "bfloat16"}:
        return np.dtype(np.float32)
    return max(input.dtype, target.dtype, key=lambda dtype: dtype.itemsize)


class _Operands(NamedTuple):
    """As the kernel reads them."""

    input: Array
    target: Array
    weights: tuple[Array, ...]  # weight and sample_weight, if given
    pos_weight: Array | None
    mask: Array | None


def _broadcasting(name: str, value: object, to: tuple[int, ...]) -> Array:
    array = _checked(name, value)
    options.check_broadcast(name, array.shape, to)
    return array


def _operands(given: _Given) -> _Operands:
    input, target, weight, sample_weight, pos_weight, mask = given
    x = _checked("input", input, floating=True)
    y = _checked("target", target)
    if y.shape != x.shape:
        raise ValueError(f"target: shape {y.shape} must be the same as the input's, {x.shape}")
    weights: tuple[Array, ...] = () if weight is None else (_broadcasting("weight", weight, x.shape),)
    if sample_weight is not None:
        each = _checked("sample_weight", sample_weight)
        weights += (each.reshape(options.check_sample_weight(each.shape, x.shape)),)
    p = None if pos_weight is None else _broadcasting("pos_weight", pos_weight, x.shape)
    m = None if mask is None else _broadcasting("mask", mask, x.shape)
    return _Operands(x, y, weights, p, m)


def _new(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    size = math.prod(shape) * dtype.itemsize
    if size < kernel.LARGE_MEMORY:
        return np.empty(shape, dtype)
    array: Array = kernel.new_bytes(size).view(dtype).reshape(shape)
    return array


_TOO_HARD: type[Exception] = getattr(np, "exceptions", np).TooHardError
_MOST_WORK = 100_000  # steps, some milliseconds, in which views that no program makes by accident may not be told apart


def _overlap(one: Array, other: Array) -> bool:
    """Whether a byte belongs to both."""
    try:
        return np.shares_memory(one, other, max_work=_MOST_WORK)  # type: ignore[arg-type]  # NumPy's stub knows two numbers
    except _TOO_HARD:
        return True


def _overlaps_itself(array: Array) -> bool:
    """Whether two elements share memory."""
    reach = array.itemsize
    for step, size in sorted((abs(step), size) for step, size in zip(array.strides, array.shape, strict=True)):
        if size > 1:
            if step < reach:
                break
            reach += step * (size - 1)
    else:
        return False  # each step leads beyond all that shorter ones reach: so it is in every view but as_strided's
    for axis, size in enumerate(array.shape):
        # Any two elements that differ along this axis, and perhaps along later ones, lie as some two of either half do.
        before, half = (slice(1),) * axis, size // 2
        if _overlap(array[(*before, slice(half))], array[(*before, slice(half, None))]):
            return True
    return False


def _lies_like(one: Array, other: Array) -> bool:
    """Whether each element is in the other's place."""
    return one.ctypes.data == other.ctypes.data and all(
        step == there or size == 1 for step, there, size in zip(one.strides, other.strides, one.shape, strict=True)
    )


def _check_out(out: object, operands: _Operands) -> Array:
    """The gradient's place: new to the operands, or exactly the input's own."""
    x, y, weights, p, m = operands
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected a numpy.ndarray, got {type(out).__name__}")
    place = np.asarray(out)
    if place.shape != x.shape or place.dtype != x.dtype:
        raise ValueError(
            f"out: {place.dtype} of shape {place.shape}; expected {x.dtype} of shape {x.shape}, as the input"
        )
    if not place.flags.writeable:
        raise ValueError("out: the array is read-only; expected one that can be written")
    if _overlaps_itself(place):
        raise ValueError("out: elements of it share memory; expected memory of its own for each")
    others = [other for other in (y, *weights, p, m) if other is not None]
    if any(_overlap(place, other) for other in (others if _lies_like(place, x) else [x, *others])):
        raise ValueError("out: overlaps an operand; expected memory of its own, or exactly the input for in place")
    return place


def _compute(
    probabilities: bool,
    reduction: str,
    given: _Given,
    numbers: _Numbers,
    *,
    want_gradient: bool = False,
    out: object = None,
) -> tuple[Any, Any]:
    """The loss, and the gradient if that is wanted."""
    options.check_reduction(reduction)
    operands = _operands(given)
    x, y, weights, p, m = operands
    terms = options.terms(*numbers, y.dtype.name)

    gradient = None
    if out is not None:
        gradient = _check_out(out, operands)
    elif want_gradient:
        gradient = _new(x.shape, x.dtype)
    loss = _new(x.shape if reduction == "none" else (), _result_dtype(x, y))
    by_element = reduction == "none"
    divisor = options.divisor(reduction, x.shape, selects=options.selects(m, terms), weighted=bool(weights))

    def run(loss: Array | None, gradient: Array | None) -> None:
        outside = kernel.compute(
            probabilities,
            _operand(x),
            _operand(y),
            tuple(map(_operand, weights)),
            None if p is None else _operand(p),
            None if m is None else _operand(m),
            terms,
            _operand(loss) if loss is not None and by_element else None,
            _operand(loss) if loss is not None and not by_element else None,
            None if gradient is None else _operand(gradient),
            divisor,
            1.0,
            0,
        )
        if outside:
            _refuse_out_of_range(outside, x, y, formula.kept(y, m, terms and terms.ignore_index))

    if out is not None and probabilities:
        # A probability out of range is found before the caller's array is written.
        run(loss, None)
        run(None, gradient)
    else:
        run(loss, gradient)
    return loss[()], gradient if out is None else out


def _refuse_out_of_range(outside: int, input: Array, target: Array, keep: Array | None) -> None:
    name, array = ("input", input) if outside & kernel.INPUT_OUT_OF_RANGE else ("target", target)
    wrong = ~((array >= 0) & (array <= 1))
    first = tuple(int(i) for i in np.argwhere(wrong if keep is None else wrong & keep)[0])
    raise ValueError(options.no_probability(name, first, array[first]))


def binary_cross_entropy_with_logits(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Array | None = None,
    *,
    sample_weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
) -> Any:
    """Binary cross-entropy of logits.

    ``w · [p·y·softplus(−x) + (1−y)·softplus(x)]`` for each element, with x the input, y the target, w the weight and
    p the pos_weight; then the mean (divided by the number of elements), the sum, or none.

    Args:
        input: logits, of any shape; float16, bfloat16, float32 or float64.
        target: of the input's shape; any of these dtypes, bool, uint8, int8, int16, int32 or int64. Usually in
            [0, 1], which is not enforced.
        weight: broadcasts to the input.
        size_average, reduce: deprecated; either overrides ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``; ``"batchmean"``, the sum divided by the size of the first axis;
            ``"weighted_mean"``, the sum divided by the sum of the weights (pos_weight does not count).
        pos_weight: broadcasts to the input; multiplies the loss of positives.
        sample_weight: shape [N], along the input's first axis; multiplies ``weight``.
        mask: broadcasts to the input; an element where it is 0 or False is ignored: it adds 0 to the loss, to the
            gradient and to what ``"mean"`` divides by, whatever it holds, NaN too. The mean of nothing is 0.
        ignore_index: elements whose target it is are ignored likewise; an integer such as -100, or NaN.
        label_smoothing: ε in [0, 1]; y·(1−ε) + ε/2 stands for the target.
        gamma: of the focal loss, not negative; the loss of an element is multiplied by what the model gives the wrong
            answer, to this power.

    Returns:
        A scalar, or an array of the input's shape for ``"none"``; of the wider floating dtype of input and target.

    Raises:
        TypeError: an argument is no array, or of a dtype that is not supported.
        ValueError: a shape does not fit, or the reduction is unknown.

    Differences from ``torch.nn.functional.binary_cross_entropy_with_logits``: integer and boolean targets, exact
    tails, finite results for infinite logits with the right target, and what follows ``pos_weight``.

    Examples:
        >>> import numpy as np
        >>> target = np.ones((10, 64), np.float32)
        >>> output = np.full((10, 64), 1.5, np.float32)
        >>> loss = binary_cross_entropy_with_logits(output, target, pos_weight=np.ones(64, np.float32))
        >>> print(f"{loss:.4f}")
        0.2014
    """
    meant = options.legacy_reduction(size_average, reduce, reduction)
    given = (input, target, weight, sample_weight, pos_weight, mask)
    return _compute(False, meant, given, (ignore_index, label_smoothing, gamma))[0]


def binary_cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    *,
    pos_weight: Array | None = None,
    sample_weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
) -> Any:
    """Binary cross-entropy of probabilities.

    ``w · [p·y·(−log q) + (1−y)·(−log(1−q))]`` for each element, with q the input, y the target, w the weight and p
    the pos_weight; both logarithms are clamped at −100. Then the mean, the sum, or none.

    Arguments, results and errors are those of ``binary_cross_entropy_with_logits``; besides, input and target must
    lie in [0, 1], else a ValueError names the first element that does not.

    Differences from ``torch.nn.functional.binary_cross_entropy``: integer and boolean targets, mixed dtypes,
    ``pos_weight`` and what follows it.

    Examples:
        >>> import numpy as np
        >>> binary_cross_entropy(np.array([0.5, 0.9]), np.array([1, 1]), reduction="none").round(4)
        array([0.6931, 0.1054])
    """
    meant = options.legacy_reduction(size_average, reduce, reduction)
    given = (input, target, weight, sample_weight, pos_weight, mask)
    return _compute(True, meant, given, (ignore_index, label_smoothing, gamma))[0]


def value_and_grad(
    input: Array,
    target: Array,
    weight: Array | None = None,
    reduction: str = "mean",
    pos_weight: Array | None = None,
    *,
    sample_weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    probabilities: bool = False,
    out: Array | None = None,
) -> tuple[Any, Array]:
    """The loss and its gradient with respect to the input, in one pass over memory.

    ``d/dx = w · [(1−y)·σ(x) − p·y·σ(−x)]`` for logits, divided by the number of elements for ``"mean"``; for
    ``"none"``, of each element's own loss. With ``probabilities=True`` the input is probabilities and the gradient
    ``w · [(1−y)·q − p·y·(1−q)] / max(q·(1−q), 1e-12)``.

    Args:
        input, target, weight, reduction, pos_weight, sample_weight, mask, ignore_index, label_smoothing, gamma: as in
            ``binary_cross_entropy_with_logits``.
        probabilities: whether the input is probabilities.
        out: where the gradient is written, of the input's shape and dtype. It may be the input itself, and then
            nothing is allocated.

    Returns:
        The loss, and the gradient, of the input's shape and dtype.

    Raises:
        TypeError, ValueError: as the loss, and for an ``out`` of another shape or dtype, read-only, or overlapping
            an operand or itself. Nothing has been written then.

    Examples:
        >>> import numpy as np
        >>> loss, gradient = value_and_grad(np.zeros(4), np.array([1, 0, 0, 1]))
        >>> print(f"{loss:.4f}", gradient)
        0.6931 [-0.125  0.125  0.125 -0.125]
    """
    given = (input, target, weight, sample_weight, pos_weight, mask)
    numbers = (ignore_index, label_smoothing, gamma)
    return _compute(probabilities, reduction, given, numbers, want_gradient=True, out=out)


class _Loss:
    """What the two classes share: parameters kept as they are given, checked at once where that needs no input."""

    probabilities: bool

    def __init__(
        self,
        weight: Array | None,
        reduction: str,
        pos_weight: Array | None,
        ignore_index: float | None,
        label_smoothing: float,
        gamma: float,
    ) -> None:
        self.weight = None if weight is None else _checked("weight", weight)
        self.reduction = options.check_reduction(reduction)
        self.pos_weight = None if pos_weight is None else _checked("pos_weight", pos_weight)
        options.terms(ignore_index, label_smoothing, gamma, "float32")
        self.ignore_index, self.label_smoothing, self.gamma = ignore_index, label_smoothing, gamma

    def __call__(
        self, input: Array, target: Array, *, sample_weight: Array | None = None, mask: Array | None = None
    ) -> Any:
        return _compute(self.probabilities, self.reduction, *self._given(input, target, sample_weight, mask))[0]

    def value_and_grad(
        self,
        input: Array,
        target: Array,
        *,
        sample_weight: Array | None = None,
        mask: Array | None = None,
        out: Array | None = None,
    ) -> tuple[Any, Array]:
        """The loss and its gradient with respect to the input; see the function of that name."""
        given, numbers = self._given(input, target, sample_weight, mask)
        return _compute(self.probabilities, self.reduction, given, numbers, want_gradient=True, out=out)

    def _given(
        self, input: Array, target: Array, sample_weight: Array | None, mask: Array | None
    ) -> tuple[_Given, _Numbers]:
        given = (input, target, self.weight, sample_weight, self.pos_weight, mask)
        return given, (self.ignore_index, self.label_smoothing, self.gamma)

    def __repr__(self) -> str:
        given = {} if self.reduction == "mean" else {"reduction": repr(self.reduction)}
        for name in ("weight", "pos_weight"):
            if (array := getattr(self, name)) is not None:
                given[name] = f"{array.dtype}{list(array.shape)}"
        given |= options.shown_terms(self)
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in given.items())})"


class BCEWithLogitsLoss(_Loss):
    """``binary_cross_entropy_with_logits`` with its parameters kept.

    Examples:
        >>> import numpy as np
        >>> BCEWithLogitsLoss(reduction="sum")(np.zeros(2), np.ones(2)).round(4)
        np.float64(1.3863)
    """

    probabilities = False

    def __init__(
        self,
        weight: Array | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Array | None = None,
        *,
        ignore_index: float | None = None,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
    ) -> None:
        meant = options.legacy_reduction(size_average, reduce, reduction)
        super().__init__(weight, meant, pos_weight, ignore_index, label_smoothing, gamma)


class BCELoss(_Loss):
    """``binary_cross_entropy`` with its parameters kept.

    Examples:
        >>> import numpy as np
        >>> BCELoss()(np.array([0.5]), np.array([1])).round(4)
        np.float64(0.6931)
    """

    probabilities = True

    def __init__(
        self,
        weight: Array | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        *,
        pos_weight: Array | None = None,
        ignore_index: float | None = None,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
    ) -> None:
        meant = options.legacy_reduction(size_average, reduce, reduction)
        super().__init__(weight, meant, pos_weight, ignore_index, label_smoothing, gamma)
