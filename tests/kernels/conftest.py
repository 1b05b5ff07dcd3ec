from __future__ import annotations

from tests.kernels.rows import ROWS

# Without a kernel that can run here there is nothing to ask.
collect_ignore_glob = [] if ROWS else ["test_*.py"]
