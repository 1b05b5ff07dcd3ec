"""Sparse targets in JAX: a pytree, the bits of the dense target, and NaN where a compiled program cannot raise."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

from binxent import IndexTargets  # noqa: E402
from binxent.jax import BCELoss, BCEWithLogitsLoss, binary_cross_entropy_with_logits  # noqa: E402

ROWS, COLUMNS = 5, 1300
LISTS = [[7, 3, 7, 1299], [], [0], [700, 2, 1], [1298, 512]]
X = jnp.asarray(np.random.default_rng(0).normal(0, 3, (ROWS, COLUMNS)), jnp.float32)
Y = np.zeros((ROWS, COLUMNS), np.float32)
PADDED = np.full((ROWS, 6), -1)
for row, labels in enumerate(LISTS):
    Y[row, labels] = 1
    PADDED[row, 1 : 1 + len(labels)] = labels
FLAT = np.array([label for labels in LISTS for label in labels])
OFFSETS = np.cumsum([0, *map(len, LISTS)])

TARGETS = {
    "padded": IndexTargets(jnp.asarray(PADDED), padding=-1, num_labels=COLUMNS),
    "numpy": IndexTargets(PADDED.astype(np.int32), padding=-1),
    "flat": IndexTargets(jnp.asarray(FLAT), offsets=jnp.asarray(OFFSETS)),
    "bags": IndexTargets(jnp.asarray(FLAT), offsets=jnp.asarray(OFFSETS[:-1])),
}
every_target = pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)


def same(one: Any, other: Any) -> None:
    for a, b in zip(jax.tree_util.tree_leaves(one), jax.tree_util.tree_leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_they_are_a_pytree() -> None:
    targets = TARGETS["flat"]
    leaves, tree = jax.tree_util.tree_flatten(targets)
    assert [leaf.shape for leaf in leaves] == [FLAT.shape, OFFSETS.shape]
    assert repr(jax.tree_util.tree_unflatten(tree, leaves)) == repr(targets)
    assert jax.tree_util.tree_map(lambda leaf: None, TARGETS["padded"]).indices is None
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(targets)[0]]
    assert paths == [".indices", ".offsets"]


@every_target
@pytest.mark.parametrize("reduction", ["mean", "none", "batchmean"])
@pytest.mark.parametrize("jit", [False, True])
def test_loss_and_gradient_have_the_bits_of_the_dense_target(targets: Any, reduction: str, jit: bool) -> None:
    loss = BCEWithLogitsLoss(reduction=reduction)

    def step(x: Any, y: Any) -> Any:
        return jax.value_and_grad(lambda x: loss(x, y).sum())(x)

    step = jax.jit(step) if jit else step
    same(step(X, targets), step(X, Y))


@pytest.mark.parametrize("option", [{"label_smoothing": 0.1}, {"gamma": 2.0}, {"pos_weight": jnp.full(COLUMNS, 3.0)}])
def test_options(option: dict[str, Any]) -> None:
    step = jax.jit(functools.partial(binary_cross_entropy_with_logits, **option))
    same(step(X, TARGETS["flat"]), step(X, Y))
    q = jax.nn.sigmoid(X)
    same(BCELoss(**option)(q, TARGETS["padded"]), BCELoss(**option)(q, Y))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_types(dtype: Any) -> None:
    x = X.astype(dtype)
    same(binary_cross_entropy_with_logits(x, TARGETS["padded"]), binary_cross_entropy_with_logits(x, Y.astype(dtype)))


def test_vmap_and_second_derivatives() -> None:
    many = jnp.stack([jnp.asarray(PADDED), jnp.roll(jnp.asarray(PADDED), 1, 0)])
    by_labels = jax.vmap(lambda labels: binary_cross_entropy_with_logits(X, IndexTargets(labels, padding=-1)))
    dense = jnp.stack([jnp.asarray(Y), jnp.roll(jnp.asarray(Y), 1, 0)])
    same(by_labels(many), jax.vmap(lambda y: binary_cross_entropy_with_logits(X, y))(dense))

    def curvature(y: Any) -> Any:
        return jax.jvp(jax.grad(lambda x: binary_cross_entropy_with_logits(x, y)), (X,), (X,))[1]

    same(curvature(TARGETS["flat"]), curvature(Y))


def test_a_wrong_label_is_refused_where_it_can_be_looked_at() -> None:
    with pytest.raises(ValueError, match="row 3 has label 1300"):
        binary_cross_entropy_with_logits(X, IndexTargets(np.where(PADDED == 700, 1300, PADDED), padding=-1))


@pytest.mark.parametrize("wrong", [1300, -2, 2**31 - 1, -(2**31)])
def test_in_a_program_the_row_of_a_wrong_label_is_nan(wrong: int) -> None:
    indices = jnp.asarray(np.where(PADDED == 700, wrong, PADDED))
    step = jax.jit(lambda x, y: binary_cross_entropy_with_logits(x, y, reduction="none"))
    losses = step(X, IndexTargets(indices, padding=-1))
    assert jnp.isnan(losses[3]).all()
    others = jnp.array([0, 1, 2, 4])
    same(losses[others], step(X, Y)[others])


@pytest.mark.parametrize("offsets", [[0, 4, 3, 5, 8, 10], [1, 4, 4, 5, 8, 10], [0, 4, 4, 5, 8, 9]])
def test_in_a_program_wrong_offsets_are_nan(offsets: list[int]) -> None:
    targets = IndexTargets(jnp.asarray(FLAT), offsets=jnp.asarray(offsets))
    assert jnp.isnan(jax.jit(binary_cross_entropy_with_logits)(X, targets))


def test_scipys_matrices() -> None:
    scipy = pytest.importorskip("scipy.sparse")
    soft = Y * np.float32(0.3)
    matrix = scipy.csr_array(soft)
    same(binary_cross_entropy_with_logits(X, matrix), binary_cross_entropy_with_logits(X, soft))
    ignoring = BCEWithLogitsLoss(ignore_index=0)
    same(ignoring(X, matrix), ignoring(X, soft))
    with pytest.raises(ValueError, match=r"\.tocsr\(\)"):
        binary_cross_entropy_with_logits(X, matrix.tocoo())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="padding="):
        binary_cross_entropy_with_logits(X, TARGETS["padded"], ignore_index=-100)
    with pytest.raises(ValueError, match=f"num_labels={COLUMNS}"):
        binary_cross_entropy_with_logits(X[:, 1:], TARGETS["padded"])
    with pytest.raises(ValueError, match=r"expected \[N, C\]"):
        binary_cross_entropy_with_logits(X[0], TARGETS["padded"])
