"""What is drawn where matplotlib's own limits fail: all points at one place of a log axis."""

import io
import math

import pytest

from ctr.report import figures
from ctr.report.statistics import Summary


@pytest.mark.parametrize("value", [1e-7, 1e-3, 0.5, 1.0])
@pytest.mark.parametrize("points", [1, 2])
def test_points_at_one_place_are_drawn_without_a_warning(value: float, points: int) -> None:
    here = [Summary(value, math.nan, 1)] * points
    panel = figures.Panel("", "x", "y", [figures.Series("a", here, here, 0)], log_y=True)
    figure = figures.draw([[panel]], "title", "caption")
    figure.savefig(io.BytesIO(), format="png")
    for low, high in (figure.axes[0].get_xlim(), figure.axes[0].get_ylim()):
        assert low < 0.9 * value < 1.1 * value < high


def test_bars_stay_within_the_axes() -> None:
    one = [Summary(0.01, 0.02, 3)]
    figure = figures.draw([[figures.Panel("", "x", "y", [figures.Series("a", one, one, 0)])]], "title", "caption")
    low, high = figure.axes[0].get_xlim()
    assert low <= 0.001  # a bar ends at a tenth of its value, before 0
    assert high >= 0.03
