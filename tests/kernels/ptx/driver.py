"""Takes a card's place beneath Triton: what it compiles and launches for an H100 runs here, on the CPU's tensors."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.nvidia import compiler as nvidia
from triton.backends.nvidia import driver as nvidia_driver

from binxent.kernels import triton as kernel
from binxent.kernels.triton import launch, launcher
from tests.kernels.ptx import code
from tests.kernels.ptx.machine import Machine
from tests.kernels.ptx.memory import Span

HERE = Path(__file__).parent
CARD = torch.device("cuda", 0)
CAPABILITY = (9, 0)
LOAD = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_char_p)
LAUNCH = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint] * 4, ctypes.POINTER(ctypes.c_void_p))


class Driver:
    """Answers ``driver.cpp``."""

    def __init__(self) -> None:
        self.programs: list[code.Kernel] = []
        self.operands: list[Span] = []
        self.launches = 0
        self.backwards = False  # whether the last block comes first
        self.failure: BaseException | None = None
        self.answers = LOAD(self._load), LAUNCH(self._launch)  # kept: nothing else holds them

    def _load(self, text: bytes) -> int:
        try:
            self.programs.append(code.read(text.decode()))
        except Exception as failure:
            self.failure = failure
            return 0
        return len(self.programs)

    def _launch(self, number: int, blocks: int, threads: int, shared: int, parameters: Any) -> int:
        try:
            program = self.programs[number - 1]
            if threads != program.threads:
                raise ValueError(f"{threads} threads, compiled for {program.threads}")
            arguments = {
                name: int.from_bytes(ctypes.string_at(parameters[k], size), "little")
                for k, (name, size) in enumerate(program.parameters)
            }
            order = range(blocks)
            Machine(program, arguments, self.operands, shared).run(order[::-1] if self.backwards else order, blocks)
            self.launches += 1
        except BaseException as failure:
            self.failure = failure
            return 1
        return 0

    def launch_idle(self, program: Any, programs: int, _: torch.device, *arguments: Any, kernel: Any = None) -> Any:
        """Launches as ``launch`` does, without naming the operands: nothing reads them."""
        return launcher.launch(program, programs, CARD, *arguments, kernel=kernel)

    def launch(self, program: Any, programs: int, _: torch.device, *arguments: Any, kernel: Any = None) -> Any:
        """Stands for ``launcher.launch``, which it calls, and says which memory belongs to the arguments."""
        self.operands, self.failure = spans(tensors(arguments)), None
        try:
            return launcher.launch(program, programs, CARD, *arguments, kernel=kernel)
        except RuntimeError as refused:
            raise self.failure or refused from None


def tensors(argument: Any) -> list[Tensor]:
    if isinstance(argument, tuple):
        return [tensor for one in argument for tensor in tensors(one)]
    return [argument] if isinstance(argument, Tensor) else []


def spans(operands: list[Tensor]) -> list[Span]:
    """The memory of the tensors, each once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in operands}
    return [Span.at(start, size) for start, size in storages.items() if size]


def build(folder: str) -> str:
    """The library, under the name by which Triton finds a driver."""
    library = f"{folder}/libcuda.so.1"
    include = f"-I{Path(nvidia_driver.__file__).parent / 'include'}"
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", include]
    subprocess.run([*command, f"{HERE / 'driver.cpp'}", "-o", library], check=True)
    return library


def install(*, idle: bool = False) -> Driver:
    """Makes the driver the one that Triton uses in this process. If ``idle``, a launch does nothing."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = ctypes.CDLL(build(folder), mode=ctypes.RTLD_GLOBAL)
    driver = Driver()
    library.take(driver.answers[0], None if idle else driver.answers[1])
    triton.knobs.nvidia.libcuda_path = folder
    # A driver may be given PTX too. Triton would keep it as a card's code, so it gets a cache of its own.
    nvidia.CUDABackend.make_cubin = lambda self, source, metadata, options, capability: source.encode()
    triton.knobs.cache.dir = f"{folder}/cache"
    active = nvidia_driver.CudaDriver()
    active.get_current_device = lambda: CARD.index
    active.get_device_capability = lambda *_: CAPABILITY
    active.get_current_stream = lambda *_: 0
    triton.runtime.driver.set_active(active)
    torch.cuda.current_device = lambda: CARD.index
    torch._C._cuda_getCurrentRawStream = lambda _: 0  # type: ignore[attr-defined]
    launch.is_capable = kernel.is_capable = lambda device: device.type == "cpu"  # type: ignore[assignment]
    launch.launch = driver.launch_idle if idle else driver.launch
    return driver
