"""``python -m tests.fuzz numpy --seed 7 --count 10000``: calls that nobody has thought of, and what is wrong of them.

What fails is printed as the command that does it again. The exit code is 1 then.
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
from collections.abc import Sequence

from tests.conformance.faces import FACES
from tests.fuzz.cases import case
from tests.fuzz.record import record
from tests.fuzz.runners import runner

MOST_SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("face", choices=[face.name for face in FACES if face.available])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after that time")
    parser.add_argument("--record", action="store_true", help="write the counts into benchmarks/results/attacks.csv")
    given = parser.parse_args(arguments)
    run, found, failures = runner(given.face), collections.Counter[str](), 0
    began = time.monotonic()
    for number in range(given.first, given.first + given.count):
        if time.monotonic() - began > given.seconds:
            break
        made = case(given.seed, number)
        try:
            found[run(made)] += 1
        except Exception as error:
            failures += 1
            if failures <= MOST_SHOWN:
                again = f"python -m tests.fuzz {given.face} --seed {given.seed} --first {number} --count 1"
                print(
                    f"{again}  # {made}\n    {type(error).__name__}: {' '.join(str(error).split())[:400]}", flush=True
                )
    results = ", ".join(f"{n} {result}" for result, n in sorted(found.items()))
    print(f"{given.face}: seed {given.seed}: {results or 'nothing'}, {failures} wrong")
    if given.record:
        how = f"seed {given.seed}"
        seconds = time.monotonic() - began
        record("fuzz", given.face, calls=sum(found.values()) + failures, wrong=failures, seconds=seconds, how=how)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
