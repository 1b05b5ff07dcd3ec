"""What arrays on several devices cost and give; run in a process of its own, since the devices are set at its start.

``python -m tests.faces.jax_sharded`` prints, as JSON, for each case: how often the kernel ran, what was sent between
the devices, and whether loss and gradient have the bits, and the values, of arrays on one device.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from binxent import IndexTargets, kernel
from binxent import jax as face

P = PartitionSpec
COLLECTIVE = re.compile(r"= (\([^()]*\)|\S+) (all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\(")
loss = face.binary_cross_entropy_with_logits
both = jax.value_and_grad(loss)
to_pos_weight = jax.value_and_grad(lambda x, y, p: loss(x, y, pos_weight=p), 2)

rng = np.random.default_rng(0)
X, Y, W = rng.normal(0, 3, (64, 24)).astype(np.float32), rng.random((64, 24)).astype(np.float32), np.linspace(1, 2, 24)
HALF = X.astype(jnp.bfloat16), Y.astype(jnp.bfloat16)
MASK = rng.random(X.shape) < np.linspace(-1, 1, 64)[:, None]  # of the upper half, nothing is kept
S = rng.random(64).astype(np.float32)
INDICES = rng.integers(-1, 24, (64, 5)).astype(np.int32)
LABELS = np.where(MASK, Y > 0.5, -100).astype(np.int32)


def summed(x: Any, y: Any) -> Any:
    return jax.value_and_grad(lambda x: loss(x, y, reduction="sum"))(x)


def each(x: Any, y: Any) -> Any:
    return loss(x, y, reduction="none")


def masked(x: Any, y: Any, mask: Any) -> Any:
    return jax.value_and_grad(lambda x: loss(x, y, mask=mask))(x)


def labelled(x: Any, y: Any) -> Any:
    return jax.value_and_grad(lambda x: 3 * loss(x, y, ignore_index=-100, label_smoothing=0.1, gamma=2.0))(x)


def traced(x: Any, y: Any, gamma: Any) -> Any:
    return jax.value_and_grad(lambda x: loss(x, y, gamma=gamma))(x)


def weighted(x: Any, y: Any, s: Any, mask: Any) -> Any:
    return jax.value_and_grad(lambda x, s: loss(x, y, sample_weight=s, mask=mask, reduction="weighted_mean"), (0, 1))(
        x, s
    )


def batch_mean(x: Any, y: Any, mask: Any) -> Any:
    return jax.value_and_grad(lambda x: loss(x, y, mask=mask, reduction="batchmean"))(x)


def sparse(x: Any, labels: Any) -> Any:
    return both(x, IndexTargets(labels, padding=-1))


# name: the function, and its arguments with the mesh's axes that divide them; None: a NumPy array, which lies nowhere
CASES: dict[str, tuple[Callable[..., Any], list[tuple[Any, tuple[Any, ...] | None]]]] = {
    "rows": (both, [(X, ("a",)), (Y, ("a",))]),
    "rows over both axes": (both, [(X, (("a", "b"),)), (Y, (("a", "b"),))]),
    "columns": (both, [(X, (None, "b")), (Y, (None, "b"))]),
    "rows and columns": (both, [(X, ("a", "b")), (Y, ("a", "b"))]),
    "sum of boolean targets": (summed, [(X, ("a",)), (Y > 0.5, ("a",))]),
    "bfloat16": (both, [(HALF[0], ("a",)), (HALF[1], ("a",))]),
    "each element": (each, [(X, ("a", "b")), (Y, ("a", "b"))]),
    "traced gamma": (traced, [(X, ("a",)), (Y, ("a",)), (np.float32(2), ())]),
    "pos_weight": (to_pos_weight, [(X, ("a",)), (Y, ("a",)), (W.astype(np.float32), ())]),
    "mask": (masked, [(X, ("a",)), (Y, ("a",)), (MASK, ("a",))]),
    "mask of rows and columns": (masked, [(X, ("a", "b")), (Y, ("a", "b")), (MASK, ("a", "b"))]),
    "mask of columns": (masked, [(X, (None, "b")), (Y, (None, "b")), (MASK[1:2], (None, "b"))]),
    "mask on every device": (masked, [(X, ("a", "b")), (Y, ("a",)), (MASK, ())]),
    "mask of NumPy": (masked, [(X, ("a",)), (Y, ("a",)), (MASK, None)]),
    "nothing kept": (masked, [(X, ("a",)), (Y, ("a",)), (MASK & False, ("a",))]),
    "ignore_index": (labelled, [(X, ("a", "b")), (LABELS, ("a", "b"))]),
    "ignore_index in targets of NumPy": (labelled, [(X, ("a", "b")), (LABELS, None)]),
    "weighted_mean": (weighted, [(X, ("a",)), (Y, ("a",)), (S, ("a",)), (MASK, ("a",))]),
    "sparse targets": (sparse, [(X, ("a",)), (INDICES, ("a",))]),
    "sparse targets of NumPy": (sparse, [(X, ("a", "b")), (INDICES, None)]),
    "batchmean": (batch_mean, [(X, ("a",)), (Y, ("a",)), (MASK, ("a",))]),
    "vmap with masks along the divided axis": (jax.vmap(masked), [(X, ("a",)), (Y, ("a",)), (MASK, ("a",))]),
    "vmap with masks along the other": (jax.vmap(masked), [(X, (None, "b")), (Y, (None, "b")), (MASK, (None, "b"))]),
    "vmap along the divided axis": (jax.vmap(both), [(X, ("a",)), (Y, ("a",))]),
    "vmap along the other": (jax.vmap(both), [(X, (None, "b")), (Y, (None, "b"))]),
}
# Only where XLA divides by itself: no type says how.
AUTO_CASES: dict[str, Any] = {
    "target divided otherwise": (both, [(X, ("a",)), (Y, (None, "b"))]),
    "not in equal parts": (lambda x, y: both(x.reshape(3, 512), y.reshape(3, 512)), [(X, ("a",)), (Y, ("a",))]),
}


def facts(function: Any, *operands: Any) -> dict[str, Any]:
    wanted = jax.tree.leaves(jax.jit(function)(*map(np.asarray, operands)))
    program = jax.jit(function)
    before = kernel.runs()
    actual = jax.block_until_ready(jax.tree.leaves(program(*operands)))
    runs = kernel.runs() - before
    # A derivative to a weight of a weighted mean is a difference: what it can be compared with is the largest.
    alike = [
        np.allclose(np.float64(a), np.float64(b), rtol=1e-5, atol=1e-9 + 1e-5 * np.abs(b).max(initial=0))
        for a, b in zip(actual, wanted, strict=True)
    ]
    sent = COLLECTIVE.findall(program.lower(*operands).compile().as_text())
    return {
        "runs": runs,
        "sent": sorted(f"{what} {re.sub('{.*?}', '', array)}" for array, what in sent),
        "same values": all(alike),
        "same bits": all(np.array_equal(a, b) for a, b in zip(actual, wanted, strict=True)),
    }


def divided(kind: AxisType) -> dict[str, Any]:
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(kind,) * 2)
    cases = CASES if kind == AxisType.Explicit else CASES | AUTO_CASES
    return {
        name: facts(
            function,
            *(a if axes is None else jax.device_put(a, NamedSharding(mesh, P(*axes))) for a, axes in operands),
        )
        for name, (function, operands) in cases.items()
    }


def mapped(check: bool) -> dict[str, Any]:
    """Inside shard_map, where each device sees its own shard."""
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)

    def mean(x: Any, y: Any, p: Any) -> Any:
        return jax.lax.pmean(loss(x, y, pos_weight=p), ("a", "b"))

    in_parts = jax.shard_map(
        mean, mesh=mesh, in_specs=(P("a", "b"), P("a", "b"), P("b")), out_specs=P(), check_vma=check
    )
    repeated = jax.shard_map(mean, mesh=mesh, in_specs=(P(), P("a", "b"), P()), out_specs=P(), check_vma=check)
    partly = jax.shard_map(
        lambda x, y: jax.lax.pmean(loss(x, y), "a"),
        mesh=mesh,
        in_specs=(P("a"), P("a")),
        out_specs=P(),
        axis_names={"a"},
        check_vma=check,
    )
    explicit = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)

    @functools.partial(
        jax.shard_map,
        mesh=explicit,
        in_specs=(P("a"), P("a")),
        out_specs=P(),
        axis_names={"a"},
        check_vma=check,
    )
    def partly_explicit(x: Any, y: Any) -> Any:
        x = jax.sharding.reshard(x, P(None, "b"))
        return jax.lax.pmean(loss(x, y), "a")

    # JAX 0.12 divides nothing by itself where axes are explicit.
    divided_by_rows = tuple(jax.device_put(array, NamedSharding(explicit, P("a"))) for array in (X, Y))
    p = W.astype(np.float32)

    def masked_mean(x: Any, y: Any, mask: Any) -> Any:
        return jax.lax.pmean(loss(x, y, mask=mask, gamma=1.0), ("a", "b"))

    same_mask = jax.shard_map(
        masked_mean, mesh=mesh, in_specs=(P("a", "b"), P("a", "b"), P("b")), out_specs=P(), check_vma=check
    )
    cases = {
        "in parts": (in_parts, (X, Y, p), (0, 1, 2), lambda x, y, p: loss(x, y, pos_weight=p)),
        "a mask of the other axis": (
            same_mask,
            (X, Y, np.arange(24) % 3 > 0),  # of which each shard keeps as much
            (0,),
            lambda x, y, mask: loss(x, y, mask=mask, gamma=1.0),
        ),
        "the same input everywhere": (
            repeated,
            (X[:32, :12], Y, p[:12]),
            (0, 2),
            lambda x, y, p: loss(jnp.tile(x, (2, 2)), y, pos_weight=jnp.tile(p, 2)),
        ),
        "along one axis of two": (partly, (X, Y), (0,), loss),
        "along one axis of two, the other explicit": (partly_explicit, divided_by_rows, (0,), loss),
    }
    result = {}
    for name, (function, operands, along, whole) in cases.items():
        before = kernel.runs()
        actual = jax.block_until_ready(jax.jit(jax.value_and_grad(function, along))(*operands))
        runs = kernel.runs() - before
        wanted = jax.value_and_grad(whole, along)(*map(np.asarray, operands))
        pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True)
        alike = all(np.allclose(a, b, rtol=1e-5, atol=1e-9) for a, b in pairs)
        result[name] = {"runs": runs, "same values": alike}
    return result


if __name__ == "__main__":
    print(
        json.dumps(
            {
                "auto": divided(AxisType.Auto),
                "explicit": divided(AxisType.Explicit),
                "checked": mapped(True),
                "unchecked": mapped(False),
            }
        )
    )
