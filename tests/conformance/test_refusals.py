"""Every face refuses what is wrong, with the exception that it promises and a message that helps."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import pytest

from tests.conformance.differences import LIBRARIES, LOGITS, PROBABILITIES, Library
from tests.conformance.refusals import ALL_REDUCTIONS, NAN, NUMBERS, ROWS, Row, X, Y

libraries = pytest.mark.parametrize(
    "library", [library for library in LIBRARIES if library.missing is None], ids=lambda library: library.name
)


@libraries
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_refused(row: Row, library: Library) -> None:
    error = row.expected(library)
    for function in row.functions:
        with library.mode:
            if error is None:
                row.call(library, function)
                continue
            with pytest.raises(error, match=row.words):
                row.call(library, function)


@libraries
@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.name)
def test_refused_by_the_classes(row: Row, library: Library) -> None:
    """When they are made, and not when they are called."""
    for kind in (library.face.BCELoss, library.face.BCEWithLogitsLoss):
        with pytest.raises(row.error, match=row.words):
            kind(**row.options)


@libraries
@pytest.mark.parametrize("name", ["BCELoss", "BCEWithLogitsLoss"])
def test_the_classes_list_the_reductions(library: Library, name: str) -> None:
    with library.mode, pytest.raises(ValueError, match=ALL_REDUCTIONS):  # when they are made, or called
        getattr(library.face, name)(reduction="avg")(library.tensor(X), library.tensor(Y))


@libraries
def test_nobody_takes_nan_for_a_logit(library: Library) -> None:
    x = X.copy()
    x[1, 2] = NAN
    if library.name == "mindspore":  # which lets NaN pass, as its own loss does
        getattr(library.face, PROBABILITIES)(library.tensor(x), library.tensor(Y)).asnumpy()
        return
    with library.mode, pytest.raises((ValueError, RuntimeError), match=r"input\[1, 2\] is nan$"):
        getattr(library.face, PROBABILITIES)(library.tensor(x), library.tensor(Y))


def scipy_matrix() -> Any:
    return pytest.importorskip("scipy.sparse").csr_matrix(Y)


def sparse_ones(library: Library) -> dict[str, tuple[Any, str]]:
    """The values of Y in each sparse kind that the face may be given, and how it is made dense."""
    kinds = {"scipy": (scipy_matrix(), ".toarray()")} if importlib.util.find_spec("scipy") else {}
    if library.name == "numpy":
        return kinds
    dense = library.tensor(Y)
    if library.name == "torch":
        layouts = ("to_sparse_coo", "to_sparse_csr", "to_sparse_csc", "to_mkldnn")
        own = {layout: getattr(dense, layout)() for layout in layouts}
    elif library.name == "paddle":
        own = {"coo": dense.to_sparse_coo(2), "csr": dense.to_sparse_csr()}
    elif library.name == "jax":
        sparse = importlib.import_module("jax.experimental.sparse")
        return kinds | {kind: (getattr(sparse, kind).fromdense(dense), ".todense()") for kind in ("BCOO", "BCSR")}
    else:
        ms = library.module
        indices, values = ms.Tensor([0, 2, 1], ms.int32), ms.Tensor([1.0, 1.0, 1.0])
        own = {
            "csr": ms.CSRTensor(ms.Tensor([0, 2, 3], ms.int32), indices, values, (2, 3)),
            "coo": ms.COOTensor(ms.Tensor([[0, 0], [0, 2], [1, 1]], ms.int32), values, (2, 3)),
        }
    return kinds | {kind: (tensor, ".to_dense()") for kind, tensor in own.items()}


@libraries
@pytest.mark.parametrize("name", ["input", "weight", "pos_weight", "sample_weight", "mask"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_operands(library: Library, name: str) -> None:
    """A message names the operand and the method that makes it dense, which the operand has."""
    for kind, (sparse, method) in sparse_ones(library).items():
        operands = {"input": library.tensor(X), "target": library.tensor(Y)} | {name: sparse}
        first, second = operands.pop("input"), operands.pop("target")
        named = "logit" if (library.name, name) == ("paddle", "input") else name
        assert hasattr(sparse, method.strip(".()")), kind
        with pytest.raises((TypeError, ValueError, NotImplementedError)) as caught:
            getattr(library.face, LOGITS)(first, second, **operands)
        assert str(caught.value).endswith(f"; make it dense by its {method}"), kind
        assert named in str(caught.value), kind


@libraries
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_targets_that_are_not_taken(library: Library) -> None:
    for kind, (sparse, method) in sparse_ones(library).items():
        if kind in ("scipy", "to_sparse_csr"):  # which are targets
            continue
        with pytest.raises((TypeError, ValueError, NotImplementedError)) as caught:
            getattr(library.face, LOGITS)(library.tensor(X), sparse)
        message = str(caught.value)
        assert message.endswith(f"make it dense by its {method}"), kind
        assert library.name not in ("torch", "paddle") or "a sparse target is " in message
