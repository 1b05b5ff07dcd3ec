"""A hundred thousand small calls, forward and backward, in a process for each face: its memory does not grow.

BINXENT_LEAK_STEPS asks for another number of steps.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

STATM = Path("/proc/self/statm")
pytestmark = pytest.mark.skipif(not STATM.exists(), reason="the system does not tell a process its memory")

DATA = """
    import os
    import numpy as np
    n = int(os.environ.get("BINXENT_LEAK_STEPS", 50_000))
    x = np.linspace(-3, 3, 32, dtype=np.float32).reshape(8, 4)
    y = (x > 0).astype(np.float32)
"""

STEPS = {
    "numpy": """
        import binxent.numpy as face
        def step(reduction):
            face.value_and_grad(x, y, reduction=reduction)
            face.binary_cross_entropy_with_logits(x, y, reduction=reduction)
    """,
    "torch": """
        import torch
        import binxent.torch as face
        x, y = torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)
        def step(reduction):
            x.grad = None
            face.binary_cross_entropy_with_logits(x, y, reduction=reduction).sum().backward()
    """,
    "paddle": """
        import paddle
        import binxent.paddle as face
        x, y = paddle.to_tensor(x), paddle.to_tensor(y)
        def step(reduction):
            input = x.detach()
            input.stop_gradient = False
            face.binary_cross_entropy_with_logits(input, y, reduction=reduction).sum().backward()
    """,
    # MindSpore's tape leaks by itself, with any function: the gradient is taken in a graph.
    "mindspore": """
        import mindspore as ms
        import binxent.mindspore as face
        x, y, n = ms.Tensor(x), ms.Tensor(y), n // 10  # a step takes ten times as long
        def loss(input):
            return face.binary_cross_entropy_with_logits(input, y)
        gradient = ms.ops.GradOperation()(loss)
        @ms.jit
        def compiled(input):
            return loss(input), gradient(input)
        def step(reduction):
            face.binary_cross_entropy_with_logits(x, y, reduction=reduction) if reduction == "none" else compiled(x)
    """,
    "jax": """
        import functools
        import jax
        import binxent.jax as face
        @functools.partial(jax.jit, static_argnums=0)
        @functools.partial(jax.value_and_grad, argnums=1)
        def step(reduction, input):
            return face.binary_cross_entropy_with_logits(input, y, reduction=reduction).sum()
        step = functools.partial(lambda step, reduction: step(reduction, x), step)
    """,
}

# The first steps fill caches and pools.
MEASURE = """
    import gc
    import json
    import sys
    from pathlib import Path

    def resident():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def steps(n):
        for _ in range(n // 2):
            step("mean")
            step("none")

    steps(min(max(5_000, n // 5), 50_000))
    before, blocks = resident(), sys.getallocatedblocks()
    steps(n)
    print(json.dumps({"bytes": (resident() - before) / n, "blocks": (sys.getallocatedblocks() - blocks) / n}))
"""

PER_STEP = 24  # bytes: less than any object has


@pytest.mark.parametrize("face", STEPS)
def test_no_face_leaks(face: str, run_program: Callable[..., str]) -> None:
    if importlib.util.find_spec(face) is None:
        pytest.skip(f"{face} is not installed")
    steps = int(os.environ.get("BINXENT_LEAK_STEPS", 50_000))
    grown = json.loads(run_program(DATA, STEPS[face], MEASURE, timeout=300 + steps / 500).splitlines()[-1])
    assert grown["bytes"] < PER_STEP
    assert grown["blocks"] < 0.1, "Python's own objects grow in number"
