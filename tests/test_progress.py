"""What a run shows while it goes on: one line with its figures, and messages beside it."""

import io
import logging
import math

import pytest
from tqdm import tqdm

from ctr.progress import OF_RUN, ScreenHandler, figures, rows_bar, run_bar


def drawn(total: int, done: int, seconds: float, description: str, shown: str) -> str:
    """The line of a terminal of 80 columns."""
    values = {"n": done, "total": total, "elapsed": seconds, "prefix": description, "unit": " rows", "postfix": shown}
    return tqdm.format_meter(**values, unit_scale=True, ncols=80, bar_format=OF_RUN)


@pytest.mark.parametrize("description", ["train", "fine-tune"])
def test_the_line_of_a_long_run_fits_80_columns(description: str) -> None:
    shown = figures(loss=0.4523, auc=0.7931, living=0.0481)
    assert shown == "loss .4523, AUC .7931, living 4.81%"
    line = drawn(400_000_000, 90_000_000, 900.0, description, shown)
    assert len(line) <= 80
    assert line.startswith(f"{description}:  22%|")
    assert line.endswith("100k rows/s, 51:40 left, loss .4523, AUC .7931, living 4.81%")


def test_figures_that_are_not_known_are_left_out() -> None:
    assert figures(loss=1.25, auc=math.nan, living=math.nan) == "loss 1.2500"


def test_a_run_without_living_rows_says_so() -> None:
    assert figures(loss=0.5, auc=0.5, living=0.0) == "loss .5000, AUC .5000, living 0%"


def test_a_message_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    handler = ScreenHandler(screen)
    with run_bar(10, "train") as progress:
        progress.update(5)
        handler.emit(logging.LogRecord("ctr", logging.INFO, "", 0, "writing a checkpoint", (), None))
    message, rest = screen.getvalue().split("writing a checkpoint\n")
    assert message.endswith("\r")  # what was there is overwritten
    assert not message.split("\r")[-2].strip()
    assert rest.lstrip("\r").startswith("train:")
    with rows_bar("predict") as told:  # a bar without a total is put aside too
        told(5, 0.5)
        handler.emit(logging.LogRecord("ctr", logging.INFO, "", 0, "again", (), None))
    assert "\ragain\n" in screen.getvalue()
