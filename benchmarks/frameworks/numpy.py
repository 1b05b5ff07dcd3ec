"""NumPy without a framework: compares ours with the formula written out, and with scikit-learn's losses."""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np
from sklearn._loss import HalfBinomialLoss
from sklearn.metrics import log_loss

import binxent.numpy as bx
from benchmarks.frameworks import OURS, Array, Evaluate, Way, operands
from benchmarks.grid import BOTH, FORWARD, GAMMAS, HESSIAN, Case, focal
from binxent.kernel import num_threads

PACKAGES = ("scikit-learn",)
DTYPES = ("float32", "bfloat16", "float16", "float64")
MEMORY_KEPT_BY = "binxent"


def formula(x: Array, y: Array, *, gradient: bool) -> Any:
    loss = (np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x)))).mean()
    return (loss, (1 / (1 + np.exp(-x)) - y) / x.size) if gradient else loss


def hessian(x: Array, y: Array) -> Any:
    p = 1 / (1 + np.exp(-x))
    return p - y, p * (1 - p)


def ways_of_hessian(x: Array, y: Array) -> dict[str, Way]:
    x, y = x.ravel(), y.ravel()
    loss, gradient, curvature = HalfBinomialLoss(), np.empty_like(x), np.empty_like(x)
    given = {"gradient_out": gradient, "hessian_out": curvature}
    return {
        OURS: Way(lambda: bx.grad_and_hess(x, y)),
        "binxent in given memory": Way(lambda: bx.grad_and_hess(x, y, out=(gradient, curvature))),
        "formula": Way(lambda: hessian(x, y)),
        # scikit-learn has as many threads as ours.
        "HalfBinomialLoss": Way(lambda: loss.gradient_hessian(y, x, n_threads=num_threads())),
        "HalfBinomialLoss in given memory": Way(
            lambda: loss.gradient_hessian(y, x, **given, n_threads=num_threads()), "binxent in given memory"
        ),
    }


def ways(case: Case) -> dict[str, Way]:
    dtype = np.dtype(getattr(ml_dtypes, case.dtype, case.dtype))
    x, y, options = operands(case)
    x, y = x.astype(dtype), y.astype(dtype)
    options = {n: a if n == "mask" else a.astype(dtype) for n, a in options.items()}
    if case.passes == HESSIAN:
        return ways_of_hessian(x, y)
    if case.passes == BOTH:
        overwritten = x.copy()
        found = {
            OURS: Way(lambda: bx.value_and_grad(x, y, **options)),
            "binxent in place": Way(lambda: bx.value_and_grad(overwritten, y, **options, out=overwritten)),
        }
    else:
        found = {OURS: Way(lambda: bx.binary_cross_entropy_with_logits(x, y, **options))}
    if case.passes == BOTH and not options:
        for gamma in GAMMAS:
            found[focal(gamma)] = Way(functools.partial(bx.value_and_grad, x, y, gamma=gamma))
    if not options and dtype != ml_dtypes.bfloat16:
        found["formula"] = Way(lambda: formula(x, y, gradient=case.passes == BOTH))
    if case.passes == FORWARD and not options and dtype in (np.float32, np.float64):
        q = (1 / (1 + np.exp(-x))).ravel()
        labels = y.ravel()
        found["binxent of probabilities"] = Way(lambda: bx.binary_cross_entropy(q, labels), "binxent of probabilities")
        found["log_loss"] = Way(lambda: log_loss(labels, q), "binxent of probabilities")
    return found


def evaluate_formula(x: Array, target: Array, reduction: str) -> tuple[Array, Array]:
    loss = np.maximum(x, 0) - x * target + np.log1p(np.exp(-np.abs(x)))
    gradient = 1 / (1 + np.exp(-x)) - target
    return (np.asarray(loss.mean()), gradient / x.dtype.type(x.size)) if reduction == "mean" else (loss, gradient)


def evaluations(probabilities: bool) -> dict[str, Evaluate]:
    def ours(x: Array, target: Array, reduction: str) -> tuple[Array, Array]:
        loss, gradient = bx.value_and_grad(x, target, reduction=reduction, probabilities=probabilities)
        return np.asarray(loss), gradient

    return {OURS: ours} if probabilities else {OURS: ours, "formula": evaluate_formula}
