"""The kernel: how exact it is, and that its bits depend on nothing but the numbers."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binxent import kernel
from tests import processes
from tests.kernel_calls import Array, compute, operand, outputs
from tests.layouts import LAYOUTS
from tests.reference import (
    DTYPES,
    INTEGER_TARGETS,
    PRECISION,
    TOLERANCE,
    bits,
    error,
    expected,
    rounded,
    textbook_logits_loss,
    tolerance,
    ulp,
)

inf, nan = np.inf, np.nan
HALVES = ("bfloat16", "float16")
PARALLEL = 65536  # elements from which the kernel uses threads
PATIENCE = 1800.0  # seconds: an emulator takes minutes for these programs, and a shorter limit ends them


# Instruction sets

CPU_FLAGS = {
    "avx2": {"avx2", "fma", "bmi2", "f16c"},
    "avx512": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}


@functools.cache
def cpu_flags() -> frozenset[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":")[1].split())
    return frozenset()


def lacks(instruction_set: str) -> str:
    """Why the instruction set cannot be tested here, or nothing."""
    arm = kernel.instruction_set == "neon"
    if arm != (instruction_set == "neon"):
        return f"{instruction_set} is of another architecture"
    missing = CPU_FLAGS.get(instruction_set, set()) - cpu_flags()
    return f"this processor has no {', '.join(sorted(missing))}" if missing else ""


instruction_sets = pytest.mark.parametrize("instruction_set", TOLERANCE)


@functools.cache
def worst_of(module: str, size: int, instruction_set: str) -> dict[str, Any]:
    """The worst errors that a module of tests prints as JSON, run in a process with the instruction set."""
    if reason := lacks(instruction_set):
        pytest.skip(reason)
    printed = processes.run_module(module, str(size), timeout=PATIENCE, BINXENT_ISA=instruction_set)
    found: dict[str, Any] = json.loads(printed)
    return found


@instruction_sets
def test_an_instruction_set_can_be_chosen(instruction_set: str) -> None:
    code = """
        try:
            from binxent import kernel
            print(kernel.instruction_set)
        except ImportError as error:
            print(error)
    """
    printed = processes.python(code, BINXENT_ISA=instruction_set)
    if lacks(instruction_set):
        assert "BINXENT_ISA" in printed
        assert "this machine" in printed
    else:
        assert printed == instruction_set


def test_an_unknown_instruction_set_is_refused() -> None:
    code = """
        try:
            import binxent.kernel
        except ImportError as error:
            print(error)
    """
    printed = processes.python(code, BINXENT_ISA="sse9")
    assert "BINXENT_ISA names an instruction set that this machine or this build" in printed


def test_the_best_instruction_set_is_the_default() -> None:
    best = next(name for name in ("neon", "avx512", "avx2", "baseline") if not lacks(name))
    code = "from binxent import kernel; print(kernel.instruction_set)"
    assert processes.python(code, BINXENT_ISA=None) == best
    assert processes.python(code, BINXENT_ISA="") == best


def digests_with(instruction_set: str, **variables: str) -> dict[str, str]:
    printed = processes.run_module("tests.digests", timeout=PATIENCE, BINXENT_ISA=instruction_set, **variables)
    found = json.loads(printed)
    assert found["instruction_set"] == instruction_set
    return dict(found["digests"])


@functools.cache
def digests(instruction_set: str) -> dict[str, str]:
    if reason := lacks(instruction_set):
        pytest.skip(reason)
    return digests_with(instruction_set)


def test_avx2_and_avx512_give_the_same_bits() -> None:
    assert digests("avx2") == digests("avx512")


@instruction_sets
def test_bits_do_not_depend_on_the_number_of_threads_in_another_process(instruction_set: str) -> None:
    assert digests(instruction_set) == digests_with(instruction_set, BINXENT_NUM_THREADS="5")


# Accuracy


@functools.cache
def accuracy(instruction_set: str) -> dict[str, float]:
    found = worst_of("tests.accuracy", 50_000, instruction_set)
    assert found["instruction_set"] == instruction_set
    return dict(found["worst"])


@pytest.mark.parametrize("source", ["logits", "probabilities"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@instruction_sets
def test_accuracy(instruction_set: str, dtype: str, source: str) -> None:
    too_far, measured = [], 0
    for case, worst in accuracy(instruction_set).items():
        its_dtype, its_source, targets, weighting, output = case.split()
        if (its_dtype, its_source) != (dtype, source):
            continue
        allowed = tolerance(
            instruction_set,
            hard=targets == "hard",
            outside=targets == "outside",
            weights={"weight": 1, "pos_weight": 1, "both": 2}.get(weighting, 0),
            scaled=weighting == "incoming" and output == "gradient",
        )
        measured += worst > 0.4  # with so little an error, nothing would have been measured
        if worst > allowed:
            too_far.append(f"{case}: {worst:.2f} ulp, {allowed} allowed")
    assert not too_far
    assert measured == (2 if source == "probabilities" else 3) * 5 * 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_the_textbook(dtype: str) -> None:
    """With no formula of ours in between: mpmath, hard and soft targets, −100 … 100 and subnormal results."""
    rng = np.random.default_rng(1)
    ends = (85, 104) if dtype == "float32" else (700, 745)
    size = 400
    x = np.concatenate(
        [
            rng.uniform(-100, 100, size),
            rng.normal(0, 2, size),
            rng.uniform(*ends, size // 4) * rng.choice((-1, 1), size // 4),
        ]
    ).astype(dtype)
    with mpmath.workdps(380 if dtype == "float64" else 100):
        for y in (np.zeros_like(x), np.ones_like(x), rng.random(x.shape).astype(dtype)):
            _, loss, gradient = outputs(x, y)
            a = [mpmath.mpf(float(v)) for v in x]
            b = [mpmath.mpf(float(v)) for v in y]
            rise = [(1 - v) / (1 + mpmath.exp(-t)) for t, v in zip(a, b, strict=True)]
            fall = [v / (1 + mpmath.exp(t)) for t, v in zip(a, b, strict=True)]
            hard = bool(np.all((y == 0) | (y == 1)))
            for actual, exact, larger in (
                (
                    loss,
                    [textbook_logits_loss(t, v) for t, v in zip(a, b, strict=True)],
                    [
                        max(textbook_logits_loss(t, 1, v), textbook_logits_loss(t, 0, 1 - v))
                        for t, v in zip(a, b, strict=True)
                    ],
                ),
                (
                    gradient,
                    [r - f for r, f in zip(rise, fall, strict=True)],
                    [max(r, f) for r, f in zip(rise, fall, strict=True)],
                ),
            ):
                long = [np.array([np.longdouble(mpmath.nstr(v, 25)) for v in values]) for values in (exact, larger)]
                off = error(actual, *long, dtype)
                assert off.max() <= tolerance(kernel.instruction_set, hard=hard)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("scaled", ["weight", "pos_weight", "incoming"])
def test_coefficients_of_every_size(dtype: str, probabilities: bool, scaled: str) -> None:
    """A weight, or what comes in, may be as small or as large as its type allows."""
    rng = np.random.default_rng(2)
    size, most = 2000, {"float32": 37, "float64": 290}[dtype]
    x = rng.uniform(0, 1, size) ** 3 if probabilities else rng.uniform(-100, 100, size) * rng.choice((0.02, 1), size)
    x, y = x.astype(dtype), rng.choice((0.0, 1.0, 0.3), size).astype(dtype)
    # The gradient of a probability is up to 1e12 times as large.
    for exponent in (-most, -most + 6, -most // 2, -20, -3, 5, 20, most // 2, most - 14):
        value = np.asarray(rng.uniform(1, 9) * 10.0**exponent).astype(dtype)
        given: dict[str, Any] = {"incoming": float(value)} if scaled == "incoming" else {}
        weight, pos_weight = (value if scaled == name else None for name in ("weight", "pos_weight"))
        exact = expected(x, y, weight, pos_weight, probabilities=probabilities, wide=np.longdouble)
        by = np.longdouble(value) if scaled == "incoming" else 1
        _, loss, gradient = outputs(
            x, y, *([] if weight is None else [weight]), pos_weight=pos_weight, probabilities=probabilities, **given
        )
        allowed = tolerance(kernel.instruction_set, weights=int(scaled != "incoming"), scaled=scaled == "incoming")
        allowed += 2 * probabilities  # the definition clamps what the last digits of q·(1 − q) decide
        assert error(loss, exact.loss, exact.larger_loss, dtype).max() <= allowed, exponent
        assert error(gradient, exact.gradient * by, exact.larger_gradient * by, dtype).max() <= allowed, exponent


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("probabilities", [False, True])
def test_an_infinite_incoming_gradient(dtype: str, probabilities: bool) -> None:
    """A loss scale that overflows: infinite wherever there is a gradient, as the frameworks have it."""
    x = np.array([0.25, 0.75, 0.5]).astype(DTYPES[dtype])
    for incoming in (inf, -inf):
        loss, gradient = np.empty_like(x), np.empty_like(x)
        compute(x, np.array([0, 1, 1]), loss=loss, gradient=gradient, probabilities=probabilities, incoming=incoming)
        wanted = np.copysign(inf, incoming) * np.array([1, -1, -1])
        if probabilities and dtype == "float16":  # bounded, as the others are by 1e12
            wanted = np.clip(wanted, -65504, 65504)
        np.testing.assert_array_equal(gradient.astype(float), wanted)
        assert np.isfinite(loss.astype(float)).all()


def test_a_mask_in_double_is_not_rounded_to_0() -> None:
    x = np.zeros(2, np.float32)
    for divisor, mean in (("kept", 0.5), (1.0, 1.0)):
        value = np.empty(())
        compute(x, np.array([1, 1]), mask=np.array([1.0, 1e-60]), value=value, divisor=divisor)
        np.testing.assert_allclose(value, 2 * np.log(2) * mean)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("incoming", [1.0, 65536.0, 0.7])
@pytest.mark.parametrize("weight", [None, 1e6, 0.0])
def test_infinite_logits(dtype: str, incoming: float, weight: float | None) -> None:
    """The limit: 0 or ∞; what is 0 stays 0, whatever multiplies it. So do logits whose tail is below any subnormal."""
    far = {"float64": 1e300, "float32": 1e30, "bfloat16": 1e30, "float16": 65504.0}[dtype]
    beyond = {"float64": 800.0}.get(dtype, 150.0)
    w = () if weight is None else (np.array(weight),)
    if weight == 1e6 and dtype == "float16":
        w = (np.array(16.0),)
    scale = 1.0 if not w else float(w[0])
    for right in (inf, far, beyond):
        x = np.array([right, -right]).astype(DTYPES[dtype])
        _, loss, gradient = outputs(x, np.array([1, 0], np.int8), *w, incoming=incoming)
        np.testing.assert_array_equal(loss, [0, 0])
        np.testing.assert_array_equal(gradient, [0, 0])
    x = np.array([inf, -inf]).astype(DTYPES[dtype])
    _, loss, gradient = outputs(x, np.array([0, 1], np.int8), *w, incoming=incoming)
    np.testing.assert_array_equal(loss.astype(float), [inf, inf] if scale else [0, 0])
    exact = np.array([1, -1]) * scale * (incoming if dtype == "float64" else np.float32(incoming))
    np.testing.assert_array_equal(bits(gradient), bits(rounded(exact, dtype)) if scale else bits(gradient))
    np.testing.assert_array_equal(gradient == 0, [scale == 0] * 2)
    y = np.array([0.3, 0.3]).astype(DTYPES[dtype])
    _, loss, gradient = outputs(x, y, *w, incoming=incoming)
    np.testing.assert_array_equal(loss.astype(float), [inf, inf] if scale else [0, 0])
    assert not np.isnan(gradient.astype(float)).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_is_hidden_by_nothing(dtype: str) -> None:
    one, none, unknown = (np.array([v]).astype(DTYPES[dtype]) for v in (1.0, 0.0, nan))
    for x, y, w, p in (
        (unknown, one, one, one),
        (unknown, none, one, one),
        (unknown, one, none, one),
        (unknown, one, one, none),
        (one, unknown, none, one),
        (one, one, unknown, one),
        (one, one, one, unknown),
    ):
        value, loss, gradient = outputs(x, y, w, pos_weight=p)
        assert np.isnan(value)
        assert np.isnan(loss.astype(float)).all()
        assert np.isnan(gradient.astype(float)).all()
    many = np.zeros(100_000).astype(DTYPES[dtype])
    many[77_777] = nan
    value, loss, gradient = outputs(many, np.zeros_like(many))
    assert np.isnan(value)
    for array in (loss, gradient):
        assert np.flatnonzero(np.isnan(array.astype(float))).tolist() == [77_777]


def test_infinite_sums() -> None:
    x = np.full(100_000, 2.0)
    x[5], x[99_999] = inf, inf
    assert outputs(x, np.zeros_like(x))[0] == inf
    y = np.zeros_like(x)
    y[99_999] = 2.0  # its loss is −∞
    assert np.isnan(outputs(x, y)[0])


# Half types


def every_half(dtype: str) -> Array:
    return np.arange(65536, dtype=np.uint16).view(DTYPES[dtype])


@pytest.mark.parametrize("incoming", [1.0, 3.0, 0.7, 1 / 65536, 1 / 3e6, 1024.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("target", ["0", "1", "0.3", "-2.5", "float32", "float64"])
@pytest.mark.parametrize("dtype", HALVES)
def test_half_types_are_correctly_rounded(dtype: str, target: str, weighted: bool, incoming: float) -> None:
    """All 65536 logits: computed in float32 (float64 with a float64 target), and rounded once, at the very end."""
    x = every_half(dtype)
    wide = np.float64 if target == "float64" else np.float32
    if target in ("float32", "float64"):
        y = np.random.default_rng(3).random(x.shape).astype(target)
    else:
        y = np.full(x.shape, float(target)).astype(DTYPES[dtype])
    options: dict[str, Any] = {"incoming": incoming}
    weights = []
    if weighted:
        weights = [np.random.default_rng(4).lognormal(0, 1, x.shape).astype(DTYPES[dtype])]
        options["pos_weight"] = np.array(1.7, np.float32)
    _, loss, gradient = outputs(x, y, *weights, **options)
    with np.errstate(invalid="ignore"):  # signalling NaN
        wide_x = x.astype(wide)
    _, wide_loss, wide_gradient = outputs(wide_x, y.astype(wide), *weights, **options)
    np.testing.assert_array_equal(bits(loss), bits(rounded(wide_loss, dtype)))
    np.testing.assert_array_equal(bits(gradient), bits(rounded(wide_gradient, dtype)))


@pytest.mark.parametrize("incoming", [1.0, 0.7, 1 / 65536, 1024.0])
@pytest.mark.parametrize("target", ["0", "1", "0.3", "float64"])
@pytest.mark.parametrize("dtype", HALVES)
def test_half_probabilities_are_correctly_rounded(dtype: str, target: str, incoming: float) -> None:
    x = every_half(dtype)
    with np.errstate(invalid="ignore"):
        x = x[(x >= 0) & (x <= 1)]
    wide = np.float64 if target == "float64" else np.float32
    y = np.full(x.shape, 0.3) if target == "float64" else np.full(x.shape, float(target)).astype(DTYPES[dtype])
    _, loss, gradient = outputs(x, y, probabilities=True, incoming=incoming)
    _, wide_loss, wide_gradient = outputs(x.astype(wide), y.astype(wide), probabilities=True, incoming=incoming)
    if dtype == "float16":
        wide_gradient = np.clip(wide_gradient, -65504, 65504)  # saturated after scaling
    np.testing.assert_array_equal(bits(loss), bits(rounded(wide_loss, dtype)))
    np.testing.assert_array_equal(bits(gradient), bits(rounded(wide_gradient, dtype)))
    assert np.isfinite(gradient.astype(float)).all()


def test_a_small_half_gradient_survives_a_loss_scale() -> None:
    """Were it rounded before it is scaled, all of it would be 0."""
    x = np.full(8, -20.0, np.float16)
    _, _, gradient = outputs(x, np.zeros(8, np.float16), incoming=1024.0)
    np.testing.assert_array_equal(gradient, rounded(np.full(8, 1024 * 2.0611536e-9), "float16"))
    assert (gradient > 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_value_is_rounded_once(dtype: str) -> None:
    rng = np.random.default_rng(8)
    for size in (1, 7, 500, 70_000):
        x, y = rng.normal(0, 3, size).astype(np.float32), rng.random(size).astype(np.float32)
        for divisor in (1.0, float(size), 3e5, 1e-3):
            exact, narrow = np.empty(()), np.empty((), DTYPES[dtype])
            compute(x, y, value=exact, divisor=divisor)
            compute(x, y, value=narrow, divisor=divisor)
            np.testing.assert_array_equal(bits(narrow), bits(rounded(exact, dtype)))


@pytest.mark.parametrize("target", [*INTEGER_TARGETS, *DTYPES])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_pair_of_types(dtype: str, target: str) -> None:
    """The target is read for what it is: the bits are those of the same numbers in the arithmetic's type."""
    rng = np.random.default_rng(6)
    wide = np.float64 if "float64" in (dtype, target) else np.float32
    x = rng.normal(0, 5, 5001).astype(DTYPES[dtype])
    if target in INTEGER_TARGETS:
        low, high = (0, 2) if target == "bool" else (0, 250) if target == "uint8" else (-100, 100)
        y = rng.integers(low, high, x.shape).astype(target)
    else:
        y = rng.random(x.shape).astype(DTYPES[target])
    w = rng.integers(0, 2, x.shape).astype(bool)
    value, loss, gradient = outputs(x, y, w)
    wide_value, wide_loss, wide_gradient = outputs(x.astype(wide), y.astype(wide), w.astype(np.float64))
    assert value == wide_value
    np.testing.assert_array_equal(bits(loss), bits(rounded(wide_loss, dtype)))
    np.testing.assert_array_equal(bits(gradient), bits(rounded(wide_gradient, dtype)))


