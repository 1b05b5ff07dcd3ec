"""Weights, pos_weights, incoming gradients and divisors of any size that their types hold.

The reference is the definition in mpmath, which has numbers of any size: a result is right wherever its own type holds
it, whatever would overflow, or lose its digits, on the way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binxent import kernel
from binxent import numpy as face
from tests.kernel_calls import Array, compute
from tests.reference import DTYPES, PRECISION, assert_close, bits, rounded, tolerance

mpf = mpmath.mpf
ELEMENTS = 12


def long(value: Any) -> np.longdouble:
    """To the nearest, of 64 bits; 0 or infinity beyond its range, which is that of any product of five doubles."""
    mantissa, exponent = mpmath.frexp(value)
    if mantissa == 0 or exponent < -16300:
        return np.longdouble(0)
    bits = int(mantissa * 2**64)
    return np.ldexp(np.longdouble(bits >> 32) * 2**32 + np.longdouble(bits & 0xFFFFFFFF), int(exponent) - 64)


def softplus(x: Any) -> Any:
    return max(x, 0) + mpmath.log1p(mpmath.exp(-abs(x)))


def logit_branch(x: Any, gamma: float) -> tuple[Any, Any]:
    """What a positive adds to the loss, and takes from the gradient; a negative is that of −x, and adds to both."""
    power, sigma, other = (mpmath.exp(-v) for v in (gamma * softplus(x), softplus(x), softplus(-x)))
    return power * softplus(-x), power * (sigma + gamma * other * softplus(-x))


def probability_branch(right: Any, wrong: Any, minus_log: Any, minus_log_wrong: Any, gamma: float) -> tuple[Any, Any]:
    minus_log, minus_log_wrong = min(minus_log, mpf(100)), min(minus_log_wrong, mpf(100))
    power = mpmath.exp(-gamma * minus_log_wrong) if minus_log_wrong < 100 or gamma == 0 else mpf(0)
    bounded = max(right * wrong, mpf(1e-12))
    return power * minus_log, power * (wrong + gamma * right * minus_log) / bounded


def branches(x: Any, gamma: float, probabilities: bool) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Of a positive and of a negative."""
    if not probabilities:
        return logit_branch(x, gamma), logit_branch(-x, gamma)
    minus_log = mpf(100) if x == 0 else -mpmath.log(x)
    minus_log1m = mpf(100) if x == 1 else -mpmath.log1p(-x)
    return (
        probability_branch(x, 1 - x, minus_log, minus_log1m, gamma),
        probability_branch(1 - x, x, minus_log1m, minus_log, gamma),
    )


class Exact(NamedTuple):
    loss: Any
    gradient: Any
    larger_loss: Any
    larger_gradient: Any
    amplified: float


def exact(x: float, y: float, w: list[float], p: float, gamma: float, smoothing: float, probabilities: bool) -> Exact:
    x, y = mpf(x), mpf(y)
    weight = mpmath.fprod(mpf(v) for v in w)
    positive = (y * (1 - mpf(smoothing)) + mpf(smoothing) / 2) * mpf(p) * weight
    negative = ((1 - y) * (1 - mpf(smoothing)) + mpf(smoothing) / 2) * weight
    (one, falling), (none, rising) = branches(x, gamma, probabilities)
    (log, _), (other_log, _) = branches(x, 0, probabilities)
    return Exact(
        positive * one + negative * none,
        negative * rising - positive * falling,
        max(positive * one, negative * none),
        max(positive * falling, negative * rising),
        2 * gamma * float(max(log, other_log)),
    )


LEAST_AND_MOST = {"float16": (-24, 15), "bfloat16": (-133, 127), "float32": (-149, 127), "float64": (-1074, 1023)}


