"""The interactive figure of a study's page: single runs and their means, a method each in colour, marker and legend."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from ctr.report.findings import Findings

# Okabe and Ito's colours, which the colour-blind can distinguish; black is for text, yellow is too faint on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
SYMBOLS = ("circle", "square", "triangle-up", "star", "triangle-down", "pentagon", "hexagon")
# The same for the legend, in a box from -1 to 1: corners, turned by as many degrees; a star has long and short radii.
OUTLINES = {
    "circle": (24, 0), "square": (4, 45), "triangle-up": (3, 0), "star": (10, 0), "triangle-down": (3, 180),
    "pentagon": (5, 0), "hexagon": (6, 0), "diamond-open": (4, 0),
}  # fmt: skip
PAPER = "paper"  # methods whose name starts so are printed values, not runs


@dataclass(frozen=True)
class Axis:
    """What AUC is drawn against, always on a log axis.

    Attributes:
        name: for a reader.
        title: below the axis.
        cell: column of what runs are averaged over.
        cell_name: for a reader.
    """

    name: str
    title: str
    cell: str
    cell_name: str


RATE = Axis("feature rate", "feature rate (log scale)", "lambda21", "lambda21")
LEARNING_RATE = Axis("learning rate", "learning rate (log scale)", "x", "learning rate")


def of(findings: Findings) -> tuple[Axis, pd.DataFrame]:
    """What is drawn: ``method``, ``seed``, ``auc``, ``x`` and the axis's cell of single runs.

    AUC against feature rate; against learning rate for a study that compares these alone, and so has no points.
    """
    points, runs = findings.points, findings.runs
    if points.empty and {"opt", "opt.lr", "seed", "auc"} <= {*runs.columns}:
        shown, axis = runs.assign(method=runs["opt"], x=runs["opt.lr"].astype(float)), LEARNING_RATE
    else:
        shown, axis = points.assign(x=points["feature_rate"]), RATE
    return axis, shown[shown["auc"].notna() & (shown["x"] > 0)]


def draw(findings: Findings) -> str:
    """The figure and its legend as HTML; empty without a run to show."""
    axis, shown = of(findings)
    if shown.empty:
        return ""
    import plotly.graph_objects as go

    figure, buttons = go.Figure(), []
    methods = sorted(dict.fromkeys(map(str, shown["method"])), key=lambda name: name.startswith(PAPER))
    for number, method in enumerate(methods):
        traces = _traces(axis, method, shown[shown["method"] == method], number)
        buttons.append(_button(method, traces, len(figure.data)))
        figure.add_traces(traces)
    figure.update_layout(
        template="plotly_white",
        font={"size": 13},
        height=480,
        margin={"l": 60, "r": 15, "t": 10, "b": 55},
        showlegend=False,
        hovermode="closest",
    )
    figure.update_xaxes(
        title=axis.title,
        type="log",
        dtick=1,
        minor={"dtick": "D1", "showgrid": True, "gridcolor": "#f2f2f2"},
        exponentformat="power",
    )
    figure.update_yaxes(title="test AUC", tickformat=".4~f")
    drawing = figure.to_html(
        full_html=False,
        include_plotlyjs=True,
        div_id="points",
        config={"displaylogo": False, "responsive": True, "toImageButtonOptions": {"format": "svg"}},
    )
    means = "" if shown[axis.cell].isna().all() else f" Large: their mean per {axis.cell_name}."
    rate = " The feature rate is the share of the features that are kept." if axis is RATE else ""
    hint = f"Small: single runs.{means}{rate} A click on a method hides or shows it, a double click shows it alone; "
    return (
        f'<p class="hint">{hint}drag to zoom in, double click to zoom out.</p>\n'
        f'<div class="legend">{"".join(buttons)}</div>\n{drawing}\n<script>{TOGGLE}</script>'
    )


# A click on a method shows or hides its traces, a double click shows it alone, or all again.
TOGGLE = """
const drawing = document.getElementById("points"), buttons = [...document.querySelectorAll(".legend button")]
const on = button => button.getAttribute("aria-pressed") === "true"
function show(button, visible) {
  button.setAttribute("aria-pressed", visible)
  Plotly.restyle(drawing, {visible}, button.dataset.traces.split(",").map(Number))
}
for (const button of buttons) {
  button.onclick = () => show(button, !on(button))
  button.ondblclick = () => {
    const alone = buttons.every(other => on(other) === (other === button))
    buttons.forEach(other => show(other, alone || other === button))
  }
}
"""


def _button(method: str, traces: list[Any], first: int) -> str:
    """A method's entry of the legend: its marker and its name."""
    marker, shown = traces[0].marker, traces[0].visible is not False
    corners, turned = OUTLINES[marker.symbol]
    radii = (1.0, 0.45) if marker.symbol == "star" else (1.0,)
    outline = " ".join(
        f"{radii[corner % len(radii)] * math.sin(angle):.2f},{-radii[corner % len(radii)] * math.cos(angle):.2f}"
        for corner in range(corners)
        for angle in [math.radians(turned) + 2 * math.pi * corner / corners]
    )
    look = 'fill="none" stroke-width=".3"' if marker.symbol.endswith("-open") else f'fill="{marker.color}"'
    numbers = ",".join(str(first + i) for i in range(len(traces)))
    return (
        f'<button data-traces="{numbers}" aria-pressed="{str(shown).lower()}">'
        f'<svg width="12" height="12" viewBox="-1.2 -1.2 2.4 2.4" stroke="{marker.color}" stroke-width="0">'
        f'<polygon points="{outline}" {look}/></svg>{html.escape(method)}</button>'
    )


