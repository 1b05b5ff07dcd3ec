"""What an import costs: nothing but the standard library, and no framework that was not asked for."""

from __future__ import annotations

import json
import sys
from importlib import metadata

import pytest

import binxent
from tests import processes

MODULES = """
    import json, sys
    before = set(sys.modules)
    import {name}
    print(json.dumps(sorted(set(sys.modules) - before)))
"""


def newly_imported(name: str) -> set[str]:
    return set(json.loads(processes.python(MODULES.format(name=name))))


def foreign(modules: set[str]) -> set[str]:
    """Top-level packages that are neither ours nor the standard library's, nor made up by an older NumPy's Cython."""
    packages = {m.partition(".")[0] for m in modules if "cython" not in m}
    return packages - set(sys.stdlib_module_names) - {"binxent"}


def test_importing_binxent_imports_only_the_standard_library() -> None:
    modules = newly_imported("binxent")
    assert "binxent" in modules
    assert not foreign(modules)
    assert "binxent._native" not in modules


@pytest.mark.parametrize("name", ["binxent.options", "binxent.formula", "binxent.kernel"])
def test_what_faces_share_knows_no_framework(name: str) -> None:
    modules = newly_imported(name)
    assert name in modules
    assert not foreign(modules)


def test_the_numpy_face_imports_numpy_alone() -> None:
    assert foreign(newly_imported("binxent.numpy")) == {"numpy"}


def test_the_version_is_the_installed_one() -> None:
    try:
        installed = metadata.version("binxent")
    except metadata.PackageNotFoundError:
        pytest.skip("binxent is on the path, and not installed")
    assert binxent.__version__ == installed