# Sums


def off_by(value: Array, exact: Any, dtype: str = "float32") -> float:
    return float(abs(np.longdouble(value) - exact) / ulp(np.asarray(exact, np.longdouble), dtype))


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (0.7, 0.3), (-3.3, 1.0), (-14.0, 0.0)])
def test_mean_of_a_billion(x: float, y: float) -> None:
    size = 10**9
    logits, targets = (np.broadcast_to(np.float32(v), size) for v in (x, y))
    value = np.empty((), np.float32)
    compute(logits, targets, value=value, divisor=size)
    exact = expected(np.float32(x), np.float32(y)).loss
    assert off_by(value, exact) <= tolerance(kernel.instruction_set, hard=y in (0, 1)) + 1
    element = np.empty((), np.float32)
    compute(np.array(x, np.float32), np.array(y, np.float32), loss=element)
    assert value == element  # summed without any error


@pytest.mark.parametrize("pos_weight", [False, True])
def test_mean_of_a_billion_that_differ(pos_weight: bool) -> None:
    rng = np.random.default_rng(11)
    shape = (10**6, 1000)
    x, y = (np.broadcast_to(v.astype(np.float32), shape) for v in (rng.normal(-8, 3, 1000), rng.integers(0, 2, 1000)))
    p = rng.lognormal(0, 2, 1000).astype(np.float32) if pos_weight else None
    value = np.empty((), np.float32)
    compute(x, y, pos_weight=p, value=value, divisor=x.size)
    exact = expected(x[0], y[0], pos_weight=p).value("mean")
    assert off_by(value, exact) <= tolerance(kernel.instruction_set, hard=True, weights=int(pos_weight)) + 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_mean_of_a_hundred_million(dtype: str) -> None:
    rng = np.random.default_rng(12)
    shape = (10**5, 1000)
    row, target = rng.normal(0, 3, 1000).astype(DTYPES[dtype]), rng.random(1000).astype(DTYPES[dtype])
    value = np.empty((), DTYPES[dtype])
    compute(np.broadcast_to(row, shape), np.broadcast_to(target, shape), value=value, divisor=10**8)
    exact = expected(row, target, wide=np.longdouble).value("mean")
    assert off_by(value, exact, dtype) <= (tolerance(kernel.instruction_set) + 1 if dtype == "float64" else 0.51)


