"""Means over four devices; run in a process of its own, since the devices are set at its start.

``python -m tests.faces.jax_means`` prints, as JSON, how far each is off the mean on one device, in ulp.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from binxent import jax as face
from binxent import kernel
from binxent import numpy as numpy_face
from tests.reference import error, expected

P = PartitionSpec
COLLECTIVE = re.compile(r"= (\S+) (all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\(")

rng = np.random.default_rng(0)
X, Y = rng.normal(0, 3, (64, 24)).astype(np.float32), rng.random((64, 24)).astype(np.float32)
MASK = rng.random(X.shape) < np.linspace(-1, 1, 64)[:, None]  # of the upper half, nothing is kept
S = rng.random(64).astype(np.float32)


def mapped(check: bool, reduction: str, ragged: bool) -> dict[str, Any]:
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
    operands = (X, Y, MASK, S) if ragged else (X, Y)

    def options(given: Any) -> dict[str, Any]:
        return {"reduction": reduction, **dict(zip(("mask", "sample_weight"), given, strict=False))}

    def mean(x: Any, y: Any, *given: Any) -> Any:
        normalizer = jax.lax.psum(face.count(y, **options(given)), "batch")
        return jax.lax.psum(
            face.binary_cross_entropy_with_logits(x, y, normalizer=normalizer, **options(given)), "batch"
        )

    def mean_of_means(x: Any, y: Any, *given: Any) -> Any:
        return jax.lax.pmean(face.binary_cross_entropy_with_logits(x, y, **options(given)), "batch")

    def on_all(function: Any) -> Any:
        specs = (P("batch"),) * len(operands)
        return jax.jit(
            jax.value_and_grad(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=check))
        )

    before = kernel.runs()
    loss, gradient = jax.block_until_ready(on_all(mean)(*operands))
    runs = kernel.runs() - before
    wanted_loss, wanted_gradient = numpy_face.value_and_grad(X, Y, **options(operands[2:]))
    exact = expected(X, Y, **dict(zip(("mask", "sample_weight"), operands[2:], strict=False)))
    larger = exact.larger_gradient / exact.divisor(reduction)

    def off(found: Any) -> float:
        return float(error(found, wanted_loss, np.abs(wanted_loss), "float32"))

    return {
        "runs": runs,
        "loss off by": off(loss),
        "gradient off by": float(error(np.asarray(gradient), wanted_gradient, larger, "float32").max()),
        "mean of means off by": off(on_all(mean_of_means)(*operands)[0]),
    }


def divided(kind: AxisType, counted: bool) -> dict[str, Any]:
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(kind,) * 2)
    x, y, mask = (jax.device_put(array, NamedSharding(mesh, P("a"))) for array in (X, Y, MASK))

    @jax.jit
    @jax.value_and_grad
    def both(x: Any, y: Any, mask: Any) -> Any:
        normalizer = face.count(y, mask=mask) if counted else 777
        return face.binary_cross_entropy_with_logits(x, y, mask=mask, normalizer=normalizer)

    found = both(x, y, mask)
    wanted = numpy_face.value_and_grad(X, Y, mask=MASK, normalizer=MASK.sum() if counted else 777)
    sent = COLLECTIVE.findall(both.lower(x, y, mask).compile().as_text())
    return {
        "same bits": all(np.array_equal(ours, numpys) for ours, numpys in zip(found, wanted, strict=True)),
        "sent": [f"{what} {array}" for array, what in sent],
    }


if __name__ == "__main__":
    facts = {
        f"{'checked' if check else 'unchecked'} {reduction} {'ragged' if ragged else 'plain'}": mapped(
            check, reduction, ragged
        )
        for check in (True, False)
        for reduction in ("mean", "batchmean", "weighted_mean")
        for ragged in (True, False)
    }
    facts |= {
        f"{name} {'count' if counted else 'number'}": divided(kind, counted)
        for name, kind in (("auto", AxisType.Auto), ("explicit", AxisType.Explicit))
        for counted in (True, False)
    }
    print(json.dumps(facts))
