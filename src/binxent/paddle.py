"""The loss in PaddlePaddle: drop-ins for Paddle's two functions and two layers.

In the dynamic graph on CPU the kernel makes the loss and the gradient to the logits. Static graphs, gradients of
gradients, gradients to the label and the weights, weights that enlarge the result, and other devices compute the
formula with Paddle's own operations.
"""

from __future__ import annotations

import math
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, _C_ops
from paddle.base.core import CPUPlace

from binxent import formula, kernel, options

__all__ = ["BCELoss", "BCEWithLogitsLoss", "binary_cross_entropy", "binary_cross_entropy_with_logits"]

_LOGITS, _PROBABILITIES = "binary_cross_entropy_with_logits", "binary_cross_entropy"
_OTHERS = ("label", "weight", "sample_weight", "pos_weight")
_NAMES = {
    _LOGITS: ("logit", *_OTHERS),
    _PROBABILITIES: ("input", *_OTHERS),
}
_TAG = {getattr(paddle, name): tag for name, tag in kernel.TAGS.items()}
_WIDTH = {paddle.float16: 2, paddle.bfloat16: 2, paddle.float32: 4, paddle.float64: 8}
_FLOAT16, _FLOAT32, _FLOAT64 = paddle.float16, paddle.float32, paddle.float64
_LARGEST_FLOAT16 = 65504.0
_CPU = CPUPlace()
_ONLY_CPU = not (
    paddle.is_compiled_with_cuda() or paddle.is_compiled_with_xpu() or paddle.device.get_all_custom_device_type()
)

# Up to here, copying the logits costs less than allocating a gradient.
_SMALL = 4096

# The gradient is made together with the loss, in one pass, for the incoming gradient that the last backward brought:
# 1, or a loss scale. Where another one comes, the kernel runs again, so this only ever decides what is computed twice.
_expected_incoming = 1.0


def _restore_threads() -> None:
    """Importing Paddle sets OMP_NUM_THREADS to 1 where it is not set, and the kernel would take that for a wish."""
    started_with = Path("/proc/self/environ")
    if (
        os.environ.get("OMP_NUM_THREADS") == "1"
        and "BINXENT_NUM_THREADS" not in os.environ
        and kernel.num_threads() == 1
        and started_with.exists()
        and b"OMP_NUM_THREADS=" not in started_with.read_bytes()
    ):
        kernel.set_num_threads(len(os.sched_getaffinity(0)))


_restore_threads()

# input, label, weight, sample_weight (of shape [N, 1, …, 1]), pos_weight
Operands = tuple[Any, Any, Any, Any, Any]
# probabilities, reduction, divisor, operands
Call = tuple[bool, str, float, Operands]


def _address(tensor: Tensor) -> kernel.Operand:
    size = tensor.element_size()
    return tensor.data_ptr(), _TAG[tensor.dtype], tuple(tensor.shape), tuple(step * size for step in tensor.strides)


# Since Paddle 3.3 the kernel can look into a tensor by itself, in half the time.
_looks_into_tensors = hasattr(Tensor, "__dlpack_c_exchange_api__")


def _run(call: Call, loss: Tensor | None, gradient: Tensor | None, incoming: Any) -> None:
    """Write the loss, the gradient for the incoming gradient, or both, in one pass over memory."""
    probabilities, reduction, divisor, (x, y, weight, sample_weight, p) = call
    weights: tuple[Any, ...] = () if weight is None else (weight,)
    if sample_weight is not None:
        weights += (sample_weight,)
    if incoming.__class__ is float:
        factor = incoming / divisor if divisor else 0.0
    else:  # one for each element: a weight like any other
        weights += (incoming,)
        factor = 1.0
    if not _looks_into_tensors:
        x, y, p, loss, gradient = (t if t is None else _address(t) for t in (x, y, p, loss, gradient))
        weights = tuple(map(_address, weights))
    element, value = (loss, None) if reduction == "none" else (None, loss)
    outside = kernel.compute(probabilities, x, y, weights, p, element, value, gradient, divisor, factor, 0)
    if outside and outside & kernel.INPUT_OUT_OF_RANGE and loss is not None:
        _refuse_out_of_range(call[3][0])


