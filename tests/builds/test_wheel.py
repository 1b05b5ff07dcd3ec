"""The metadata of the installed wheel."""

from __future__ import annotations

import json
from importlib.metadata import distribution
from pathlib import Path

LICENSES = Path(__file__).parents[2] / "licenses"


def test_the_bill_of_materials_is_valid_and_lists_what_has_a_licence() -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    (path,) = (file for file in distribution("binxent").files or () if file.match("*.dist-info/sboms/binxent.cdx.json"))
    text = path.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    listed = {component["name"]: component for component in bill["components"]}
    assert sorted(listed) == sorted(file.stem for file in LICENSES.glob("*.txt"))
    for component in (bill["metadata"]["component"], *listed.values()):
        version = component["version"]
        assert version[0].isdigit()
        assert component["purl"].removesuffix(version)[-1] in "@v"
    assert bill["metadata"]["component"]["version"] == distribution("binxent").version
