"""The mean over ranks and shards, on gloo: equal to that of one process with the whole batch.

The checks are in torch_ranks.py. All of them run in one process group for each number of ranks.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch

from binxent.torch import BCEWithLogitsLoss, LinearBCEWithLogitsLoss, binary_cross_entropy_with_logits, count
from tests.faces import torch_ranks
from tests.processes import run_module


@pytest.fixture(scope="module", params=[2, 3, 4], ids="{} ranks".format)
def failed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """By check, what the ranks report."""
    file = tmp_path_factory.mktemp("ranks") / "report.json"
    run_module("tests.faces.torch_ranks", str(request.param), str(file), TORCH_LOGS=None)
    found: dict[str, list[str]] = json.loads(Path(file).read_text())
    return found


@pytest.mark.parametrize("name", torch_ranks.CHECKS)
def test_ranks(failed: dict[str, list[str]], name: str) -> None:
    assert not failed[name], "\n".join(failed[name])


X, Y = torch.tensor([[0.5, -1.0], [2.0, 0.0]]), torch.tensor([[1, 0], [0, -100]])


def test_a_normalizer_takes_the_divisors_place() -> None:
    total = binary_cross_entropy_with_logits(X, Y, reduction="sum", ignore_index=-100)
    for normalizer in (7, 7.0, torch.tensor(7), torch.tensor([7.0])):
        for reduction in ("mean", "batchmean", "weighted_mean"):
            found = binary_cross_entropy_with_logits(
                X, Y, reduction=reduction, ignore_index=-100, normalizer=normalizer
            )
            torch.testing.assert_close(found, total / 7)
            module = BCEWithLogitsLoss(reduction=reduction, ignore_index=-100)
            assert torch.equal(module(X, Y, normalizer=normalizer), found)


@pytest.mark.parametrize("zero", [0, 0.0, torch.tensor(0), torch.tensor(0.0)])
def test_a_normalizer_of_0_gives_0(zero: float | torch.Tensor) -> None:
    x = X.clone().requires_grad_()
    loss = binary_cross_entropy_with_logits(x, Y.clamp(0), normalizer=zero)
    loss.backward()
    assert loss == 0
    assert not x.grad.any()


def test_a_normalizer_has_no_gradient() -> None:
    normalizer = torch.tensor(3.0, requires_grad=True)
    x, weight = X.clone().requires_grad_(), torch.ones(2, requires_grad=True)
    loss = binary_cross_entropy_with_logits(x, Y.clamp(0), weight, reduction="weighted_mean", normalizer=normalizer)
    loss.backward()
    assert normalizer.grad is None
    assert weight.grad is not None


def test_a_number_that_changes_compiles_twice_at_most() -> None:
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    loss = torch.compile(
        lambda n: binary_cross_entropy_with_logits(X, Y.clamp(0), normalizer=n), fullgraph=True, backend=counter
    )
    for number in (3.0, 4.0, 5.5, 9.25):
        exact = binary_cross_entropy_with_logits(X, Y.clamp(0), normalizer=number)
        torch.testing.assert_close(loss(number), exact)
    assert counter.frame_count <= 2
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"normalizer": -1}, ValueError, "normalizer: -1; expected a finite number that is not negative"),
        ({"normalizer": float("nan")}, ValueError, "normalizer: nan; expected a finite number"),
        ({"normalizer": 3, "reduction": "sum"}, ValueError, "normalizer: reduction='sum' divides by nothing"),
        ({"normalizer": 3, "reduction": "none"}, ValueError, "normalizer: reduction='none' divides by nothing"),
        ({"normalizer": torch.ones(2)}, ValueError, r"normalizer: shape \(2,\); expected a number"),
        ({"normalizer": "3"}, TypeError, "normalizer: expected a number, got str"),
        ({"normalizer": torch.tensor(True)}, TypeError, "normalizer: expected a number, got a tensor of torch.bool"),
        ({"normalizer": torch.tensor(1 + 1j)}, NotImplementedError, "argument 'normalizer' is of dtype torch.complex"),
        ({"normalizer": torch.ones(1).to_sparse()}, NotImplementedError, "argument 'normalizer' has the layout"),
    ],
)
def test_normalizers_that_are_none(options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        binary_cross_entropy_with_logits(X, Y, **options)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gradients": "summed"}, "gradients: 'summed' without a process_group"),
        ({"process_group": "x"}, "gradients: None; beside a process_group expected"),
        ({"process_group": "x", "gradients": "mean"}, "gradients: 'mean'; beside a process_group expected"),
        ({"process_group": "x", "gradients": "summed", "reduction": "sum"}, "process_group: reduction='sum'"),
    ],
)
def test_settings_that_have_no_meaning_together(settings: dict, words: str) -> None:
    for loss in (BCEWithLogitsLoss, functools.partial(LinearBCEWithLogitsLoss, 2, 2)):
        with pytest.raises(ValueError, match=words):
            loss(**settings)


def test_counts() -> None:
    weight, rows = torch.tensor([0.5, 2.0]), torch.tensor([1.0, 3.0])
    assert count(Y).item() == 4
    assert count(Y, ignore_index=-100).item() == 3
    assert count(Y, reduction="batchmean", ignore_index=-100).item() == 2
    assert count(Y, reduction="weighted_mean", ignore_index=-100).item() == 3
    assert count(Y, reduction="weighted_mean", ignore_index=-100, weight=weight, sample_weight=rows).item() == 4.0
    assert count(Y).dtype == torch.int64
    assert count(Y, reduction="weighted_mean", weight=weight).dtype == torch.float64
    learnt = {"reduction": "weighted_mean", "weight": weight.clone().requires_grad_()}
    assert not count(Y, **learnt).requires_grad
    assert not torch.compile(lambda y: count(y, **learnt), fullgraph=True, backend="eager")(Y).requires_grad
    compiled = torch.compile(lambda y: count(y, ignore_index=-100), fullgraph=True, backend="aot_eager")
    assert compiled(Y).item() == 3
    for reduction in ("none", "sum"):
        with pytest.raises(ValueError, match="divides by nothing"):
            count(Y, reduction=reduction)