def _versions(call: Call) -> list[int]:
    """Which change with each operation in place."""
    x, y, *weights = call[3]
    versions = [x._inplace_version(), y._inplace_version()]
    for weight in weights:
        if weight is not None:
            versions.append(weight._inplace_version())
    return versions


class _Backward:
    """The hook that turns the gradient of a loss into that of its logits.

    Not a PyLayer: Paddle frees a PyLayer in its first backward and ends the process in a second one, whatever
    ``retain_graph`` says. A hook on the output of one of Paddle's own operations is called every time.
    """

    __slots__ = ("call", "gradient", "id", "incoming", "loss", "made_for", "versions")

    def __init__(self, call: Call, gradient: Tensor | None) -> None:
        self.call = call
        self.gradient = gradient
        self.made_for = _expected_incoming
        self.incoming: Tensor | None = None
        self.versions = _versions(call)

    def __call__(self, incoming: Tensor) -> Tensor:
        global _expected_incoming
        if self.incoming is not None:
            incoming, self.incoming = self.incoming, None
        # Paddle tells a hook neither whether the graph is kept nor whether the gradient will be differentiated. The
        # three ways into a backward, Tensor.backward, paddle.autograd.backward and paddle.grad, know; of these, only
        # paddle.grad has a create_graph, and it leaves the graph as it is.
        caller = sys._getframe(1).f_locals
        call = self.call
        if "create_graph" in caller:
            if caller["create_graph"]:
                self.check_versions(call)
                return _composed_gradient(call, incoming)
        elif not caller.get("retain_graph", True):
            del self.call  # Paddle runs no node of a graph that it has freed
        gradient, self.gradient = self.gradient, None  # handed over, not kept: Paddle may add to it
        scale: Any = incoming if call[1] == "none" else incoming.item()
        if gradient is None or scale != self.made_for:
            self.check_versions(call)
            if gradient is None:
                x = call[3][0]
                gradient = _C_ops.empty(x.shape, x.dtype, _CPU)
            else:
                _expected_incoming = scale
            _run(call, None, gradient, scale)
        return gradient

    def check_versions(self, call: Call) -> None:
        if _versions(call) != self.versions:
            raise RuntimeError(
                "an operand of the loss was modified by an inplace operation before the backward of the loss; "
                "modify a copy, or modify it after the backward"
            )

    def hold(self, incoming: Tensor) -> None:
        """A hook above a conversion: the gradient of the loss as it was before that."""
        self.incoming = incoming

    def stay_last(self, loss: Tensor) -> None:
        """Behind the hooks that the user registers: they get the gradient of the loss, which this one replaces."""
        self.loss = weakref.ref(loss)
        self.id = loss._register_grad_hook(self)
        loss._register_grad_hook = self.register
        loss.retain_grads = self.retain

    def register(self, hook: Callable[[Tensor], Tensor | None]) -> Any:
        return self.before(Tensor._register_grad_hook, hook)

    def retain(self) -> None:
        self.before(Tensor.retain_grads)

    def before(self, method: Callable[..., Any], *arguments: Any) -> Any:
        loss = self.loss()
        Tensor._remove_grad_hook(loss, self.id)
        result = method(loss, *arguments)
        self.id = Tensor._register_grad_hook(loss, self)
        return result


def _refuse_out_of_range(input: Tensor) -> None:
    input = input.astype(_FLOAT64)
    first = tuple(paddle.nonzero(~((input >= 0) & (input <= 1)))[0].tolist())
    element = f"input{list(first)}" if first else "input"
    raise ValueError(
        f"all elements of input should be between 0 and 1, but {element} is {input[first].item()}; "
        "logits belong to binary_cross_entropy_with_logits"
    )


