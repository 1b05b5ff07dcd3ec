"""Who runs the kernel's blocks, and what the rest of the process notices of it: executors, forks, signals, modes."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
import struct
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from binxent import kernel
from tests import processes
from tests.kernel_calls import Array, compute, outputs
from tests.reference import bits

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from Linux's /proc")
can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def some(size: int = 300_000, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 5, size).astype(np.float32), rng.integers(0, 2, size).astype(np.float32)


def assert_same(actual: tuple[Array, ...], wanted: tuple[Array, ...]) -> None:
    for a, b in zip(actual, wanted, strict=True):
        np.testing.assert_array_equal(bits(a), bits(b))


# Executors that are lent

Body = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
ParallelFor = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, Body, ctypes.c_void_p)
Executor = Callable[[int, int, int, Callable[[int, int, int], None], int], int]


def serial(begin: int, end: int, grain: int, body: Callable[..., None], context: int) -> int:
    body(begin, end, context)
    return 0


def one_by_one_backwards(begin: int, end: int, grain: int, body: Callable[..., None], context: int) -> int:
    for i in reversed(range(begin, end)):
        body(i, i + 1, context)
    return 0


def four_threads(begin: int, end: int, grain: int, body: Callable[..., None], context: int) -> int:
    edges = np.linspace(begin, end, 5).astype(int).tolist()
    threads = [threading.Thread(target=body, args=(*edges[i : i + 2], context)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


def refuses(begin: int, end: int, grain: int, body: Callable[..., None], context: int) -> int:
    return 1


def gives_up_half_way(begin: int, end: int, grain: int, body: Callable[..., None], context: int) -> int:
    body(begin, (begin + end) // 2, context)
    return -1


@pytest.mark.parametrize("executor", [serial, one_by_one_backwards, four_threads, refuses, gives_up_half_way])
def test_a_lent_executor_runs_it(executor: Executor) -> None:
    calls = []

    @ParallelFor
    def lent(begin: int, end: int, grain: int, body: Callable[..., None], context: int) -> int:
        calls.append((begin, end, grain))
        return executor(begin, end, grain, body, context)

    address = ctypes.cast(lent, ctypes.c_void_p).value or 0
    x, y = some()
    assert_same(outputs(x, y, executor=address), outputs(x, y))
    assert len(calls) == 1
    begin, end, grain = calls[0]
    assert (begin, grain) == (0, 1)
    assert end > 4, "too few tasks to share"
    x, y = some(60_000)
    assert_same(outputs(x, y, executor=address), outputs(x, y))
    assert len(calls) == 1, "a small call is not worth an executor"


# Our own pool


@pytest.mark.parametrize(
    ("ours", "openmp", "threads"),
    [
        ("3", None, 3),
        (" 3 ", "5", 3),
        (None, "5", 5),
        ("", "5", 5),
        ("0", "5", 5),
        ("x", "4", 4),
        ("-2", "4", 4),
        ("4096", "5", 4096),
        ("4097", "5", 5),
        ("4294967298", "5", 5),  # 2, in 32 bits
        ("18446744073709551618", "5", 5),  # 2, in 64
        ("2.5", "5", 5),
        ("2x", "5", 5),
        (None, "3,2", 3),  # one number for each level of nesting
        ("7", "4294967298", 7),
    ],
)
def test_the_environment_sets_the_number_of_threads(ours: str | None, openmp: str | None, threads: int) -> None:
    code = "from binxent import kernel; print(kernel.num_threads())"
    assert int(processes.python(code, BINXENT_NUM_THREADS=ours, OMP_NUM_THREADS=openmp)) == threads


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        *(("BINXENT_NUM_THREADS", value, "from 1 to 4096") for value in ("0", "x", "-2", "4294967298", "2.5")),
        *(("BINXENT_MAX_KEPT_MIB", value, f"from 0 to {2**40}") for value in ("x", "-2", "1 GiB", "9" * 30)),
    ],
)
def test_a_variable_that_is_not_understood_is_ignored_and_says_so(variable: str, value: str, expected: str) -> None:
    code = """
        import warnings
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            from binxent import kernel
        print(*(f"{line.category.__name__}: {line.message}" for line in said), sep="\\n")
    """
    wanted = f"RuntimeWarning: {variable}='{value}' is ignored: expected a whole number {expected}"
    assert processes.python(code, **{variable: value}) == wanted


@pytest.mark.parametrize("variable", ["BINXENT_NUM_THREADS", "BINXENT_MAX_KEPT_MIB"])
@pytest.mark.parametrize("value", [None, "", "3"])
def test_a_variable_that_is_understood_is_not_spoken_of(variable: str, value: str | None) -> None:
    assert (
        processes.python("import warnings; warnings.simplefilter('error'); import binxent.numpy", **{variable: value})
        == ""
    )


def test_what_a_framework_sets_is_not_what_was_asked_for() -> None:
    """Importing Paddle sets OMP_NUM_THREADS to 1; a module of that name stands for it here."""
    code = """
        import os, sys, types
        {first}
        os.environ["OMP_NUM_THREADS"] = "{set_to}"
        sys.modules["{module}"] = types.ModuleType("{module}")
        import binxent.numpy
        from binxent import kernel
        kernel.set_num_threads(9)
        kernel.set_num_threads(0)
        print(kernel.num_threads(), len(os.sched_getaffinity(0)))
    """

    def threads(first: str = "", set_to: int = 1, module: str = "paddle", **variables: str) -> list[str]:
        unset = {"OMP_NUM_THREADS": None, "BINXENT_NUM_THREADS": None}
        return processes.python(
            code.format(first=first, set_to=set_to, module=module), **{**unset, **variables}
        ).split()

    used, available = threads()
    assert used == available
    used, available = threads("import binxent.numpy")
    assert used == available
    assert threads(OMP_NUM_THREADS="1")[0] == "1"
    assert threads(BINXENT_NUM_THREADS="3")[0] == "3"
    assert threads(set_to=5)[0] == "5"
    assert threads(module="another")[0] == "1"


@linux
def test_the_affinity_sets_the_number_of_threads() -> None:
    code = """
        import os
        from binxent import kernel
        assert kernel.num_threads() == len(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        assert kernel.num_threads() == 1
    """
    processes.python(code, BINXENT_NUM_THREADS=None, OMP_NUM_THREADS=None)


@linux
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_as_many_threads_as_were_asked_for(threads: int) -> None:
    code = """
        import os
        import numpy as np
        from tests.kernel_calls import outputs
        x = np.zeros(2_000_000, np.float32)
        before = len(os.listdir("/proc/self/task"))
        for _ in range(3):
            outputs(x, x)
        print(len(os.listdir("/proc/self/task")) - before + 1)
    """
    assert int(processes.python(code, BINXENT_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS="1")) == threads


@pytest.mark.usefixtures("any_threads")
def test_the_number_of_threads_can_be_set_and_taken_back() -> None:
    default = kernel.num_threads()
    kernel.set_num_threads(5)
    assert kernel.num_threads() == 5
    kernel.set_num_threads(0)
    assert kernel.num_threads() == default


@pytest.mark.usefixtures("any_threads")
def test_many_callers_at_once() -> None:
    kernel.set_num_threads(4)
    data = [some(100_000 + 7 * i, i) for i in range(8)]
    wanted = [outputs(x, y) for x, y in data]
    wrong: list[object] = []

    def call(i: int) -> None:
        try:
            for _ in range(20):
                assert_same(outputs(*data[i]), wanted[i])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "two callers wait for each other"
    assert not wrong


def test_other_python_threads_go_on() -> None:
    x = np.broadcast_to(np.float32(0.5), 3 * 10**8)
    value, done = np.empty(()), threading.Event()

    def call() -> None:
        compute(x, x, value=value)
        done.set()

    caller = threading.Thread(target=call)
    started = time.perf_counter()
    caller.start()
    naps = 0
    while not done.is_set():
        time.sleep(1e-3)
        naps += 1
    took = time.perf_counter() - started
    caller.join()
    # With the GIL held there would be one, before the call or after it.
    assert naps > 10, f"{naps} naps of a millisecond in {took:.3f} s"


# What a thread has


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_stack_of_64_kib_is_enough(dtype: str) -> None:
    """For all that one call can need. In a process of its own, which would end where it is not."""
    code = f"""
        import threading
        import numpy as np
        from tests.kernel_calls import compute
        from tests.reference import DTYPES
        rng = np.random.default_rng(0)
        x, y = (rng.random((300, 301)).astype(DTYPES["{dtype}"]) for _ in range(2))
        done = []

        def everything():
            for a, b in zip(*((array, array[:, ::2], array.T) for array in (x, y))):
                loss, gradient, value = np.empty_like(a), np.empty_like(a), np.empty(())
                compute(a, b, value=value, loss=loss, gradient=gradient)
                four = (b[:1], b[:1].astype(np.float64), b[:, :1], b)
                for probabilities in (False, True):
                    for gamma in (0.0, 2.0):
                        options = dict(probabilities=probabilities, terms=(-100.0, 0.1, gamma), divisor="weights")
                        outputs = dict(loss=loss, gradient=gradient, value=value)
                        compute(a, b, *four, pos_weight=b[:1], mask=b > 0.1, **options, **outputs)
            done.append(True)

        threading.stack_size(64 * 1024)
        thread = threading.Thread(target=everything)
        thread.start()
        thread.join()
        assert done
        print("enough")
    """
    assert processes.python(code) == "enough"


# Forks

# Prints the sum of a child, which must end in time; an alarm ends one that hangs.
CHILD = """
    import os, signal, sys, threading, time, warnings
    import numpy as np
    from tests.kernel_calls import compute
    warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads: they are what is tested
    x = np.arange(-150_000, 150_000, dtype=np.float32) / 1e4

    def total(**options):
        value = np.empty(())
        compute(x, np.ones_like(x), value=value, **options)
        return float(value)

    def child(**options):
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            ok = all(total(**options) == total(**options) == expected for _ in range(10))
            os._exit(0 if ok else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def forks(code: str) -> None:
    processes.python(textwrap.dedent(CHILD) + textwrap.dedent(code), BINXENT_NUM_THREADS="3")


@can_fork
def test_a_child_computes_after_its_parent_did() -> None:
    forks("""
        expected = total()
        for _ in range(5):
            child()
            assert total() == expected  # and the parent still does
    """)


@can_fork
def test_a_child_of_a_child_computes() -> None:
    forks("""
        expected = total()
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            assert total() == expected
            child()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    """)


@can_fork
def test_a_child_computes_before_its_parent_ever_did() -> None:
    forks("""
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            os._exit(0 if total() == total() else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        expected = total()
        child()
    """)


@can_fork
def test_a_fork_while_other_threads_compute() -> None:
    forks("""
        expected = total()
        stop = False

        def work():
            while not stop:
                assert total() == expected

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            child()
        stop = True
        for thread in threads:
            thread.join()
    """)


@can_fork
@pytest.mark.parametrize("parent_ran", [False, True])
def test_a_child_never_calls_a_lent_executor(parent_ran: bool) -> None:
    """Its threads are gone. That holds too where the parent had not used the kernel yet, but the host its executor."""
    forks(f"""
        import ctypes
        from tests.test_threads import ParallelFor

        calls = []

        @ParallelFor
        def lent(begin, end, grain, body, context):
            calls.append(os.getpid())
            body(begin, end, context)
            return 0

        address = ctypes.cast(lent, ctypes.c_void_p).value
        if {parent_ran}:
            total(executor=address)
            assert calls == [os.getpid()]
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            calls.clear()
            total(executor=address)
            os._exit(len(calls))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        expected = total(executor=address)
        assert calls[-1] == os.getpid()
    """)


@can_fork
def test_a_multiprocessing_pool_that_forks() -> None:
    forks("""
        import multiprocessing
        expected = total()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map_async(int, range(4)).get(20) == [0, 1, 2, 3]
            found = [pool.apply_async(total) for _ in range(6)]
            assert [f.get(20) for f in found] == [expected] * 6
    """)


# Signals


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT can be sent to a child")
def test_ctrl_c_leaves_nothing_locked() -> None:
    code = """
        import os, signal, threading, time
        import numpy as np
        from tests.kernel_calls import compute
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
        value = np.empty(())
        x = np.zeros(200_000, np.float32)
        compute(x, x, value=value)
        wanted = float(value)
        for _ in range(3):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            size = 2 * 10**9
            long = np.broadcast_to(np.float32(0), size)
            interrupted = False
            started = time.perf_counter()
            try:
                compute(long, long, value=value)
            except KeyboardInterrupt:
                interrupted = True
            if not interrupted:
                try:
                    time.sleep(5)
                except KeyboardInterrupt:
                    interrupted = True
            assert interrupted
            assert time.perf_counter() - started > 0.1
            compute(x, x, value=value)
            assert float(value) == wanted
        print("well")
    """
    assert processes.python(code, BINXENT_NUM_THREADS="2") == "well"


# Floating-point modes

libm = ctypes.CDLL(ctypes.util.find_library("m"))
# Where the control word lies in what fegetenv writes, and the bits of each mode: MXCSR and FPCR.
CONTROL = {"x86_64": 28, "aarch64": 0}
MODES = {
    "flush to zero": {"x86_64": 0x8040, "aarch64": 1 << 24},
    "upward": {"x86_64": 0x4000, "aarch64": 1 << 22},
    "toward zero": {"x86_64": 0x6000, "aarch64": 3 << 22},
}
MACHINE = platform.machine()


def floating_point_environment() -> bytes:
    environment = ctypes.create_string_buffer(64)
    assert libm.fegetenv(environment) == 0
    return environment.raw


def is_in(mode: str, one: float) -> bool:
    if mode == "flush to zero":
        return 2.0**-1074 * one == 0
    return -one + 2.0**-60 != -1 if mode == "toward zero" else one + 2.0**-60 != 1


@pytest.mark.skipif(MACHINE not in CONTROL, reason="where the control word lies is known for two architectures")
@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [2, 1000, 200_000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", MODES)
def test_the_callers_mode_changes_nothing_and_is_restored(mode: str, dtype: str, size: int, threads: int) -> None:
    kernel.set_num_threads(threads)
    far = 95.0 if dtype == "float32" else 740.0  # where losses and gradients are subnormal
    x = np.linspace(-far, far, size).astype(dtype)
    tail = np.full(size, -far, dtype)
    y, mean, tail_mean = np.zeros_like(x), np.empty((), dtype), np.empty((), dtype)

    def everything() -> tuple[Array, ...]:
        compute(x, y, value=mean, divisor=size)
        compute(tail, y, value=tail_mean, divisor=size)
        return mean.copy(), tail_mean.copy(), *outputs(x, y, incoming=0.7)

    wanted = everything()
    assert 0 < wanted[1] < np.finfo(dtype).tiny, "no subnormal result"
    before = floating_point_environment()
    changed = bytearray(before)
    (word,) = struct.unpack_from("<I", changed, CONTROL[MACHINE])
    struct.pack_into("<I", changed, CONTROL[MACHINE], word | MODES[mode][MACHINE])
    libm.fesetenv(bytes(changed))
    try:
        held = is_in(mode, float(size / size))
        found = everything()
        held_after = is_in(mode, float(size / size))
        after = floating_point_environment()
    finally:
        libm.fesetenv(before)
    assert held
    assert held_after
    control = slice(CONTROL[MACHINE], CONTROL[MACHINE] + 4)
    assert after[control] == bytes(changed)[control]
    assert_same(found, wanted)


# What is linked


def needed(path: Path) -> list[str]:
    """The libraries that an ELF file asks for: what `readelf -d` shows as NEEDED."""
    data = path.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01", "64 bits, little endian"
    (headers_at,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQ", data, headers_at + i * size) for i in range(count)]
    loaded = [(address, at, length) for kind, _, at, address, _, length in headers if kind == 1]
    ((dynamic_at, dynamic_size),) = [(h[2], h[5]) for h in headers if h[0] == 2]
    entries = [struct.unpack_from("<qQ", data, dynamic_at + i) for i in range(0, dynamic_size, 16)]
    (strings,) = [value for tag, value in entries if tag == 5]
    (strings_at,) = [at + strings - address for address, at, length in loaded if address <= strings < address + length]
    return [data[strings_at + v : data.index(b"\0", strings_at + v)].decode() for tag, v in entries if tag == 1]


def extension() -> Path:
    from binxent import _native

    return Path(str(_native.__file__))


@linux
def test_no_openmp_is_linked() -> None:
    names = needed(extension())
    assert any(name.startswith("libc.so") for name in names)
    assert not [name for name in names if "omp" in name]


@linux
def test_no_openmp_is_loaded() -> None:
    code = """
        import ctypes
        import numpy as np
        from pathlib import Path
        before = Path("/proc/self/maps").read_text()
        from tests.kernel_calls import outputs
        outputs(np.zeros(200_000), np.zeros(200_000))
        after = Path("/proc/self/maps").read_text()
        assert "_native" in after
        print(sum("omp" in line and line not in before for line in after.splitlines()))
    """
    assert processes.python(code) == "0"
