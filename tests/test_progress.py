"""Bars, and what is written beside them."""

import io
import sys

import pytest

from ctr.progress import bar, beside_bars


def test_a_line_beside_a_bar_begins_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    with bar(10, "rows", "train") as shown:
        shown.update(4)
        shown.refresh()
        with beside_bars():
            screen.write("writing a checkpoint\n")
        before, _, after = screen.getvalue().partition("writing a checkpoint\n")
    assert "40%" in before
    *_, cleared, start = before.split("\r")
    assert cleared.strip() == start == ""
    assert "40%" in after
