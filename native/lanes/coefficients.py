"""Writes coefficients.h: the minimax polynomials that math.h evaluates.

Each is fitted, in 60 digits, to the *relative error of the function it serves*. Coefficients are rounded to the type
one at a time, lowest first, and the rest fitted again, so that the rounding of one is made good by the others.

Run ``python native/lanes/coefficients.py > native/lanes/coefficients.h`` (needs mpmath).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from mpmath import mp, mpf

mp.dps = 60
Function = Callable[[mpf], mpf]


def taylor_tail(x: mpf, function: Function, leading: Function, term: Callable[[int], mpf]) -> mpf:
    """(function(x) − leading(x)) / x², by its series near 0, where the quotient would cancel."""
    if abs(x) < mpf("1e-3"):
        return mp.fsum(term(k) * x**k for k in range(24))
    return (function(x) - leading(x)) / x**2


def exp_tail(x: mpf) -> mpf:
    return taylor_tail(x, mp.exp, lambda t: 1 + t, lambda k: 1 / mp.factorial(k + 2))


def log1p_tail(x: mpf) -> mpf:
    return taylor_tail(x, mp.log1p, lambda t: t, lambda k: mpf(-1) ** (k + 1) / (k + 2))


@dataclass(frozen=True)
class Fit:
    name: str
    formula: str
    tail: Function
    weight: Function  # turns the error of the tail into the relative error of the whole
    low: mpf
    high: mpf
    degree: dict[str, int]
    leading: tuple[float, ...] = ()  # coefficients, known beforehand, that come before the fitted ones


def log1p_weight(x: mpf) -> mpf:
    return abs(x) if abs(x) < mpf("1e-30") else x**2 / abs(mp.log1p(x))


FITS = [
    Fit("exp", "exp(r) = 1 + r + r² · P(r), |r| ≤ ln 2 / 2", exp_tail, lambda x: x**2 / mp.exp(x),
        -mp.log(2) / 2, mp.log(2) / 2, {"float": 4, "double": 9}),
    Fit("log1p", "log1p(e) = ¾·e + e · P(e), 0 ≤ e ≤ 1", log1p_tail, log1p_weight,
        mpf(0), mpf(1), {"float": 8, "double": 20}, leading=(0.25,)),
    Fit("log", "log(1 + f) = f + f² · P(f), 1/√2 ≤ 1 + f ≤ √2", log1p_tail, log1p_weight,
        mp.sqrt(mpf(1) / 2) - 1, mp.sqrt(2) - 1, {"float": 8, "double": 20}),
]  # fmt: skip


def least_squares(target: list[mpf], weight: list[mpf], grid: list[mpf], powers: range) -> list[mpf]:
    """On Chebyshev's points this is within a fraction of a bit of the minimax fit, and it cannot fail to converge."""
    columns = [[w * x**k for x, w in zip(grid, weight, strict=True)] for k in powers]
    values = [w * t for w, t in zip(weight, target, strict=True)]
    normal = mp.matrix([[mp.fdot(a, b) for b in columns] for a in columns])
    return list(mp.lu_solve(normal, mp.matrix([mp.fdot(a, values) for a in columns])))


def fit(function: Fit, kind: str) -> tuple[list[float], float]:
    degree = function.degree[kind]
    size = 12 * (degree + 2)
    width = function.high - function.low
    grid = [function.low + width * (1 - mp.cos(mp.pi * (i + 0.5) / size)) / 2 for i in range(size)]
    rest = [function.tail(x) for x in grid]
    weight = [function.weight(x) for x in grid]
    rounded: list[float] = []
    for k in range(degree + 1):
        best = least_squares(rest, weight, grid, range(k, degree + 1))[0]
        rounded.append(float(np.float32(best)) if kind == "float" else float(best))
        rest = [r - rounded[k] * x**k for x, r in zip(grid, rest, strict=True)]
    return rounded, float(max(abs(w * r) for w, r in zip(weight, rest, strict=True)))


def main() -> None:
    print("// Written by coefficients.py; do not edit. Lowest power first.")
    print("#pragma once\n\nnamespace binxent {\n")
    print("template <class T>\nstruct Coefficients;\n")
    for kind, suffix in (("float", "f"), ("double", "")):
        print(f"template <>\nstruct Coefficients<{kind}> {{")
        for function in FITS:
            values, worst = fit(function, kind)
            print(f"    // {function.formula}; relative error at most 2^{np.log2(worst):.1f}")
            body = ", ".join(f"{v.hex()}{suffix}" for v in (*function.leading, *values))
            print(f"    static constexpr {kind} {function.name}[] = {{{body}}};")
        print("};\n")
    print("}  // namespace binxent")


if __name__ == "__main__":
    main()
