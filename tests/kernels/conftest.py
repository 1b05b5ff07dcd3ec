from __future__ import annotations

import os

from tests.kernels.rows import ROWS

RUNS_PTX = os.environ.get("TRITON_RUNS_PTX") == "1"
if RUNS_PTX:
    from tests.kernels.ptx import driver

    driver.install()

OF_TRITON = ["test_triton.py", "test_launcher.py", "test_gpu_benchmark.py"]

collect_ignore = [] if "triton" in {row.name for row in ROWS} else OF_TRITON
if os.environ.get("BINXENT_KERNELS") != "triton":
    collect_ignore += ["test_torch_face.py"]
if not RUNS_PTX:
    collect_ignore += ["test_ptx.py"]
