"""The focal power in the native kernel: what docs/options.md promises of its accuracy, up to a gamma of 5."""

from __future__ import annotations

import json
import sys
from typing import Any

import mpmath
import numpy as np
import pytest

from binxent import kernel
from binxent import numpy as face
from tests.focal_cases import GAMMAS
from tests.kernel_calls import Array, compute
from tests.operands import SOURCES, from_end_to_end, targets
from tests.reference import DTYPES, TOLERANCE, bits, error, expected, rounded
from tests.test_kernel import instruction_sets, worst_of

FACTORS = (1.0, 65536.0, 2.0**-24)  # powers of two: any other is rounded by itself

mpf = mpmath.mpf


def promised(gamma: float, instruction_set: str, *, hard: bool) -> float:
    """Ulp of float32, for coefficients that are not rounded."""
    most = 4.0 if gamma <= 2 else 6.0
    # Without a fused multiply-add more is rounded, and gamma multiplies that.
    baseline = 0.0 if instruction_set != "baseline" else 1.0 if gamma <= 2 else 3.0
    return most + baseline + (not hard)


def both(x: Array, y: Array, gamma: float, *, source: str, **options: Any) -> tuple[Array, Array]:
    loss, gradient = np.empty_like(x), np.empty_like(x)
    terms = (None, 0.0, gamma)
    compute(x, y, terms=terms, probabilities=source == "probabilities", loss=loss, gradient=gradient, **options)
    return loss, gradient


def worst(size: int) -> dict[str, float]:
    """The worst error in ulp, by source, kind of target and gamma."""
    found = {}
    for source in SOURCES:
        for kind in ("hard", "soft"):
            for gamma in GAMMAS:
                rng = np.random.default_rng(int(gamma * 100))
                x = from_end_to_end(source, size, rng)
                y = targets(kind, x, rng)
                exact = expected(x, y, gamma=gamma, probabilities=source == "probabilities")
                off = 0.0
                for factor in FACTORS:
                    loss, gradient = both(x, y, gamma, source=source, incoming=factor)
                    of_loss = error(loss, exact.loss, exact.larger_loss, "float32")
                    of_gradient = error(gradient, exact.gradient * factor, exact.larger_gradient * factor, "float32")
                    off = max(off, float(of_loss.max()), float(of_gradient.max()))
                found[f"{source} {kind} {gamma}"] = off
    return found


@instruction_sets
def test_accuracy(instruction_set: str) -> None:
    """From end to end of the range, subnormal results too."""
    assert instruction_set in TOLERANCE
    for case, off in worst_of("tests.test_focal", 6000, instruction_set).items():
        _, kind, gamma = case.split()
        assert off <= promised(float(gamma), instruction_set, hard=kind == "hard"), case


def test_against_the_textbook() -> None:
    """With no formula of ours in between."""
    rng = np.random.default_rng(4)
    x = np.concatenate([rng.uniform(-60, 60, 60), rng.normal(0, 2, 60)]).astype(np.float32)
    for gamma in (0.5, 2.0, 3.7, 5.0):
        for y in (0.0, 1.0):
            loss, gradient = both(x, np.full_like(x, y), gamma, source="logits")
            with mpmath.workdps(60):

                def branch(z: Any, gamma: float = gamma) -> Any:
                    sigma = 1 / (1 + mpmath.exp(z))
                    return -(sigma**gamma) * mpmath.log(1 - sigma)

                signs = [mpf(float(v)) * (1 if y else -1) for v in x]
                losses = [branch(z) for z in signs]
                slopes = [mpmath.diff(branch, z) * (1 if y else -1) for z in signs]
            for actual, values in ((loss, losses), (gradient, slopes)):
                exact = np.array([np.longdouble(mpmath.nstr(v, 25)) for v in values])
                off = error(actual, exact, np.abs(exact), "float32").max()
                assert off <= promised(gamma, kernel.instruction_set, hard=True)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("source", SOURCES)
def test_every_half(source: str, dtype: str) -> None:
    """The value in float32, rounded once."""
    x = np.arange(65536, dtype=np.uint16).view(DTYPES[dtype])
    x = x[np.isfinite(x.astype(np.float32))]
    if source == "probabilities":
        x = x[(x >= 0) & (x <= 1)]
    for y in (0.0, 1.0):
        target = np.full(x.shape, y, x.dtype)
        found = both(x, target, 2.0, source=source)
        single = both(x.astype(np.float32), target.astype(np.float32), 2.0, source=source)
        for narrow, wide in zip(found, single, strict=True):
            most = float(np.finfo(np.float16).max)
            wide = np.clip(wide, -most, most) if dtype == "float16" and source == "probabilities" else wide
            np.testing.assert_array_equal(bits(narrow), bits(rounded(wide, dtype)))


@pytest.mark.parametrize("source", SOURCES)
def test_the_loop_for_a_plain_call_has_the_bits_of_the_one_for_any(source: str) -> None:
    rng = np.random.default_rng(6)
    x = from_end_to_end(source, 3000, rng)
    y = targets("soft", x, rng)
    for gamma in GAMMAS:
        plain = both(x, y, gamma, source=source)
        for options in ({"pos_weight": np.ones_like(x)}, {"mask": np.ones(x.shape, bool)}):
            for one, other in zip(plain, both(x, y, gamma, source=source, **options), strict=True):
                np.testing.assert_array_equal(one, other)
        for output, wanted in zip(("loss", "gradient"), plain, strict=True):
            alone = np.empty_like(x)
            terms = (None, 0.0, gamma)
            compute(x, y, terms=terms, probabilities=source == "probabilities", **{output: alone})
            np.testing.assert_array_equal(alone, wanted)


def test_infinite_logits() -> None:
    x = np.array([np.inf, -np.inf], np.float32)
    for gamma in (1e-45, 0.01, 0.5, 2.0, 5.0, 6.0):
        loss, gradient = both(x, np.ones_like(x), gamma, source="logits")
        np.testing.assert_array_equal(loss, [0, np.inf])
        np.testing.assert_array_equal(gradient, [0, -1])


def test_a_gamma_that_no_float32_holds() -> None:
    """γ·|x| has an error of 30 ulp if γ is rounded to float32."""
    x = np.linspace(20, 40, 1001, dtype=np.float32)
    gamma = 1.9 + 2.0**-24 * 0.9
    exact = expected(x, np.ones_like(x), gamma=gamma)
    loss, _ = both(x, np.ones_like(x), gamma, source="logits")
    assert error(loss, exact.loss, exact.loss, "float32").max() <= 4 + (kernel.instruction_set == "baseline")


def test_above_5_the_result_is_rounded_correctly() -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(0, 6, 20_000).astype(np.float32)
    y = rng.integers(0, 2, x.size).astype(np.float32)
    exact = expected(x, y, gamma=5.5)
    loss, gradient = face.value_and_grad(x, y, reduction="none", gamma=5.5)
    assert error(loss, exact.loss, exact.loss, "float32").max() <= 0.501
    assert error(gradient, exact.gradient, np.abs(exact.gradient), "float32").max() <= 0.501


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        json.dump(worst(int(sys.argv[1])), sys.stdout)
