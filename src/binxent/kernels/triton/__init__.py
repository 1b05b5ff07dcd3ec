"""The kernel for CUDA: one launch, one pass over memory, written in Triton.

``kernel`` fulfils the contract of ``binxent.kernels``. On a GPU nothing of it waits for the device: what a divisor
counts, an incoming gradient and a learnt option are read there, and a probability outside [0, 1] becomes NaN, since no
flag could come back. ``kernel.remake`` is for a backward pass, whose incoming gradient only the device knows.

With TRITON_INTERPRET=1 in the environment Triton runs the same programs on the CPU, for the tests.
"""

from __future__ import annotations

from binxent.kernels.triton.launch import TritonKernel

kernel = TritonKernel()

__all__ = ["TritonKernel", "kernel"]
