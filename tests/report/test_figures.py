"""What is drawn where matplotlib's own limits fail, and that words have room."""

import io
import math
from itertools import pairwise

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


def test_words_have_room() -> None:
    """Long names stay within the figure; labels of an axis between 200 and 8,000 do not overlap."""
    x = [Summary(value, 0.0, 3) for value in (200.0, 800.0, 8000.0)]
    y = [Summary(0.7, 0.0, 3)] * 3
    series = [figures.Series(f"Adam, pruned by score {n}, fine-tuned on 30%", x, y, n) for n in range(11)]
    figure = figures.draw([[figures.Panel("", "x", "y", series)] * 3], "title", "caption")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1
    axis = figure.axes[0].xaxis
    labels = [one.label1.get_window_extent() for one in (*axis.get_major_ticks(), *axis.get_minor_ticks())]
    shown = sorted((box for box in labels if box.width), key=lambda box: box.x0)
    assert len(shown) >= 3
    assert all(left.x1 < right.x0 for left, right in pairwise(shown))
