"""Logs of the shop: day|clicked|user|title|price, in order of time, without a header."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctr.datasets.columns import FLOAT, INTEGER, LABEL, TEXT, ColumnType, unlike
from ctr.datasets.schema import Block, Dataset, Field, Reading
from ctr.datasets.text import read_tables


def _parse_day(values: pa.Array) -> pa.Array:
    if unlike("[0-9]{4}-[0-9]{2}-[0-9]{2}", blank=False)(values).any():
        raise ValueError("day")
    return pc.cast(pc.replace_substring(values.cast(pa.string()), "-", ""), pa.int32())


DAY = ColumnType("a day like 2024-05-01", _parse_day, unlike("[0-9]{4}-[0-9]{2}-[0-9]{2}", blank=False))
COLUMNS = {"day": DAY, "clicked": LABEL, "user": INTEGER, "title": TEXT, "price": FLOAT}


def make(words: int = 3) -> Dataset:
    """Returns the format; ``words``: how many words of a title make the field."""
    if words < 1:
        raise ValueError(f"dataset.words={words}; expected at least 1")

    def read(paths: Sequence[Path], reading: Reading) -> Iterator[Block]:
        for table in read_tables(paths[0], COLUMNS, "|", reading):
            title = pc.replace_substring_regex(table["title"], rf"^((?:\S+\s+){{{words - 1}}}\S+).*", r"\1")
            price = np.log1p(table["price"].fill_null(0).to_numpy())
            yield Block(
                label=table["clicked"].to_numpy(),
                fields=[table["user"], title],
                dense=price[:, None],
                day=table["day"].to_numpy(),
            )

    return Dataset(
        name="shop",
        fields=(Field("user", "integer"), Field("title", "text")),
        dense=("price",),
        read=read,
        locate=lambda raw: [raw],
        where="the shop's archive",
        modules=("ctr_shop.log",),
        options={"words": words},
        default_test_days=lambda days: days[-1:],
    )
