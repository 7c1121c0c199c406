"""Progress bars on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from tqdm import tqdm


def bar(total: int | None, unit: str, description: str, *, initial: int = 0, quiet: bool = False) -> tqdm[Any]:
    """A progress bar on stderr; in a file or a pipe it writes a line now and then instead of redrawing; quiet: none.

    ``initial`` of the total are done already: a run that goes on.
    """
    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=True,
        desc=description,
        disable=quiet,
        mininterval=0.2 if interactive else 10.0,
        ascii=not interactive,
        dynamic_ncols=interactive,
        ncols=None if interactive else 110,
    )


def beside_bars() -> AbstractContextManager[None]:
    """Takes the bars off the screen for what is written within, which would otherwise be glued to one of them."""
    return tqdm.external_write_mode(file=sys.stderr)


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
