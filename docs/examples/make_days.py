"""Writes two generated days in Avazu's format: ``python make_days.py days`` makes days/monday.csv and days/tuesday.csv.

Many values of tuesday's log are new. The clicks are drawn from a model: they say nothing about real ones.
"""

import sys
from pathlib import Path

from ctr.datasets.source import GENERATED_MARK
from ctr.datasets.synthetic.days import write_day


def write(folder: Path, rows: int = 61_440) -> None:
    """``rows`` of each day."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GENERATED_MARK).write_text("# Generated\n\nBy make_days.py: none of it is real.\n")
    for day, name in enumerate(["monday", "tuesday"]):
        write_day(folder / f"{name}.csv", day, days=2, rows=rows)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