def _kernel_loss(call: Call, dtype: Any, elements: int) -> Tensor:
    x = call[3][0]
    by_element = call[1] == "none"
    if x.stop_gradient or not paddle.is_grad_enabled():
        loss = _C_ops.empty(x.shape if by_element else [], dtype, _CPU)
        _run(call, loss, None, 1.0)
        return loss

    # The graph gets the node of an operation that does nothing, and the hook stands before it.
    if by_element:
        node, gradient = _C_ops.unsqueeze(x, []), None
    elif elements <= _SMALL:
        node = _C_ops.assign(x)
        gradient = node.detach()
    else:
        node, gradient = _C_ops.unsqueeze(x, []), _C_ops.empty(x.shape, x.dtype, _CPU)
    backward = _Backward(call, gradient)

    if dtype is x.dtype or dtype == x.dtype:
        loss = _C_ops.empty(x.shape if by_element else [], dtype, _CPU)
        _run(call, loss, gradient, backward.made_for)
        loss._share_underline_tensor_to(node)
        backward.stay_last(node)
        return node

    # A node's gradient is of its output's dtype: a conversion brings that of the loss to that of the logits.
    if not by_element:
        _C_ops.empty([], x.dtype, _CPU)._share_underline_tensor_to(node)
    loss = _C_ops.cast(node, dtype)
    _run(call, loss, gradient, backward.made_for)
    node._register_grad_hook(backward)
    loss._register_grad_hook(backward.hold)
    return _C_ops.unsqueeze(loss, [])


class _Operations:
    """Paddle's operations, as the formula names them."""

    exp = staticmethod(paddle.exp)
    log = staticmethod(paddle.log)
    where = staticmethod(paddle.where)
    isinf = staticmethod(paddle.isinf)
    zeros_like = staticmethod(paddle.zeros_like)

    @staticmethod
    def log1p(x: Any) -> Any:
        """log1p, whose second derivative Paddle lacks, with the derivatives of log(1 + x), whose values are too coarse."""
        coarse = paddle.log(1 + x)
        return paddle.log1p(x.detach()) + (coarse - coarse.detach())


def _wide(dtype: Any, operands: Operands) -> list[Any]:
    """In the arithmetic's type: half precision is computed in float32 and rounded once, at the end."""
    wide = _FLOAT64 if dtype == _FLOAT64 else _FLOAT32
    return [t if t is None or t.dtype == wide else paddle.cast(t, wide) for t in operands]


def _product(weight: Any, sample_weight: Any) -> Any:
    if weight is None or sample_weight is None:
        return sample_weight if weight is None else weight
    return weight * sample_weight


def _composed_gradient(call: Call, incoming: Tensor) -> Tensor:
    """The gradient to the logits, itself differentiable."""
    probabilities, _, divisor, operands = call
    dtype = operands[0].dtype
    with paddle.amp.auto_cast(enable=False):
        x, y, weight, sample_weight, p = _wide(incoming.dtype, operands)
        slope = formula.probabilities_gradient if probabilities else formula.logits_gradient
        gradient = slope(_Operations, x, y, _product(weight, sample_weight), p)
        gradient = gradient * (paddle.cast(incoming, x.dtype) / max(divisor, 1.0))
        return paddle.cast(_saturated(gradient) if probabilities and dtype == _FLOAT16 else gradient, dtype)


def _saturated(gradient: Tensor) -> Tensor:
    return gradient.clip(-_LARGEST_FLOAT16, _LARGEST_FLOAT16)


def _probabilities_loss(q: Any, y: Any, weight: Any, p: Any) -> Any:
    """The loss, with the frameworks' gradient, which is not that of the clamped logarithms.

    It is the loss of a constant q, plus (q − constant)·slope, which is 0 and whose derivative is the slope. The slope is
    taken half at q and half at the constant, so that the second derivatives are right too.
    """
    constant = q.detach()
    loss = formula.probabilities_loss(_Operations, constant, y, weight, p)
    if q.stop_gradient:
        return loss
    slope = formula.probabilities_gradient(_Operations, q, y, weight, p)
    slope = (slope + formula.probabilities_gradient(_Operations, constant, y, weight, p)) / 2
    return loss + (q - constant) * slope


def _sum(elements: Any) -> Any:
    """In float64 where the device has it: Paddle's float32 sum is 2e-6 off, and its mean 12 % at 10⁸ elements."""
    place = elements.place if isinstance(elements, Tensor) else paddle.framework._current_expected_place()
    wide = place.is_cpu_place() or place.is_gpu_place()
    return paddle.sum(paddle.cast(elements, _FLOAT64) if wide and elements.dtype != _FLOAT64 else elements)


