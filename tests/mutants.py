"""``python -m tests.mutants --count 100``: whether the tests notice if one place of a module is changed.

Cosmic Ray makes the changes, in the installed package and never in the tree. A change is killed if the module's own
tests fail with it. What survives is printed: a line that no test needs, a rule that no test asks for, or a change that
changes nothing. ``nox -s mutants`` runs it.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import shlex
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkItem

from tests.fuzz.record import record

# A module, or a package with all that is in it, and the tests that are its own.
OWN_TESTS = {
    "binxent.options": ("tests/test_options.py",),
    "binxent.formula": ("tests/test_formula.py", "tests/test_grad_and_hess.py"),
    "binxent.focal": ("tests/test_family.py", "tests/test_options.py"),
    "binxent.labels": ("tests/test_labels.py", "tests/test_frames.py"),
    "binxent.label_counts": ("tests/test_labels.py", "tests/test_frames.py"),
    "binxent.correction": ("tests/test_labels.py",),
    "binxent.targets": ("tests/test_targets.py", "tests/test_sparse.py"),
    "binxent.report": ("tests/test_report.py", "tests/test_ranking.py"),
    "binxent.files": ("tests/test_score.py", "tests/test_score_names.py"),
    "binxent.commands": ("tests/test_score.py", "tests/test_score_names.py", "tests/test_score_table.py"),
    "binxent.boosting": ("tests/test_boosting.py",),
}
SECONDS = 300.0  # that the tests may take; a change may make a loop endless

# Annotations are full of |, and nothing evaluates them.
NOT_TRIED = "BitOr"


def files_of(module: str) -> list[Path]:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        sys.exit(f"{module} is not installed")
    file = Path(found.origin)
    shutil.rmtree(file.parent / "__pycache__", ignore_errors=True)  # Python would run what it has compiled before
    return sorted(file.parent.glob("*.py")) if file.name == "__init__.py" else [file]


def changes(module: str) -> list[WorkItem]:
    with use_db(":memory:", WorkDB.Mode.create) as places:
        init(files_of(module), places, {})
        return [item for item in places.work_items if NOT_TRIED not in item.mutations[0].operator_name]


def command(module: str) -> str:
    return shlex.join([sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *OWN_TESTS[module]])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"by default all of {', '.join(OWN_TESTS)}")
    parser.add_argument("--count", type=int, default=100, help="how many changes, of all modules together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="write the counts into benchmarks/results/attacks.csv")
    given = parser.parse_args()
    if unknown := set(given.modules) - set(OWN_TESTS):
        parser.error(f"{', '.join(sorted(unknown))}; expected some of {', '.join(OWN_TESTS)}")
    every = [(module, item) for module in given.modules or OWN_TESTS for item in changes(module)]
    drawn = random.Random(given.seed).sample(every, min(given.count, len(every)))
    found, began = Counter[str](), time.monotonic()
    for module, item in drawn:
        result = mutate_and_test(item.mutations, command(module), SECONDS)
        outcome = "not made" if result.test_outcome is None else result.test_outcome.value
        found[outcome] += 1
        if result.test_outcome is not TestOutcome.KILLED:
            print(f"{module}: {outcome}\n{result.diff or result.output}", flush=True)
    print(f"seed {given.seed}: {len(every)} changes, of them {dict(found)}")
    if given.record:
        how = f"seed {given.seed}, of {len(every)} places"
        record(
            "mutants",
            "Python modules",
            calls=len(drawn),
            wrong=found["survived"],
            seconds=time.monotonic() - began,
            how=how,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
