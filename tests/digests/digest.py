"""One digest of the raw bits of some arrays."""

from __future__ import annotations

import hashlib

from tests.reference import Array, bits


def digest(*arrays: Array) -> str:
    return hashlib.sha256(b"".join(bits(a).tobytes() for a in arrays)).hexdigest()
