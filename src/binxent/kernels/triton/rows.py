"""Finds the labels of a sparse target that lie in a block of elements.

Rows follow one another, and each row's labels are sorted, so the labels of a block follow one another too. Where they
begin and end is found by two searches for the block. Most blocks of a target with many labels have none: then nothing
else is done. Otherwise each element searches among them.
"""

from __future__ import annotations

import triton.language as tl

from binxent.kernels.triton.lanes import device_function, like, widened


@device_function
def first_not_below(indices, begin, end, label):
    """The place of the first of some sorted indices that is not below the label. All are scalars, or all are blocks."""
    while begin < end:
        middle = begin + (end - begin) // 2
        below = tl.load(indices + middle).to(tl.int64) < label
        begin = tl.where(below, middle + 1, begin)
        end = tl.where(below, end, middle)
    return begin


@device_function
def is_wrong(rows, row, inside):
    """Whether a row had a wrong label: then a negative one stands first."""
    begin = tl.load(rows.offsets + row, mask=inside, other=0)
    end = tl.load(rows.offsets + row + 1, mask=inside, other=0)
    return tl.load(rows.indices + begin, mask=inside & (begin < end), other=0) < 0


@device_function
def targets(rows, n, start, inside, dtype: tl.constexpr, BLOCK: tl.constexpr):
    """The block's targets. An element beyond the last is read as if it were one of the last row."""
    last = tl.minimum(start + BLOCK, n) - 1
    first_row, last_row = start // rows.columns, last // rows.columns
    column = start - first_row * rows.columns
    begin = first_not_below(
        rows.indices, tl.load(rows.offsets + first_row), tl.load(rows.offsets + first_row + 1), rows.first + column
    )
    end = first_not_below(
        rows.indices, tl.load(rows.offsets + last_row), tl.load(rows.offsets + last_row + 1),
        rows.first + last - last_row * rows.columns + 1,
    )  # fmt: skip
    place = tl.arange(0, BLOCK)
    if rows.columns >= BLOCK:
        beyond = place >= rows.columns - column
        row = first_row + beyond.to(tl.int64)
        label = rows.first + column + place - tl.where(beyond, rows.columns, tl.zeros_like(row))
    else:  # the division has the type of ``columns``: in 64 bits it would cost more than all the rest
        place += column.to(tl.int32)
        row = first_row + (place // rows.columns).to(tl.int64)
        label = rows.first + (place % rows.columns).to(tl.int64)
    y = tl.zeros([BLOCK], dtype)
    if begin < end:
        low = tl.maximum(tl.load(rows.offsets + row, mask=inside, other=0), begin)
        high = tl.where(inside, tl.minimum(tl.load(rows.offsets + row + 1, mask=inside, other=0), end), low)
        until = high
        count = end - begin
        while count > 0:  # as many steps as the longest search needs
            searching = low < high
            middle = low + (high - low) // 2
            below = searching & (tl.load(rows.indices + middle, mask=searching, other=0).to(tl.int64) < label)
            low = tl.where(below, middle + 1, low)
            high = tl.where(searching & (below == 0), middle, high)
            count = count // 2
        found = low < until
        found = found & (tl.load(rows.indices + low, mask=found, other=-1).to(tl.int64) == label)
        if rows.stored is None:
            y = found.to(dtype)
        else:
            y = tl.where(found, widened(tl.load(rows.stored + low, mask=found, other=0), dtype), y)
    # NaN is written here and is no global: at each launch Triton compares its globals with what they were, and refuses
    # the launch if one is not equal to itself.
    unknown = like(float("nan"), y)
    if first_row == last_row:
        y = tl.where(is_wrong(rows, first_row, True), unknown, y)
    else:
        y = tl.where(is_wrong(rows, row, inside), unknown, y)
    return y
