from __future__ import annotations

import os

from tests.kernels.rows import ROWS

collect_ignore = [] if "triton" in {row.name for row in ROWS} else ["test_triton.py", "test_gpu_benchmark.py"]
if os.environ.get("BINXENT_KERNELS") != "triton":
    collect_ignore += ["test_torch_face.py"]