def _composed_loss(probabilities: bool, reduction: str, dtype: Any, operands: Operands) -> Any:
    x, y, weight, sample_weight, p = _wide(dtype, operands)
    weight = _product(weight, sample_weight)
    if probabilities:
        if isinstance(x, Tensor) and not x.stop_gradient and operands[0].dtype == _FLOAT16:
            x.register_hook(_saturated)
        elements = _probabilities_loss(x, y, weight, p)
    else:
        elements = formula.logits_loss(_Operations, x, y, weight, p)
    if reduction == "none":
        return paddle.cast(elements, dtype)
    total = _sum(elements)
    if reduction == "mean":
        total = total / paddle.cast(paddle.numel(elements), total.dtype)
    return paddle.cast(total, dtype)


def _result_dtype(x: Any, y: Any) -> Any:
    """The wider of input and label; an integer label never widens it."""
    if y not in _WIDTH or x == y:
        return x
    if _WIDTH[x] == _WIDTH[y]:
        return _FLOAT32
    return max(x, y, key=_WIDTH.__getitem__)


def _check_dtypes(function: str, operands: Operands) -> None:
    for name, tensor in zip(_NAMES[function], operands, strict=True):
        known: Any = _TAG if name in _OTHERS else _WIDTH
        if tensor is not None and tensor.dtype not in known:
            error = TypeError if "weight" in name else RuntimeError
            expected = ", ".join(str(dtype).removeprefix("paddle.") for dtype in known)
            raise error(f"{function}(): argument '{name}' is {tensor.dtype}; expected one of {expected}")


def _check_weights(operands: Operands) -> tuple[Operands, bool]:
    """The operands with sample_weight in the shape that broadcasts, and whether the weight enlarges the result."""
    x, y, weight, sample_weight, p = operands
    shape = tuple(x.shape)
    enlarges = False
    if p is not None:
        options.check_broadcast("pos_weight", p.shape, shape)
    if sample_weight is not None:
        sample_weight = sample_weight.reshape(options.check_sample_weight(sample_weight.shape, shape))
    if weight is not None:
        try:
            options.check_broadcast("weight", weight.shape, shape)
        except ValueError:
            try:
                enlarges = bool(paddle.broadcast_shape(list(weight.shape), list(shape)))
            except ValueError:
                enlarges = False
            if not enlarges:
                raise
    return (x, y, weight, sample_weight, p), enlarges


def _check_kinds(function: str, operands: Operands, kinds: Any, error: type[Exception]) -> None:
    for name, operand in zip(_NAMES[function], operands, strict=True):
        if not isinstance(operand, kinds) and (operand is not None or "weight" not in name):
            kind = type(operand)
            given = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
            raise error(f"{function}(): argument '{name}' must be a Tensor, but got {given}")


def _static_loss(function: str, reduction: str, operands: Operands) -> Any:
    """In a static graph, whose dimensions may be unknown (−1) until it runs."""
    _check_kinds(function, operands, (paddle.pir.Value, paddle.static.Variable), TypeError)
    x, y, weight, sample_weight, p = operands
    if len(x.shape) != len(y.shape) or any(a != b and -1 not in (a, b) for a, b in zip(x.shape, y.shape, strict=True)):
        _refuse_shape(function, operands)
    _check_dtypes(function, operands)
    if -1 in (*x.shape, *y.shape):
        y = paddle.reshape(y, paddle.shape(x))  # refuses another size when it runs, where an operation would broadcast
    if p is not None and (-1 not in (*x.shape, *p.shape) or len(p.shape) > len(x.shape)):
        options.check_broadcast("pos_weight", p.shape, x.shape)
    if sample_weight is not None:
        if -1 not in (*x.shape[:1], *sample_weight.shape):
            options.check_sample_weight(sample_weight.shape, x.shape)
        sample_weight = paddle.reshape(sample_weight, [-1] + [1] * (len(x.shape) - 1))
    operands = (x, y, weight, sample_weight, p)
    return _composed_loss(function == _PROBABILITIES, reduction, _result_dtype(x.dtype, y.dtype), operands)


def _refuse_shape(function: str, operands: Operands) -> None:
    input, label = list(operands[0].shape), list(operands[1].shape)
    raise ValueError(f"{function}(): label of shape {label} must have the same shape as {_NAMES[function][0]}, {input}")


