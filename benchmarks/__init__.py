"""Speed, memory, accuracy and instruction counts, each by one command that anyone can run.

python -m benchmarks               speed and memory, against every framework's own loss
python -m benchmarks.accuracy      the accuracy certificate
python -m benchmarks.files         reports of large files, and pos_weight of sparse labels
python -m benchmarks.gpu           time, memory, exactness and launches on a CUDA card
python -m benchmarks.head          time and memory of the linear head, on the CPU or a CUDA card
python -m benchmarks.instructions  instructions per element, against the committed figure
python -m benchmarks.sparse        sparse targets beside dense ones
python -m benchmarks.report        the tables and charts, from the committed CSV files alone
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
