"""The linear head in JAX: equal to the definition on all logits, in chunks, and with memory for one of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binxent import IndexTargets
from binxent import jax as face
from binxent.jax import LinearBCEOptions
from binxent.jax import linear_binary_cross_entropy_with_logits as head
from tests.linear_heads import BIASES, GRADIENTS, OPTIONS, REDUCTIONS, Case, Csr, case, expected, lists

EACH_LABEL = LinearBCEOptions(max_chunk_bytes=1)


def made_of(given: Case, dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    arrays = {name: getattr(given, name) for name in GRADIENTS if getattr(given, name) is not None}
    return {name: jnp.asarray(array).astype(dtype) for name, array in arrays.items()}


def assert_near(found: Any, exact: Any, tolerance: float = 2e-6) -> None:
    scale = float(np.abs(exact).max()) if np.size(exact) else 0.0
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=0, atol=tolerance * max(scale, 1e-30))


def check(given: Case, options: LinearBCEOptions | None = None, dtype: Any = jnp.float32, **more: Any) -> None:
    arrays = made_of(given, dtype)
    exact_arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    tolerance = {"float32": 2e-6, "bfloat16": 1e-2, "float16": 2e-3}[jnp.dtype(dtype).name]
    value, gradients = expected(Case(**{**vars(given), **exact_arrays}), **more)

    def loss(arrays: dict[str, jax.Array]) -> jax.Array:
        return head(**arrays, target=given.target, **given.rest, **more, options=options)

    found, slopes = jax.jit(jax.value_and_grad(loss))(arrays)
    assert_near(found, value, tolerance)
    for name, slope in slopes.items():
        assert slope.dtype == dtype
        assert_near(slope, gradients[name], tolerance)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_alone_and_in_pairs(option: str) -> None:
    number = list(OPTIONS).index(option)
    check(
        case(**OPTIONS[option], bias=BIASES[number % 3]), LinearBCEOptions(max_chunk_bytes=7 * 4 * 4),
        reduction=REDUCTIONS[number % 4],
    )  # fmt: skip


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize(("labels", "chunk"), [(1, 1), (23, 1), (64, 7 * 4 * 64), (130, 7 * 4 * 64), (23, 10**6)])
def test_chunks(labels: int, chunk: int, bias: str | None, reduction: str) -> None:
    sample = case(7, labels, 5, bias, mask="[N, C]", sample_weight=True)
    check(sample, LinearBCEOptions(max_chunk_bytes=chunk), reduction=reduction)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_types(dtype: Any) -> None:
    check(case(16, 300, 8, "for each label", pos_weight="[C]"), LinearBCEOptions(max_chunk_bytes=5000), dtype)


def test_eager_code_and_the_dtype_of_the_result() -> None:
    sample = case()
    value, _ = expected(sample)
    arrays = made_of(sample, jnp.bfloat16)
    assert head(**arrays, target=sample.target > 0).dtype == jnp.bfloat16
    assert head(**arrays, target=sample.target).dtype == jnp.float32
    assert_near(head(**made_of(sample), target=sample.target, options=EACH_LABEL), value)


def test_the_mean_of_nothing() -> None:
    for rows, labels in ((0, 4), (2, 0)):
        empty = (jnp.zeros((rows, 3)), jnp.zeros((labels, 3)), jnp.zeros((rows, labels)))
        assert math.isnan(head(*empty))
        assert head(*empty, reduction="sum") == 0
        assert jax.grad(head, argnums=1)(*empty).shape == (labels, 3)


def test_traced_numbers_and_normalizers_are_operands() -> None:
    sample = case(label_smoothing=0.2, gamma=1.5)
    value, gradients = expected(sample, normalizer=3.5)

    @jax.jit
    def step(arrays: Any, smoothing: Any, gamma: Any, normalizer: Any) -> Any:
        def loss(arrays: Any) -> Any:
            return head(
                **arrays, target=sample.target, label_smoothing=smoothing, gamma=gamma, normalizer=normalizer,
                options=EACH_LABEL,
            )  # fmt: skip

        return jax.value_and_grad(loss)(arrays)

    found, slopes = step(made_of(sample), 0.2, 1.5, 3.5)
    assert_near(found, value)
    assert_near(slopes["linear_weight"], gradients["linear_weight"])
    assert step(made_of(sample), 0.2, 1.5, 0.0)[0] == 0


def products(jaxpr: Any) -> int:
    """How many products of matrices a program has."""
    found = 0
    for equation in jaxpr.eqns:
        found += equation.primitive.name == "dot_general"
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            found += products(inner) if hasattr(inner, "eqns") else 0
    return found


@pytest.mark.parametrize(("argnums", "count"), [((0, 1), 3), (1, 2), (0, 2), (None, 1)])
def test_nothing_is_computed_for_what_is_not_differentiated(argnums: Any, count: int) -> None:
    given = (jnp.ones((4, 3)), jnp.ones((64, 3)), jnp.ones((4, 64)))
    function = head if argnums is None else jax.grad(head, argnums=argnums)
    assert products(jax.make_jaxpr(function)(*given).jaxpr) == count


def test_no_array_has_the_size_of_all_logits() -> None:
    rows, labels, features = 64, 4096, 8
    options = LinearBCEOptions(max_chunk_bytes=rows * 4 * 64)
    step = jax.jit(jax.value_and_grad(lambda x, w, y: head(x, w, y, options=options), argnums=(0, 1)))
    shapes = (
        jax.ShapeDtypeStruct((rows, features), jnp.float32),
        jax.ShapeDtypeStruct((labels, features), jnp.float32),
        jax.ShapeDtypeStruct((rows, labels), jnp.bool),
    )
    memory = step.lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < labels * features * 4 * 2 + 4 * options.max_chunk_bytes < rows * labels * 4


def test_of_sparse_targets_no_chunk_is_made() -> None:
    rows, labels, features = 64, 4096, 8
    options = LinearBCEOptions(max_chunk_bytes=rows * 4 * 64)
    step = jax.jit(jax.value_and_grad(lambda x, w, y: head(x, w, y, options=options), argnums=(0, 1)))
    arrays = jax.ShapeDtypeStruct((rows, features), jnp.float32), jax.ShapeDtypeStruct((labels, features), jnp.float32)

    def memory(target: Any) -> int:
        return int(step.lower(*arrays, target).compile().memory_analysis().temp_size_in_bytes)

    sparse = memory(IndexTargets(jax.ShapeDtypeStruct((rows, 4), jnp.int32)))
    assert sparse < memory(jax.ShapeDtypeStruct((rows, labels), jnp.bool)) + rows * 64


def test_derivatives_of_second_order_are_the_definitions() -> None:
    sample = case(3, 6, 2, "for each label", pos_weight="[C]", gamma=2.0)
    arrays = made_of(sample)

    def ours(arrays: Any) -> Any:
        return head(**arrays, target=sample.target, **sample.rest, options=EACH_LABEL)

    def dense(arrays: Any) -> Any:
        logits = arrays["input"] @ arrays["linear_weight"].T + arrays["linear_bias"]
        return face.binary_cross_entropy_with_logits(logits, sample.target, **sample.rest)

    def penalty(loss: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda arrays: sum(jnp.sum(slope**2) for slope in jax.tree.leaves(jax.grad(loss)(arrays)))

    found, exact = jax.grad(penalty(ours))(arrays), jax.grad(penalty(dense))(arrays)
    for name, slope in exact.items():
        assert np.abs(slope).max() > 0
        assert_near(found[name], slope, 1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sparse_targets_are_the_dense_ones(reduction: str) -> None:
    sample = case(7, 23, 5, "for each label", mask="[N, C]", sample_weight=True, label_smoothing=0.1)
    value, gradients = expected(sample, reduction=reduction)
    options = LinearBCEOptions(max_chunk_bytes=7 * 4 * 4)
    rest = {**sample.rest, "reduction": reduction, "options": options}
    indices = IndexTargets.from_lists(lists(sample), num_labels=23)
    padded = np.full((7, 23), -1)
    for row, labels in enumerate(lists(sample)):
        padded[row, : len(labels)] = labels

    def loss(arrays: Any, target: Any) -> Any:
        return head(**arrays, target=target, **rest)

    step = jax.value_and_grad(loss)
    for run, target in (
        (step, indices),
        (step, Csr(sample.target.astype(np.float32))),
        (jax.jit(step), IndexTargets(jnp.asarray(padded), padding=-1)),
        (jax.jit(step), jax.tree.map(jnp.asarray, indices)),
    ):
        found, slopes = run(made_of(sample), target)
        assert_near(found, value)
        for name, slope in slopes.items():
            assert_near(slope, gradients[name])


def test_wrong_labels_are_refused_or_nan() -> None:
    x, w = jnp.ones((2, 3)), jnp.ones((5, 3))
    with pytest.raises(ValueError, match="row 1 has label 5; expected 0 to 4"):
        head(x, w, IndexTargets([[0], [5]]))
    found = jax.jit(lambda indices: head(x, w, IndexTargets(indices), options=EACH_LABEL))(jnp.array([[0], [5]]))
    assert math.isnan(found)


def test_vmap_and_an_incoming_gradient() -> None:
    sample = case()
    arrays = made_of(sample)
    weights = jnp.stack((arrays["linear_weight"], 2 * arrays["linear_weight"]))

    def scaled(w: Any) -> Any:
        return 3 * head(arrays["input"], w, sample.target, options=EACH_LABEL)

    one_by_one = jnp.stack([jax.grad(scaled)(w) for w in weights])
    np.testing.assert_allclose(jax.vmap(jax.grad(scaled))(weights), one_by_one, rtol=1e-5, atol=1e-7)


X, W, Y = jnp.zeros((3, 2)), jnp.zeros((4, 2)), jnp.zeros((3, 4))
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "none": (lambda: head(X, W, Y, reduction="none"), ValueError, "reduction: 'none' asks for the loss of each"),
    "another shape of targets": (lambda: head(X, W, Y.T), ValueError, r"target: shape \(4, 3\)"),
    "three axes": (lambda: head(X[None], W, Y), ValueError, r"input: shape .* expected \[N, features\]"),
    "features": (lambda: head(X[:, :1], W, Y), ValueError, "linear_weight: shape"),
    "bias": (lambda: head(X, W, Y, linear_bias=jnp.zeros(3)), ValueError, "linear_bias: shape"),
    "mask": (lambda: head(X, W, Y, mask=jnp.ones(3)), ValueError, "mask: shape"),
    "dtypes": (lambda: head(X, W.astype(jnp.bfloat16), Y), TypeError, "linear_weight: dtype bfloat16"),
    "integers": (lambda: head(X.astype(int), W, Y), TypeError, "input: dtype int32 is not supported"),
    "no target": (lambda: head(X, W, None), TypeError, "target: expected an array, got NoneType"),
    "options": (lambda: head(X, W, Y, options={}), TypeError, "options: expected LinearBCEOptions"),
    "learnt pos_weight": (
        lambda: jax.grad(lambda p: head(X, W, Y, pos_weight=p))(jnp.ones(4)), NotImplementedError,
        "a derivative along pos_weight, which a linear head does not give",
    ),
    "soft target": (lambda: jax.grad(head, argnums=2)(X, W, Y), NotImplementedError, "a derivative along target"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        call()