def _traces(axis: Axis, method: str, points: pd.DataFrame, number: int) -> list[Any]:
    """The single runs, and unless they are the paper's, a line through their means."""
    import numpy as np
    import plotly.graph_objects as go

    color, symbol = PALETTE[number % len(PALETTE)], SYMBOLS[number % len(SYMBOLS)]
    paper = method.startswith(PAPER)
    runs = go.Scatter(
        name=method,
        x=points["x"].tolist(),
        y=points["auc"].tolist(),
        mode="markers",
        marker={
            "color": color,
            "symbol": "diamond-open" if paper else symbol,
            "size": 12 if paper else 7,
            "opacity": 1 if paper else 0.55,
        },
        customdata=[[number_text(cell), number_text(seed)] for cell, seed in points[[axis.cell, "seed"]].to_numpy()],
        hovertemplate=f"<b>{html.escape(method)}</b><br>AUC %{{y:.4f}}<br>{axis.name} %{{x:.3g}}"
        + (f"<br>{axis.cell_name} %{{customdata[0]}}" if axis.cell != "x" else "")
        + ("" if paper else "<br>seed %{customdata[1]}")
        + "<extra></extra>",
        visible=not paper,
    )
    if paper or points[axis.cell].isna().all():
        return [runs]
    cells = points.assign(log=np.log10(points["x"]), cell=points[axis.cell]).groupby("cell", sort=True)
    means = cells.agg(auc=("auc", "mean"), std=("auc", "std"), log=("log", "mean"), runs=("auc", "size"))
    means = means.sort_values("log")
    line = go.Scatter(
        name=method,
        x=(10 ** means["log"]).tolist(),
        y=means["auc"].tolist(),
        error_y={"array": means["std"].fillna(0).tolist(), "thickness": 1.2, "width": 3},
        mode="lines+markers",
        line={"color": color, "width": 2},
        marker={"symbol": symbol, "size": 11, "line": {"color": "white", "width": 1}},
        customdata=[[number_text(row.Index), row.runs, number_text(row.std, ".4f")] for row in means.itertuples()],
        hovertemplate=f"<b>{html.escape(method)}</b>, mean of %{{customdata[1]}}<br>AUC %{{y:.4f}} ± %{{customdata[2]}}"
        f"<br>{axis.name} %{{x:.3g}}"
        + (f"<br>{axis.cell_name} %{{customdata[0]}}" if axis.cell != "x" else "")
        + "<extra></extra>",
    )
    return [runs, line]


def number_text(value: object, form: str = ".6g") -> str:
    """A number for a reader; ``-`` where it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return format(value, form)
