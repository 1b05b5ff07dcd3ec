from __future__ import annotations

from tests.recipes import page


def test_the_switch() -> None:
    ours = page.check_switch("Flax", rtol=1e-4)
    assert ours.kernel_runs == len(ours.losses) == 20  # loss and gradient in one pass