def _loss(
    function: str,
    input: Tensor,
    label: Tensor,
    weight: Tensor | None,
    reduction: str,
    pos_weight: Tensor | None,
    sample_weight: Tensor | None,
) -> Tensor:
    if reduction not in options.REDUCTIONS:
        raise ValueError(
            f"The value of 'reduction' in {function} should be 'sum', 'mean' or 'none', but received {reduction}, "
            "which is not allowed."
        )
    operands: Operands = (input, label, weight, sample_weight, pos_weight)
    if not (isinstance(input, Tensor) and isinstance(label, Tensor)):
        if not paddle.in_dynamic_mode():
            return _static_loss(function, reduction, operands)  # type: ignore[no-any-return]
        _check_kinds(function, operands, Tensor, ValueError)
    shape = input.shape
    if label.shape != shape:
        _refuse_shape(function, operands)
    dtype = input.dtype
    if dtype is not _FLOAT32 or label.dtype is not _FLOAT32:
        _check_dtypes(function, operands)
        dtype = _result_dtype(dtype, label.dtype)
    enlarges, learns = False, not label.stop_gradient
    if weight is not None or pos_weight is not None or sample_weight is not None:
        _check_kinds(function, operands, Tensor, ValueError)
        _check_dtypes(function, operands)
        operands, enlarges = _check_weights(operands)
        learns = learns or any(not tensor.stop_gradient for tensor in operands[2:] if tensor is not None)
    if (
        enlarges
        or (learns and paddle.is_grad_enabled())
        or not (_ONLY_CPU or input.place.is_cpu_place())
        or not input.is_dense()
    ):
        if function == _PROBABILITIES and input.place.is_cpu_place():
            if not bool(((input >= 0) & (input <= 1)).all()):
                _refuse_out_of_range(input)
        with paddle.amp.auto_cast(enable=False):
            return _composed_loss(function == _PROBABILITIES, reduction, dtype, operands)  # type: ignore[no-any-return]
    elements = math.prod(shape)
    divisor = float(elements) if reduction == "mean" else 1.0
    return _kernel_loss((function == _PROBABILITIES, reduction, divisor, operands), dtype, elements)


