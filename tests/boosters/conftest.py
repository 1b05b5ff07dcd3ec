"""One thread for each library: the tables are so small that threads would only wait for one another."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before XGBoost and LightGBM are imported
