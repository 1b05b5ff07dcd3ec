"""``python -m benchmarks.files``: times ``binxent score`` on large .npy files, and pos_weight of a large sparse matrix.

It makes the files in a folder that it removes again. Reading is timed from the page cache, each file once and in
order, in two ways: into one buffer of 1 MiB, which is the cheapest, and with ``numpy.load``, as a program that needs
the arrays does it. The command's time is that of the whole process, its start included. Each round times all of them.
Ratios are those of the least times, because the machine may be busy; the command's processor time is shown too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import facts

LABELS = 64
# The command runs in a fresh process, whose peak (VmHWM) starts again at exec and is not its parent's.
COMMAND = (
    "import sys; from pathlib import Path; from binxent.cli import main; code = main(sys.argv[1:]); "
    "status = Path('/proc/self/status').read_text().splitlines(); "
    "print(next(int(l.split()[1]) for l in status if l.startswith('VmHWM')), file=sys.stderr); sys.exit(code)"
)


def make_pair(folder: Path, size: int, labels_dtype: str) -> tuple[Path, Path]:
    """Writes float32 logits and labels, of ``size`` bytes together."""
    rng = np.random.default_rng(0)
    rows = size // (LABELS * (4 + np.dtype(labels_dtype).itemsize))
    paths = folder / "logits.npy", folder / "labels.npy"
    x = np.lib.format.open_memmap(paths[0], "w+", np.float32, (rows, LABELS))
    y = np.lib.format.open_memmap(paths[1], "w+", labels_dtype, (rows, LABELS))
    step = 1 << 14
    for first in range(0, rows, step):
        positive = rng.random(x[first : first + step].shape, np.float32) < 0.1
        x[first : first + step] = 3 * rng.standard_normal(positive.shape, np.float32) - 3 + 3 * positive
        y[first : first + step] = positive
    return paths


def read(*paths: Path) -> float:
    buffer = np.empty(1 << 20, np.uint8)
    start = time.perf_counter()
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        while os.readv(descriptor, [buffer]):
            pass
        os.close(descriptor)
    return time.perf_counter() - start


def load(*paths: Path) -> float:
    start = time.perf_counter()
    for path in paths:
        np.load(path)
    return time.perf_counter() - start


def run(*arguments: str | Path) -> tuple[float, float, float, str]:
    """Seconds, the processors' seconds, peak MB, and what was printed."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, busy, int(done.stderr.split()[-1]) / 1024, done.stdout


def score(folder: Path, size: int, labels_dtype: str, rounds: int) -> None:
    paths = make_pair(folder, size, labels_dtype)
    total = sum(path.stat().st_size for path in paths)
    reads, loads, scores, busy, peaks = [], [], [], [], []
    for _ in range(rounds):
        reads.append(read(*paths))
        loads.append(load(*paths))
        seconds, processors, peak, out = run("score", *paths, "--json")
        scores.append(seconds)
        busy.append(processors)
        peaks.append(peak)
    overall = json.loads(out)["overall"]
    print(f"score, {total / 1e9:.2f} GB: float32 logits and {labels_dtype} labels, {LABELS} labels")
    for what, times in (("read", reads), ("numpy.load", loads), ("score", scores)):
        print(f"  {what:<12}{min(times):.2f} s (median {np.median(times):.2f})")
    print(f"  score's processor time {min(busy):.2f} s; load of the machine {os.getloadavg()[0]:.1f}")
    print(f"  ratio to read {min(scores) / min(reads):.2f}, to numpy.load {min(scores) / min(loads):.2f}")
    print(f"  peak {max(peaks):.0f} MB")
    error = overall["average_precision_error"]
    print(f"  loss {overall['loss']:.6f}, AP {overall['average_precision']:.5f}, within {error:.1g}")


def sparse(rows: int, labels: int, positives_per_row: int) -> None:
    from scipy.sparse import csr_matrix

    from binxent.labels import count_labels

    rng = np.random.default_rng(0)
    entries = rows * positives_per_row
    indices = rng.integers(0, labels, entries, dtype=np.int32)
    indptr = np.arange(0, entries + 1, positives_per_row, dtype=np.int64)
    matrix = csr_matrix((np.ones(entries, np.int8), indices, indptr), shape=(rows, labels))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    entries = matrix.nnz
    print(f"pos_weight, sparse labels: {rows:,} rows, {labels:,} labels, {entries:,} positives")
    for form in ("csr", "csc", "coo"):
        given = matrix.asformat(form)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            count_labels(given).pos_weight(without_positives=1.0)
            times.append(time.perf_counter() - start)
        print(f"  {form}        {min(times):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.files", description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the pair of files")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the sparse matrix")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    arguments = parser.parse_args()
    for name, fact in facts().items():
        print(f"{name}: {fact}")
    for labels_dtype in ("float32", "uint8"):
        folder = Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            score(folder, int(arguments.gigabytes * 2**30), labels_dtype, arguments.rounds)
        finally:
            shutil.rmtree(folder)
    sparse(arguments.rows, 1000, 5)


if __name__ == "__main__":
    main()
