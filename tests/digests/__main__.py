from __future__ import annotations

import itertools
import json
import sys

from binxent import kernel
from tests.digests import focal, options, weights


def digests() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, digest in itertools.chain(weights.digests(), options.digests(), focal.digests()):
        assert name not in found
        found[name] = digest
    return found


if __name__ == "__main__":
    json.dump({"instruction_set": kernel.instruction_set, "digests": digests()}, sys.stdout)
