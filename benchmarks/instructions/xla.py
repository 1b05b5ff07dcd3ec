"""``python -m benchmarks.instructions.xla``: counts what XLA makes of JAX's face for an H100. It needs no card.

Beside JAX it needs its CUDA plugin (``pip install 'jax[cuda12]'``, 3 GB) and Triton's tools; ``nox -s xla`` has both.
It compiles loss and gradient of the mean of a [16384, 16384] array, and counts the instructions of an element.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.instructions import sass

# Both are read when jax is imported; a plugin that looks for a card would not find one.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_dump_to={tempfile.mkdtemp()}"

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from binxent.jax import binary_cross_entropy_with_logits

FOLDER = Path(os.environ["XLA_FLAGS"].split("=")[1])
# An H100's sizes, from NVIDIA's data sheet and programming guide.
CARD = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84942979072
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
SHAPE = (16384, 16384)
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bfloat16": ("bfloat16", "bfloat16", {}),
    "bfloat16, uint8 targets": ("bfloat16", "uint8", {}),
    "bfloat16, label_smoothing": ("bfloat16", "bfloat16", {"label_smoothing": 0.1}),
    "float16": ("float16", "float16", {}),
    "float32": ("float32", "float32", {}),
}
LOAD = re.compile(r"LDG\.E\S*?(?:\.(64|128|U8|U16|S8|S16))?(?:\.CONSTANT)? R")


def kernels(dtype: str, target: str, options: dict[str, Any]) -> list[bytes]:
    """The code of all kernels of one step."""
    for old in FOLDER.glob("*.ptx"):
        old.unlink()
    card = topologies.get_topology_desc(
        platform="cuda", topology_name="h100", target_config=CARD, topology="1x1x1"
    ).devices[0]
    there = jax.sharding.SingleDeviceSharding(card)
    x, y = (jax.ShapeDtypeStruct(SHAPE, name, sharding=there) for name in (dtype, target))

    def loss(x: Any, y: Any) -> Any:
        return binary_cross_entropy_with_logits(x, y, **options)

    jax.jit(jax.value_and_grad(loss)).trace(x, y).lower(lowering_platforms=("cuda",)).compile()
    found = []
    for path in FOLDER.glob("*.ptx"):
        if ".entry" in path.read_text():
            cubin = path.with_suffix(".cubin")
            subprocess.run([str(sass.tool("ptxas")), "-arch=sm_90a", str(path), "-o", str(cubin)], check=True)
            found.append(cubin.read_bytes())
    return found


def per_element(cubin: bytes, size: int) -> tuple[float, int]:
    """The instructions for each ``size`` bytes that are loaded, and how many there are in all: of the loop, if there is
    one, or else of the whole kernel."""
    code = sass.instructions(cubin)
    first, last = 0, max(k for k, (_, what) in enumerate(code) if "EXIT" in what)
    for k, (place, what) in enumerate(code[:last]):
        target = sass.jump(what)
        if target is not None and target < place:
            first, last = next(j for j, (start, _) in enumerate(code) if start == target), k
            break
    body = [what for _, what in code[first : last + 1]]
    widths = {None: 4, "64": 8, "128": 16, "U8": 1, "S8": 1, "U16": 2, "S16": 2}
    loaded = sum(widths[found[1]] for what in body if (found := LOAD.search(what)))
    return len(body) * size / loaded if loaded else 0.0, len(body)


def main() -> None:
    print(f"JAX {jax.__version__}, instructions per element")
    for name, (dtype, target, options) in CASES.items():
        size = jnp.dtype(dtype).itemsize + jnp.dtype(target).itemsize
        each = [per_element(cubin, size) for cubin in kernels(dtype, target, options)]
        print(f"{name}: {max(each, key=lambda found: found[1])[0]:.1f}")
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
