"""The memory of large results, which is kept when they are freed: reused, never beside new memory, never twice."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from binxent import kernel
from binxent.numpy import value_and_grad
from tests import processes
from tests.reference import DTYPES, bits

SMAPS = Path("/proc/self/smaps_rollup")
LARGE = kernel.LARGE_MEMORY
Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    kernel.release_memory()
    yield
    kernel.release_memory()


def smaps(name: str) -> int:
    """Bytes, as the system counts them."""
    found = re.search(rf"^{name}: +(\d+) kB", SMAPS.read_text(), re.MULTILINE)
    assert found
    return 1024 * int(found[1])


def written(size: int, value: int = 7) -> Array:
    array: Array = kernel.new_bytes(size)
    array.fill(value)
    return array


def test_what_is_freed_is_used_again() -> None:
    first = written(5 * LARGE)
    place = first.ctypes.data
    del first
    assert kernel.new_bytes(5 * LARGE - 1000).ctypes.data == place


def test_a_view_holds_the_memory() -> None:
    array = written(2 * LARGE)
    view = array[LARGE::2]
    del array
    written(2 * LARGE, 1)
    assert set(view) == {7}


def test_two_in_use_are_apart() -> None:
    arrays = [written(LARGE + i, i) for i in range(12)]  # more than are kept
    assert all(set(array[:: 64 * 1024]) == {i} for i, array in enumerate(arrays))
    del arrays
    assert 0 < kernel.release_memory() < 12 * 2 * LARGE


def test_memory_of_another_size_is_not_kept_beside_new() -> None:
    written(10 * LARGE)
    small = written(LARGE)  # a tenth: it would hold ten times what it needs
    assert kernel.release_memory() == 0
    del small
    assert kernel.release_memory() == LARGE
    assert kernel.release_memory() == 0


@pytest.mark.skipif(not SMAPS.exists(), reason="the system does not tell")
def test_the_system_may_take_back_what_is_kept() -> None:
    array = written(16 * LARGE)
    before, resident = smaps("LazyFree"), smaps("Rss")
    del array
    assert smaps("LazyFree") - before == 16 * LARGE
    assert kernel.release_memory() == 16 * LARGE
    assert smaps("LazyFree") == before
    assert resident - smaps("Rss") > 15 * LARGE


def test_too_much_is_a_memory_error() -> None:
    for size in (1 << 60, (1 << 64) - 1):
        with pytest.raises(MemoryError, match=f"binxent could not allocate {size} bytes"):
            kernel.new_bytes(size)


@pytest.mark.parametrize(("most", "kept"), [(None, 48), ("48", 48), ("47", 32), ("20", 16), ("0", 0), ("x", 48)])
def test_the_environment_bounds_what_is_kept(most: str | None, kept: int) -> None:
    code = """
        from binxent import kernel
        arrays = [kernel.new_bytes(16 << 20) for _ in range(3)]
        arrays.clear()
        print(kernel.release_memory() >> 20)
    """
    assert int(processes.python(code, BINXENT_MAX_KEPT_MIB=most)) == kept


@pytest.mark.skipif(not SMAPS.exists(), reason="the system has no such limit")
def test_what_is_kept_does_not_stand_in_the_way_of_our_own() -> None:
    code = """
        import resource
        from pathlib import Path
        from binxent import kernel
        array = kernel.new_bytes(256 << 20)
        del array
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), -1))
        array = kernel.new_bytes(300 << 20)
        print(len(array) >> 20)
    """
    assert processes.python(code) == "300"


def test_gradients_that_are_kept_in_use_do_not_change() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, LARGE // 4)).astype(np.float32)
    y = (rng.random(x.shape) < 0.5).astype(np.float32)
    gradients = [value_and_grad(*pair)[1] for pair in zip(x, y, strict=True)]
    copies = [gradient.copy() for gradient in gradients]
    del gradients[1]
    again = value_and_grad(x[1], y[1])[1]
    assert again.flags.writeable
    for gradient, copy in zip((gradients[0], again, gradients[1]), copies, strict=True):
        np.testing.assert_array_equal(gradient, copy)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_large_results_are_those_of_their_parts(dtype: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, LARGE // 16)).astype(DTYPES[dtype])
    y = rng.random(x.shape) < 0.5
    assert x.nbytes >= LARGE > x[0].nbytes
    loss, gradient = value_and_grad(x, y, reduction="none")
    assert loss.dtype == gradient.dtype == x.dtype
    for i in range(len(x)):
        for whole, part in zip((loss, gradient), value_and_grad(x[i], y[i], reduction="none"), strict=True):
            np.testing.assert_array_equal(bits(whole[i]), bits(part))


def test_threads() -> None:
    failed: list[object] = []

    def work(seed: int) -> None:
        for i in range(40):
            array = written(LARGE, (seed + i) % 251)
            if not (array[:: 4096 * 8] == (seed + i) % 251).all():
                failed.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_its_own() -> None:
    assert (
        processes.python(
            """
            import os
            from binxent import kernel
            kept, used = kernel.new_bytes(1 << 24), kernel.new_bytes(1 << 24)
            kept.fill(1)
            used.fill(2)
            del kept
            child = os.fork()
            again = kernel.new_bytes(1 << 24)
            again.fill(3 if child else 4)
            used.fill(5 if child else 6)
            if not child:
                os._exit(0 if set(again[::4096]) == {4} and set(used[::4096]) == {6} else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert set(again[::4096]) == {3} and set(used[::4096]) == {5}
            print("apart")
            """
        )
        == "apart"
    )


@pytest.mark.skipif(not SMAPS.exists(), reason="the limit of a process is Linux's")
@pytest.mark.parametrize(
    "asks",
    [
        "Report(10**8)",
        "Report(1000, calibration_bins=10**9)",
        "LabelCounts(np.broadcast_to(1, 10**8), np.broadcast_to(1, 10**8))",
        "IndexTargets(range(10**9))",
        "binary_cross_entropy_with_logits(large, large, reduction='none')",
        "value_and_grad(large, large)",
        "grad_and_hess(large, large)",
        "linear_value_and_grad(large[:1024, :4], many_labels, IndexTargets(np.zeros((1024, 1), int)))",
    ],
)
def test_a_memory_error_says_how_much_was_asked_for(asks: str) -> None:
    processes.python(f"""
        import re, resource
        import numpy as np
        from binxent import IndexTargets
        from binxent.labels import LabelCounts
        from binxent.numpy import *
        from binxent.report import Report
        large = np.broadcast_to(np.float32(0), (1 << 20, 1 << 12))
        many_labels = np.broadcast_to(np.float32(0), (1 << 28, 4))
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        try:
            {asks}
        except MemoryError as error:
            assert re.search(r"\\d [KMGT]iB|\\d bytes", str(error)), repr(error)
        else:
            raise SystemExit("there was enough memory")
    """)
