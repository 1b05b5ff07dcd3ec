"""No memory: every face says so, with how much was asked for, and goes on computing when there is some again."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import failing

pytestmark = pytest.mark.skipif(bool(failing.WHY_NOT), reason=failing.WHY_NOT)

# Operands that cannot be read in place: transposed, broadcast rows, or of another type. Of 1024 rows they are large
# enough for memory that is kept, of 130 for several threads.
OPERANDS = """
    import numpy as np
    from tests import failing
    rng = np.random.default_rng(0)
    def operands(rows):
        shape = rows, 520
        x, y = rng.normal(0, 3, shape), rng.integers(0, 2, shape).astype(np.float64)
        return x, y, rng.random(rows), rng.random(shape) < 0.9
"""

PROGRAMS = {
    "numpy": """
        from binxent.numpy import value_and_grad
        for rows, names, options in (
            (1024, "", {}),
            (130, "weight", dict(reduction="none")),
            (130, "weight pos_weight mask", dict(reduction="weighted_mean", gamma=2.0)),
            (130, "", dict(probabilities=True, ignore_index=0)),
            (8, "weight pos_weight mask", dict(gamma=2.0)),
        ):
            x, y, row, mask = operands(rows)
            x = 1 / (1 + np.exp(-x)) if "probabilities" in options else x
            given = {name: mask.T if name == "mask" else row for name in names.split()}
            out = x.T.copy().T.copy().T
            for place in (None, out):
                assert failing.check(lambda: value_and_grad(x.T, y.T, **given, **options, out=place)) > 0
        from binxent import IndexTargets
        from binxent.numpy import binary_cross_entropy_with_logits
        def unsorted():
            return [binary_cross_entropy_with_logits(x, IndexTargets(np.arange(499, -1, -1).repeat(2)[None]))]
        x = np.zeros((1, 520))
        assert failing.check(unsorted) > 0
        from binxent.report import Report
        def report():
            x, y, row, mask = data
            made = Report(520)
            made.update(x, y)
            return made.scores().loss, made.scores().recall
        data = operands(8)
        assert failing.check(report) > 0
    """,
    "torch": """
        import torch
        import binxent.torch as face
        torch.set_num_threads(3)
        for rows, names, options in (
            (1024, "", {}),
            (130, "weight", dict(reduction="none")),
            (130, "pos_weight mask", dict(gamma=2.0)),
        ):
            x, y, row, mask = (torch.from_numpy(array.T) for array in operands(rows))
            given = {name: mask if name == "mask" else row for name in names.split()}
            def step():
                input = x.detach().requires_grad_()
                loss = face.binary_cross_entropy_with_logits(input, y, **given, **options)
                loss.backward(torch.full_like(loss, 0.5))
                return loss.detach().numpy(), input.grad.numpy()
            assert failing.check(step) > 0
    """,
    "paddle": """
        import paddle
        import binxent.paddle as face
        # What a hook raises in the backward is an OSError of Paddle's, whatever it was.
        def is_refusal(error):
            return failing.is_refusal(error) or isinstance(error, OSError) and "MemoryError: binxent" in str(error)
        for rows, names, options in (
            (1024, "", {}),
            (130, "weight", dict(reduction="none")),
            (130, "pos_weight mask", dict(gamma=2.0)),
        ):
            x, y, row, mask = (paddle.to_tensor(array).t() for array in operands(rows))
            given = {name: mask if name == "mask" else row for name in names.split()}
            def step():
                input = x.detach()
                input.stop_gradient = False
                loss = face.binary_cross_entropy_with_logits(input, y, **given, **options)
                loss.backward(paddle.full_like(loss, 0.5))
                return loss.detach().numpy(), input.grad.numpy()
            assert failing.check(step, is_refusal) > 0
    """,
    "mindspore": """
        import mindspore as ms
        from mindspore.ops.primitive import _pynative_executor
        import binxent.mindspore as face
        for rows, names, options in (
            (130, "", {}),
            (130, "weight", dict(reduction="none")),
            (130, "pos_weight mask", dict(gamma=2.0)),
        ):
            x, y, row, mask = operands(rows)
            x, y, row = (ms.Tensor(array.astype(np.float32)).T for array in (x, y, row))
            given = {name: ms.Tensor(mask).T if name == "mask" else row for name in names.split()}
            def forward(input):
                return face.binary_cross_entropy_with_logits(input, y, **given, **options)
            gradient = ms.ops.GradOperation()(forward)
            def by_the_tape():
                _pynative_executor.clear_res()  # after any exception under a gradient, the tape goes on recording
                return forward(x).asnumpy(), gradient(x).asnumpy()
            assert failing.check(by_the_tape) > 0
        # An operator that fails in a graph is a RuntimeError of MindSpore's, and the graph never runs again.
        def is_refusal(error):
            return isinstance(error, RuntimeError) and "Error message is binxent could not allocate" in str(error)
        graphs = []
        def in_a_graph():
            if not graphs:
                @ms.jit
                def compiled(input):
                    return forward(input), gradient(input)
                graphs.append(compiled)
            try:
                return [result.asnumpy() for result in graphs[0](x)]
            except RuntimeError:
                graphs.clear()
                raise
        assert failing.check(in_a_graph, is_refusal) > 0
    """,
    "jax": """
        import jax
        import jax.numpy as jnp
        import binxent.jax as face
        jax.config.update("jax_enable_x64", True)
        # A compiled program has errors of its own: at the call, or when its result is waited for.
        def is_refusal(error):
            return isinstance(error, (ValueError, jax.errors.JaxRuntimeError)) and str(error).startswith(
                "RESOURCE_EXHAUSTED: binxent could not allocate ")
        for names, options in (("", {}), ("weight pos_weight", {}), ("pos_weight mask", dict(gamma=2.0))):
            x, y, row, mask = operands(130)
            x, y, row, mask = jnp.asarray(x.T), jnp.asarray(y.T, jnp.float32), jnp.asarray(row), jnp.asarray(mask.T)
            given = {name: mask if name == "mask" else row for name in names.split()}
            def loss(input, target, given):
                return face.binary_cross_entropy_with_logits(input, target, **given, **options)
            both = jax.value_and_grad(loss)
            by_row = jax.vmap(both, in_axes=(0, 0, {name: 0 if name == "mask" else None for name in given}))
            for program in (jax.jit(both), jax.jit(by_row)):
                def step():
                    return [np.asarray(result) for result in program(x, y, given)]
                assert failing.check(step, is_refusal) > 0
    """,
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    return failing.build(Path(tmp_path_factory.mktemp("failing")))


@pytest.fixture
def run(library: str, run_program: Callable[..., str]) -> Callable[..., None]:
    def run(program: str, **variables: str) -> None:
        run_program(OPERANDS, program, LD_PRELOAD=library, BINXENT_NUM_THREADS="3", **variables)

    return run


@pytest.mark.parametrize("face", PROGRAMS)
def test_each_allocation_that_fails_is_a_memory_error(face: str, run: Callable[..., None]) -> None:
    if importlib.util.find_spec(face) is None:
        pytest.skip(f"{face} is not installed")
    run(PROGRAMS[face])


def test_it_fails_while_threads_are_started(run: Callable[..., None]) -> None:
    code = """
        from binxent.numpy import value_and_grad
        x, y, row, mask = operands(130)
        assert failing.check(lambda: value_and_grad(x.T, y.T, weight=row), in_children=True) > 0
    """
    run(code)


def test_where_no_thread_can_be_started_there_are_fewer(run: Callable[..., None]) -> None:
    code = """
        import os
        from binxent.numpy import value_and_grad
        x, y, row, mask = operands(130)
        before = len(os.listdir("/proc/self/task"))
        with failing.no_threads():
            alone = value_and_grad(x, y)
            assert len(os.listdir("/proc/self/task")) == before
        together = value_and_grad(x, y)
        assert len(os.listdir("/proc/self/task")) == before + 2
        for ours, theirs in zip(alone, together):
            np.testing.assert_array_equal(ours, theirs)
    """
    run(code, OPENBLAS_NUM_THREADS="1")


def test_what_is_kept_makes_room_for_what_is_asked_for(run: Callable[..., None]) -> None:
    code = """
        from binxent import kernel
        from binxent.numpy import value_and_grad
        x, y, row, mask = operands(1024)
        value, gradient = value_and_grad(x.T, y.T)
        del gradient
        x, y = x[:130], y[:130]
        switch = failing.switches()
        switch.fail_at(1, False, *failing.kernel_addresses())
        value_and_grad(x.T, y.T)
        assert switch.stop_failing() == 1
        assert kernel.release_memory() == 0
    """
    run(code)
