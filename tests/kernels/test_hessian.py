"""What ``binxent.kernels`` promises of a Hessian, asked of every kernel that writes one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from binxent import kernel
from binxent.kernels import Outputs, native
from tests.curvature import second_derivative
from tests.kernels.rows import ROWS, Array, Results, Row, call_of, compute, operands_of
from tests.kernels.test_contract import OPTIONS, SHAPE, arithmetic, assert_same, made, some, weights, wide
from tests.layouts import LAYOUTS
from tests.operands import logits, targets
from tests.reference import DTYPES, assert_close, bits, error

WRITING = [row for row in ROWS if "hessian" in row.kernel.writes]
kernels = pytest.mark.parametrize("row", WRITING, ids=lambda row: row.name)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
NAMES = ("hessian", "expected_hessian")
hessians = pytest.mark.parametrize("name", NAMES)


def curved(row: Row, x: Array, y: Array, name: str = "hessian", **options: Any) -> Results:
    options.setdefault("outputs", ("elements", "gradient", name))
    return compute(row, x, y, **{"reduction": "sum", **options})


def hessian_of(found: Results) -> Array:
    hessian = found.hessian if found.hessian is not None else found.expected_hessian
    assert hessian is not None
    return hessian


@kernels
@pytest.mark.parametrize("kind", ["hard", "soft", "outside"])
@pytest.mark.parametrize("weighting", ["plain", "incoming", "weight", "pos_weight", "both"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_accuracy(row: Row, dtype: str, weighting: str, kind: str) -> None:
    """From end to end of the range, subnormal results too."""
    rng = np.random.default_rng(2)
    x = rng.choice(logits(dtype, 4000, rng), 6000)
    y = targets(kind, x, rng)
    options = {
        name: rng.lognormal(0, 3, x.shape).astype(x.dtype)
        for name in ("weight", "pos_weight")
        if weighting in (name, "both")
    }
    exact, terms = second_derivative(x, y, **options, wide=wide(dtype))
    allowed = row.tolerance(hard=kind == "hard", outside=kind == "outside", weights=len(options))
    for incoming in (3.0, 1 / 16777213, 1024.0) if weighting == "incoming" else (1.0,):
        found = hessian_of(curved(row, x, y, incoming=incoming, **options))
        off = error(found, exact * incoming, terms * incoming, dtype)
        assert off.max() <= allowed + 1.5 * (weighting == "incoming")


@kernels
@hessians
@pytest.mark.parametrize("option", OPTIONS)
@dtypes
def test_options(row: Row, dtype: str, option: str, name: str) -> None:
    x, y = some(dtype)
    options, y = made(option, dtype, y)
    expects = name == "expected_hessian"
    exact, terms = second_derivative(x, y, **options, expects=expects, wide=np.longdouble)
    number = sum(name in options for name in ("weight", "sample_weight", "pos_weight"))
    allowed: Any = row.tolerance(weights=number)
    if dtype == "float64" and "gamma" in options:  # the power amplifies what is rounded before it
        allowed = allowed + 4 + 2 * options["gamma"] * np.abs(x)
    found = curved(row, x, y, name, **options)
    if dtype in ("float16", "bfloat16"):
        allowed = 2.0 ** {"bfloat16": 12, "float16": 9}[dtype]
    assert_close(hessian_of(found), exact, terms, dtype, allowed=allowed, computed_in=arithmetic(dtype))
    # Loss and gradient have the bits that they have without a Hessian; the focal power may be computed otherwise.
    if "gamma" not in options:
        alone = compute(row, x, y, reduction="sum", outputs=("elements", "gradient"), **options)
        assert_same(found._replace(hessian=None, expected_hessian=None), alone)


@kernels
@hessians
@pytest.mark.parametrize("lay", LAYOUTS.values(), ids=LAYOUTS)
@dtypes
def test_layouts(row: Row, dtype: str, lay: Any, name: str) -> None:
    x, y = some(dtype)
    options = {"weight": weights(SHAPE, dtype), "mask": np.random.default_rng(3).random(SHAPE) < 0.8}
    for gamma in (0.0, 2.0):
        wanted = curved(row, x, y, name, gamma=gamma, **options)
        laid = {key: lay(array) for key, array in options.items()}
        assert_same(curved(row, lay(x), lay(y), name, gamma=gamma, lay=lay, **laid), wanted)


@kernels
@hessians
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_threads_in_place_and_reductions(row: Row, dtype: str, name: str) -> None:
    x, y = some(dtype, (3, 70_001))
    wanted = curved(row, x, y, name, outputs=("total", "gradient", name))
    before = kernel.num_threads()
    try:
        for threads in (1, 3):
            kernel.set_num_threads(threads)
            assert_same(curved(row, x, y, name, outputs=("total", "gradient", name)), wanted)
    finally:
        kernel.set_num_threads(before)
    assert_same(curved(row, x, y, name, outputs=("total", "gradient", name), in_place=True), wanted)
    exact, terms = second_derivative(x, y, wide=wide(dtype))
    mean = curved(row, x, y, name, outputs=("total", "gradient", name), reduction="mean")
    assert_close(
        hessian_of(mean), exact / x.size, terms / x.size, dtype, allowed=row.tolerance() + 1.5,
        computed_in=arithmetic(dtype),
    )  # fmt: skip


@kernels
@hessians
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 700.0])
@dtypes
def test_infinities_and_nan(row: Row, dtype: str, gamma: float, name: str) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 1.0, 0.0]).astype(DTYPES[dtype])
    for target in (0.0, 1.0):
        y = np.full_like(x, target)
        found = hessian_of(curved(row, x, y, name, gamma=gamma)).astype(float)
        assert found[:2].tolist() == [0, 0]
        assert np.isnan(found[2])
        assert np.isfinite(found[3:]).all()
    mask = np.array([False, False, False, True, False])
    hidden = curved(row, x, np.ones_like(x), name, mask=mask, gamma=gamma)
    assert np.flatnonzero(hessian_of(hidden).astype(float)).tolist() in ([3], [])
    assert np.isfinite(hessian_of(hidden).astype(float)).all()


@kernels
@hessians
@pytest.mark.parametrize("scaled", ["weight", "pos_weight", "incoming"])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_coefficients_of_every_size(row: Row, dtype: str, gamma: float, scaled: str, name: str) -> None:
    """A weight, or what comes in, may be as small or as large as its type allows."""
    rng = np.random.default_rng(2)
    most = {"float32": 37, "float64": 290}[dtype]
    exponents = (-most, -most + 6, -most // 2, -20, -3, 5, 20, most // 2, most - 14)
    shape = (len(exponents), 300)
    x = (rng.uniform(-100, 100, shape) * rng.choice((0.02, 1), shape)).astype(dtype)
    y = rng.choice((0.0, 1.0, 0.3), shape).astype(dtype)
    values = (rng.uniform(1, 9, (len(exponents), 1)) * 10.0 ** np.array(exponents)[:, None]).astype(dtype)
    options = {} if scaled == "incoming" else {scaled: values}
    exact, terms = second_derivative(x, y, **options, gamma=gamma, expects=name != "hessian", wide=np.longdouble)
    allowed = row.tolerance(weights=len(options), scaled=scaled == "incoming")
    if gamma > 0:  # in float64 the power amplifies what is rounded before it
        allowed = allowed + (0 if dtype == "float32" else 4 + 2 * gamma * np.abs(x))
    for part in range(len(exponents)) if scaled == "incoming" else (slice(None),):
        by = float(values[part, 0]) if scaled == "incoming" else 1.0
        found = hessian_of(curved(row, x[part], y[part], name, incoming=by, gamma=gamma, **options))
        within = allowed if np.ndim(allowed) == 0 else allowed[part]
        scale = np.longdouble(by)
        assert (error(found, exact[part] * scale, terms[part] * scale, dtype) <= within).all()


def test_refusals_of_the_native_kernel() -> None:
    """A Hessian without a gradient, of probabilities, of both kinds, or in integers."""
    row = WRITING[0]
    x = np.full((3, 4), 0.5, np.float32)
    call, operands = call_of(x, x), operands_of(row, x, x)
    place = row.put(np.empty_like(x))
    with pytest.raises(ValueError, match="hessian"):
        native.compute(call, operands, Outputs(hessian=place))
    with pytest.raises(ValueError, match="hessian"):
        native.compute(call_of(x, x, probabilities=True), operands, Outputs(gradient=place, hessian=place))
    with pytest.raises(ValueError, match="hessian"):
        native.compute(call, operands, Outputs(gradient=place, hessian=place, expected_hessian=place))
    with pytest.raises(ValueError, match="hessian"):
        native.compute(call, operands, Outputs(gradient=place, hessian=row.put(np.empty((3, 4), np.int32))))


def test_the_hessian_has_the_same_bits_in_every_split() -> None:
    x, y = some("float32", (9, 4096))
    whole = hessian_of(curved(WRITING[0], x, y))
    parts = [hessian_of(curved(WRITING[0], one, other)) for one, other in zip(x, y, strict=True)]
    np.testing.assert_array_equal(bits(whole), bits(np.stack(parts)))
