"""Sparse targets in JAX: the bits of the dense target without its memory, and NaN where nothing can raise."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

from binxent import IndexTargets, kernel  # noqa: E402
from binxent.jax import BCELoss, BCEWithLogitsLoss, binary_cross_entropy_with_logits, calls  # noqa: E402

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


RNG = np.random.default_rng(1)
OPTIONS: dict[str, Any] = {
    "label_smoothing": 0.1,
    "gamma": 2.0,
    "pos_weight": jnp.full(COLUMNS, 3.0),
    "weight": jnp.asarray(RNG.random((ROWS, COLUMNS)), jnp.float32),
    "sample_weight": jnp.asarray(RNG.random(ROWS), jnp.float32),
    "mask": jnp.asarray(RNG.random((ROWS, COLUMNS)) < 0.5),
    "normalizer": 17.0,
}
REDUCTIONS = ("mean", "sum", "none", "batchmean", "weighted_mean")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", [*OPTIONS, "all"])
def test_options(name: str, reduction: str) -> None:
    option = OPTIONS if name == "all" else {name: OPTIONS[name]}
    if reduction in ("sum", "none"):
        option = {name: value for name, value in option.items() if name != "normalizer"}

    @jax.jit
    def step(x: Any, y: Any) -> Any:
        return jax.value_and_grad(
            lambda x: binary_cross_entropy_with_logits(x, y, reduction=reduction, **option).sum()
        )(x)

    same(step(X, TARGETS["flat"]), step(X, Y))
    q = jax.nn.sigmoid(X)
    given = {key: value for key, value in option.items() if key in ("weight", "pos_weight", "label_smoothing", "gamma")}
    rest = {key: value for key, value in option.items() if key not in given}
    loss = BCELoss(reduction=reduction, **given)
    same(loss(q, TARGETS["padded"], **rest), loss(q, Y, **rest))


def test_derivatives_along_options() -> None:
    def step(y: Any) -> Any:
        def loss(x: Any, weight: Any, pos_weight: Any, gamma: Any) -> Any:
            return binary_cross_entropy_with_logits(x, y, weight, pos_weight=pos_weight, gamma=gamma)

        return jax.jit(jax.grad(loss, (0, 1, 2, 3)))(X, OPTIONS["weight"], OPTIONS["pos_weight"], 1.5)

    same(step(TARGETS["flat"]), step(Y))


def test_probabilities_out_of_range_are_named() -> None:
    q = jax.nn.sigmoid(X).at[2, 5].set(1.5)
    with pytest.raises(ValueError, match=r"input\[2, 5\] is 1\.5"):
        BCELoss()(q, TARGETS["padded"])


@every_target
def test_the_kernel_reads_the_labels_without_memory_for_a_dense_target(targets: Any) -> None:
    rows, columns = 64, 40_000
    x = jax.ShapeDtypeStruct((rows, columns), jnp.float32)
    offsets = None if targets.offsets is None else jax.ShapeDtypeStruct((rows,), jnp.int32)
    shape = (rows, 5) if offsets is None else (rows * 5,)
    labels = IndexTargets(jax.ShapeDtypeStruct(shape, jnp.int32), offsets=offsets, padding=targets.padding)
    program = jax.jit(jax.value_and_grad(binary_cross_entropy_with_logits)).lower(x, labels).compile()
    assert program.memory_analysis().temp_size_in_bytes < rows * columns / 8
    before = kernel.runs()
    jax.grad(binary_cross_entropy_with_logits)(X, targets)
    assert kernel.runs() > before


def test_eager_code_does_not_compile_for_each_number_of_labels() -> None:
    def compiled(number: int) -> int:
        offsets = np.minimum(np.arange(ROWS + 1), number)
        binary_cross_entropy_with_logits(X, IndexTargets(np.arange(number), offsets=offsets * (number // ROWS)))
        return calls._compute._cache_size()  # type: ignore[attr-defined]

    assert len({compiled(number) for number in range(40, 61, 5)}) == 1


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
    losses = jax.jit(functools.partial(binary_cross_entropy_with_logits, reduction="none"))(X, targets)
    assert jnp.isnan(losses).all()


@pytest.mark.parametrize(("dtype", "padding"), [(jnp.uint8, None), (jnp.int8, -1), (jnp.uint8, -1), (jnp.uint32, 255)])
def test_every_integer_is_an_index(dtype: Any, padding: int | None) -> None:
    columns = 1300
    indices = jnp.asarray([[100, 7], [120, 0]], dtype)
    x, dense = X[:2], np.zeros((2, columns), np.float32)
    np.put_along_axis(dense, np.asarray(indices).astype(int), 1, 1)
    step = jax.jit(lambda labels: binary_cross_entropy_with_logits(x, IndexTargets(labels, padding=padding)))
    same(step(indices), binary_cross_entropy_with_logits(x, dense))


def test_no_rows_and_no_labels() -> None:
    for shape in ((0, 5), (3, 0)):
        step = jax.jit(lambda x, labels: binary_cross_entropy_with_logits(x, IndexTargets(labels), reduction="sum"))
        assert step(jnp.zeros(shape), jnp.zeros((shape[0], 0), jnp.int32)) == 0
    nothing = IndexTargets(jnp.zeros(0, jnp.int32), offsets=jnp.zeros(ROWS, jnp.int32))
    for run in (binary_cross_entropy_with_logits, jax.jit(binary_cross_entropy_with_logits)):
        same(run(X, nothing), binary_cross_entropy_with_logits(X, np.zeros_like(Y)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, bool])
def test_scipys_matrices(dtype: Any) -> None:
    scipy = pytest.importorskip("scipy.sparse")
    soft = (Y * np.float32(0.3) if np.dtype(dtype).kind == "f" else Y).astype(dtype)
    matrix = scipy.csr_array(soft)
    both = jax.value_and_grad(binary_cross_entropy_with_logits)
    same(both(X, matrix), both(X, soft))
    ignoring = jax.value_and_grad(BCEWithLogitsLoss(ignore_index=0))
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
