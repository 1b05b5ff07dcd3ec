"""Runs the command line: ``python -m binxent``."""

import sys

from binxent.cli import main

sys.exit(main())
