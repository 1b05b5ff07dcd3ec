"""Limits of the system, in processes of their own: an error that says what was wanted, and then everything goes on."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import textwrap

import pytest

from tests import processes

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are Linux's")

START = """
import os, resource, threading
import numpy as np
import numpy.ma, numpy.testing  # before a limit forbids it
from binxent import kernel
from binxent.numpy import binary_cross_entropy_with_logits, value_and_grad
x = np.linspace(-3, 3, 300_000, dtype=np.float32)
y = (x > 0).astype(np.float32)

def limit(what, to):
    resource.setrlimit(what, (to, resource.getrlimit(what)[1]))
"""

LIMITS = {
    "no more address space": """
        wanted = value_and_grad(x, y)
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        limit(resource.RLIMIT_AS, size + (8 << 20))
        large = np.broadcast_to(np.float32(0.5), 1 << 28)
        for call in (lambda: value_and_grad(large, large),
                     lambda: binary_cross_entropy_with_logits(large, large, reduction="none")):
            try:
                call()
            except MemoryError as error:
                assert str(1 << 30) in str(error), error
            else:
                raise AssertionError("a gradient of 1 GiB in 8 MiB")
        again = value_and_grad(x, y)
        limit(resource.RLIMIT_AS, resource.getrlimit(resource.RLIMIT_AS)[1])  # the comparison wants memory
    """,
    "no more threads": """
        limit(resource.RLIMIT_NPROC, 0)
        if os.getuid() == 0:
            os.setresuid(65534, 65534, 65534)  # for root there is no such limit
        try:
            threading.Thread(target=int).start()
        except RuntimeError:
            pass
        else:
            raise AssertionError("the limit does not hold")
        wanted = value_and_grad(x, y)
        kernel.set_num_threads(1)
        again = value_and_grad(x, y)
    """,
    "a small stack": """
        wanted = value_and_grad(x, y)
        limit(resource.RLIMIT_STACK, 128 << 10)  # of the threads that are started from now on
        found = []
        threading.stack_size(64 << 10)
        thread = threading.Thread(target=lambda: found.append(value_and_grad(x, y)))
        thread.start()
        thread.join()
        (again,) = found
    """,
    "no more files": """
        limit(resource.RLIMIT_NOFILE, 3)
        wanted = value_and_grad(x, y)
        again = value_and_grad(x, y)
    """,
    "no more memory that is locked, no core, no file that grows": """
        for what in (resource.RLIMIT_MEMLOCK, resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
            limit(what, 0)
        wanted = value_and_grad(x, y)
        again = value_and_grad(x, y)
    """,
}
SAME = """
for a, b in zip(wanted, again):
    np.testing.assert_array_equal(a, b)
print("well")
"""


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_is_an_error_or_changes_nothing(limit: str) -> None:
    assert processes.python(START + textwrap.dedent(LIMITS[limit]) + SAME, BINXENT_NUM_THREADS="3") == "well"


INSTALLED = [name for name in ("torch", "paddle", "jax", "mindspore") if importlib.util.find_spec(name)]
ORDERS = [
    (first, second)
    for one, other in itertools.combinations(INSTALLED, 2)
    for first, second in ((f"binxent.{one}", other), (other, f"binxent.{one}"), (f"binxent.{other}", one))
]


@pytest.mark.parametrize(("first", "second"), ORDERS, ids=[" then ".join(order) for order in ORDERS])
def test_faces_beside_other_frameworks_in_any_order(first: str, second: str) -> None:
    code = f"""
        import importlib
        import numpy as np
        for name in ({first!r}, {second!r}):
            importlib.import_module(name)
        from tests.conformance.faces import FACES, Call
        x = np.linspace(-3, 3, 70_000, dtype=np.float32)
        call = Call(x, (x > 0).astype(np.float32))
        chosen = {first!r}, {second!r}
        losses = [face.evaluate(call) for face in FACES if face.name == "numpy" or f"binxent.{{face.name}}" in chosen]
        assert len(losses) > 1
        for loss, gradient in losses[1:]:
            np.testing.assert_array_equal(loss, losses[0][0])
            np.testing.assert_array_equal(gradient, losses[0][1])
        print("same")
    """
    assert processes.python(code, timeout=300).splitlines()[-1] == "same"
