"""`make golden`: every stored figure of the official evaluators beside ours; exit status 1 if one differs or is absent.

    python -m tests.golden [--all]

Prints a line for each set, every value that differs, with `--all` every value, and last `golden: N values, M differ`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.golden import mot, sot, tao
from tests.golden.value import Value

SHARED = Path(os.environ.get("SIGHTLINE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
SETS = {"single-object": sot, "multi-object": mot, "TAO": tao}


def line(value: Value) -> str:
    return f"{value.ours:24.15g}  {value.reference:24.15g}  {value.ours - value.reference:10.1e}  {value.name}"


def main(shows_all: bool) -> int:
    num_values = num_differ = 0
    is_complete = True
    print(f"{'ours':>24}  {'reference':>24}  {'difference':>10}")
    for title, module in SETS.items():
        try:
            values = list(module.values(SHARED))
        except FileNotFoundError as absent:
            print(f"{title}: absent: {absent.filename}")
            is_complete = False
            continue
        differ = [value for value in values if not value.agrees]
        for value in values if shows_all else differ:
            print(line(value))
        largest = max((abs(value.ours - value.reference) for value in values if value.agrees), default=0.0)
        print(f"{title}: {len(values)} values, {len(differ)} differ, largest difference of the others {largest:.1e}")
        num_values += len(values)
        num_differ += len(differ)
    print(f"golden: {num_values} values, {num_differ} differ")
    return 0 if is_complete and num_values and not num_differ else 1


if __name__ == "__main__":
    sys.exit(main("--all" in sys.argv[1:]))
