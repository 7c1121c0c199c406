"""The drawings of a run's page, as SVG to be put into HTML: text as text, colours of the page's style sheet."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, LogFormatter, MaxNLocator, NullLocator

from ctr.metrics import CalibrationBin
from ctr.report.figures import STYLE
from ctr.training.curve import COLUMNS
from ctr.training.details import LOWEST, PER_DECADE, Norms

POINTS = 200  # of a curve, at most: a page is to stay small
Z = 1.959964  # of a 95 % interval
# Colours as matplotlib writes them, and the page's variables that take their place.
INK, GRID, FIRST, SECOND, FAINT = "#1b1f24", "#d8dee4", "#0072b2", "#d55e00", "#9aa7b4"
VARIABLES = {INK: "--ink", GRID: "--grid", FIRST: "--first", SECOND: "--second", FAINT: "--faint"}
LOOK: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK),
    "grid.color": GRID,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
}


def svg(title: str, draw: Callable[[Axes], None], *, x: str, y: str) -> str:
    """One pair of axes as an ``<svg>`` that is as wide as its place.

    Args:
        title: above it; read out in its place.
        draw: puts something into the axes.
        x, y: what the axes show.
    """
    with matplotlib.rc_context({**STYLE, **LOOK}):
        figure = Figure(figsize=(4.6, 2.9))
        # By hand: a layout that matplotlib works out takes longer than the drawing.
        axes = figure.add_axes((0.18, 0.17, 0.79, 0.72))
        draw(axes)
        axes.set_title(title)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                axis.set_minor_locator(NullLocator())
                if isinstance(axis.get_major_formatter(), LogFormatter):
                    axis.set_major_formatter(
                        _plain
                    )  # powers of ten are set by a parser, which takes as long as the rest
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(file.getvalue(), title)


def _inline(drawn: str, title: str) -> str:
    """A file of matplotlib's as a part of a page: without addresses, names of groups, fonts and a size of its own."""
    (box,) = re.findall(r'viewBox="([^"]*)"', drawn)
    inner = drawn[drawn.index("<defs>") : drawn.rindex("</svg>")]
    inner = re.sub(r"<!--.*?-->\s*", "", inner, flags=re.DOTALL)
    inner = re.sub(r'<g id="[^"]*"', "<g", inner)
    inner = re.sub(r"font: (?:[a-z0-9]+ )*?([\d.]+)px [^;\"]*", r"font-size: \1px", inner)
    for color, name in VARIABLES.items():
        inner = inner.replace(color, f"var({name})")
    return f'<svg viewBox="{box}" role="img" aria-label="{title}">\n{inner.rstrip()}\n</svg>'


def course(curve: np.ndarray, name: str, *, title: str, y: str, rows: int) -> str:
    """A column of `Curve.points` against the rows trained on.

    Args:
        title, y: what it is, and its unit.
        rows: of one pass; a thin line ends each but the last.
    """
    known = curve[~np.isnan(curve[:, COLUMNS.index(name)])]
    at, values = (_thinned(known[:, COLUMNS.index(column)]) for column in ("rows", name))

    def draw(axes: Axes) -> None:
        axes.plot(at, values, color=FIRST)
        for ends in np.arange(rows, at[-1], rows):
            axes.axvline(ends, color=FAINT, linewidth=0.8)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlim(left=0)
        positive = values[values > 0]
        if name in ("living", "lambda21") and len(positive) and positive.max() > 20 * positive.min():
            axes.set_yscale("log")

    return svg(title, draw, x="rows trained on", y=y)


def _thinned(values: np.ndarray) -> np.ndarray:
    """At most `POINTS` means of values that follow each other."""
    parts = np.array_split(values, min(len(values), POINTS)) if len(values) else []
    return np.array([part.mean() for part in parts])


def by_day(series: Mapping[str, Mapping[str, float | None]]) -> str:
    """AUC against days (YYYYMMDD), a line for each name; days without one are left out."""
    days = sorted({day for aucs in series.values() for day in aucs})

    def draw(axes: Axes) -> None:
        for (name, aucs), (color, dashes) in zip(series.items(), [(FIRST, "-"), (SECOND, "--")], strict=False):
            known = [(days.index(day), auc) for day, auc in aucs.items() if auc is not None]
            axes.plot(*zip(*known, strict=True), color=color, linestyle=dashes, marker="o", label=name)
        shown = range(0, len(days), math.ceil(len(days) / 7))
        axes.set_xticks([*shown], [f"{days[at][4:6]}-{days[at][6:]}" for at in shown])
        if len(series) > 1:
            axes.legend(loc="best")

    return svg("AUC by day", draw, x="day (month-day)", y="AUC")


def calibration(bins: Sequence[CalibrationBin]) -> str:
    """Observed against predicted click rates with their intervals, and the line on which both are equal."""
    predicted, observed = (np.array([getattr(each, name) for each in bins]) for name in ("predicted", "observed"))
    low, high = np.array([interval(each.observed, each.effective) for each in bins]).T

    def draw(axes: Axes) -> None:
        log = bool((observed > 0).all())
        if log:
            axes.set_xscale("log")
            axes.set_yscale("log")
        ends = [min(predicted.min(), low.min()) if log else 0.0, max(predicted.max(), high.max())]
        axes.plot(ends, ends, color=FAINT, linewidth=1)
        bars = [np.maximum(observed - low, 0), np.maximum(high - observed, 0)]
        axes.errorbar(predicted, observed, bars, color=FIRST, linestyle="none", marker="o", markersize=4, elinewidth=1)
        for axis in (axes.xaxis, axes.yaxis):
            _percents(axis, ends) if log else axis.set_major_formatter(_percent)

    return svg("Calibration", draw, x="click rate predicted", y="click rate observed")


def interval(share: float, count: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of ``count`` rows.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    reach = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def _percent(value: float, _: object = None) -> str:
    return f"{100 * value:.3g}%"


def _plain(value: float, _: object = None) -> str:
    return f"{value:g}" if value >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")


def _percents(axis: Any, ends: Sequence[float]) -> None:
    """A few round numbers on a log axis, as percentages."""
    decades = range(math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1])) + 1)
    ticks = [m * 10.0**e for e in decades for m in ((1, 2, 5) if len(decades) < 4 else (1,))]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if ends[0] * 0.8 <= tick <= 1]))
    axis.set_major_formatter(_percent)


def norms(before: Norms | None, after: Norms) -> str:
    """How many rows have which length, before and after, on log axes."""
    edges = 10.0 ** (LOWEST + np.arange(len(after.counts) + 1) / PER_DECADE)
    together = after.counts if before is None else before.counts + after.counts
    used = np.flatnonzero(together)

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.set_yscale("log")
        if not len(used):
            return
        first, last = max(used[0] - 1, 0), used[-1] + 2
        where = edges[first : last + 1]
        if before is not None:
            axes.stairs(before.counts[first:last], where, color=FAINT, fill=True, alpha=0.55, label="before")
        axes.stairs(after.counts[first:last], where, color=FIRST, linewidth=1.6, label="at the end")
        axes.set_ylim(bottom=0.7)
        axes.legend(loc="best")

    return svg("Norms of the rows", draw, x="norm ||w|| (log scale)", y="rows (log scale)")
