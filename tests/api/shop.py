"""The made-up shop of docs/your-log.md, smaller: as daily files, and as the frame that pandas reads of them."""

import functools
import runpy
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from ctr.api.classifier import SparseCTRClassifier

MAKE = Path(__file__).parents[2] / "docs" / "examples" / "make_shop.py"
DAYS, ROWS, BATCH = 4, 320, 32
TRAIN = 3 * ROWS  # rows of all days but the last
OPTIONS: dict[str, Any] = {"time": "time", "ignore": ["event_id"], "lr": 1e-2, "batch_size": BATCH, "hidden": (8,)}
KEYS = [
    *("dataset=csv", "dataset.time=time", "dataset.ignore=[event_id]", "opt.lr=1e-2", f"batch_size={BATCH}"),
    *("model.hidden=[8]", "tracking=none"),
]


@functools.cache
def files() -> Path:
    """The folder of the daily files; nobody may change them."""
    _places.append(tempfile.TemporaryDirectory(prefix="ctr-shop-"))
    folder = Path(_places[0].name)
    runpy.run_path(str(MAKE))["write"](folder, days=DAYS, rows=ROWS)
    return folder


_places: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def _whole() -> pd.DataFrame:
    return pd.concat([pd.read_csv(files() / f"day_{day + 1}.csv") for day in range(DAYS)], ignore_index=True)


def frame(first: int = 0, last: int = DAYS * ROWS) -> tuple[pd.DataFrame, pd.Series]:
    """Some rows and their labels."""
    rows = _whole().iloc[first:last]
    return rows.drop(columns="clicked"), rows["clicked"]


@functools.cache
def fitted() -> SparseCTRClassifier:
    """An estimator trained on all days but the last; nobody may train it further."""
    return SparseCTRClassifier(**OPTIONS).fit(*frame(0, TRAIN))
