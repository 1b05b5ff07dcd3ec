"""The loss in PaddlePaddle: drop-ins for Paddle's two functions and two layers.

In the dynamic graph on CPU, ``eager`` reaches the kernel for the loss and the gradient to the logits. For everything
else ``composite`` computes the formula with Paddle's own operations.
"""

from __future__ import annotations

import math
import os
from typing import Any, Literal

import paddle
from paddle import Tensor
from paddle.base import core

from binxent import kernel, options
from binxent.paddle import composite, eager

__all__ = ["BCELoss", "BCEWithLogitsLoss", "binary_cross_entropy", "binary_cross_entropy_with_logits"]

_LOGITS, _PROBABILITIES = "binary_cross_entropy_with_logits", "binary_cross_entropy"
_REST = ("label", "weight", "sample_weight", "pos_weight", "mask")
_NAMES = {_LOGITS: ("logit", *_REST), _PROBABILITIES: ("input", *_REST)}


def _result_dtype(input: str, label: str) -> str:
    """The wider of the two; an integer label never widens it."""
    if label not in kernel.FLOATING or label == input:
        return input
    if {input, label} == {"float16", "bfloat16"}:
        return "float32"
    return max(input, label, key=("float16", "bfloat16", "float32", "float64").index)


_RESULT = {
    (getattr(paddle, input), getattr(paddle, label)): getattr(paddle, _result_dtype(input, label))
    for input in kernel.FLOATING
    for label in kernel.TAGS
}
_FLOAT32 = paddle.float32

_Reduction = Literal["none", "mean", "sum", "batchmean", "weighted_mean"]
# input, label, weight, sample_weight, pos_weight, mask
Given = tuple[Any, Any, Any, Any, Any, Any]
# ignore_index, label_smoothing, gamma
Numbers = tuple[Any, Any, Any]


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("paddle.")


def _check_kinds(function: str, operands: Given, kind: type, error: type[Exception]) -> None:
    for name, operand in zip(_NAMES[function], operands, strict=True):
        if not isinstance(operand, kind) and (operand is not None or name not in _REST[1:]):
            given = type(operand).__name__
            if type(operand).__module__ != "builtins":
                given = f"{type(operand).__module__}.{given}"
            raise error(f"{function}(): argument '{name}' must be {kind.__name__}, but got {given}")


def _check_dtypes(function: str, operands: Given, error: type[Exception]) -> None:
    for name, operand in zip(_NAMES[function], operands, strict=True):
        known = tuple(kernel.TAGS) if name in _REST else kernel.FLOATING
        if operand is not None and (dtype := _name(operand.dtype)) not in known:
            refused = TypeError if name in _REST[1:] else error
            raise refused(f"{function}(): argument '{name}' is of dtype {dtype}; expected one of {', '.join(known)}")


def _refuse_shape(function: str, operands: Given) -> None:
    input, label = list(operands[0].shape), list(operands[1].shape)
    raise ValueError(f"{function}(): label has shape {label}; expected that of {_NAMES[function][0]}, {input}")


