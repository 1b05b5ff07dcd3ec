"""The two losses as layers; drop-ins for Paddle's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import paddle
from paddle import Tensor

from binxent import options
from binxent.paddle.arrays import LOGITS, PROBABILITIES
from binxent.paddle.counting import count
from binxent.paddle.functional import Reduction, compute
from binxent.paddle.operands import TENSORS, check_reduction

if TYPE_CHECKING:
    from binxent.paddle.operands import Numbers
    from binxent.targets import IndexTargets


_DEFAULTS = {"weight": None, "pos_weight": None, "neg_weight": None, **options.DEFAULTS, "check_targets": False}


def _shown(layer: Any) -> str:
    """The options that are not the defaults."""
    shown = {} if layer.reduction == "mean" else {"reduction": repr(layer.reduction)}
    for name, default in _DEFAULTS.items():
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


def _keep(layer: Any, reduction: str, numbers: Numbers, neg_weight: Tensor | None) -> None:
    """Stores on the layer what Paddle's constructor does not store."""
    ignore_index, label_smoothing, gamma, of_focal, check_targets = numbers
    options.terms(ignore_index, label_smoothing, gamma, "float32", of_focal)
    layer.reduction, layer.neg_weight, layer.check_targets = reduction, neg_weight, check_targets
    layer.ignore_index, layer.label_smoothing, layer.gamma = ignore_index, label_smoothing, gamma
    layer.alpha, layer.gamma_positive, layer.gamma_negative, layer.margin, layer.focal = of_focal


def _numbers(layer: Any) -> Numbers:
    of_focal = options.focal(
        layer.alpha, layer.gamma_positive, layer.gamma_negative, layer.margin, layer.focal, TENSORS
    )
    return layer.ignore_index, layer.label_smoothing, layer.gamma, of_focal, layer.check_targets


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

    The constructor, buffers and ``state_dict`` are Paddle's, with the parameters from ``ignore_index`` on besides; the
    call takes ``weight``, ``pos_weight``, ``sample_weight``, ``mask`` and ``normalizer``.

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
        alpha: float | None = None,
        gamma_positive: float | None = None,
        gamma_negative: float | None = None,
        margin: float = 0,
        focal: str = "branch",
        neg_weight: Tensor | None = None,
        check_targets: bool = False,
        **deprecated: Any,  # size_average and reduce, which Paddle refuses with its own words
    ) -> None:
        super().__init__(weight, _for_paddle("BCEWithLogitsLoss", reduction), pos_weight, name, **deprecated)
        of_focal = options.focal(alpha, gamma_positive, gamma_negative, margin, focal, TENSORS)
        _keep(self, reduction, (ignore_index, label_smoothing, gamma, of_focal, check_targets), neg_weight)

    @paddle.jit.not_to_static
    def forward(
        self,
        logit: Tensor,
        label: Tensor | IndexTargets,
        *,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """See ``binary_cross_entropy_with_logits``. A weight that is given here replaces the layer's."""
        weight = self.weight if weight is None else weight
        pos_weight = self.pos_weight if pos_weight is None else pos_weight
        given = (logit, label, weight, sample_weight, pos_weight, mask, self.neg_weight)
        loss: Tensor = compute(LOGITS, self.reduction, given, _numbers(self), normalizer)
        return loss

    def count(self, label: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """What the mean of these labels divides by; see the function of that name."""
        return _count(self, label, sample_weight, mask)

    def extra_repr(self) -> str:
        return _shown(self)


class BCELoss(paddle.nn.BCELoss):
    """``binary_cross_entropy`` as a layer; a drop-in for ``paddle.nn.BCELoss``.

    The constructor, buffers and ``state_dict`` are Paddle's, with the parameters from ``pos_weight`` on besides; the
    call takes ``weight``, ``pos_weight``, ``sample_weight``, ``mask`` and ``normalizer``.

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
        alpha: float | None = None,
        gamma_positive: float | None = None,
        gamma_negative: float | None = None,
        margin: float = 0,
        focal: str = "branch",
        neg_weight: Tensor | None = None,
        check_targets: bool = False,
        **deprecated: Any,
    ) -> None:
        super().__init__(weight, _for_paddle("bce_loss", reduction), name, **deprecated)
        self.pos_weight = pos_weight
        of_focal = options.focal(alpha, gamma_positive, gamma_negative, margin, focal, TENSORS)
        _keep(self, reduction, (ignore_index, label_smoothing, gamma, of_focal, check_targets), neg_weight)

    @paddle.jit.not_to_static
    def forward(
        self,
        input: Tensor,
        label: Tensor | IndexTargets,
        *,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """See ``binary_cross_entropy``. A weight that is given here replaces the layer's."""
        weight = self.weight if weight is None else weight
        pos_weight = self.pos_weight if pos_weight is None else pos_weight
        given = (input, label, weight, sample_weight, pos_weight, mask, self.neg_weight)
        loss: Tensor = compute(PROBABILITIES, self.reduction, given, _numbers(self), normalizer)
        return loss

    def count(self, label: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """What the mean of these labels divides by; see the function of that name."""
        return _count(self, label, sample_weight, mask)

    def extra_repr(self) -> str:
        return _shown(self)
