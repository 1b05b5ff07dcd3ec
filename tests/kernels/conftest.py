from __future__ import annotations

from tests.kernels.rows import ROWS

collect_ignore = [] if "triton" in {row.name for row in ROWS} else ["test_triton.py", "test_gpu_benchmark.py"]
