"""What the rest of the process notices: torch's threads, forks, memory, imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from tests.faces.torch_samples import KINDS, OURS, an_input, uniform
from tests.processes import ROOT, environment, python

both_kinds = pytest.mark.parametrize("kind", KINDS)
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from Linux's /proc")
can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def test_the_import_takes_torch_and_no_other_framework():
    modules = python("""
        import json, sys, torch
        before = set(sys.modules)
        import binxent.torch
        print(json.dumps(sorted(set(sys.modules) - before)))
    """)
    new = {name.partition(".")[0] for name in json.loads(modules)} - set(sys.stdlib_module_names)
    assert new == {"binxent"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import binxent.torch"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment(),
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert {"torch", "binxent"} <= imported
    assert not imported & {"paddle", "mindspore", "jax", "jaxlib", "flax", "optax", "tensorflow"}


# Threads


@pytest.fixture
def restored_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("restored_threads")
@both_kinds
def test_the_same_bits_on_any_number_of_threads(kind):
    x, y = an_input(kind, 700, 701, dtype=torch.float32).requires_grad_(), uniform(700, 701, dtype=torch.float32)
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        loss = OURS[kind](x, y)
        results.append((loss, *torch.autograd.grad(loss, x)))
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


THREADS = """
    import os, torch
    torch.set_num_threads({threads})
    import binxent.torch as face
    from binxent import kernel
    x = torch.linspace(-5, 5, 2_000_000).requires_grad_()
    before = len(os.listdir("/proc/self/task"))
    face.binary_cross_entropy_with_logits(x, torch.zeros(2_000_000)).backward()
    print(len(os.listdir("/proc/self/task")) - before, kernel.runs())
"""


@linux
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_threads_are_torchs(threads):
    """One more for each that torch was allowed, which are its own; a pool of ours would be there with one as well."""
    started, runs = map(int, python(THREADS.format(threads=threads)).split())
    assert runs == 1
    assert started <= threads - 1
    if threads == 1:
        assert started == 0


FORKED = """
    import os, signal, torch
    import binxent.torch as face
    torch.set_num_threads(2)
    x = torch.linspace(-5, 5, 500_000)
    y = torch.zeros(500_000)
    warm = (x + y).sum()  # torch's pool is at work before the fork; in the child, an operation of torch's would hang

    def step():
        leaf = x.detach().requires_grad_()
        loss = face.binary_cross_entropy_with_logits(leaf, y)
        loss.backward()
        return loss.item(), leaf.grad.numpy().tobytes()

    here = step()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if step() == here and step() == here else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert step() == here
    print("done")
"""


@can_fork
def test_a_forked_child_does_not_hang_on_torchs_pool():
    assert python(FORKED) == "done"


WORKERS = """
    import torch
    from torch.utils.data import DataLoader, Dataset
    import binxent.torch as face
    torch.set_num_threads(2)

    class Losses(Dataset):
        def __len__(self):
            return 4
        def __getitem__(self, i):
            x = torch.full((300_000,), float(i), requires_grad=True)
            loss = face.binary_cross_entropy_with_logits(x, torch.ones(300_000))
            loss.backward()
            return loss.detach(), x.grad[0]

    def main():
        here = [Losses()[i] for i in range(4)]
        for method in ("fork", "spawn"):
            loader = DataLoader(Losses(), num_workers=2, batch_size=None, multiprocessing_context=method, timeout=60)
            for (loss, slope), (expected, same) in zip(loader, here):
                assert torch.equal(loss, expected) and torch.equal(slope, same), method
        print("done")

    if __name__ == "__main__":
        main()
"""


@can_fork
def test_workers_of_a_dataloader(tmp_path):
    script = tmp_path / "workers.py"
    script.write_text(textwrap.dedent(WORKERS))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=180, cwd=ROOT, env=environment()
    )
    assert done.stdout.strip() == "done", done.stderr


# Memory

PEAK = """
    import sys, torch
    import torch.nn.functional as F
    import binxent.torch as face
    from binxent import kernel

    def status(name):
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    count = 1 << 23
    y = torch.full((4096, count // 4096), 0.5)
    p = torch.full((count // 4096,), 2.0)

    def extra(function, in_place, **options):
        x = torch.full((4096, count // 4096), 0.25, requires_grad=True)
        logits = x * 1 if in_place else x
        function(torch.zeros(70_000, requires_grad=True), torch.zeros(70_000)).backward()  # pools, libraries
        kernel.release_memory()
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
        before = status("VmRSS")
        loss = function(logits, y, **options)
        torch.autograd.grad(loss, logits)
        return (status("VmHWM") - before) / (4 * count)

    ours, torchs = face.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits
    print(
        extra(ours, False),
        extra(ours, False, pos_weight=p),
        extra(face.binary_cross_entropy, False),
        extra(ours, True, inplace_backward=True),
        extra(torchs, False),
        extra(torchs, False, pos_weight=p),
    )
"""


@linux
def test_peak_memory_is_one_gradient():
    plain, weighted, probabilities, in_place, torchs, torchs_weighted = map(float, python(PEAK).split())
    for ours in (plain, weighted, probabilities):
        assert 0.95 < ours < 1.1
    assert in_place < 0.1
    assert torchs > 1.9  # the measure sees what torch takes
    assert torchs_weighted > 2.9


def test_a_scalar_that_is_kept_keeps_nothing_else():
    kept = []
    for _ in range(3):
        x = torch.zeros(1 << 20, requires_grad=True)
        loss = OURS["probabilities"](torch.sigmoid(x), torch.zeros(1 << 20))
        loss.backward()
        kept.append(loss.detach())
    assert sum(loss.untyped_storage().nbytes() for loss in kept) == 12
    np.testing.assert_allclose([loss.item() for loss in kept], np.log(2), rtol=1e-6)
