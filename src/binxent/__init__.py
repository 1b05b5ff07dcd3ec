"""Binary cross-entropy: one definition, one native kernel for the CPU, and the same names in every framework.

Import the face of your framework: ``binxent.numpy``, ``binxent.torch``, ``binxent.paddle``, ``binxent.mindspore`` or
``binxent.jax``. Importing ``binxent`` itself imports nothing else. ``IndexTargets`` are targets for all of them.
"""

from __future__ import annotations

from binxent.targets import IndexTargets

__version__ = "0.1.0"
__all__ = ["IndexTargets", "__version__"]