def test_a_sum_does_not_drift() -> None:
    """Blocks of losses of 1e18 that cancel leave the small ones between them as they are."""
    block, between = 4096, 17 * 4096
    x = np.concatenate([np.full(block, 1e18), np.full(between, 50.0), np.full(block, 1e18)])
    y = np.concatenate([np.zeros(block), np.zeros(between), np.full(block, 2.0)])
    assert outputs(x, y)[0] == 50.0 * between


def test_an_empty_sum_is_0_and_an_empty_mean_nan() -> None:
    for shape in ((0,), (3, 0), (0, 4, 5)):
        x = np.zeros(shape, np.float32)
        value = np.full((), 7.0, np.float32)
        compute(x, x, value=value)
        assert value == 0
        compute(x, x, value=value, divisor=0.0)
        assert np.isnan(value)
        outputs(x, x, np.ones((), np.float32), pos_weight=np.ones(shape[-1:], np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pos_weight_3_is_every_positive_three_times(dtype: str) -> None:
    rng = np.random.default_rng(13)
    y = (rng.random(50_000) < 0.3).astype(dtype)
    three = np.array(3, dtype)

    def both(x: Array) -> tuple[Array, Array, Array, Array]:
        times = np.where(y == 1, 3, 1)
        value, _, gradient = outputs(x, y, pos_weight=three)
        repeated, _, each = outputs(np.repeat(x, times), np.repeat(y, times))
        last = np.cumsum(times) - 1
        return value, repeated, gradient, np.where(y == 1, 3, 1) * each[last]

    # Where each loss is a whole number, every sum is exact, and they are equal.
    whole = (rng.integers(50, 90, y.shape) * np.where(rng.random(y.shape) < 0.5, -1, 1)).astype(dtype)
    value, repeated, _, _ = both(whole)
    assert value == repeated
    assert value > 1e6
    # A power of two for a weight rounds nothing either, whatever the logits: equal again, gradients included.
    x = rng.normal(0, 6, y.shape).astype(dtype)
    _, loss, gradient = outputs(x, y, pos_weight=np.array(4, dtype))
    _, once, gradient_once = outputs(x, y)
    np.testing.assert_array_equal(loss, np.where(y == 1, 4, 1) * once)
    np.testing.assert_array_equal(gradient, np.where(y == 1, 4, 1) * gradient_once)
    # Elsewhere 3·L is rounded once and L + L + L as often as it is added: equal to the rounding of the elements.
    value, repeated, gradient, thrice = both(x)
    assert value == pytest.approx(float(repeated), rel=3 * float(ulp(np.array(1.0), dtype)))
    assert error(gradient, thrice, np.abs(thrice), dtype).max() <= 2 * tolerance(kernel.instruction_set, hard=True)
    # And so, in float32, the result: the sums of float64 that are rounded to it are the same.
    if dtype == "float32":
        assert error(np.float32(value), np.float64(repeated), np.abs(repeated), dtype) <= 1


# The same bits


def some_inputs(dtype: str, shape: tuple[int, ...], probabilities: bool = False) -> tuple[Array, Array, Array, Array]:
    rng = np.random.default_rng(20)
    x = rng.random(shape) if probabilities else rng.normal(0, 20, shape)
    y = np.where(rng.random(shape) < 0.5, rng.integers(0, 2, shape), rng.random(shape))
    w, p = rng.lognormal(0, 1, shape), rng.lognormal(0, 1, shape)
    x, y, w, p = (a.astype(DTYPES[dtype]) for a in (x, y, w, p))
    return x, y, w, p


def assert_same_bits(actual: tuple[Array, ...], wanted: tuple[Array, ...]) -> None:
    for a, b in zip(actual, wanted, strict=True):
        np.testing.assert_array_equal(bits(a), bits(b))


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("any_threads")
def test_bits_do_not_depend_on_threads(dtype: str, probabilities: bool) -> None:
    for shape in ((PARALLEL - 1,), (PARALLEL,), (300_001,), (701, 997)):
        x, y, w, p = some_inputs(dtype, shape, probabilities)
        kernel.set_num_threads(1)
        one = outputs(x, y, w, pos_weight=p, probabilities=probabilities, incoming=0.7)
        for threads in (2, 3, 7, 40):
            kernel.set_num_threads(threads)
            more = outputs(x, y, w, pos_weight=p, probabilities=probabilities, incoming=0.7)
            assert_same_bits(more, one)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(70_003,), (257, 263), (5, 97, 141), (3, 4, 5, 6, 7), (100, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_layout(dtype: str, shape: tuple[int, ...], layout: str) -> None:
    lay = LAYOUTS[layout]
    x, y, w, p = some_inputs(dtype, shape)
    wanted = outputs(x, y, w, pos_weight=p, incoming=0.3)
    assert_same_bits(outputs(lay(x), y, w, pos_weight=p, incoming=0.3), wanted)
    assert_same_bits(outputs(x, lay(y), w, pos_weight=p, incoming=0.3), wanted)
    assert_same_bits(outputs(x, y, lay(w), pos_weight=lay(p), incoming=0.3), wanted)
    value, loss, gradient = np.empty(()), lay(np.zeros_like(x)), lay(np.zeros_like(x))
    options: dict[str, Any] = {"pos_weight": p, "incoming": 0.3, "value": value}
    compute(lay(x), lay(y), lay(w), loss=loss, gradient=gradient, **options)
    assert_same_bits((value, loss, gradient), wanted)
    # One output changes nothing in another, whichever of them are wanted.
    alone = np.empty(())
    compute(x, y, w, pos_weight=p, value=alone)
    assert_same_bits((alone,), wanted[:1])
    gradient = lay(np.zeros_like(x))
    compute(x, y, w, pos_weight=p, incoming=0.3, gradient=gradient)
    assert_same_bits((gradient,), wanted[2:])
    loss = lay(np.zeros_like(x))
    compute(x, y, w, pos_weight=p, loss=loss)
    assert_same_bits((loss,), wanted[1:2])
    # In place.
    own = lay(x)
    compute(own, y, w, gradient=own, **options)
    assert_same_bits((value, own), (wanted[0], wanted[2]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("kept", list(itertools.product((False, True), repeat=3)))
def test_bits_do_not_depend_on_broadcasting(dtype: str, kept: tuple[bool, ...]) -> None:
    shape = (7, 83, 129)
    x, y, w, p = some_inputs(dtype, shape)
    small = tuple(slice(None) if k else slice(1) for k in kept)
    for name, change in (("x", x), ("y", y), ("w", w), ("p", p)):
        view = np.broadcast_to(change[small], shape)
        a = {"x": x, "y": y, "w": w, "p": p, name: view}
        b = {**a, name: view.copy()}
        wanted = outputs(b["x"], b["y"], b["w"], pos_weight=b["p"], probabilities=False)
        assert_same_bits(outputs(a["x"], a["y"], a["w"], pos_weight=a["p"]), wanted)
        if name in ("w", "p"):  # the kernel broadcasts by itself, with fewer axes too
            own = change[small]
            while own.ndim and own.shape[0] == 1:
                own = np.asarray(own[0])
            a[name] = own
            assert_same_bits(outputs(a["x"], a["y"], a["w"], pos_weight=a["p"]), wanted)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_weights_are_multiplied(count: int) -> None:
    x, y, w, _ = some_inputs("float64", (50, 60))
    rng = np.random.default_rng(30)
    weights = [np.asarray(2.0 ** rng.integers(-3, 4, shape)) for shape in ((50, 60), (60,), (50, 1), ())][:count]
    product = functools.reduce(np.multiply, weights, np.ones_like(w))
    assert_same_bits(outputs(x, y, *weights), outputs(x, y, product))


@st.composite
def views(draw: st.DrawFn) -> tuple[tuple[int, ...], Any]:
    """A shape, and a maker of views of it: any order of axes, steps either way, gaps, offsets, broadcast axes."""
    dims = draw(st.integers(1, 5))
    longest = {1: 9000, 2: 150, 3: 40, 4: 12, 5: 7}[dims]
    shape = tuple(draw(st.lists(st.integers(0, longest), min_size=dims, max_size=dims)))

    def view(values: Array, broadcast: bool) -> tuple[Array, Array]:
        order = draw(st.permutations(range(dims)))
        steps = draw(st.lists(st.sampled_from([1, 1, 1, -1, 2, -3]), min_size=dims, max_size=dims))
        flat = draw(st.lists(st.booleans(), min_size=dims, max_size=dims)) if broadcast else [False] * dims
        offset = draw(st.integers(0, values.itemsize))
        if any(flat):
            values = values[tuple(slice(min(1, n)) if f else slice(None) for f, n in zip(flat, shape, strict=True))]
        extents = [n * abs(s) + 1 for n, s in zip(values.shape, steps, strict=True)]
        raw = np.full(int(np.prod(extents)) * values.itemsize + offset, 0x5A, np.uint8)
        base = raw[offset:].view(values.dtype).reshape([extents[d] for d in order]).transpose(np.argsort(order))
        index = tuple(
            slice(0, n * s, s) if s > 0 else slice(n * -s, 0, s) for n, s in zip(values.shape, steps, strict=True)
        )
        made = base[index]
        made[...] = values
        return np.broadcast_to(made, shape) if any(flat) else made, raw

    return shape, view


@given(views(), st.sampled_from(sorted(DTYPES)), st.sampled_from([*sorted(DTYPES), "int32", "bool"]), st.booleans())
def test_any_view_is_read_and_written_where_it_lies(made: Any, dtype: str, target: str, in_place: bool) -> None:
    shape, view = made
    rng = np.random.default_rng(40)
    x = rng.normal(0, 10, shape).astype(DTYPES[dtype])
    y = rng.integers(0, 2, shape).astype(DTYPES.get(target, target))
    w = rng.lognormal(0, 1, shape).astype(np.float32)
    (y_view, _), (w_view, _) = view(y, True), view(w, True)
    wanted = outputs(x, y_view.copy(), w_view.copy())
    own, raw = view(x, False)
    out, out_raw = (own, raw) if in_place else view(np.zeros_like(x), False)
    touched = out_raw.copy()
    loss, loss_raw = view(np.zeros_like(x), False)
    loss_touched = loss_raw.copy()
    value = np.empty(())
    compute(own, y_view, w_view, value=value, loss=loss, gradient=out)
    assert_same_bits((value, loss, out), wanted)
    # Nothing else in the memory around them has changed: write the results there by NumPy, and compare all of it.
    for array, raw_now, raw_before in ((out, out_raw, touched), (loss, loss_raw, loss_touched)):
        offset = array.__array_interface__["data"][0] - raw_now.__array_interface__["data"][0]
        np.ndarray(array.shape, array.dtype, raw_before, offset if array.size else 0, array.strides)[...] = array
        np.testing.assert_array_equal(raw_now, raw_before)


# Sizes


def test_more_than_two_to_the_31_elements() -> None:
    size = 2**31 + 5000
    x = np.broadcast_to(np.float32(-1.0), size)
    # A calloc of zeros takes no memory until it is written.
    y = np.zeros(size, np.int8)
    exact = expected(np.float32(-1.0), np.float32(0.0)).loss * np.float64(size)
    nothing = outputs_value(x, y)
    assert nothing == pytest.approx(float(exact), rel=2**-22)
    y[-1] = y[2**31 + 1] = 1  # the loss of a 1 is greater by 1
    assert outputs_value(x, y) - nothing == pytest.approx(2.0, abs=1e-4)


def outputs_value(x: Array, y: Array, **options: Any) -> Any:
    value = np.empty(())
    compute(x, y, value=value, **options)
    return value


def test_more_than_two_to_the_31_in_rows() -> None:
    row = np.random.default_rng(50).normal(0, 3, 8191).astype(np.float32)
    rows = 2**31 // row.size + 7
    x = np.broadcast_to(row, (rows, row.size))
    y = np.broadcast_to(np.float32(0.25), x.shape)
    once = expected(row, np.full(row.shape, 0.25)).loss.sum()
    assert outputs_value(x, y) == pytest.approx(rows * once, rel=2**-22)


def test_strides_beyond_32_bits() -> None:
    try:
        memory = np.zeros(2**32 + 2**20, np.uint8)
    except MemoryError:
        pytest.skip("less than 4 GiB of address space")
    values = np.arange(-3.0, 3.0, dtype=np.float32).reshape(2, 3)
    x = np.ndarray((2, 3), np.float32, memory, 0, (2**32, 4))
    x[...] = values
    gradient = np.ndarray((2, 3), np.float32, memory, 4096, (2**32, 4))
    wanted = outputs(values, np.ones_like(values))
    value, loss = np.empty(()), np.empty_like(values)
    compute(x, np.ones_like(values), value=value, loss=loss, gradient=gradient)
    assert_same_bits((value, loss, gradient), wanted)


def test_flags_name_what_is_out_of_range() -> None:
    good = np.linspace(0, 1, 70_000)
    for wrong in (-1e-300, 1.0000001, nan, inf, -inf):
        bad = good.copy()
        bad[69_999] = wrong
        value = np.empty(())
        assert compute(good, good, value=value, probabilities=True) == 0
        assert compute(bad, good, value=value, probabilities=True) == kernel.INPUT_OUT_OF_RANGE
        assert compute(good, bad, value=value, probabilities=True) == kernel.TARGET_OUT_OF_RANGE
        both = kernel.INPUT_OUT_OF_RANGE | kernel.TARGET_OUT_OF_RANGE
        assert compute(bad, bad, value=value, probabilities=True) == both
        assert compute(bad, bad, value=value) == 0  # logits may be anything
    edges = np.array([-0.0, 0.0, 1.0])
    assert compute(edges, edges, value=np.empty(()), probabilities=True) == 0


def test_operands_that_do_not_fit_are_refused() -> None:
    x = np.zeros((2, 3), np.float32)
    value = np.empty(())
    for wrong in (np.zeros(2), np.zeros((3, 3)), np.zeros((1, 2, 3)), np.zeros((2, 1, 3))):
        with pytest.raises(ValueError, match="does not broadcast to the logits' shape"):
            compute(x, wrong.astype(np.float32), value=value)
        with pytest.raises(ValueError, match="weight does not broadcast"):
            compute(x, x, wrong.astype(np.float32), value=value)
    with pytest.raises(TypeError):
        compute(x, x, *[x] * 5, value=value)
    with pytest.raises(TypeError):
        kernel.compute(False, operand(x), (1, 2, 3), (), None, None, None, None, 1.0, 1.0, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        kernel.compute(False, None, operand(x), (), None, None, None, None, 1.0, 1.0, 0)  # type: ignore[arg-type]


def test_runs_are_counted() -> None:
    x = np.zeros(3)
    before = kernel.runs()
    outputs(x, x)
    assert kernel.runs() == before + 1


def test_precision_is_what_numpy_says() -> None:
    """The units that errors are counted in, by an independent source."""
    for name in ("float64", "float32", "float16"):
        info = np.finfo(DTYPES[name])
        assert float(ulp(np.array(1.0), name)) == float(info.eps)
        assert float(ulp(np.array(0.0), name)) == float(info.smallest_subnormal)
        assert PRECISION[name].largest == float(info.max)
        for value in (1.0, 1.999, 2.0, 1e-5, 777.0):
            assert float(ulp(np.array(value), name)) == float(np.spacing(np.array(value, name)))
    assert rounded(np.array([1.0 + 2**-9]), "bfloat16") == 1.0
    assert rounded(np.array([1.0 + 2**-8 + 2**-40]), "bfloat16") == 1 + 2**-7
    assert error(np.float32(1.0), np.longdouble(1 + 2**-23), np.longdouble(1), "float32") == 1.0
    assert error(np.float32(inf), np.longdouble(1), np.longdouble(1), "float32") == inf
