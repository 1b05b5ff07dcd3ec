"""The two losses as pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binxent import options
from binxent.formula import LOGITS, PROBABILITIES
from binxent.jax.calls import compute

if TYPE_CHECKING:
    from jax.typing import ArrayLike

    from binxent.jax.arrays import Array
    from binxent.targets import IndexTargets


def binary_cross_entropy_with_logits(
    input: ArrayLike,
    target: ArrayLike | IndexTargets,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    pos_weight: ArrayLike | None = None,
    *,
    sample_weight: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    ignore_index: float | None = None,
    label_smoothing: ArrayLike = 0.0,
    gamma: ArrayLike = 0.0,
    alpha: float | None = None,
    gamma_positive: float | None = None,
    gamma_negative: float | None = None,
    margin: float = 0,
    focal: str = "branch",
    neg_weight: ArrayLike | None = None,
    normalizer: ArrayLike | None = None,
    check_targets: bool = False,
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
            ``"weighted_mean"``, the sum divided by the sum of the weights (pos_weight does not count); ``"per_label"``
            and ``"per_sample"``, the mean over all axes but the last, and but the first, of what is kept there. It is
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
        alpha: α in [0, 1] of the focal loss: positives are multiplied by α, negatives by 1 − α, after smoothing.
        gamma_positive, gamma_negative: in place of ``gamma``, one for each class (Ridnik et al., 2021); one that is not
            given is 0.
        margin: m in [0, 1); max(p − m, 0) stands for the probability p where it is a negative's.
        focal: for soft targets, what γ is the power of. ``"branch"``: of 1 − p for the positive share of a target, and
            of p for the negative one. ``"p_t"``: of 1 − p_t, for the whole, p_t = p·y + (1−p)·(1−y), as torchvision,
            Keras, fvcore and optax have it; α_t = α·y + (1−α)·(1−y) then multiplies the whole. It and the options
            from ``alpha`` to here are static under ``jax.jit``.
        neg_weight: broadcasts to the input; multiplies the loss of negatives.
        check_targets: whether a target outside [0, 1], a negative ``pos_weight`` or ``neg_weight``, and a mask that is
            neither 0 nor 1 are refused; ignored elements may hold anything. Outside of ``jax.jit`` the loss is waited
            for. In compiled programs on CPU the program ends with an error; elsewhere, and where no kernel runs, the
            loss is NaN.
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
    family = options.focal(alpha, gamma_positive, gamma_negative, margin, focal)
    numbers = (ignore_index, label_smoothing, gamma, normalizer, neg_weight, family, check_targets)
    return compute(LOGITS, input, target, weight, reduction, pos_weight, sample_weight, mask, *numbers)


def binary_cross_entropy(
    input: ArrayLike,
    target: ArrayLike | IndexTargets,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    *,
    pos_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    ignore_index: float | None = None,
    label_smoothing: ArrayLike = 0.0,
    gamma: ArrayLike = 0.0,
    alpha: float | None = None,
    gamma_positive: float | None = None,
    gamma_negative: float | None = None,
    margin: float = 0,
    focal: str = "branch",
    neg_weight: ArrayLike | None = None,
    normalizer: ArrayLike | None = None,
    check_targets: bool = False,
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
    family = options.focal(alpha, gamma_positive, gamma_negative, margin, focal)
    numbers = (ignore_index, label_smoothing, gamma, normalizer, neg_weight, family, check_targets)
    return compute(PROBABILITIES, input, target, weight, reduction, pos_weight, sample_weight, mask, *numbers)
