"""The second derivative that tests compare with, and how far a computed one may be off."""

from __future__ import annotations

from typing import Any

import numpy as np

from binxent import definition, formula, options
from binxent.call import Operands, plan
from binxent.formula import LOGITS
from binxent.numpy.arrays import Arrays
from binxent.options import Terms

Array = np.ndarray[Any, Any]


def second_derivative(
    x: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    sample_weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    *,
    expects: bool = False,
    wide: Any = np.float64,
) -> tuple[Array, Array]:
    """The definition in ``wide``, and the sum of the sizes of all terms that it adds."""
    x, target = np.asarray(x).astype(wide), np.asarray(target).astype(wide)
    w = np.ones_like(x) if weight is None else np.ones_like(x) * np.asarray(weight).astype(wide)
    if sample_weight is not None:
        w = w * np.asarray(sample_weight).astype(wide).reshape((-1,) + (1,) * (x.ndim - 1))
    p = None if pos_weight is None else np.asarray(pos_weight).astype(wide)
    keep = formula.kept(target, None if mask is None else np.asarray(mask) != 0, ignore_index)
    keep = None if keep is None else np.broadcast_to(keep, x.shape)
    x, target, w = (formula.only(np, keep, operand) for operand in (x, target, w))
    curvature = formula.logits_expected_curvature if expects else formula.logits_curvature
    with np.errstate(all="ignore"):
        exact = curvature(np, x, target, w, p, label_smoothing, gamma)
        positive, negative = (np.abs(w * c) for c in formula.coefficients(target, p, label_smoothing))
        terms = positive * size(x, gamma) + negative * size(-x, gamma)
        if gamma > 0 and expects:
            terms = (positive + negative) * formula.logits_expected_curvature(np, x, target, gamma=gamma)
    return exact, terms


def size(x: Array, gamma: float) -> Array:
    """The sizes of the terms of a positive's second derivative, added."""
    up, down = formula.sigmoids(np, x)
    if gamma == 0:
        return up * down
    finite = np.where(np.isinf(x), 0, x)
    s, power = formula.softplus(np, -finite), np.exp(-gamma * formula.softplus(np, finite))
    return np.where(np.isinf(x), 0, up * power * ((2 * gamma + 1) * down + gamma * s * (gamma * up + down)))


def of_family(case: dict[str, Any], x: Array, y: Array, *, expects: bool = False, **more: Any) -> tuple[Array, Array]:
    """The definition with options of the focal family, in longdouble, and the sum of the sizes of all terms it adds."""
    family = options.focal(**{name: case[name] for name in options.Focal._fields if name in case})
    arrays = {name: array.astype(np.longdouble) for name, array in more.items() if isinstance(array, np.ndarray)}
    numbers = {name: number for name, number in more.items() if name not in arrays}
    call = plan(
        LOGITS, "none", ("float64", "float64"), x.shape, y.shape, gamma=case.get("gamma", 0.0), focal=family,
        **{name: array.shape for name, array in arrays.items()}, **numbers,
    )  # fmt: skip
    xp = Arrays(np.longdouble)
    with np.errstate(all="ignore"):
        values = definition.prepare(xp, call, Operands(x, y, **arrays))
        exact = definition.curvature(xp, call, values, expects=expects)
        if expects:
            return exact, np.abs(exact)
        return exact, formula.only(np, values.keep, family_size(call.terms or Terms(), values))


def family_size(terms: Terms, values: definition.Values) -> Array:
    """The sizes of the terms of the second derivative, added."""
    x = np.where(np.isinf(values.x), 0, values.x)
    p, r = formula.sigmoids(np, x)
    falling, rising = formula.softplus(np, -x), formula.softplus(np, x)
    w = definition.weight(values)
    w = np.abs(np.ones_like(x) * (1 if w is None else w))
    smoothed = (formula.smoothed(y, terms.label_smoothing) for y in (values.y, 1 - values.y))
    weights = (1 if one is None else one for one in (values.pos_weight, values.neg_weight))
    (y, rest), (up, down) = smoothed, weights
    one, none = np.abs(up * y), np.abs(down * rest)
    gamma, own, v = terms.gamma, terms.gamma if terms.gamma_negative is None else terms.gamma_negative, p * r
    if terms.focal == "p_t":
        share = 1 if terms.alpha is None else terms.alpha * y + (1 - terms.alpha) * rest
        u, d = y * r + rest * p, np.abs(rest - y)
        bend = (one * falling + none * rising) * (gamma * d * v + y * r * r + rest * p * p) / u
        found = w * share * u**gamma * ((one + none) * v + gamma * d * (v / u) * (2 * (none * p + one * r) + bend))
        return np.where(np.isinf(values.x), 0, found)
    q = p - np.longdouble(terms.margin)
    q = np.where(q > 0, q, 0.5)
    inner = -np.log1p(-q)
    bend = 2 * v / (q * (1 - q)) + inner * (own * v + p * q + terms.margin * r) / (q * q)
    negative = v * q**own * ((r * r + terms.margin * np.abs(r - p)) / (1 - q) ** 2 + own * bend)
    negative = np.where((p <= terms.margin) | np.isinf(values.x), 0, negative) if terms.margin else size(-values.x, own)
    return w * (one * size(values.x, gamma) + none * negative)
