"""The two functions, with their documentation. MindSpore compiles them into graphs from this source."""

from __future__ import annotations

from mindspore import Tensor

from binxent.formula import LOGITS, PROBABILITIES
from binxent.mindspore.operators import divisor, operator


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    alpha: float | None = None,
    gamma_positive: float | None = None,
    gamma_negative: float | None = None,
    margin: float = 0,
    focal: str = "branch",
    neg_weight: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    check_targets: bool = False,
) -> Tensor:
    """Binary cross-entropy of logits; a drop-in for the function of that name in ``mindspore.mint.nn.functional``.

    ``w · [p·y·softplus(−x) + (1−y)·softplus(x)]`` for each element, with x the input, y the target, w the weight and
    p the pos_weight; then the mean (divided by the number of elements), the sum, or none.

    Args:
        input: logits, of any shape; float16, bfloat16 or float32.
        target: of the input's shape; any of these dtypes, bool, uint8, int8, int16, int32 or int64. Usually in
            [0, 1], which is not enforced. Outside graphs also a sparse target of [N, C], such as
            ``binxent.IndexTargets``.
        weight: broadcasts to the input; float16, bfloat16 or float32.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``; ``"batchmean"``, the sum divided by the size of the first axis;
            ``"weighted_mean"``, the sum divided by the sum of the weights (pos_weight does not count); ``"per_label"``
            and ``"per_sample"``, the mean over all axes but the last, and but the first, of what is kept there. In
            upper or lower case.
        pos_weight: broadcasts to the input; multiplies the loss of positives; dtypes as weight.
        sample_weight: shape [N], along the input's first axis; multiplies ``weight``; dtypes as weight.
        mask: broadcasts to the input; dtypes as target. An element is ignored where it is 0 or False: whatever the
            element holds, even NaN, it adds 0 to the loss, to the gradients and to the divisor of ``"mean"``. The mean
            of nothing is 0.
        ignore_index: an integer such as -100, or NaN; elements with this target are ignored likewise.
        label_smoothing: ε in [0, 1]; y·(1−ε) + ε/2 stands for the target (Szegedy et al., 2016).
        gamma: γ ≥ 0 of the focal loss (Lin et al., 2017); each term is multiplied by (probability given to the wrong
            class)^γ.
        alpha: α in [0, 1] of the focal loss: positives are multiplied by α, negatives by 1 − α, after smoothing.
        gamma_positive, gamma_negative: in place of ``gamma``, one for each class (Ridnik et al., 2021); one that is not
            given is 0.
        margin: m in [0, 1); max(p − m, 0) stands for the probability p where it is a negative's.
        focal: for soft targets, what γ is the power of. ``"branch"``: of 1 − p for the positive share of a target, and
            of p for the negative one. ``"p_t"``: of 1 − p_t, for the whole, p_t = p·y + (1−p)·(1−y), as torchvision,
            Keras, fvcore and optax have it; α_t = α·y + (1−α)·(1−y) then multiplies the whole. In a compiled graph it
            and the options from ``ignore_index`` to here are constants.
        neg_weight: broadcasts to the input; multiplies the loss of negatives; dtypes as weight.
        normalizer: what ``"mean"``, ``"batchmean"`` or ``"weighted_mean"`` divides by, in place of this batch's own
            divisor, such as the sum of ``count`` over micro-batches or machines: a number, or a tensor of one element,
            which gets no gradient. 0 gives a loss and gradients of 0. In a compiled graph a number is a constant, so
            that another one compiles the graph again; a tensor may change.
        check_targets: whether a target outside [0, 1], a negative ``pos_weight`` or ``neg_weight``, and a mask that is
            neither 0 nor 1 are refused; ignored elements may hold anything. Outside graphs other devices are waited
            for. A compiled graph raises a RuntimeError when it runs; on other devices than CPU, its loss is NaN.

    Returns:
        A tensor of shape (), or of the input's shape for ``"none"``; of the wider floating dtype of input and target.
        ``"per_label"`` and ``"per_sample"`` keep one axis.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not supported; the reduction is no str, or an
            option no number.
        ValueError: a shape does not fit, or the reduction is unknown; a number is out of its range.
        RuntimeError: a shape that was unknown when a graph was compiled does not fit: MindSpore turns every error of
            an operator into a RuntimeError.

    Differences from MindSpore's: gradients to every operand, and to any order; the right gradient of the mean for any
    batch size in PyNative mode; exact tails and means; integer and boolean targets; the wider dtype, where input and
    target differ; the gradient has the dtype of its operand; ``sample_weight`` and the parameters after it.

    Example:
        >>> import mindspore
        >>> input = mindspore.tensor([[-0.8, 1.2, 0.7], [-0.1, -0.4, 0.7]])
        >>> target = mindspore.tensor([[0.3, 0.8, 1.2], [-0.6, 0.1, 2.2]])
        >>> binary_cross_entropy_with_logits(input, target, reduction="sum")
        Tensor(shape=[], dtype=Float32, value= 2.078167)
    """
    given = (ignore_index is not None, alpha is not None, gamma_positive is not None, gamma_negative is not None)
    loss, terms = operator(
        LOGITS,
        reduction,
        given,
        ignore_index,
        label_smoothing,
        gamma,
        alpha,
        gamma_positive,
        gamma_negative,
        margin,
        focal,
        check_targets,
    )
    if normalizer is not None and not isinstance(normalizer, Tensor):
        normalizer = divisor(normalizer, reduction)
    return loss(input, target, weight, sample_weight, pos_weight, mask, normalizer, neg_weight, terms)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    *,
    pos_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    alpha: float | None = None,
    gamma_positive: float | None = None,
    gamma_negative: float | None = None,
    margin: float = 0,
    focal: str = "branch",
    neg_weight: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    check_targets: bool = False,
) -> Tensor:
    """Binary cross-entropy of probabilities; a drop-in for the function in ``mindspore.mint.nn.functional``.

    ``w · [p·y·(−log q) + (1−y)·(−log(1−q))]`` for each element, with q the input, y the target, w the weight and p
    the pos_weight; both logarithms are clamped at −100. Then the mean, the sum, or none.

    Arguments, results and errors are those of ``binary_cross_entropy_with_logits``. In addition, an input outside
    [0, 1] is a ValueError (in a compiled graph, which ``vmap`` and ``jvp`` make too, a RuntimeError).

    Differences from MindSpore's: those of ``binary_cross_entropy_with_logits``; besides, one element is not counted
    twice, weights broadcast, a probability of 0 or 1 costs at most 100 and not 27.63, an input outside [0, 1] never
    ends the process, bfloat16 and mixed dtypes, ``pos_weight``.

    Example:
        >>> import mindspore
        >>> input = mindspore.tensor([0.5, 0.9])
        >>> print(binary_cross_entropy(input, mindspore.tensor([1, 1]), reduction="none"))
        [0.6931472  0.10536055]
    """
    given = (ignore_index is not None, alpha is not None, gamma_positive is not None, gamma_negative is not None)
    loss, terms = operator(
        PROBABILITIES,
        reduction,
        given,
        ignore_index,
        label_smoothing,
        gamma,
        alpha,
        gamma_positive,
        gamma_negative,
        margin,
        focal,
        check_targets,
    )
    if normalizer is not None and not isinstance(normalizer, Tensor):
        normalizer = divisor(normalizer, reduction)
    return loss(input, target, weight, sample_weight, pos_weight, mask, normalizer, neg_weight, terms)