def binary_cross_entropy_with_logits(
    logit: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    name: str | None = None,
    *,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of logits; a drop-in for ``paddle.nn.functional.binary_cross_entropy_with_logits``.

    ``w · [p·y·softplus(−x) + (1−y)·softplus(x)]`` for each element, with x the logit, y the label, w the weight and p
    the pos_weight; then the mean (divided by the number of elements), the sum, or none.

    Args:
        logit: of any shape; float16, bfloat16, float32 or float64.
        label: of the logit's shape; any of these dtypes, bool, uint8, int8, int16, int32 or int64. Usually in [0, 1],
            which is not enforced.
        weight: broadcasts to the logit, as in multiplication. As in Paddle, it may also have more dimensions and
            enlarge the result; the mean is then over all of it.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        pos_weight: broadcasts to the logit; multiplies the loss of positives. In [N, C] logits, one for each class.
        name: accepted and without effect, as in Paddle.
        sample_weight: shape [N], along the logit's first axis; multiplies ``weight``.

    Returns:
        A tensor of shape [], or of the logit's shape for ``"none"``; of the wider floating dtype of logit and label.

    Raises:
        ValueError: logit and label differ in shape, a weight does not broadcast, the reduction is unknown, or an
            argument is no Tensor (in a static graph, TypeError).
        RuntimeError: logit or label is of a dtype that is not supported.
        TypeError: a weight is.

    Differences from Paddle: the right gradient where a logit is 0; exact tails; a mean that is right for any number of
    elements; labels of −100 count; integer, boolean, half precision and mixed dtypes; gradients to ``label`` and
    ``pos_weight``, and of gradients; a weight never widens the result; a ``pos_weight`` of more dimensions is refused.

    Examples:
        >>> logit = paddle.to_tensor([5.0, 1.0, 3.0])
        >>> label = paddle.to_tensor([1.0, 0.0, 1.0])
        >>> round(binary_cross_entropy_with_logits(logit, label).item(), 6)
        0.456188
    """
    return _loss(_LOGITS, logit, label, weight, reduction, pos_weight, sample_weight)


def binary_cross_entropy(
    input: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    name: str | None = None,
    *,
    pos_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of probabilities; a drop-in for ``paddle.nn.functional.binary_cross_entropy``.

    ``w · [p·y·(−log q) + (1−y)·(−log(1−q))]`` for each element, with q the input, y the label, w the weight and p the
    pos_weight; both logarithms are clamped at −100, and the gradient's denominator q·(1−q) at 1e-12. Then the mean
    (divided by the number of elements), the sum, or none.

    Args:
        input: probabilities, of any shape; float16, bfloat16, float32 or float64.
        label, weight, reduction, name, pos_weight, sample_weight: as with logits.

    Returns:
        As with logits.

    Raises:
        ValueError: an input lies outside [0, 1]; the message names the first. On accelerators and in static graphs,
            such elements are NaN. The rest as with logits.

    Differences from Paddle: integer, boolean, half precision and mixed dtypes; exact for small probabilities; a mean
    that is right for any number of elements; ``pos_weight``; gradients to ``label``, and of gradients.

    Examples:
        >>> input = paddle.to_tensor([0.5, 0.6, 0.7])
        >>> label = paddle.to_tensor([1.0, 0.0, 1.0])
        >>> print(binary_cross_entropy(input, label))
        Tensor(shape=[], dtype=float32, place=Place(cpu), stop_gradient=True,
               0.65537095)
    """
    return _loss(_PROBABILITIES, input, label, weight, reduction, pos_weight, sample_weight)


def _shown(layer: Any) -> str:
    """The options that are not the defaults."""
    shown = [] if layer.reduction == "mean" else [f"reduction={layer.reduction!r}"]
    for name in ("weight", "pos_weight"):
        if (tensor := getattr(layer, name)) is not None:
            shown.append(f"{name}={str(tensor.dtype).removeprefix('paddle.')}{list(tensor.shape)}")
    return ", ".join(shown)


class BCEWithLogitsLoss(paddle.nn.BCEWithLogitsLoss):
    """``binary_cross_entropy_with_logits`` as a layer; a drop-in for ``paddle.nn.BCEWithLogitsLoss``.

    The constructor ``(weight=None, reduction="mean", pos_weight=None, name=None)``, buffers and ``state_dict`` are
    Paddle's. The call takes ``sample_weight`` besides.

    Examples:
        >>> logit = paddle.to_tensor([5.0, 1.0, 3.0], dtype="float32")
        >>> label = paddle.to_tensor([1, 0, 1])
        >>> BCEWithLogitsLoss(reduction="none")(logit, label).numpy().round(4)
        array([0.0067, 1.3133, 0.0486], dtype=float32)
    """

    def forward(self, logit: Tensor, label: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        """See ``binary_cross_entropy_with_logits``."""
        return _loss(_LOGITS, logit, label, self.weight, self.reduction, self.pos_weight, sample_weight)

    def extra_repr(self) -> str:
        return _shown(self)


class BCELoss(paddle.nn.BCELoss):
    """``binary_cross_entropy`` as a layer; a drop-in for ``paddle.nn.BCELoss``.

    The constructor, buffers and ``state_dict`` are Paddle's, with ``pos_weight`` besides; the call takes
    ``sample_weight``.

    Examples:
        >>> loss = BCELoss(pos_weight=paddle.to_tensor(3.0))
        >>> loss(paddle.to_tensor([0.5, 0.5, 0.5]), paddle.to_tensor([1, 0, 1])).numpy().round(4)
        np.float32(1.6173)
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        reduction: str = "mean",
        name: str | None = None,
        *,
        pos_weight: Tensor | None = None,
        **deprecated: Any,  # size_average and reduce, which Paddle refuses with its own words
    ) -> None:
        super().__init__(weight, reduction, name, **deprecated)
        self.pos_weight = pos_weight

    def forward(self, input: Tensor, label: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        """See ``binary_cross_entropy``."""
        return _loss(_PROBABILITIES, input, label, self.weight, self.reduction, self.pos_weight, sample_weight)

    def extra_repr(self) -> str:
        return _shown(self)
