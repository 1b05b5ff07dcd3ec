"""What a face shows at the prompt: the names that are completed, and help() of each of them."""

from __future__ import annotations

import inspect
import pydoc

import pytest

from tests.conformance.differences import LIBRARIES, Library

libraries = pytest.mark.parametrize(
    "library", [library for library in LIBRARIES if library.missing is None], ids=lambda library: library.name
)


@libraries
def test_dir_has_the_public_names_alone(library: Library) -> None:
    assert dir(library.face) == sorted(library.face.__all__)
    assert all(hasattr(library.face, name) for name in dir(library.face))


@libraries
def test_help_of_the_face_lists_its_names(library: Library) -> None:
    shown = pydoc.plain(pydoc.render_doc(library.face))
    for name in library.face.__all__:
        assert name in shown


@libraries
def test_help_opens_with_the_signature_and_the_docstring(library: Library) -> None:
    """Before the order of the bases, and before what they have."""
    for name in library.face.__all__:
        given = getattr(library.face, name)
        shown = pydoc.plain(pydoc.render_doc(given))
        first_line = (inspect.getdoc(given) or "").splitlines()[0]
        assert first_line.endswith("."), name
        before, found, after = shown.partition(first_line)
        assert found, name
        opening, signature, _ = before.rpartition(f"{name}(")  # which newer Pythons give a line for each parameter
        assert signature, name
        assert len(opening.splitlines()) <= 5, f"{name}:\n{before}"
        assert "(*args, **kwargs)" not in before.replace("'", ""), name
        if inspect.isfunction(given):
            assert "Examples:" in after or "Example:" in after, name
        else:
            assert "Method resolution order" not in before


@libraries
def test_every_public_method_of_a_class_is_documented(library: Library) -> None:
    """Of those that are ours, or that the framework has under that name with a docstring."""
    for name in library.face.__all__:
        given = getattr(library.face, name)
        if not inspect.isclass(given):
            continue
        for base in given.__mro__:
            if not base.__module__.startswith("binxent."):
                continue
            for method, value in vars(base).items():
                if inspect.isfunction(value) and (method == "__call__" or not method.startswith("_")):
                    assert inspect.getdoc(getattr(given, method)), f"{name}.{method}"
