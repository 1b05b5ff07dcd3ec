from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from tests.recipes import page


def test_the_optimum_is_scikit_learns() -> None:
    ours = page.run(page.program("SciPy"))
    assert ours.kernel_runs == len(ours.losses)
    result, inputs, targets = (ours.names[name] for name in ("result", "inputs", "targets"))
    assert result.success
    assert result.fun < 0.2 * ours.losses[0]
    weight = result.x.reshape(inputs.shape[1], targets.shape[1])
    for label in range(targets.shape[1]):
        peer = LogisticRegression(fit_intercept=False, tol=1e-8, max_iter=1000).fit(inputs, targets[:, label])
        np.testing.assert_allclose(weight[:, label], peer.coef_[0], atol=2e-3)
