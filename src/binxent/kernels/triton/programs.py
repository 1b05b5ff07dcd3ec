"""The programs that run on the device. Each works on blocks of elements that are consecutive in row-major order.

An operand comes as a ``View``, or as None where there is none. A number comes as its bits, because the compiler chooses
itself between float32 and float64 for a plain one. ``loss`` writes all outputs in one launch: each program adds up its
block, and the last one to arrive adds these sums in float64, in their order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from binxent.kernels.triton import focal, lanes, rows
from binxent.kernels.triton.lanes import constant, device_function, factor_of, like, narrowed, widened

MANY = constant(2048)  # sums that the last program adds at a time
# Triton must not specialise on their values: it would compile anew for one that happens to be 1, or a multiple of 16.
OPTIONS = ("ignored", "share", "half", "gamma", "gamma_negative", "alpha", "margin")
NUMBERS = [f"{name}_bits" for name in ("incoming", "after", "divisor", "made", *OPTIONS)]


@device_function
def number(bits, dtype: tl.constexpr):
    if dtype == tl.float64:
        return bits.to(tl.int64).to(tl.float64, bitcast=True)
    else:
        return bits.to(tl.int32).to(tl.float32, bitcast=True)


@device_function
def in_parts(bits, dtype: tl.constexpr):
    """A number of the host in two parts, high + low: of float32, the bits of both are 64."""
    if dtype == tl.float64:
        return number(bits, dtype), like(0.0, number(bits, dtype))
    else:
        both = bits.to(tl.int64)
        return number(both, dtype), number(both >> 32, dtype)


# Where things lie


@device_function
def places(view, sizes, start, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Pointers to the block's elements.

    A view has no stride if it is one number, one if it is evenly spaced, else one for each axis. ``sizes`` has one for
    each axis but the first; both begin with the last axis. The place of ``start`` is found once for the block, and of
    each element how far it is beyond. ``WIDE``: 1 where offsets need 64 bits, 2 where the sizes do.
    """
    offset_type: tl.constexpr = tl.int64 if WIDE else tl.int32
    beyond = tl.arange(0, BLOCK).to(tl.int64 if WIDE == 2 else tl.int32)
    if len(view.strides) == 1:
        return view.pointer + start * view.strides[0] + beyond.to(offset_type) * view.strides[0]
    else:
        start = start.to(offset_type)
        offset = tl.zeros([BLOCK], offset_type)
        for axis in tl.static_range(len(sizes)):
            before = start // sizes[axis]
            place = (start - before * sizes[axis]).to(beyond.dtype) + beyond
            offset += (place % sizes[axis]).to(offset_type) * view.strides[axis]
            beyond = place // sizes[axis]
            start = before
        return view.pointer + offset + (start + beyond.to(offset_type)) * view.strides[len(sizes)]


