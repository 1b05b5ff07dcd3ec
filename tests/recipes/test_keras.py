"""On the backend that KERAS_BACKEND names: torch or jax."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from binxent import kernel
from tests.recipes import page

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras' variables

FUNCTION, CLASS = "the function", "the class"


def one_pass(code: str) -> str:
    """The program with the class of the second diff."""
    removed, added = page.sides(page.blocks("Keras", "diff")[1])
    code = page.replaced(code, removed, added)
    return code.replace("loss=binary_cross_entropy", "loss=BinaryCrossEntropy()")


def test_the_switch() -> None:
    ours = page.check_switch("Keras", rtol=1e-5)
    assert ours.names["face"].__name__ == f"binxent.{keras.backend.backend()}"
    assert ours.kernel_runs == 2 * 16 * 8  # loss and gradient, batches, epochs


def test_the_one_pass() -> None:
    ours = page.run(one_pass(page.program("Keras")))
    np.testing.assert_allclose(ours.losses, page.run(page.program("Keras")).losses, rtol=1e-5)
    assert ours.kernel_runs == 16 * 8


WEIGHTS = np.random.default_rng(0).random(512)


@pytest.mark.parametrize("which", [FUNCTION, CLASS])
@pytest.mark.parametrize("given", ["sample_weight=WEIGHTS", "class_weight={0: 1.0, 1: 3.0}"])
def test_weights_act_as_with_keras_own_loss(given: str, which: str) -> None:
    code = page.program("Keras").replace("epochs=8", f"epochs=2, {given}")
    if "class_weight" in given:  # of a single label
        code = code.replace("(20, 5)", "(20, 1)").replace("Dense(5)", "Dense(1)")
    code = code.replace("import keras\n", f"import keras\n\nfrom {__name__} import WEIGHTS\n")
    removed, added = page.sides(page.blocks("Keras", "diff")[0])
    own = page.run(page.replaced(code, added, removed))
    ours = page.run(one_pass(code) if which == CLASS else code)
    np.testing.assert_allclose(ours.losses, own.losses, rtol=1e-5)


@pytest.mark.parametrize("which", [FUNCTION, CLASS])
def test_labels_without_the_outputs_column(which: str) -> None:
    """As Keras' own loss takes them: [N] beside outputs [N, 1]."""
    code = (
        page.program("Keras").replace("epochs=8", "epochs=2").replace("(20, 5)", "20").replace("Dense(5)", "Dense(1)")
    )
    removed, added = page.sides(page.blocks("Keras", "diff")[0])
    own = page.run(page.replaced(code, added, removed))
    ours = page.run(one_pass(code) if which == CLASS else code)
    assert ours.names["targets"].shape == (512,)
    np.testing.assert_allclose(ours.losses, own.losses, rtol=1e-5)
    with pytest.raises((ValueError, TypeError)):
        page.run(one_pass(code.replace("Dense(1)", "Dense(3)")))


def masked(loss: keras.losses.Loss) -> float:
    """Of a sequence whose second half is masked."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    sequences, targets = rng.normal(size=(16, 6, 4)), rng.random((16, 6, 5)) > 0.5
    sequences[:, 3:] = 0
    model = keras.Sequential([keras.Input((6, 4)), keras.layers.Masking(), keras.layers.Dense(5)])
    model.compile(loss=loss)
    return float(model.evaluate(sequences, targets, verbose=0))


def test_masks_are_heeded_by_the_function_alone() -> None:
    code = page.program("Keras").replace("epochs=8", "epochs=1")
    own = masked(keras.losses.BinaryCrossentropy(from_logits=True))
    assert masked(page.run(code).names["binary_cross_entropy"]) == pytest.approx(own, rel=1e-5)
    assert masked(page.run(one_pass(code)).names["BinaryCrossEntropy"]()) != pytest.approx(own, rel=1e-3)


@pytest.mark.parametrize("which", [FUNCTION, CLASS])
def test_a_saved_model_loads_and_goes_on(which: str) -> None:
    code = page.program("Keras")
    names = page.run(one_pass(code) if which == CLASS else code).names
    names["model"].save("model.keras")
    loaded = keras.models.load_model("model.keras")
    before = kernel.runs()
    data = names["inputs"], names["targets"]
    np.testing.assert_allclose(loaded.evaluate(*data, verbose=0), names["model"].evaluate(*data, verbose=0))
    assert kernel.runs() > before
