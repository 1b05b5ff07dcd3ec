"""The two losses as layers; drop-ins for Paddle's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import paddle
from paddle import Tensor

from binxent import options
from binxent.paddle.arrays import LOGITS, PROBABILITIES
from binxent.paddle.counting import count
from binxent.paddle.functional import Reduction, compute
from binxent.paddle.operands import check_reduction

if TYPE_CHECKING:
    from binxent.targets import IndexTargets


def _shown(layer: Any) -> str:
    """The options that are not the defaults."""
    shown = {} if layer.reduction == "mean" else {"reduction": repr(layer.reduction)}
    for name, default in {"weight": None, "pos_weight": None, **options.Terms()._asdict()}.items():
        value = getattr(layer, name)
        if isinstance(value, Tensor):
            shown[name] = f"{str(value.dtype).removeprefix('paddle.')}{list(value.shape)}"
        elif value != default:
            shown[name] = repr(value)
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def _for_paddle(where: str, reduction: Any) -> Any:
    """The reduction for Paddle's constructor, which knows only three."""
    if type(reduction) is bool:
        return reduction  # size_average, which Paddle refuses with its own words
    check_reduction(where, reduction)
    return "mean"


def _keep(layer: Any, reduction: str, ignore_index: float | None, label_smoothing: Any, gamma: Any) -> None:
    """Stores on the layer what Paddle's constructor does not store."""
    options.terms(ignore_index, label_smoothing, gamma, "float32")
    layer.reduction = reduction
    layer.ignore_index, layer.label_smoothing, layer.gamma = ignore_index, label_smoothing, gamma


def _count(layer: Any, label: Tensor, sample_weight: Tensor | None, mask: Tensor | None) -> Tensor:
    return count(
        label,
        reduction=layer.reduction,
        mask=mask,
        ignore_index=layer.ignore_index,
        weight=layer.weight,
        sample_weight=sample_weight,
    )


class BCEWithLogitsLoss(paddle.nn.BCEWithLogitsLoss):
    """``binary_cross_entropy_with_logits`` as a layer; a drop-in for ``paddle.nn.BCEWithLogitsLoss``.

    The constructor, buffers and ``state_dict`` are Paddle's, with ``ignore_index``, ``label_smoothing`` and ``gamma``
    besides; the call takes ``sample_weight``, ``mask`` and ``normalizer``.

    Examples:
        >>> logit = paddle.to_tensor([5.0, 1.0, 3.0], dtype="float32")
        >>> label = paddle.to_tensor([1, 0, 1])
        >>> BCEWithLogitsLoss(reduction="none")(logit, label).numpy().round(4)
        array([0.0067, 1.3133, 0.0486], dtype=float32)
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        reduction: Reduction = "mean",
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
        self,
        logit: Tensor,
        label: Tensor | IndexTargets,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """See ``binary_cross_entropy_with_logits``."""
        given = (logit, label, self.weight, sample_weight, self.pos_weight, mask)
        numbers = (self.ignore_index, self.label_smoothing, self.gamma)
        loss: Tensor = compute(LOGITS, self.reduction, given, numbers, normalizer)
        return loss

    def count(self, label: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """What the mean of these labels divides by; see the function of that name."""
        return _count(self, label, sample_weight, mask)

    def extra_repr(self) -> str:
        return _shown(self)


class BCELoss(paddle.nn.BCELoss):
    """``binary_cross_entropy`` as a layer; a drop-in for ``paddle.nn.BCELoss``.

    The constructor, buffers and ``state_dict`` are Paddle's, with ``pos_weight``, ``ignore_index``,
    ``label_smoothing`` and ``gamma`` besides; the call takes ``sample_weight``, ``mask`` and ``normalizer``.

    Examples:
        >>> loss = BCELoss(pos_weight=paddle.to_tensor(3.0))
        >>> loss(paddle.to_tensor([0.5, 0.5, 0.5]), paddle.to_tensor([1, 0, 1])).numpy().round(4)
        np.float32(1.6173)
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        reduction: Reduction = "mean",
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
        self,
        input: Tensor,
        label: Tensor | IndexTargets,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """See ``binary_cross_entropy``."""
        given = (input, label, self.weight, sample_weight, self.pos_weight, mask)
        numbers = (self.ignore_index, self.label_smoothing, self.gamma)
        loss: Tensor = compute(PROBABILITIES, self.reduction, given, numbers, normalizer)
        return loss

    def count(self, label: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """What the mean of these labels divides by; see the function of that name."""
        return _count(self, label, sample_weight, mask)

    def extra_repr(self) -> str:
        return _shown(self)
