"""Progress bars on stderr, and messages beside them."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

OF_RUN = "{desc}: {percentage:3.0f}%|{bar}| {rate_fmt}, {remaining} left{postfix}"  # 80 columns, with a run's figures


def bar(
    total: int | None,
    unit: str,
    description: str,
    *,
    initial: int = 0,
    quiet: bool = False,
    layout: str | None = None,
) -> tqdm[Any]:
    """A progress bar on stderr; in a file or a pipe it writes a line now and then instead of redrawing; quiet: none.

    Args:
        total: None where it is not known.
        initial: how many of them are done already, in a run that goes on.
        layout: tqdm's ``bar_format``; `OF_RUN` needs a total.
    """
    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=True,
        desc=description,
        bar_format=layout,
        disable=quiet,
        mininterval=0.2 if interactive else 10.0,
        ascii=not interactive,
        dynamic_ncols=interactive,
        ncols=None if interactive else 110,
    )


def run_bar(total: int, description: str, *, initial: int = 0, quiet: bool = False) -> tqdm[Any]:
    """A bar over the rows of a part of a run: rows per second and the time left; `figures` go behind them."""
    return bar(total, " rows", description, initial=initial, quiet=quiet, layout=OF_RUN)


def figures(loss: float, auc: float, living: float) -> str:
    """Figures of a run for its bar, short; one that is not known (NaN) is left out."""
    known = {"loss": f"{loss:.4f}", "AUC": f"{auc:.4f}", "living": f"{100 * living:.3g}%"}
    # ".4523", but "0%"
    return ", ".join(f"{name} {re.sub('^0[.]', '.', text)}" for name, text in known.items() if "nan" not in text)


class ScreenHandler(logging.StreamHandler[TextIO]):
    """Messages on a line of their own: bars that are drawn just now are put aside meanwhile."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


@contextmanager
def rows_bar(description: str) -> Iterator[Callable[[int, float], None]]:
    """A bar for work whose total is not known: called with (rows so far, share done), it estimates the rest."""
    shown: tqdm[Any] | None = None

    def update(rows: int, share: float) -> None:
        nonlocal shown
        shown = shown or bar(None, "rows", description)
        shown.total = round(rows / share) if share > 0 else None
        shown.update(rows - shown.n)

    try:
        yield update
    finally:
        if shown is not None:
            shown.close()