def _enlarges(weight: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether the input broadcasts to the weight, which Paddle allows, and not the weight to the input."""
    try:
        options.check_broadcast("weight", weight.shape, shape)
    except ValueError as problem:
        try:
            paddle.broadcast_shape(list(weight.shape), list(shape))
        except ValueError:
            raise problem from None
        return True
    return False


def _may_enlarge(weight: list[int], input: list[int]) -> bool:
    """Whether a weight that must broadcast to the input may turn out, in a static graph, to do the contrary."""
    return any(w != 1 and -1 in (w, n) for w, n in zip(reversed(weight), reversed(input), strict=False))


def _without_none(*weights: Any) -> tuple[Any, ...]:
    return tuple(weight for weight in weights if weight is not None)


def _check_reduction(where: str, reduction: object) -> None:
    if reduction not in options.REDUCTIONS:  # Paddle's words, with what there is besides
        raise ValueError(
            f"The value of 'reduction' in {where} should be 'batchmean', 'weighted_mean', 'sum', 'mean' or 'none', but "
            f"received {reduction}, which is not allowed."
        )


def _terms(numbers: Numbers, label_dtype: str) -> options.Terms | None:
    """The numbers, checked as far as they are known; a tensor that learns and a static graph's variable stay one."""
    known, kept = dict(zip(options.Terms._fields, numbers, strict=True)), {}
    for name, number in known.items():
        if isinstance(number, paddle.pir.Value):  # type: ignore[attr-defined]
            if name == "ignore_index" or math.prod(number.shape) != 1:
                raise TypeError(f"{name}: expected a number, got a static graph's variable of shape {number.shape}")
            kept[name], known[name] = number, 0.0
        elif name != "ignore_index" and isinstance(number, Tensor) and not number.stop_gradient:
            if not paddle.in_dynamic_mode():
                given = "a paddle.Tensor that learns, of which a static graph would make a constant"
                raise TypeError(f"{name}: {given}; make it a parameter of the layer")
            if paddle.is_grad_enabled():
                kept[name] = number
    terms = options.terms(known["ignore_index"], known["label_smoothing"], known["gamma"], label_dtype)
    return (terms or options.Terms())._replace(**kept) if kept else terms


def _static_loss(function: str, reduction: str, operands: Given, numbers: Numbers) -> Any:
    """In a static graph, where a dimension may be unknown (−1) until it runs."""
    _check_kinds(function, operands, paddle.pir.Value, TypeError)  # type: ignore[attr-defined]
    _check_dtypes(function, operands, TypeError)
    x, y, weight, sample_weight, p, mask = operands
    if len(x.shape) != len(y.shape) or any(a != b and -1 not in (a, b) for a, b in zip(x.shape, y.shape, strict=True)):
        _refuse_shape(function, operands)
    dtype, terms = _RESULT[x.dtype, y.dtype], _terms(numbers, _name(y.dtype))
    if -1 in (*x.shape, *y.shape):
        y = paddle.reshape(y, composite.shape_of_both(x, y))
    if p is not None:
        if -1 not in (*x.shape, *p.shape) or len(p.shape) > len(x.shape):
            options.check_broadcast("pos_weight", p.shape, x.shape)
        elif _may_enlarge(p.shape, x.shape):
            p = paddle.expand(p, paddle.shape(x))  # refuses, when it runs, one that would
    if mask is not None:
        if -1 not in (*x.shape, *mask.shape) or len(mask.shape) > len(x.shape):
            options.check_broadcast("mask", mask.shape, x.shape)
        else:
            # It refuses, when it runs, a mask that would enlarge the input, and here one that could learn.
            mask = paddle.expand(composite.constant(mask), paddle.shape(x))
    if sample_weight is not None:
        if len(sample_weight.shape) != 1 or -1 not in (*x.shape[:1], *sample_weight.shape):
            options.check_sample_weight(sample_weight.shape, x.shape)
        # Refuses, when it runs, another number of them, where the formula would broadcast a single one.
        first = paddle.shape(x)[0] if x.shape[0] == -1 else x.shape[0]
        sample_weight = paddle.reshape(sample_weight, [first, *[1] * (len(x.shape) - 1)])
    read = (x, y, _without_none(weight, sample_weight), p, mask)
    return composite.loss(function is _PROBABILITIES, reduction, dtype, read, terms)


def _loss(
    function: str,
    input: Tensor,
    label: Tensor,
    weight: Tensor | None,
    reduction: str,
    pos_weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    ignore_index: float | None,
    label_smoothing: float | Tensor,
    gamma: float | Tensor,
) -> Any:
    _check_reduction(function, reduction)
    elements = kernel.paddle.plain_elements(input, label)
    alone = weight is sample_weight is pos_weight is mask is None
    may_learn = not label.stop_gradient or isinstance(gamma, Tensor) or isinstance(label_smoothing, Tensor)
    if elements <= 0 or may_learn or not alone:
        operands = (input, label, weight, sample_weight, pos_weight, mask)
        return _general_loss(function, reduction, operands, (ignore_index, label_smoothing, gamma))
    terms = options.terms(ignore_index, label_smoothing, gamma, "float32")
    return eager.loss(function is _PROBABILITIES, reduction, _FLOAT32, elements, (input, label, (), None, None), terms)


# to_static(full_graph=False) does not look into these files, and calls the loss with tensors.
if hasattr(paddle.jit, "marker"):
    paddle.jit.marker.force_dynamic(_loss)
core.eval_frame_skip_file_prefix((os.path.dirname(__file__) + os.sep,))


def _general_loss(function: str, reduction: str, operands: Given, numbers: Numbers) -> Any:
    input, label, weight, sample_weight, pos_weight, mask = operands
    if not paddle.in_dynamic_mode() and not (isinstance(input, Tensor) and isinstance(label, Tensor)):
        return _static_loss(function, reduction, operands, numbers)
    _check_kinds(function, operands, Tensor, ValueError)
    shape = input.shape
    if label.shape != shape:
        _refuse_shape(function, operands)
    dtype = _RESULT.get((input.dtype, label.dtype))
    if dtype is None:
        _check_dtypes(function, operands, RuntimeError)
    learns, enlarges = not label.stop_gradient, False
    for operand in operands[2:]:
        if operand is not None:
            if operand.dtype not in eager.TAG:
                _check_dtypes(function, operands, RuntimeError)
            learns = learns or not (operand.stop_gradient or operand is mask)
    if pos_weight is not None:
        if math.prod(shape) == math.prod(pos_weight.shape) == 1:  # in Paddle, one number has any dimensions
            pos_weight = pos_weight.reshape(shape)
        options.check_broadcast("pos_weight", pos_weight.shape, shape)
    if mask is not None:
        options.check_broadcast("mask", mask.shape, shape)
    if sample_weight is not None:
        sample_weight = sample_weight.reshape(options.check_sample_weight(sample_weight.shape, shape))
    if weight is not None:
        enlarges = _enlarges(weight, shape)
    terms = _terms(numbers, _name(label.dtype))
    learns = learns or (terms is not None and any(isinstance(number, Tensor) for number in terms))
    read = (input, label, _without_none(weight, sample_weight), pos_weight, mask)
    elements = math.prod(shape)
    on_cpu = input.place.is_cpu_place()
    probabilities = function is _PROBABILITIES
    if on_cpu and elements and input.is_dense() and not enlarges and not (learns and paddle.is_grad_enabled()):
        return eager.loss(probabilities, reduction, dtype, elements, read, terms)
    if probabilities and on_cpu:
        keep = composite.kept(label, mask, terms)
        outside = paddle.logical_not((input >= 0) & (input <= 1))
        if bool((outside if keep is None else outside & keep).any()):
            eager.refuse_out_of_range(input, keep)
    return composite.loss(probabilities, reduction, dtype, read, terms)


@paddle.jit.not_to_static  # to_static(full_graph=True) calls it as it is, with values of the graph
def binary_cross_entropy_with_logits(
    logit: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    reduction: _Reduction = "mean",
    pos_weight: Tensor | None = None,
    name: str | None = None,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: float | None = None,
    label_smoothing: float | Tensor = 0.0,
    gamma: float | Tensor = 0.0,
) -> Tensor:
    """Binary cross-entropy of logits; a drop-in for ``paddle.nn.functional.binary_cross_entropy_with_logits``.

    ``w · [p·y·softplus(−x) + (1−y)·softplus(x)]`` for each element, with x the logit, y the label, w the weight and p
    the pos_weight; then the mean (divided by the number of elements), the sum, or none.

    Args:
        logit: of any shape; float16, bfloat16, float32 or float64.
        label: of the logit's shape; any of these dtypes, bool, uint8, int8, int16, int32 or int64. Usually in [0, 1],
            which is not enforced.
        weight: broadcasts to the logit, as in multiplication. As in Paddle, it may also have more dimensions and
            enlarge the result; the reduction is then of all of it.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``; ``"batchmean"``, the sum divided by the size of the first axis;
            ``"weighted_mean"``, the sum divided by the sum of the weights (pos_weight does not count).
        pos_weight: broadcasts to the logit; multiplies the loss of positives. In [N, C] logits, one for each class.
        name: accepted and without effect, as in Paddle.
        sample_weight: shape [N], along the logit's first axis; multiplies ``weight``.
        mask: broadcasts to the logit; an element where it is 0 or False is ignored: it adds 0 to the loss, to the
            gradients and to what ``"mean"`` divides by, whatever it holds, NaN too. The mean of nothing is 0.
        ignore_index: elements whose label it is are ignored likewise; an integer such as -100, or NaN.
        label_smoothing: ε in [0, 1]; y·(1−ε) + ε/2 stands for the label.
        gamma: of the focal loss, not negative; the loss of an element is multiplied by what the model gives the wrong
            answer, to this power. It and ``label_smoothing`` may be tensors of one element, and learn; a variable of a
            static graph that is out of range makes the loss NaN.

    Returns:
        A tensor of shape [], or of the logit's shape for ``"none"``; of the wider floating dtype of logit and label.

    Raises:
        ValueError: logit and label differ in shape, a weight or the mask does not broadcast, the reduction is unknown,
            a number is out of its range, or an argument is no Tensor (in a static graph, TypeError).
        RuntimeError: logit or label is of a dtype that is not supported.
        TypeError: a weight or the mask is, or a number is none.

    Differences from Paddle: the right gradient where a logit is 0; exact tails; a mean that is right for any number of
    elements; labels of −100 count; integer, boolean, half precision and mixed dtypes; gradients to ``label`` and
    ``pos_weight``, and of gradients; a weight never widens the result; a ``pos_weight`` of more dimensions is refused;
    ``"batchmean"`` and ``"weighted_mean"``, ``sample_weight`` and what follows it.

    Examples:
        >>> logit = paddle.to_tensor([5.0, 1.0, 3.0])
        >>> label = paddle.to_tensor([1.0, 0.0, 1.0])
        >>> round(binary_cross_entropy_with_logits(logit, label).item(), 6)
        0.456188
    """
    loss: Tensor = _loss(
        _LOGITS,
        logit,
        label,
        weight,
        reduction,
        pos_weight,
        sample_weight,
        mask,
        ignore_index,
        label_smoothing,
        gamma,
    )
    return loss


@paddle.jit.not_to_static
def binary_cross_entropy(
    input: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    reduction: _Reduction = "mean",
    name: str | None = None,
    *,
    pos_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: float | None = None,
    label_smoothing: float | Tensor = 0.0,
    gamma: float | Tensor = 0.0,
) -> Tensor:
    """Binary cross-entropy of probabilities; a drop-in for ``paddle.nn.functional.binary_cross_entropy``.

    ``w · [p·y·(−log q) + (1−y)·(−log(1−q))]`` for each element, with q the input, y the label, w the weight and p the
    pos_weight; both logarithms are clamped at −100, and the gradient's denominator q·(1−q) at 1e-12. Then the mean
    (divided by the number of elements), the sum, or none.

    Args:
        input: probabilities, of any shape; float16, bfloat16, float32 or float64.
        label, weight, reduction, name, pos_weight, sample_weight, mask, ignore_index, label_smoothing, gamma: as with
            logits.

    Returns:
        As with logits.

    Raises:
        ValueError: an input that is not ignored lies outside [0, 1]; the message names the first. A static graph raises
            it when it runs. On accelerators, such elements are NaN. The rest as with logits.

    Differences from Paddle: integer, boolean, half precision and mixed dtypes; exact for small probabilities; a mean
    that is right for any number of elements; gradients to ``label``, and of gradients; ``"batchmean"`` and
    ``"weighted_mean"``, ``pos_weight`` and what follows it.

    Examples:
        >>> input = paddle.to_tensor([0.5, 0.6, 0.7])
        >>> label = paddle.to_tensor([1.0, 0.0, 1.0])
        >>> print(binary_cross_entropy(input, label))
        Tensor(shape=[], dtype=float32, place=Place(cpu), stop_gradient=True,
               0.65537095)
    """
    loss: Tensor = _loss(
        _PROBABILITIES,
        input,
        label,
        weight,
        reduction,
        pos_weight,
        sample_weight,
        mask,
        ignore_index,
        label_smoothing,
        gamma,
    )
    return loss


def _shown(layer: Any) -> str:
    """The options that are not the defaults."""
    shown = {} if layer.reduction == "mean" else {"reduction": repr(layer.reduction)}
    for name, default in {"weight": None, "pos_weight": None, **options.Terms()._asdict()}.items():
        value = getattr(layer, name)
        if isinstance(value, Tensor):
            shown[name] = f"{_name(value.dtype)}{list(value.shape)}"
        elif value != default:
            shown[name] = repr(value)
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def _for_paddle(where: str, reduction: Any) -> Any:
    """What Paddle's constructor, which knows three reductions, is given in place of it."""
    if type(reduction) is bool:
        return reduction  # size_average, which Paddle refuses with its own words
    _check_reduction(where, reduction)
    return "mean"


def _keep(layer: Any, reduction: str, ignore_index: float | None, label_smoothing: Any, gamma: Any) -> None:
    """Beside what Paddle's constructor keeps."""
    options.terms(ignore_index, label_smoothing, gamma, "float32")
    layer.reduction = reduction
    layer.ignore_index, layer.label_smoothing, layer.gamma = ignore_index, label_smoothing, gamma


class BCEWithLogitsLoss(paddle.nn.BCEWithLogitsLoss):
    """``binary_cross_entropy_with_logits`` as a layer; a drop-in for ``paddle.nn.BCEWithLogitsLoss``.

    The constructor, buffers and ``state_dict`` are Paddle's, with ``ignore_index``, ``label_smoothing`` and ``gamma``
    besides; the call takes ``sample_weight`` and ``mask``.

    Examples:
        >>> logit = paddle.to_tensor([5.0, 1.0, 3.0], dtype="float32")
        >>> label = paddle.to_tensor([1, 0, 1])
        >>> BCEWithLogitsLoss(reduction="none")(logit, label).numpy().round(4)
        array([0.0067, 1.3133, 0.0486], dtype=float32)
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        reduction: _Reduction = "mean",
        pos_weight: Tensor | None = None,
        name: str | None = None,
        *,
        ignore_index: float | None = None,
        label_smoothing: float | Tensor = 0.0,
        gamma: float | Tensor = 0.0,
        **deprecated: Any,  # size_average and reduce, which Paddle refuses with its own words
    ) -> None:
        super().__init__(weight, _for_paddle("BCEWithLogitsLoss", reduction), pos_weight, name, **deprecated)
        _keep(self, reduction, ignore_index, label_smoothing, gamma)

    @paddle.jit.not_to_static
    def forward(
        self, logit: Tensor, label: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See ``binary_cross_entropy_with_logits``."""
        loss: Tensor = _loss(
            _LOGITS,
            logit,
            label,
            self.weight,
            self.reduction,
            self.pos_weight,
            sample_weight,
            mask,
            self.ignore_index,
            self.label_smoothing,
            self.gamma,
        )
        return loss

    def extra_repr(self) -> str:
        return _shown(self)


class BCELoss(paddle.nn.BCELoss):
    """``binary_cross_entropy`` as a layer; a drop-in for ``paddle.nn.BCELoss``.

    The constructor, buffers and ``state_dict`` are Paddle's, with ``pos_weight``, ``ignore_index``,
    ``label_smoothing`` and ``gamma`` besides; the call takes ``sample_weight`` and ``mask``.

    Examples:
        >>> loss = BCELoss(pos_weight=paddle.to_tensor(3.0))
        >>> loss(paddle.to_tensor([0.5, 0.5, 0.5]), paddle.to_tensor([1, 0, 1])).numpy().round(4)
        np.float32(1.6173)
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        reduction: _Reduction = "mean",
        name: str | None = None,
        *,
        pos_weight: Tensor | None = None,
        ignore_index: float | None = None,
        label_smoothing: float | Tensor = 0.0,
        gamma: float | Tensor = 0.0,
        **deprecated: Any,
    ) -> None:
        super().__init__(weight, _for_paddle("bce_loss", reduction), name, **deprecated)
        self.pos_weight = pos_weight
        _keep(self, reduction, ignore_index, label_smoothing, gamma)

    @paddle.jit.not_to_static
    def forward(
        self, input: Tensor, label: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See ``binary_cross_entropy``."""
        loss: Tensor = _loss(
            _PROBABILITIES,
            input,
            label,
            self.weight,
            self.reduction,
            self.pos_weight,
            sample_weight,
            mask,
            self.ignore_index,
            self.label_smoothing,
            self.gamma,
        )
        return loss

    def extra_repr(self) -> str:
        return _shown(self)
