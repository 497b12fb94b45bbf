"""Print rows of the telemetry that `datasentinel produce` makes by default, as CSV with a label column."""

from __future__ import annotations

import itertools
import sys

from datasentinel.producer import Telemetry

DIM = 8


def main() -> None:
    """Print as many rows as the first argument says."""
    rows = int(sys.argv[1])
    print(*(f"signal_{column}" for column in range(1, DIM + 1)), "label", sep=",")
    for row in itertools.islice(Telemetry(DIM), rows):
        print(*row.values, int(bool(row.label)), sep=",")


if __name__ == "__main__":
    main()
