"""Programs that jax.export makes: serialised, run where there is no binxent, of sizes that are symbols."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from binxent import jax as face
from tests import processes
from tests.turns import in_turn

FUNCTIONS = {"logits": face.binary_cross_entropy_with_logits, "probabilities": face.binary_cross_entropy}
REDUCTIONS = ("none", "mean", "sum", "batchmean", "weighted_mean")
OPTIONS: dict[str, dict[str, Any]] = {"no option": {}, "options": {"ignore_index": 1, "gamma": 1.5}}
(N,) = export.symbolic_shape("n")


def operands(n: int) -> list[Any]:
    """input, target, weight, pos_weight, sample_weight, mask."""
    rng = np.random.default_rng(n)
    arrays = (rng.uniform(0.05, 0.95, (n, 3)), rng.random((n, 3)).round(1), rng.random(3), 2 + rng.random(3))
    return [*(a.astype(np.float32) for a in arrays), rng.random(n).astype(np.float32), rng.random((n, 3)) < 0.7]


def types(n: Any) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct((n, *a.shape[1:]) if a.shape[0] == 5 else a.shape, a.dtype) for a in operands(5)]


def step(name: str, reduction: str, chosen: dict[str, Any], *, masked: bool) -> Any:
    """The loss, and its gradients to all that can have one."""

    def loss(x: Any, y: Any, w: Any, p: Any, s: Any, mask: Any) -> Any:
        given = {"mask": mask, **chosen} if masked else chosen
        losses = FUNCTIONS[name](x, y, w, reduction, pos_weight=p, sample_weight=s, **given)
        return jnp.sum(losses), losses

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3, 4), has_aux=True))


def assert_alike(actual: Any, wanted: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, wanted)


@pytest.mark.parametrize(
    ("name", "reduction", "way"), in_turn([*FUNCTIONS], REDUCTIONS, ways=[("no option", False), ("options", True)])
)
def test_any_batch_size(name: str, reduction: str, way: tuple[str, bool]) -> None:
    chosen, masked = way
    program = step(name, reduction, OPTIONS[chosen], masked=masked)
    exported = export.export(program)(*types(N))
    again = export.deserialize(exported.serialize())
    # The very program: compiling it twice would tell no more, and takes most of the time.
    assert again.mlir_module() == exported.mlir_module()
    for n in (1, 4):
        assert_alike(again.call(*operands(n)), program(*operands(n)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_runs_where_there_is_no_binxent(name: str, tmp_path: Path) -> None:
    program = step(name, "mean", OPTIONS["options"], masked=True)
    (tmp_path / "program").write_bytes(export.export(program)(*types(N)).serialize())
    np.savez(tmp_path / "operands", *operands(7))
    code = f"""
        import sys, jax, numpy as np
        sys.modules["binxent"] = None  # importing it is an error
        from jax import export
        from pathlib import Path
        folder = Path({str(tmp_path)!r})
        program = export.deserialize((folder / "program").read_bytes())
        results = jax.tree.leaves(program.call(*np.load(folder / "operands.npz").values()))
        np.savez(folder / "results", *results)
    """
    processes.python(code)
    assert_alike([*np.load(tmp_path / "results.npz").values()], jax.tree.leaves(program(*operands(7))))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_of_what_was_exported(name: str) -> None:
    x, y, *_ = operands(6)
    types = jax.ShapeDtypeStruct((N, 3), jnp.float32)
    function = FUNCTIONS[name]
    exported = export.deserialize(export.export(jax.jit(function))(types, types).serialize(vjp_order=2))
    assert_alike(jax.grad(exported.call)(x, y), jax.grad(function)(x, y))
    twice = [jax.grad(lambda x, f=f: jnp.sum(x * jax.grad(f)(x, y)))(x) for f in (exported.call, function)]
    assert_alike(*twice)


TRANSFORMS = {
    "hessian": lambda f: jax.hessian(f),
    "vmap": lambda f: jax.vmap(jax.value_and_grad(f)),
    "jvp": lambda f: lambda x, y: jax.jvp(f, (x, y), (x, y)),
    "scan": lambda f: lambda x, y: jax.lax.scan(lambda total, row: (total + f(*row), 0), 0.0, (x, y))[0],
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_inside(name: str) -> None:
    program = jax.jit(TRANSFORMS[name](face.binary_cross_entropy_with_logits))
    types = jax.ShapeDtypeStruct((N, 3), jnp.float32)
    x, y, *_ = operands(4)
    assert_alike(export.export(program)(types, types).call(x, y), program(x, y))


def test_one_program_for_every_platform() -> None:
    """And under strict promotion, as JAX compiles it."""
    program = jax.jit(jax.value_and_grad(face.BCEWithLogitsLoss(pos_weight=jnp.array(3.0))))
    with jax.numpy_dtype_promotion("strict"):
        exported = export.export(program, platforms=("cpu", "cuda", "rocm", "tpu"))(*types(N)[:2])
    assert set(re.findall(r"custom_call @(\w+)", exported.mlir_module())) == {"shape_assertion"}  # of JAX's own
    assert_alike(exported.call(*operands(5)[:2]), program(*operands(5)[:2]))


def test_a_known_size_of_2_to_the_32() -> None:
    """A count beyond int32 is divided by all the same. Exported it is compiled, and not run."""
    sizes = jax.ShapeDtypeStruct((2**16, 2**16), jnp.float32)
    module = export.export(jax.jit(face.binary_cross_entropy_with_logits))(sizes, sizes).mlir_module()
    assert "dense<4.2949673E+9>" in module.replace("E+09", "E+9")


def test_a_shape_that_does_not_fit() -> None:
    x = jax.ShapeDtypeStruct((N, 3), jnp.float32)
    with pytest.raises(ValueError, match=r"target: shape \(3, n\) must be the same as the input's, \(n, 3\)"):
        export.export(jax.jit(face.binary_cross_entropy_with_logits))(x, jax.ShapeDtypeStruct((3, N), jnp.float32))
