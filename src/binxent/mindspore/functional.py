"""The two functions. A graph that calls them is compiled from their source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binxent.mindspore.graph import operator

if TYPE_CHECKING:
    from mindspore import Tensor


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of logits; a drop-in for the function of that name in ``mindspore.mint.nn.functional``.

    ``w · [p·y·softplus(−x) + (1−y)·softplus(x)]`` for each element, with x the input, y the target, w the weight and
    p the pos_weight; then the mean (divided by the number of elements), the sum, or none.

    Args:
        input: logits, of any shape; float16, bfloat16 or float32.
        target: of the input's shape; any of these dtypes, bool, uint8, int8, int16, int32 or int64. Usually in
            [0, 1], which is not enforced.
        weight: broadcasts to the input; float16, bfloat16 or float32.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, in upper or lower case.
        pos_weight: broadcasts to the input; multiplies the loss of positives; dtypes as weight.
        sample_weight: shape [N], along the input's first axis; multiplies ``weight``; dtypes as weight.

    Returns:
        A tensor of shape (), or of the input's shape for ``"none"``; of the wider floating dtype of input and target.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not supported; the reduction is no str.
        ValueError: a shape does not fit, or the reduction is unknown.

    Differences from MindSpore's: gradients to every operand, and to any order; the right gradient of the mean for any
    batch size in PyNative mode; exact tails and means; integer and boolean targets; the wider dtype, where input and
    target differ; the gradient has the dtype of its operand; ``sample_weight``.

    Example:
        >>> import mindspore
        >>> input = mindspore.tensor([[-0.8, 1.2, 0.7], [-0.1, -0.4, 0.7]])
        >>> target = mindspore.tensor([[0.3, 0.8, 1.2], [-0.6, 0.1, 2.2]])
        >>> binary_cross_entropy_with_logits(input, target, reduction="sum")
        Tensor(shape=[], dtype=Float32, value= 2.078167)
    """
    return operator(False, reduction)(input, target, weight, sample_weight, pos_weight)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    *,
    pos_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of probabilities; a drop-in for the function in ``mindspore.mint.nn.functional``.

    ``w · [p·y·(−log q) + (1−y)·(−log(1−q))]`` for each element, with q the input, y the target, w the weight and p
    the pos_weight; both logarithms are clamped at −100. Then the mean, the sum, or none.

    Arguments, results and errors are those of ``binary_cross_entropy_with_logits``; besides, an input outside [0, 1]
    is a ValueError (in a compiled graph, where MindSpore turns every error of an operator into one, a RuntimeError).

    Differences from MindSpore's: those of ``binary_cross_entropy_with_logits``; besides, one element is not counted
    twice, weights broadcast, a probability of 0 or 1 costs at most 100 and not 27.63, an input outside [0, 1] never
    ends the process, bfloat16 and mixed dtypes, ``pos_weight``.

    Example:
        >>> import mindspore
        >>> input = mindspore.tensor([0.5, 0.9])
        >>> print(binary_cross_entropy(input, mindspore.tensor([1, 1]), reduction="none"))
        [0.6931472  0.10536055]
    """
    return operator(True, reduction)(input, target, weight, sample_weight, pos_weight)