@device_function
def read(view, sizes, start, inside, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """The block's elements in their own type; of a view of one number, that number."""
    if len(view.strides) == 0:
        return tl.load(view.pointer)
    else:
        return tl.load(places(view, sizes, start, BLOCK, WIDE), mask=inside, other=0)


@device_function
def store(view, values, sizes, start, inside, PROBABILITIES: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    dtype: tl.constexpr = view.pointer.dtype.element_ty
    if PROBABILITIES and dtype == tl.float16:
        values = lanes.saturated(values)
    tl.store(places(view, sizes, start, BLOCK, WIDE), narrowed(values, dtype), mask=inside)


@device_function
def selection(mask, sizes, start, inside, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """The block's elements of a mask, in a type in which they can be compared."""
    selected = read(mask, sizes, start, inside, BLOCK, WIDE)
    if selected.dtype == tl.bfloat16 or selected.dtype == tl.float16:
        return widened(selected, tl.float32)
    else:
        return selected


@device_function
def kept(
    target, mask, ignored_bits, sizes, start, inside, IGNORES_NAN: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """Which elements count. ``target`` is in the arithmetic's type; only ignore_index asks for it."""
    keep = inside
    if mask is not None:
        keep = keep & (selection(mask, sizes, start, inside, BLOCK, WIDE) != 0)
    if IGNORES_NAN:
        keep = keep & (target == target)
    elif ignored_bits is not None:
        keep = keep & (target != number(ignored_bits, target.dtype))
    return keep


# Sums


@device_function
def halved(values, NEIGHBOURS: tl.constexpr):
    """Each element plus the next one, or plus its like in the second half."""
    half: tl.constexpr = values.shape[0] // 2
    if NEIGHBOURS:
        one, other = tl.split(tl.reshape(values, [half, 2]))
    else:
        one, other = tl.split(tl.trans(tl.reshape(values, [2, half])))
    return one + other


@device_function
def block_sum(values, SHORT: tl.constexpr):
    """The sum in float64. Eight values at a time are added as they are, in an order that is written out here, and is
    that in which a thread holds them. The sums of eight are added exactly, or nearly so, in whatever order."""
    total = tl.sum(halved(halved(halved(values, True), True), SHORT).to(tl.float64), 0)
    if total - total != 0:  # eight values may be more than their type holds, where each of them is not
        total = tl.sum(values.to(tl.float64), 0)
    return total


@device_function
def is_last(own, partial, arrived):
    """Leaves the block's sum for the last program to arrive; whether that is this one."""
    tl.store(partial + tl.program_id(0), own)
    tl.debug_barrier()
    return tl.atomic_add(arrived, 1, sem="acq_rel") == tl.num_programs(0) - 1


@device_function
def sum_of_all(partial, arrived):
    """What the last program adds: all sums, in their order. It leaves the counter at 0 for the next call."""
    programs = tl.num_programs(0)
    total = tl.zeros([MANY], tl.float64)
    for first in range(0, programs, MANY):
        place = first + tl.arange(0, MANY)
        total += tl.load(partial + place, mask=place < programs, other=0.0, volatile=True)
    tl.store(arrived, 0)
    return tl.sum(total, 0)


@device_function
def store_mean(total, added, divisor, divisor_bits):
    """The sum, divided. Where a divisor that was measured or given is 0, so is the mean; 0/0 of an empty one is NaN."""
    if divisor is None:
        mean = added / number(divisor_bits, tl.float64)
    else:
        by = widened(tl.load(divisor), tl.float64)
        mean = tl.where(by == 0, 0.0, added / tl.where(by == 0, 1.0, by))
    tl.store(total, narrowed(mean, total.dtype.element_ty))


# The loss and its gradient


@device_function
def factors(came, divisor, divisor_bits, after_bits, PROBABILITIES: tl.constexpr):
    """The factor of every gradient, in two parts. If ``after_bits`` are given, the host has computed both."""
    if after_bits is not None:
        return came, number(after_bits, came.dtype)
    elif divisor is None:
        return factor_of(came, number(divisor_bits, tl.float64).to(came.dtype), PROBABILITIES)
    else:
        return factor_of(came, widened(tl.load(divisor), came.dtype), PROBABILITIES)


@device_function
def option(learnt, bits, dtype: tl.constexpr):
    """An option such as gamma: the host's number, or one that is learnt and lies on the device."""
    if learnt is None:
        return number(bits, dtype)
    else:
        return widened(tl.load(learnt), dtype)


@device_function
def product(weight, sample_weight, sizes, start, inside, dtype: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """The product of the weights, of which there is at least one."""
    if weight is None:
        return widened(read(sample_weight, sizes, start, inside, BLOCK, WIDE), dtype)
    elif sample_weight is None:
        return widened(read(weight, sizes, start, inside, BLOCK, WIDE), dtype)
    else:
        one = widened(read(weight, sizes, start, inside, BLOCK, WIDE), dtype)
        return one * widened(read(sample_weight, sizes, start, inside, BLOCK, WIDE), dtype)


@device_function
def targets(target, n, sizes, start, inside, dtype: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """The block's targets, of a dense array or of sparse rows."""
    if target.strides is None:
        return rows.targets(target, n, start, inside, dtype, BLOCK)
    else:
        return widened(read(target, sizes, start, inside, BLOCK, WIDE), dtype)


@device_function
def option_in_parts(learnt, bits, dtype: tl.constexpr):
    """Such an option in two parts; one that is learnt has no second part."""
    if learnt is None:
        return in_parts(bits, dtype)
    else:
        number = widened(tl.load(learnt), dtype)
        return number, like(0.0, number)


@device_function
def with_power(
    x, y, rest, positive, negative, factor, gamma, gamma_bits, gamma_negative_bits, alpha, margin_bits,
    dtype: tl.constexpr, PROBABILITIES: tl.constexpr, FAMILY: tl.constexpr, ANY_SIZE: tl.constexpr,
):  # fmt: skip
    """Loss and gradient with a focal power or the options of ``binxent.focal``. ``FAMILY`` is None where there is one
    power alone; y and ``rest`` are the target and 1 − target, smoothed."""
    # No function may return None here: Triton 3.6 does not compile that.
    power, low, margin, rest_of_margin = None, None, None, None
    if gamma is not None or gamma_bits is not None:
        power, low = option_in_parts(gamma, gamma_bits, dtype)
    if FAMILY == "p_t":
        if PROBABILITIES:
            return focal.p_t_probabilities(x, positive, negative, y, rest, alpha, factor, power, low)
        else:
            return focal.p_t_logits(x, positive, negative, y, rest, alpha, factor, power, low, ANY_SIZE)
    elif FAMILY is None and not PROBABILITIES:
        return focal.one_power_logits(x, positive, negative, factor, power, low, ANY_SIZE)
    else:
        other, other_low = power, low
        if FAMILY is not None and gamma is None:  # a learnt gamma is that of both
            other, other_low = None, None
            if gamma_negative_bits is not None:
                other, other_low = in_parts(gamma_negative_bits, dtype)
        if margin_bits is not None:
            margin, rest_of_margin = in_parts(margin_bits, dtype)
        given = (x, positive, negative, factor, power, low, other, other_low, margin, rest_of_margin)
        if PROBABILITIES:
            return focal.probabilities(*given)
        else:
            return focal.logits(*given, ANY_SIZE)


@device_function
def each(
    input, target, weight, sample_weight, pos_weight, mask, neg_weight, smoothing, gamma, factor, after, n, sizes,
    start, inside, ignored_bits, share_bits, half_bits, gamma_bits, gamma_negative_bits, alpha_bits, margin_bits,
    dtype: tl.constexpr, SHORT: tl.constexpr, PROBABILITIES: tl.constexpr, ANY_TARGET: tl.constexpr,
    IGNORES_NAN: tl.constexpr, FAMILY: tl.constexpr, CHECKS: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Loss and gradient of the block's elements; 0 where one is ignored."""
    x = widened(read(input, sizes, start, inside, BLOCK, WIDE), dtype)
    # Where the target is one number too, there is a loss for each element.
    y = tl.broadcast_to(targets(target, n, sizes, start, inside, dtype, BLOCK, WIDE), [BLOCK])
    positive, negative, lost = y, 1.0 - y, None
    HAS_POWER: tl.constexpr = FAMILY is not None or gamma is not None or gamma_bits is not None
    # The compiler must know it: a function would give it a number of the device.
    values = target.pointer if target.strides is not None else target.stored
    MAY_BE_SOFT: tl.constexpr = False if values is None else values.dtype.element_ty.is_floating()
    if MAY_BE_SOFT and not (SHORT or PROBABILITIES or HAS_POWER):
        lost = (1.0 - negative) - y  # by rounding 1 − y
    if smoothing is not None or half_bits is not None:
        half = option(smoothing, half_bits, dtype)
        if smoothing is None:
            share = number(share_bits, dtype)
        else:
            share, half = 1.0 - half, 0.5 * half
        positive, negative = tl.fma(positive, share, half), tl.fma(negative, share, half)
        if lost is not None:
            lost = lost * share
    smoothed, rest, alpha = positive, negative, None
    if alpha_bits is not None:
        up, low = in_parts(alpha_bits, dtype)
        down = (1.0 - up) - low
        if FAMILY == "p_t":
            alpha = tl.fma(up, smoothed, down * rest)
        else:
            positive, negative = positive * up, negative * down
            if lost is not None:
                lost = lost * down
    above, below = None, None
    if pos_weight is not None:
        above = widened(read(pos_weight, sizes, start, inside, BLOCK, WIDE), dtype)
        positive = positive * above
    if neg_weight is not None:
        below = widened(read(neg_weight, sizes, start, inside, BLOCK, WIDE), dtype)
        negative = negative * below
        if lost is not None:
            lost = lost * below
    if weight is not None or sample_weight is not None:
        w = product(weight, sample_weight, sizes, start, inside, dtype, BLOCK, WIDE)
        positive, negative = positive * w, negative * w
        if lost is not None:
            lost = lost * w
    ANY_SIZE: tl.constexpr = (
        weight is not None or sample_weight is not None or pos_weight is not None or neg_weight is not None
    )  # fmt: skip
    if HAS_POWER:
        loss, gradient = with_power(
            x, smoothed, rest, positive, negative, factor, gamma, gamma_bits, gamma_negative_bits, alpha, margin_bits,
            dtype, PROBABILITIES, FAMILY, ANY_SIZE,
        )  # fmt: skip
    elif PROBABILITIES:
        loss, gradient = lanes.probabilities(x, positive, negative, factor)
    else:
        WEIGHTED: tl.constexpr = ANY_SIZE or alpha_bits is not None
        loss, gradient = lanes.logits(x, positive, negative, lost, factor, WEIGHTED, SHORT)
    gradient = gradient * after
    unknown = like(float("nan"), x)
    if PROBABILITIES:
        fits = (x >= 0) & (x <= 1)
        if not ANY_TARGET:
            fits = fits & (y >= 0) & (y <= 1)
        loss, gradient = tl.where(fits, loss, unknown), tl.where(fits, gradient, unknown)
    if CHECKS:
        fits = (y >= 0) & (y <= 1)
        if above is not None:
            fits = fits & ((above < 0) == 0)
        if below is not None:
            fits = fits & ((below < 0) == 0)
        if mask is not None:
            selected = selection(mask, sizes, start, inside, BLOCK, WIDE)
            fits = fits & ((selected == 0) | (selected == 1))
        loss, gradient = tl.where(fits, loss, unknown), tl.where(fits, gradient, unknown)
    keep = kept(y, mask, ignored_bits, sizes, start, inside, IGNORES_NAN, BLOCK, WIDE)
    nothing = like(0.0, x)
    return tl.where(keep, loss, nothing), tl.where(keep, gradient, nothing)


@triton.jit(do_not_specialize=NUMBERS)
def loss(
    input, target, weight, sample_weight, pos_weight, mask, neg_weight, smoothing, gamma, incoming, divisor, elements,
    total, gradient, partial, arrived, n, sizes, incoming_bits, after_bits, divisor_bits, ignored_bits, share_bits,
    half_bits, gamma_bits, gamma_negative_bits, alpha_bits, margin_bits, dtype: tl.constexpr, SHORT: tl.constexpr,
    PROBABILITIES: tl.constexpr, ANY_TARGET: tl.constexpr, IGNORES_NAN: tl.constexpr, FAMILY: tl.constexpr,
    CHECKS: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Writes those of the loss of each element, the mean and the gradient that are not None. Without ``partial`` there
    is one program, which has no other to wait for."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    inside = start + tl.arange(0, BLOCK) < n
    if incoming is None:
        came = number(incoming_bits, dtype)
    else:
        came = widened(read(incoming, sizes, start, inside, BLOCK, WIDE), dtype)
    factor, after = factors(came, divisor, divisor_bits, after_bits, PROBABILITIES)
    losses, gradients = each(
        input, target, weight, sample_weight, pos_weight, mask, neg_weight, smoothing, gamma, factor, after, n, sizes,
        start, inside, ignored_bits, share_bits, half_bits, gamma_bits, gamma_negative_bits, alpha_bits, margin_bits,
        dtype, SHORT, PROBABILITIES, ANY_TARGET, IGNORES_NAN, FAMILY, CHECKS, BLOCK, WIDE,
    )  # fmt: skip
    if elements is not None:
        store(elements, losses, sizes, start, inside, False, BLOCK, WIDE)
    if gradient is not None:
        store(gradient, gradients, sizes, start, inside, PROBABILITIES, BLOCK, WIDE)
    if total is not None:
        own = block_sum(losses, SHORT)
        if partial is None:
            store_mean(total, own, divisor, divisor_bits)
        elif is_last(own, partial, arrived):
            store_mean(total, sum_of_all(partial, arrived), divisor, divisor_bits)


@triton.jit(do_not_specialize=NUMBERS)
def remake(
    input, target, weight, sample_weight, pos_weight, mask, neg_weight, smoothing, gamma, incoming, divisor, made_for,
    gradient, n, sizes, divisor_bits, made_bits, ignored_bits, share_bits, half_bits, gamma_bits, gamma_negative_bits,
    alpha_bits, margin_bits, dtype: tl.constexpr, SHORT: tl.constexpr, PROBABILITIES: tl.constexpr,
    ANY_TARGET: tl.constexpr, IGNORES_NAN: tl.constexpr, FAMILY: tl.constexpr, CHECKS: tl.constexpr,
    BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Writes the gradient again where the incoming one is not what it was made for. A program has many blocks: where
    there is nothing to do, it is the number of programs that costs time."""
    made = option(made_for, made_bits, dtype)
    first, step = tl.program_id(0).to(tl.int64) * BLOCK, tl.num_programs(0).to(tl.int64) * BLOCK
    rounds = tl.cdiv(n - first, step)
    if len(incoming.strides) == 0:
        rounds = tl.where(widened(tl.load(incoming.pointer), dtype) == made, 0, rounds)
    for turn in range(rounds):
        start = first + turn * step
        inside = start + tl.arange(0, BLOCK) < n
        came = widened(read(incoming, sizes, start, inside, BLOCK, WIDE), dtype)
        if len(incoming.strides) == 0 or tl.max(((came != made) & inside).to(tl.int32), 0) != 0:
            factor, after = factors(came, divisor, divisor_bits, None, PROBABILITIES)
            _, gradients = each(
                input, target, weight, sample_weight, pos_weight, mask, neg_weight, smoothing, gamma, factor, after, n,
                sizes, start, inside, ignored_bits, share_bits, half_bits, gamma_bits, gamma_negative_bits, alpha_bits,
                margin_bits, dtype, SHORT, PROBABILITIES, ANY_TARGET, IGNORES_NAN, FAMILY, CHECKS, BLOCK, WIDE,
            )  # fmt: skip
            store(gradient, gradients, sizes, start, inside, PROBABILITIES, BLOCK, WIDE)


@triton.jit(do_not_specialize=NUMBERS)
def rescale(gradient, incoming, made_for, n, made_bits, dtype: tl.constexpr, BLOCK: tl.constexpr):
    """Multiplies a gradient by the incoming one over what it was made for; reads nothing where both are the same."""
    made, came = option(made_for, made_bits, dtype), widened(tl.load(incoming), dtype)
    first, step = tl.program_id(0).to(tl.int64) * BLOCK, tl.num_programs(0).to(tl.int64) * BLOCK
    factor = lanes.divided(came, made)
    for turn in range(tl.where(came == made, 0, tl.cdiv(n - first, step))):
        place = first + turn * step + tl.arange(0, BLOCK)
        inside = place < n
        value = widened(tl.load(gradient + place, mask=inside, other=0), dtype) * factor
        tl.store(gradient + place, narrowed(value, gradient.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=NUMBERS)
def measure(
    target, weight, sample_weight, mask, measured, partial, arrived, n, sizes, ignored_bits, dtype: tl.constexpr,
    IGNORES_NAN: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Counts the elements that are kept or, where there are weights, adds up the weights of those elements."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    inside = start + tl.arange(0, BLOCK) < n
    if ignored_bits is None:  # There is no target. ``target is None`` would not compile for sparse rows in Triton 3.6.
        y = None
    else:
        y = targets(target, n, sizes, start, inside, dtype, BLOCK, WIDE)
    keep = kept(y, mask, ignored_bits, sizes, start, inside, IGNORES_NAN, BLOCK, WIDE)
    if weight is None and sample_weight is None:
        own = tl.sum(keep.to(tl.int32), 0).to(tl.float64)
    else:
        w = product(weight, sample_weight, sizes, start, inside, tl.float64, BLOCK, WIDE)
        own = tl.sum(tl.where(keep, w, tl.zeros([BLOCK], tl.float64)), 0)
    if partial is None:
        tl.store(measured, own.to(measured.dtype.element_ty))
    elif is_last(own, partial, arrived):
        tl.store(measured, sum_of_all(partial, arrived).to(measured.dtype.element_ty))