@st.composite
def sizes(draw: st.DrawFn, dtype: str, alike: bool) -> Array:
    """Positive numbers of a dtype: of about one size, or each of its own."""
    least, most = LEAST_AND_MOST[dtype]
    around = draw(st.integers(least, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    of_one_size = np.clip(around + rng.integers(-3, 4, ELEMENTS), least, most)
    exponents = of_one_size if alike else rng.integers(least, most + 1, ELEMENTS)
    mantissas = 1 + rng.random(ELEMENTS) * 0.9
    values = rounded(np.ldexp(mantissas, exponents), dtype)
    assert (values.astype(float) > 0).all()
    if draw(st.booleans()):
        values[rng.random(ELEMENTS) < 0.2] = 0
    return values


def some_inputs(dtype: str, probabilities: bool, rng: np.random.Generator) -> Array:
    least = LEAST_AND_MOST[dtype][0]
    if probabilities:
        near_0 = np.ldexp(1 + rng.random(ELEMENTS), rng.integers(least, -1, ELEMENTS))
        x = rng.choice(np.stack([rng.random(ELEMENTS), near_0, 1 - near_0]), axis=0)
        return rounded(np.clip(x, 0, 1), dtype)
    far = np.ldexp(1 + rng.random(ELEMENTS), rng.integers(4, 15, ELEMENTS))
    tails = rng.uniform(80, 130, ELEMENTS), rng.uniform(700, 800, ELEMENTS)
    x = rng.choice(np.stack([rng.normal(0, 5, ELEMENTS), *tails, far]), axis=0)
    return rounded(x * rng.choice([-1, 1], ELEMENTS), dtype)


any_double = st.integers(-1074, 1023).flatmap(lambda e: st.floats(1, 1.9).map(lambda m: float(np.ldexp(m, e))))


@given(
    st.sampled_from(sorted(DTYPES)),
    st.booleans(),
    st.lists(st.sampled_from(sorted(DTYPES)), max_size=4),
    st.sampled_from([None, *sorted(DTYPES)]),
    st.booleans(),
    st.sampled_from([0.0, 0.0, 0.1]),
    st.sampled_from([0.0, 0.0, 0.5, 2.0, 30.0]),
    st.one_of(st.just(1.0), any_double),
    st.one_of(st.just("weights"), st.just(1.0), any_double),
    st.integers(0, 2**32),
    st.data(),
)
def test_of_any_size(
    dtype: str,
    probabilities: bool,
    weight_dtypes: list[str],
    pos_weight_dtype: str | None,
    alike: bool,
    smoothing: float,
    gamma: float,
    incoming: float,
    divisor: float | str,
    seed: int,
    data: st.DataObject,
) -> None:
    rng = np.random.default_rng(seed)
    x = some_inputs(dtype, probabilities, rng)
    y = rng.choice([0.0, 1.0, 0.3], ELEMENTS).astype(DTYPES[dtype])
    weights = [data.draw(sizes(name, alike)) for name in weight_dtypes]
    p = None if pos_weight_dtype is None else data.draw(sizes(pos_weight_dtype, alike))
    if divisor == "weights" and not weights:
        divisor = 1.0

    loss, gradient, value = np.empty_like(x), np.empty_like(x), np.empty((), x.dtype)
    compute(
        x,
        y,
        *weights,
        pos_weight=p,
        probabilities=probabilities,
        terms=(None, smoothing, gamma),
        loss=loss,
        gradient=gradient,
        value=value,
        divisor=divisor,
        incoming=incoming,
    )

    elements = [
        exact(
            float(x[i]),
            float(y[i]),
            [float(w[i]) for w in weights],
            1.0 if p is None else float(p[i]),
            gamma,
            smoothing,
            probabilities,
        )
        for i in range(ELEMENTS)
    ]
    if divisor == "weights":
        by = mpmath.fsum(mpmath.fprod(mpf(float(w[i])) for w in weights) for i in range(ELEMENTS))
    else:
        by = mpf(divisor)
    factor = mpf(0) if by == 0 else mpf(incoming) / by
    computed_in = "float64" if dtype == "float64" or gamma else "float32"
    more = np.array([e.amplified for e in elements]) if dtype == "float64" else 0
    allowed = tolerance(kernel.instruction_set, weights=len(weights) + (p is not None), scaled=True)
    allowed = allowed + more + 2 * probabilities  # the definition clamps what the last digits of q·(1 − q) decide
    if computed_in != dtype:
        allowed = allowed * np.ones(ELEMENTS)
        computed_in = "float32"  # generous, for what is computed in double
    assert_close(
        loss,
        np.array([long(e.loss) for e in elements]),
        np.array([long(e.larger_loss) for e in elements]),
        dtype,
        allowed=allowed,
        computed_in=computed_in,
    )
    wanted = np.array([long(e.gradient * factor) for e in elements])
    if probabilities and dtype == "float16":
        wanted = np.clip(wanted, -65504, 65504)
        gradient = np.clip(gradient, -65504, 65504)
    assert_close(
        gradient,
        wanted,
        np.array([long(e.larger_gradient * factor) for e in elements]),
        dtype,
        allowed=allowed,
        computed_in=computed_in,
    )
    if by == 0:
        assert value == 0
        return
    mean = long(mpmath.fsum(e.loss for e in elements) / by)
    parts = np.array([long(e.larger_loss / by) for e in elements])
    digits = PRECISION[computed_in].digits
    smallest = np.ldexp(np.longdouble(1), PRECISION[computed_in].lowest)
    off = (allowed * (np.ldexp(parts, 1 - digits) + smallest)).sum()
    narrow = PRECISION[dtype]
    if abs(mean) > narrow.largest:
        assert np.isinf(value.astype(float))
    elif np.isinf(value.astype(float)):
        assert abs(mean) + off >= narrow.largest * (1 - np.ldexp(1.0, -narrow.digits))
    else:
        own = np.ldexp(np.longdouble(1), max(int(np.frexp(mean)[1]) - narrow.digits, narrow.lowest))
        assert abs(value.astype(np.longdouble) - mean) <= off + own


def near(actual: Any, wanted: Any, dtype: Any) -> None:
    np.testing.assert_allclose(np.asarray(actual, float), wanted, rtol=8 * float(np.finfo(dtype).eps))


WEIGHTS = [
    (np.float32, np.float32, 1e27),
    (np.float32, np.float32, 1e38),
    (np.float32, np.float32, 1e-42),
    (np.float32, np.float64, 1e300),
    (np.float32, np.float64, 1e-60),
    (np.float32, np.float64, 5e-324),
    (np.float64, np.float64, 1e300),
    (np.float64, np.float64, 1e308),
    (np.float64, np.float64, 1e-310),
]


@pytest.mark.parametrize(("dtype", "weight_dtype", "size"), WEIGHTS)
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("elements", [1, 5, 70_000])
def test_a_weighted_mean_does_not_know_the_unit_of_its_weights(
    elements: int, probabilities: bool, dtype: Any, weight_dtype: Any, size: float
) -> None:
    x = np.full(elements, 0.3, dtype)
    y = np.full(elements, 0.5, dtype)
    weight = np.full(elements, size, weight_dtype)
    loss, gradient = face.value_and_grad(x, y, weight, "weighted_mean", probabilities=probabilities)
    wanted, slope = face.value_and_grad(x, y, None, "mean", probabilities=probabilities)
    if probabilities:
        near(slope[0] * elements, -0.9523809523809523, dtype)
    near(loss, wanted, dtype)
    near(gradient, slope, dtype)


@pytest.mark.parametrize(("dtype", "far", "weight"), [(np.float32, 116.0, 2.0**20), (np.float64, 754.0, 2.0**20)])
def test_a_weight_shows_a_tail_that_is_below_any_number(dtype: Any, far: float, weight: float) -> None:
    for x in (far, -far):
        loss, gradient = face.value_and_grad(
            np.array([x], dtype), np.array([x > 0]), np.array([weight], dtype), reduction="sum"
        )
        wanted = long(mpmath.exp(-far) * weight).astype(dtype)
        assert loss == wanted > 0
        assert gradient[0] == (-wanted if x > 0 else wanted)


def test_focal_tails_below_the_smallest_normal_number() -> None:
    for x, gamma in ((0.5, 731.0), (-240.0, 2.0), (3.0, 200.0), (0.0, 1030.0)):
        wanted = exact(x, 1.0, [1.0], 1.0, gamma, 0.0, False)
        _, gradient = face.value_and_grad(np.array([x]), np.array([1.0]), reduction="sum", gamma=gamma)
        assert abs(long(wanted.gradient) - gradient[0]) <= abs(gradient[0]) * (wanted.amplified + 8) * 2.0**-53 + 5e-324


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_extreme_does_not_depend_on_its_neighbours(dtype: str) -> None:
    rng = np.random.default_rng(3)
    size = 3000
    x, y = rng.normal(0, 60, size).astype(DTYPES[dtype]), rng.integers(0, 2, size)
    weight = np.where(rng.random(size) < 0.01, 1e30, 1.0)
    loss, gradient = np.empty_like(x), np.empty_like(x)
    compute(x, y, weight, loss=loss, gradient=gradient)
    for part in (slice(0, 1), slice(1, 700), slice(700, 701), slice(701, size)):
        own_loss, own_gradient = np.empty_like(x[part]), np.empty_like(x[part])
        compute(x[part], y[part], weight[part], loss=own_loss, gradient=own_gradient)
        np.testing.assert_array_equal(own_loss, loss[part])
        np.testing.assert_array_equal(own_gradient, gradient[part])
    alone, in_place = np.empty_like(x), x.copy()
    compute(x, y, weight, loss=alone)
    np.testing.assert_array_equal(alone, loss)
    compute(in_place, y, weight, gradient=in_place)
    np.testing.assert_array_equal(in_place, gradient)
    ordinary = np.ones(size)
    compute(x, y, ordinary, loss=alone)
    np.testing.assert_array_equal(alone[weight == 1], loss[weight == 1])


@pytest.mark.usefixtures("any_threads")
def test_extreme_sums_do_not_depend_on_threads() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(0, 60, 200_000), rng.random(200_000)
    weight = np.ldexp(1 + rng.random(x.size), rng.integers(-1060, 1000, x.size))
    found = []
    for threads in (1, 2, 5):
        kernel.set_num_threads(threads)
        value, gradient = np.empty(()), np.empty_like(x)
        compute(x, y, weight, value=value, gradient=gradient, divisor="weights")
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        found.append((float(value), gradient.tobytes()))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64", "uint8"])
@pytest.mark.parametrize("name", ["loss", "value", "gradient"])
def test_an_output_that_is_not_floating_is_refused(name: str, dtype: str) -> None:
    x = np.zeros(3, np.float32)
    output = np.full(() if name == "value" else 3, 7).astype(dtype)
    before = output.copy()
    with pytest.raises(ValueError, match=f"^{name}: an output of dtype {dtype}; expected float16, "):
        compute(x, x, **{name: output})
    np.testing.assert_array_equal(output, before)


@pytest.mark.parametrize("operand", ["weight", "sample_weight", "pos_weight", "neg_weight"])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize(("dtype", "most"), [("float32", 124), ("float64", 1000)])
def test_an_operand_of_ones_changes_no_bit(dtype: str, most: int, probabilities: bool, operand: str) -> None:
    """torch and Paddle hand an incoming gradient on as one weight more: what is extreme must not depend on it."""
    rng = np.random.default_rng(5)
    size = 20_000
    x = rng.normal(0, 60, size) if not probabilities else rng.random(size) ** rng.integers(1, 60, size)
    x, y = x.astype(dtype), rng.random(size).astype(dtype)
    weight = np.ldexp(1 + rng.random(size), rng.integers(-most, most, size)).astype(dtype)
    other = "pos_weight" if operand == "weight" else "weight"
    settings = {"reduction": "none", "probabilities": probabilities, other: weight}
    wanted, slope = face.value_and_grad(x, y, **settings)
    loss, gradient = face.value_and_grad(x, y, **settings, **{operand: np.ones(size, dtype)})
    np.testing.assert_array_equal(bits(loss), bits(wanted))
    np.testing.assert_array_equal(bits(gradient), bits(slope))


@pytest.mark.parametrize("elements", [1, 8, 200, 5000, 100_000])
def test_a_sum_that_no_double_holds_has_a_mean(elements: int) -> None:
    x = np.full(elements, 1e308)
    loss, gradient = face.value_and_grad(x, np.zeros(elements))
    assert loss == 1e308
    np.testing.assert_array_equal(gradient, 1 / elements)
    assert face.value_and_grad(x, np.zeros(elements), reduction="sum")[0] == (1e308 if elements == 1 else np.inf)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("elements", [1, 8, 100, 130, 5000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sum_that_no_float_holds_has_a_mean(dtype: str, elements: int, gamma: float) -> None:
    """Without weights too, where nothing but the sum is extreme; and with the gradient in place of the logits."""
    x = np.full(elements, 3e38).astype(DTYPES[dtype])
    wanted, y = x[0], np.zeros(elements, x.dtype)
    assert face.binary_cross_entropy_with_logits(x, y, gamma=gamma) == wanted
    assert face.value_and_grad(x, y, gamma=gamma, out=x)[0] == wanted
    np.testing.assert_array_equal(x, np.full(elements, 1 / elements).astype(x.dtype))


def test_a_loss_that_no_float_holds_may_have_a_mean_that_does() -> None:
    x = np.full(300, 1e30, np.float32)
    found = face.binary_cross_entropy_with_logits(x, -x, normalizer=1e40)  # no target is checked, unless it is asked
    np.testing.assert_allclose(found, 300 * np.float64(x[0]) ** 2 / 1e40, rtol=1e-7)


@pytest.mark.parametrize("weight", [1.0, 700.0])
@pytest.mark.parametrize("options", [{"gamma": 5.0}, {"gamma_negative": 4.5}, {"gamma": 4.0, "focal": "p_t"}], ids=str)
def test_focal_powers_below_any_float_have_gradients(options: dict[str, Any], weight: float) -> None:
    """The gradient of a negative is (γ + 1) times the power, and the weight times that."""
    gamma = options.get("gamma_negative", options.get("gamma"))
    q = np.exp(-np.linspace(101, 108, 29) / gamma).astype(np.float32)
    given = {**options, "weight": np.full(q.shape, weight, np.float32), "reduction": "sum"}
    _, gradient = face.value_and_grad(q, np.zeros_like(q), probabilities=True, **given)
    wanted = weight * (gamma + 1) * q.astype(float) ** gamma
    np.testing.assert_allclose(gradient.astype(float), wanted, rtol=1e-6, atol=1.5e-45)


@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e-30), ("bfloat16", 1e-24), ("float64", 1e-142)])
def test_a_large_factor_brings_back_tiny_probabilities(dtype: str, size: float) -> None:
    """The weights are small, and so is what divides: a product with a tiny probability must not be rounded before."""
    q = np.array([1e-10, 1e-35, 0.3] if dtype != "float64" else [1e-100, 1e-264, 0.3]).astype(DTYPES[dtype])
    y = np.zeros(3, DTYPES[dtype])
    weight = np.full(3, size).astype(DTYPES[dtype])
    _, gradient = face.value_and_grad(q, y, weight, reduction="weighted_mean", probabilities=True)
    _, wanted = face.value_and_grad(q, y, probabilities=True)
    np.testing.assert_allclose(gradient.astype(float), wanted.astype(float), rtol=8 * 2.0 ** -PRECISION[dtype].digits)
    assert (wanted != 0).all()


@pytest.mark.parametrize("smoothing", [1e-3, 1e-6, 1e-12])
@pytest.mark.parametrize("probabilities", [False, True])
def test_a_small_smoothing_of_a_small_weight_keeps_its_digits(probabilities: bool, smoothing: float) -> None:
    """What alpha leaves is the smoothed part alone."""
    x = np.array([0.1, -3.0, 2.0], np.float32) if not probabilities else np.array([0.5, 0.1, 0.9], np.float32)
    given = {"alpha": 0.0, "label_smoothing": smoothing, "probabilities": probabilities, "reduction": "sum"}
    small = np.full(3, 2.0**-75, np.float32)
    _, gradient = face.value_and_grad(x, np.ones(3, np.int8), neg_weight=small, **given)
    _, wanted = face.value_and_grad(x.astype(float), np.ones(3, np.int8), neg_weight=small.astype(float), **given)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-6, atol=1e-45)


def test_a_large_factor_brings_back_tiny_powers() -> None:
    q = np.array([2e-7, 3e-9, 0.3], np.float32)
    given = {"reduction": "weighted_mean", "probabilities": True, "gamma": 3.7}
    _, gradient = face.value_and_grad(q, np.zeros_like(q), np.full(3, 1e-21, np.float32), **given)
    _, wanted = face.value_and_grad(q, np.zeros_like(q), np.ones(3, np.float32), **given)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-6)


@pytest.mark.parametrize("weight", [1e-35, 1e-22, 1e30])
def test_a_sum_of_extreme_elements_shows_what_is_no_probability(weight: float) -> None:
    """By NaN where a face cannot raise: in JAX's compiled programs, for one."""
    q = np.array([0.5, 1.001, 0.25], np.float32)
    value = np.empty((), np.float32)
    compute(q, np.ones(3, np.float32), np.full(3, weight, np.float32), value=value, probabilities=True)
    assert np.isnan(value)
