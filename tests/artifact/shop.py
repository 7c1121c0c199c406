"""A shop's log in daily files, with times, numbers that miss some values, and columns that are told by their values."""

from pathlib import Path

import numpy as np
import pandas as pd

ROWS = 400  # a day
TRANSFORMS = ["age:bucket:4", "visits:quantile", "wait:log"]
KEYS = [
    *("dataset=csv", "dataset.time=when", "dataset.test_fraction=null"),
    f"dataset.transform=[{','.join(repr(text) for text in TRANSFORMS)}]",
    *("tracking=none", "batch_size=32", "opt.lr=1e-2", "model.hidden=[8]"),
]


def day(number: int) -> pd.DataFrame:
    """The rows of a day; the price is 1,000 times as high from day 3 on."""
    random = np.random.default_rng(number)
    price = np.exp(random.normal(3, 1.5, ROWS)) * (1000 if number >= 3 else 1)
    item = random.integers(40, size=ROWS)
    frame = pd.DataFrame(
        {
            "when": pd.Timestamp(2024, 5, number) + pd.to_timedelta(np.sort(random.integers(86_400, size=ROWS)), "s"),
            "item": [f"i{n}" for n in item],
            "device": random.choice(["phone", "desktop", ""], ROWS),
            "price": price.round(2),
            "age": random.integers(18, 90, ROWS).astype(float),
            "visits": np.where(random.random(ROWS) < 0.1, 1e7, random.normal(0, 30, ROWS).round(1)),
            "wait": random.normal(0, 100, ROWS).round(3),
            "click": (random.random(ROWS) < 0.05 + 0.9 * (item > 25)).astype(int),
        }
    )
    for place, name in enumerate(("price", "age", "visits", "wait")):
        frame.loc[random.random(ROWS) < 0.05 * (place + 1), name] = np.nan
    return frame


def write(folder: Path, *numbers: int, drop: tuple[str, ...] = (), shuffle: bool = False) -> Path:
    """The days as CSV files of a new folder."""
    folder.mkdir()
    for number in numbers:
        frame = day(number).drop(columns=[*drop])
        frame = frame.sample(frac=1, random_state=0) if shuffle else frame
        frame.to_csv(folder / f"day_{number}.csv", index=False)
    return folder


def arguments(raw: Path, *more: str) -> list[str]:
    """Overrides of a run on such a log."""
    return [*KEYS, f"dataset.raw={raw}", f"dataset.prepared={raw.parent / 'prepared'}", *more]
