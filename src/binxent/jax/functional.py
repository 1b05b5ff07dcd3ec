"""The two losses as pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from binxent.formula import LOGITS, PROBABILITIES
from binxent.jax.calls import compute

if TYPE_CHECKING:
    from binxent.jax.arrays import Array


def binary_cross_entropy_with_logits(
    input: Any,
    target: Any,
    weight: Any = None,
    reduction: str = "mean",
    pos_weight: Any = None,
    *,
    sample_weight: Any = None,
    mask: Any = None,
    ignore_index: float | None = None,
    label_smoothing: Any = 0.0,
    gamma: Any = 0.0,
    normalizer: Any = None,
) -> Array:
    """Binary cross-entropy of logits.

    ``w · [p·y·softplus(−x) + (1−y)·softplus(x)]`` for each element, with x the input, y the target, w the weight and
    p the pos_weight; then the mean (divided by the number of elements), the sum, or none.

    Args:
        input: logits, of any shape; float16, bfloat16, float32 or float64.
        target: of the input's shape; any of these dtypes, bool, uint8, int8, int16, int32 or int64. Usually in
            [0, 1], which is not enforced. Or a sparse target of [N, C], such as ``binxent.IndexTargets``.
        weight: broadcasts to the input.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``; ``"batchmean"``, the sum divided by the size of the first axis;
            ``"weighted_mean"``, the sum divided by the sum of the weights (pos_weight does not count). It is
            static under ``jax.jit``, as is ``ignore_index``.
        pos_weight: broadcasts to the input; multiplies the loss of positives.
        sample_weight: shape [N], along the input's first axis; multiplies ``weight``.
        mask: broadcasts to the input; an element is ignored where it is 0 or False: whatever the element holds, even
            NaN, it adds 0 to the loss, to the gradient and to the divisor of ``"mean"``. The mean of nothing is 0.
        ignore_index: an integer such as -100, or NaN; elements with this target are ignored likewise.
        label_smoothing: ε in [0, 1]; y·(1−ε) + ε/2 stands for the target (Szegedy et al., 2016).
        gamma: γ ≥ 0 of the focal loss (Lin et al., 2017); each term is multiplied by (probability given to the wrong
            class)^γ. Numbers for it and ``label_smoothing`` are part of a compiled program; traced ones are its
            operands, with derivatives, and make the loss NaN if they are out of range.
        normalizer: what ``"mean"``, ``"batchmean"`` or ``"weighted_mean"`` divides by, in place of this batch's own
            divisor, such as the ``jax.lax.psum`` of ``count`` over devices: a number, or an array of one element. It is
            an operand of the compiled program in either case, without a derivative. 0 gives a loss and gradients of 0.

    Returns:
        A scalar, or an array of the input's shape for ``"none"``; of the wider floating dtype of input and target.

    Raises:
        TypeError: an argument is no array or number, or of a dtype that is not supported; ``ignore_index`` is traced.
        ValueError: a shape does not fit, the reduction is unknown, or a number is out of its range.

    Differences from ``optax.sigmoid_binary_cross_entropy``, which gives the loss of each element: it reduces, target
    and input do not broadcast, and there are weights and options; float16 and bfloat16 are computed in float32 and
    rounded once.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> target = jnp.ones((10, 64))
        >>> output = jnp.full((10, 64), 1.5)
        >>> loss, gradient = jax.value_and_grad(binary_cross_entropy_with_logits)(output, target)
        >>> print(f"{loss:.4f}", gradient.shape)
        0.2014 (10, 64)
    """
    numbers = (ignore_index, label_smoothing, gamma, normalizer)
    return compute(LOGITS, input, target, weight, reduction, pos_weight, sample_weight, mask, *numbers)


def binary_cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    reduction: str = "mean",
    *,
    pos_weight: Any = None,
    sample_weight: Any = None,
    mask: Any = None,
    ignore_index: float | None = None,
    label_smoothing: Any = 0.0,
    gamma: Any = 0.0,
    normalizer: Any = None,
) -> Array:
    """Binary cross-entropy of probabilities.

    ``w · [p·y·(−log q) + (1−y)·(−log(1−q))]`` for each element, with q the input, y the target, w the weight and p
    the pos_weight; both logarithms are clamped at −100. Then the mean, the sum, or none.

    Arguments, results and errors are those of ``binary_cross_entropy_with_logits``. In addition, input and target must
    lie in [0, 1]; otherwise a ValueError names the first element that does not, if the values are on CPU. Inside
    ``jax.jit`` or another trace, and on accelerators, such an element is NaN in the loss and in the gradient.

    Examples:
        >>> import jax.numpy as jnp
        >>> binary_cross_entropy(jnp.array([0.5, 0.9]), jnp.array([1, 1]), reduction="none").round(4)
        Array([0.6931, 0.1054], dtype=float32)
    """
    numbers = (ignore_index, label_smoothing, gamma, normalizer)
    return compute(PROBABILITIES, input, target, weight, reduction, pos_weight, sample_weight, mask, *numbers)
