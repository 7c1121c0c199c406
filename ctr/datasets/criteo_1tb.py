"""Criteo's 1TB click logs: 24 days, ``day_0.gz`` .. ``day_23.gz``, each a file in the format of `ctr.datasets.criteo`.

The days have no published dates: day n is called n. In all 4,373,472,329 lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from ctr.datasets import criteo
from ctr.datasets.locate import natural_order
from ctr.datasets.schema import Block, Dataset, Reading
from ctr.errors import ArgumentError

_NAME = re.compile(r"day_(\d+)(|\.gz|\.bz2|\.zip)")


def day_of(path: Path) -> int:
    """The number in the name of a day's file.

    Raises:
        ArgumentError: it is not the name of one.
    """
    if (found := _NAME.fullmatch(path.name)) is None:
        raise ArgumentError(f"{path}: expected the name of a day's file: day_0, day_0.gz, ..., day_23.gz")
    return int(found[1])


def locate(raw: Path) -> list[Path]:
    """``raw`` itself if it is a file; else the days in a folder, in their order.

    Raises:
        ArgumentError: there is none, or a day twice.
    """
    if not raw.is_dir():
        day_of(raw)
        return [raw]
    days = sorted((path for path in raw.iterdir() if _NAME.fullmatch(path.name)), key=natural_order)
    if not days:
        raise ArgumentError(f"{raw}: the folder has none of day_0.gz, day_1.gz, ..., day_23.gz")
    for one, other in pairwise(days):
        if day_of(one) == day_of(other):
            raise ArgumentError(f"{raw}: {one.name} and {other.name} are one day; keep one of them there")
    return days


def read(paths: Sequence[Path], reading: Reading) -> Iterator[Block]:
    """Blocks of the days, as those of a Criteo file."""
    if not reading.to_predict:
        divide(paths)
    for path in paths:
        for block in criteo.read([path], reading):
            yield replace(block, day=np.full(len(block.dense), day_of(path), np.int32))


def divide(paths: Sequence[Path]) -> list[list[Path]]:
    """Each day by itself.

    Raises:
        ArgumentError: they are not in their order.
    """
    days = [day_of(path) for path in paths]
    if days != sorted(set(days)):
        raise ArgumentError(f"dataset.raw: days {', '.join(map(str, days))}; expected each once, in their order")
    return [[path] for path in paths]


def make() -> Dataset:
    return replace(
        criteo.make(),
        name="criteo_1tb",
        read=read,
        divide=divide,
        locate=locate,
        several=True,
        where="https://ailab.criteo.com/download-criteo-1tb-click-logs-dataset/ (day_0.gz to day_23.gz)",
        modules=("ctr.datasets.criteo", "ctr.datasets.criteo_1tb"),
        write_sample=None,
        default_test_days=lambda days: days[-1:],
        published=None,
    )
