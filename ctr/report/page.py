"""A study as one HTML file: an interactive figure above its table and text. It loads nothing, so that it
works offline and in MLflow's viewer of artifacts, which runs it in a sandbox.

Plotly and the Markdown reader come with the extra ``report``. Without them there is no page:
`require` raises an error, which a command calls before hours of work.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr.errors import CtrError
from ctr.files import atomic_write_text

if TYPE_CHECKING:
    import pandas as pd

    from ctr.report.findings import Column, Findings

# Okabe and Ito's colours, which the colour-blind can distinguish; black is for text, yellow is too faint on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
SYMBOLS = ("circle", "square", "triangle-up", "star", "triangle-down", "pentagon", "hexagon")
PAPER = "paper"  # methods whose name starts so are printed values, not runs

STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, "Segoe UI", "Liberation Sans", sans-serif; color: #1b1f24; background: #fff;
       max-width: 72rem; margin: 0 auto; padding: 1.5rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem } h2 { font-size: 1.2rem; margin-top: 2rem }
.hint { color: #57606a; margin: 0 0 .5rem; font-size: .9rem }
.scroll, .text { overflow-x: auto }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; margin: 1rem 0 }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #d8dee4; text-align: left; white-space: nowrap }
thead th { border-bottom: 2px solid #57606a } tbody tr:hover { background: #f6f8fa }
td.number, th.number { text-align: right }
code { background: #f6f8fa; padding: .1em .3em; border-radius: 4px; font-size: .875em }
details { margin-top: 2rem } summary { cursor: pointer; font-weight: 600 }
"""


def require() -> None:
    """Raises:
    CtrError: what the page is made with is not installed.
    """
    try:
        import markdown_it  # noqa: F401
        import plotly  # noqa: F401
    except ImportError as error:
        raise CtrError(
            f'the interactive page of a study needs {error.name}, which is not installed: pip install -e ".[report]"'
        ) from error


def write(findings: Findings, path: Path, title: str = "Study") -> None:
    """Writes the page: single runs and their means per lambda21, AUC against feature rate on a log axis, with every
    run's details under the pointer and a toggle per method; then the text, then every column of the table.

    Args:
        findings: of ``points``, those with an AUC and a rate above 0 are shown; rows whose method starts with "paper"
            are printed values, as diamonds, shown on a click, because AUCs depend on the amount of data. Without points
            there is no figure.
        path: the HTML file, 5 MB: it includes plotly.
        title: heading.

    Raises:
        CtrError: the extra ``report`` is not installed.
    """
    require()
    from markdown_it import MarkdownIt

    text = MarkdownIt("commonmark", {"html": False}).enable("table").render(findings.text)
    atomic_write_text(
        path,
        f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
{_figure(findings.points)}
<div class="text">
{text}
</div>
<details open>
<summary>All columns (result.csv)</summary>
<div class="scroll">{_table(findings.table)}</div>
</details>
{_meanings(findings.columns)}
</body>
</html>
""",
    )


def _figure(points: pd.DataFrame) -> str:
    shown = points[(points["auc"].notna()) & (points["feature_rate"] > 0)]
    if shown.empty:
        return ""
    import plotly.graph_objects as go

    figure = go.Figure()
    methods = list(dict.fromkeys(shown["method"]))
    for number, method in enumerate(sorted(methods, key=lambda name: str(name).startswith(PAPER))):
        for trace in _traces(str(method), shown[shown["method"] == method], number):
            figure.add_trace(trace)
    figure.update_layout(
        template="plotly_white",
        font={"size": 14},
        height=520,
        margin={"l": 70, "r": 20, "t": 10, "b": 60},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="closest",
    )
    figure.update_xaxes(
        title="feature rate (share of the features kept)",
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
    hint = "Small: single runs. Large: their mean per lambda21. A click on a method hides or shows it, a double click "
    return f'<p class="hint">{hint}shows it alone; drag to zoom in, double click to zoom out.</p>\n{drawing}'


def _traces(method: str, points: pd.DataFrame, number: int) -> list[Any]:
    """The single runs, and unless they are the paper's, a line through their means."""
    import numpy as np
    import plotly.graph_objects as go

    color, symbol = PALETTE[number % len(PALETTE)], SYMBOLS[number % len(SYMBOLS)]
    paper = method.startswith(PAPER)
    runs = go.Scatter(
        name=method,
        legendgroup=method,
        x=points["feature_rate"].tolist(),
        y=points["auc"].tolist(),
        mode="markers",
        marker={
            "color": color,
            "symbol": "diamond-open" if paper else symbol,
            "size": 12 if paper else 7,
            "opacity": 1 if paper else 0.55,
        },
        customdata=[[_number(row.lambda21), _number(row.seed)] for row in points.itertuples()],
        hovertemplate=f"<b>{html.escape(method)}</b><br>AUC %{{y:.4f}}<br>feature rate %{{x:.3g}}"
        + "<br>lambda21 %{customdata[0]}"
        + ("" if paper else "<br>seed %{customdata[1]}")
        + "<extra></extra>",
        showlegend=paper or bool(points["lambda21"].isna().all()),
        visible="legendonly" if paper else True,
    )
    if runs.showlegend:
        return [runs]
    cells = points.assign(log_rate=np.log10(points["feature_rate"])).groupby("lambda21", sort=True)
    means = cells.agg(auc=("auc", "mean"), std=("auc", "std"), log_rate=("log_rate", "mean"), runs=("auc", "size"))
    means = means.sort_values("log_rate")
    line = go.Scatter(
        name=method,
        legendgroup=method,
        x=(10 ** means["log_rate"]).tolist(),
        y=means["auc"].tolist(),
        error_y={"array": means["std"].fillna(0).tolist(), "thickness": 1.2, "width": 3},
        mode="lines+markers",
        line={"color": color, "width": 2},
        marker={"symbol": symbol, "size": 11, "line": {"color": "white", "width": 1}},
        customdata=[[_number(row.Index), row.runs, _number(row.std, ".4f")] for row in means.itertuples()],
        hovertemplate=f"<b>{html.escape(method)}</b>, mean of %{{customdata[1]}}<br>AUC %{{y:.4f}} ± %{{customdata[2]}}"
        "<br>feature rate %{x:.3g}<br>lambda21 %{customdata[0]}<extra></extra>",
    )
    return [runs, line]


def _number(value: object, form: str = ".6g") -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return format(value, form)


def _table(table: pd.DataFrame) -> str:
    """The table as HTML, numbers to the right."""
    import pandas as pd

    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]

    def row(tag: str, values: list[str]) -> str:
        cells = zip(values, numeric, strict=True)
        number = ' class="number"'
        return "".join(f"<{tag}{number if right else ''}>{html.escape(text)}</{tag}>" for text, right in cells)

    lines = [
        row("td", [_number(value) if right else _text(value) for value, right in zip(values, numeric, strict=True)])
        for values in table.itertuples(index=False)
    ]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{row('th', [str(n) for n in table.columns])}</tr></thead>\n<tbody>{body}</tbody></table>"


def _meanings(columns: Sequence[Column]) -> str:
    if not columns:
        return ""
    lines = (f"<tr><td>{html.escape(one.name)}</td><td>{html.escape(one.meaning)}</td></tr>" for one in columns)
    table = f"<table><tbody>{''.join(lines)}</tbody></table>"
    return f"<details>\n<summary>What the columns mean</summary>\n{table}\n</details>"


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)
