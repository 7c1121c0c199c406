"""What a study hands back: one table, what its columns mean, and the views made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = ["method", "lambda21", "seed", "auc", "feature_rate"]

Row = dict[str, Any]  # of a table, by column


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: as in the table.
        meaning: what it holds, with the unit.
        form: writes a value for a reader (`ctr.report.markdown`).
    """

    name: str
    meaning: str
    form: Callable[[Any], str] = str


@dataclass(frozen=True)
class Findings:
    """What a study found.

    Attributes:
        table: one row per cell; ``result.csv``.
        text: the table as Markdown in the paper's layout, beside the paper's numbers, and sentences about it.
        figures: name -> figure.
        runs: all runs, as `Ask` returned them, and how each ended (``outcome``).
        points: method, lambda21, seed, auc, feature_rate of single runs; may be empty.
        columns: the meaning of every column of ``table``, in the table's order.
    """

    table: pd.DataFrame
    text: str
    figures: dict[str, Figure]
    runs: pd.DataFrame
    points: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=POINTS))
    columns: Sequence[Column] = ()


def rows(table: pd.DataFrame) -> list[Row]:
    """The rows of a table by column, as Python's own values; a missing text is None, a missing number NaN."""
    texts = set(table.select_dtypes(exclude="number").columns)
    return [
        {str(name): None if name in texts and value != value else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]
