from __future__ import annotations

import os

from tests.kernels.rows import ROWS

OF_TRITON = ["test_triton.py", "test_launcher.py", "test_gpu_benchmark.py"]

collect_ignore = [] if "triton" in {row.name for row in ROWS} else OF_TRITON
if os.environ.get("BINXENT_KERNELS") != "triton":
    collect_ignore += ["test_torch_face.py"]
