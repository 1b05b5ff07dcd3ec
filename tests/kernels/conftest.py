from __future__ import annotations

import os

from tests.kernels.rows import ROWS

# Without a kernel that can run here there is nothing to ask.
collect_ignore = [] if ROWS else ["test_contract.py"]
if "triton" not in {row.name for row in ROWS}:
    collect_ignore += ["test_triton.py", "test_gpu_benchmark.py"]
if os.environ.get("BINXENT_KERNELS") != "triton":
    collect_ignore += ["test_torch_face.py"]
