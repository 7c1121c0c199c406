"""Figures for print and screen: Okabe and Ito's colours, with a marker and line style each; no pyplot, no state."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ctr.report.findings import Row
from ctr.report.statistics import Summary

# Colour (Okabe & Ito 2008), marker and line of each series, in their order; twice, with other markers and lines.
LOOKS = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", ":"),
    ("#E69F00", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#56B4E9", "P", (0, (3, 1))),
    ("#000000", "X", (0, (1, 1))),
    ("#0072B2", "<", (0, (3, 1))),
    ("#D55E00", ">", ":"),
    ("#009E73", "p", "-"),
    ("#CC79A7", "h", "--"),
    ("#E69F00", "d", "-"),
    ("#56B4E9", "*", "-."),
    ("#000000", "8", "-"),
    ("#999999", "o", "-"),
)
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "errorbar.capsize": 2.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "ctr",  # the same file for the same figures
    "figure.dpi": 200,
    "savefig.dpi": 200,
}
AUC = "test AUC"
RATE = "feature rate (non-zero / present in training, log scale)"


@dataclass(frozen=True)
class Series:
    """One line: means over seeds with standard deviations; `look` picks its colour, marker and dashes."""

    name: str
    x: Sequence[Summary]
    y: Sequence[Summary]
    look: int


def line(name: str, rows: Sequence[Row], x: str, y: str, look: int) -> Series:
    """A series of a table's columns ``x_mean``, ``x_std``, ``y_mean`` and ``y_std``."""
    return Series(name, column(rows, f"{x}_mean", f"{x}_std"), column(rows, f"{y}_mean", f"{y}_std"), look)


def column(rows: Sequence[Row], mean: str, std: str) -> list[Summary]:
    """Two columns of a table: means and their standard deviations."""
    return [Summary(row[mean], row[std], 1) for row in rows]


def differences(rows: Sequence[Row], name: str) -> list[Summary]:
    """A difference of a table; half its interval takes the place of the standard deviation."""
    return [Summary(row[name], row[f"{name}_high"] - row[name], 1) for row in rows]


def at(values: Sequence[float]) -> list[Summary]:
    """Values without spread: lambdas, numbers of rows."""
    return [Summary(float(value), 0.0, 1) for value in values]


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        log_x, log_y: points at 0 or below are left out of a log axis.
        line: y of a thin horizontal line, or None.
    """

    title: str
    x: str
    y: str
    series: Sequence[Series]
    log_x: bool = True
    log_y: bool = False
    line: float | None = None


def draw(rows: Sequence[Sequence[Panel]], title: str, caption: str) -> Figure:
    """Panels in rows under a title, one legend for all, and a caption below."""
    columns = max(len(row) for row in rows)
    width, height = 1.2 + 3.7 * columns, 1.25 + 2.5 * len(rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(len(rows), columns, squeeze=False)
        named: dict[str, Artist] = {}
        for i in range(len(rows)):
            for j in range(columns):
                if j < len(rows[i]):
                    named |= _panel(axes[i][j], rows[i][j])
                else:
                    axes[i][j].set_axis_off()
        if named:
            entry = max(2.2, 0.6 + 0.065 * max(map(len, named)))  # inches: line and marker, then characters of 8 points
            across = max(1, min(len(named), int(width / entry)))
            figure.legend(
                named.values(), named, loc="outside upper center", ncols=across, title=title, title_fontsize=11
            )
        else:
            figure.suptitle(title, fontsize=11)
        lines = textwrap.wrap(caption, int(width * 15))
        figure.supxlabel("\n".join(lines), fontsize=7.5, color="#444444")
    return figure


def _panel(axes: Axes, panel: Panel) -> dict[str, Artist]:
    """Draws one panel; returns its lines by name, for the legend."""
    lines = [(series, _points(panel, series)) for series in panel.series]
    points = [point for _, line in lines for point in line]
    if panel.log_x:
        axes.set_xscale("log")
        _limit(axes.set_xlim, [x for x, _ in points])
    if panel.log_y:
        axes.set_yscale("log")
        _limit(axes.set_ylim, [y for _, y in points])
    named: dict[str, Artist] = {}
    if panel.line is not None:
        axes.axhline(panel.line, color="#666666", linewidth=0.8)
    for series, line in lines:
        if not line:
            continue
        color, marker, dashes = LOOKS[series.look % len(LOOKS)]
        named[series.name] = cast(
            Artist,
            axes.errorbar(
                [x.mean for x, _ in line],
                [y.mean for _, y in line],
                xerr=_bars([x for x, _ in line], panel.log_x),
                yerr=_bars([y for _, y in line], panel.log_y),
                color=color,
                marker=marker,
                linestyle=dashes,
                markerfacecolor="white" if series.look % 2 else color,  # overlapping points show through
                markeredgewidth=1.2,
                elinewidth=0.9,
                alpha=0.95,
            ),
        )
    if not named:
        axes.text(0.5, 0.5, "nothing to draw", transform=axes.transAxes, ha="center", color="#666666")
    low, high = axes.get_xlim()
    if panel.log_x and high < 100 * low:  # few powers of ten: values between them have labels, which need room
        axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    axes.grid(which="minor", visible=False)
    return named


def _points(panel: Panel, series: Series) -> list[tuple[Summary, Summary]]:
    """The points that can be drawn on the panel's axes, from left to right."""
    points = [
        (x, y)
        for x, y in zip(series.x, series.y, strict=True)
        if not math.isnan(x.mean) and not math.isnan(y.mean)
        if (x.mean > 0 or not panel.log_x) and (y.mean > 0 or not panel.log_y)
    ]
    return sorted(points, key=lambda point: point[0].mean)


def _limit(set_limits: Callable[[float, float], object], values: Sequence[Summary]) -> None:
    """Sets the limits of a log axis whose values are all equal: matplotlib's own would differ by a rounding error and
    cannot be drawn."""
    down, up = _bars(values, log=True)
    low = min((value.mean - bar for value, bar in zip(values, down, strict=True)), default=0.0)
    high = max((value.mean + bar for value, bar in zip(values, up, strict=True)), default=0.0)
    if 0 < high <= 1.01 * low:
        set_limits(low / 2, high * 2)


def _bars(values: Sequence[Summary], log: bool) -> list[list[float]]:
    """Standard deviations down and up; on a log axis a bar ends before 0."""
    up = [0.0 if math.isnan(value.std) else value.std for value in values]
    down = [min(bar, 0.9 * value.mean) if log else bar for bar, value in zip(up, values, strict=True)]
    return [down, up]
