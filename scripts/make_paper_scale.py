"""Writes a generated log as large as the real one: its rows, its columns, about its values per field (Zipf).

    python scripts/make_paper_scale.py criteo --out /big/criteo       45,840,617 rows, 11.2 GB
    python scripts/make_paper_scale.py avazu --out /big/avazu         40,428,967 rows, 6.3 GB
    python scripts/make_paper_scale.py ipinyou --out /big/ipinyou     19,495,974 impressions in 10 days, 7.0 GB

Then:

    python -m ctr.prepare dataset=criteo dataset.raw=/big/criteo
    python -m ctr.train dataset=criteo dataset.raw=/big/criteo

For measurements of speed and memory, and for studies that need to know the truth (`ctr.datasets.synthetic`): the clicks
follow a planted model, and figures measured on them say nothing about the real data. A file GENERATED.md beside the log
tells people so, and `ctr` too, which labels every result made of it.

The log is whole or absent. A run that was stopped is simply started again; one whose log is there does nothing.
iPinYou's clicks come at the real rate, 0.00075.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ctr import parts
from ctr.datasets.source import GENERATED_MARK
from ctr.datasets.synthetic.criteo_avazu import AVAZU_ROWS, CRITEO_ROWS, write_avazu, write_criteo
from ctr.datasets.synthetic.ipinyou import IPINYOU_ROWS, write_ipinyou
from ctr.progress import bar


@dataclass(frozen=True)
class Full:
    """A real log: its rows, bytes per row as generated (rounded up), and the generator."""

    rows: int
    bytes_per_row: int
    write: Callable[..., object]


FULL = {
    "criteo": Full(CRITEO_ROWS, 245, write_criteo),
    "avazu": Full(AVAZU_ROWS, 155, write_avazu),
    "ipinyou": Full(IPINYOU_ROWS, 360, partial(write_ipinyou, click_rate=0.00075)),
}


def make(dataset: str, out: Path, rows: int, seed: int = 0) -> Path:
    """Writes the log into the folder ``out`` unless it is there; returns its file or folder.

    Raises:
        ValueError: too few rows, or not enough room on the disk.
    """
    full = FULL[dataset]
    path = out / parts.dataset(dataset)().sample_name
    if path.exists():
        print(f"{path} is there already; delete it to make another", file=sys.stderr)
        return path
    if rows < 1:
        raise ValueError(f"--rows {rows}; expected at least 1")
    out.mkdir(parents=True, exist_ok=True)
    needed, free = rows * full.bytes_per_row, shutil.disk_usage(out).free
    if needed > free:
        raise ValueError(f"{rows:,} rows take {needed / 1e9:.1f} GB; {out} has {free / 1e9:.1f} GB free")
    (out / GENERATED_MARK).write_text(
        f"# Generated\n\n{rows:,} rows in the format of {dataset}, seed {seed}, by scripts/make_paper_scale.py.\n"
        "None is real: figures measured on them say nothing about real clicks.\n"
    )
    with bar(rows, "rows", "generate") as progress:
        full.write(path, rows, seed, progress=progress.update)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=FULL)
    parser.add_argument("--out", type=Path, required=True, help="folder for the log")
    parser.add_argument("--rows", type=int, help="number of rows; default: as many as the real log has")
    parser.add_argument("--seed", type=int, default=0, help="another seed: other rows and another truth")
    arguments = parser.parse_args()
    rows = FULL[arguments.dataset].rows if arguments.rows is None else arguments.rows
    try:
        path = make(arguments.dataset, arguments.out, rows, arguments.seed)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(path)


if __name__ == "__main__":
    main()
