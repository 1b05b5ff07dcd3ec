"""The kernel for CUDA, written in Triton: one launch, one pass over memory.

It never waits for the device. What a divisor counts, an incoming gradient and a learnt option are read there, and a
probability outside [0, 1] becomes NaN, because no flag can come back without waiting. ``remake`` and ``rescale`` are
for a backward pass, whose incoming gradient only the device knows.

With TRITON_INTERPRET=1 in the environment Triton runs the same programs on the CPU, for the tests.
"""

from __future__ import annotations

from binxent.kernels.triton.launch import compute, is_capable, is_memory, measure, reads, remake, rescale

name, device = "triton", "cuda"
writes = frozenset(("elements", "total", "gradient"))

__all__ = [
    "compute",
    "device",
    "is_capable",
    "is_memory",
    "measure",
    "name",
    "reads",
    "remake",
    "rescale",
    "writes",
]
