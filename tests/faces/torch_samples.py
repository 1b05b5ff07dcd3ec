"""Operands for the tests of the torch face, and both losses beside torch's own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from binxent import torch as face
from tests.kernel_calls import compute
from tests.reference import DTYPES

KINDS = ("logits", "probabilities")
REDUCTIONS = ("none", "mean", "sum")
FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

OURS = {"logits": face.binary_cross_entropy_with_logits, "probabilities": face.binary_cross_entropy}
TORCHS = {"logits": F.binary_cross_entropy_with_logits, "probabilities": F.binary_cross_entropy}
OUR_MODULES = {"logits": face.BCEWithLogitsLoss, "probabilities": face.BCELoss}
TORCHS_MODULES = {"logits": torch.nn.BCEWithLogitsLoss, "probabilities": torch.nn.BCELoss}

# Calls whose graph must divide by a size that it does not know.
DIVIDED: list[dict[str, Any]] = [
    {"label_smoothing": 0.1},
    {"gamma": 2},
    {"reduction": "batchmean"},
    {"reduction": "weighted_mean"},
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def an_input(kind: str, *shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    if kind == "logits":
        return (4 * torch.randn(shape, dtype=torch.float64, generator=generator(seed))).to(dtype)
    return (0.01 + 0.98 * torch.rand(shape, dtype=torch.float64, generator=generator(seed))).to(dtype)


def uniform(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=generator(seed)).to(dtype)


def all_operands(kind: str, rows: int = 4, columns: int = 3, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Every operand that a call can have."""
    return {
        "input": an_input(kind, rows, columns, dtype=dtype),
        "target": uniform(rows, columns, dtype=dtype),
        "weight": uniform(rows, columns, dtype=dtype, seed=2) + 0.5,
        "pos_weight": uniform(columns, dtype=dtype, seed=3) + 0.5,
        "sample_weight": uniform(rows, dtype=dtype, seed=4) + 0.5,
    }


def leaves(operands: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: operand.detach().clone().requires_grad_() for name, operand in operands.items()}


def as_numpy(tensor: torch.Tensor) -> Any:
    """The same bits; NumPy has no bfloat16 of its own."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(DTYPES["bfloat16"])
    return tensor.numpy()


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def kernel_gradient(kind: str, operands: dict[str, torch.Tensor], factor: float, incoming: Any = None) -> Any:
    """What the kernel writes when it is called from NumPy, for this factor and one more weight."""
    arrays = {name: as_numpy(operand) for name, operand in operands.items()}
    weights = [] if "weight" not in arrays else [arrays["weight"]]
    if "sample_weight" in arrays:
        weights.append(arrays["sample_weight"].reshape((-1,) + (1,) * (arrays["input"].ndim - 1)))
    if incoming is not None:
        weights.append(as_numpy(incoming))
    gradient = arrays["input"].copy()
    compute(
        arrays["input"],
        arrays["target"],
        *weights,
        pos_weight=arrays.get("pos_weight"),
        probabilities=kind == "probabilities",
        gradient=gradient,
        incoming=factor,
    )
    return gradient
