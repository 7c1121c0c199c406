"""A study as one HTML file: what it is of, its table, an interactive figure, its text. It loads nothing, so that it
works offline and in MLflow's viewer of artifacts, which runs it in a sandbox.

Plotly and the Markdown reader come with the extra ``report``. Without them there is no page:
`require` raises an error, which a command calls before hours of work.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctr.errors import CtrError
from ctr.report import document
from ctr.report.interactive import draw, number_text

if TYPE_CHECKING:
    import pandas as pd

    from ctr.report.findings import Column, Findings

GENERATED = "generated"  # the source of rows that were made

STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, "Segoe UI", "Liberation Sans", sans-serif; color: #1b1f24; background: #fff;
       max-width: 72rem; margin: 0 auto; padding: 1.5rem; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem } h2 { font-size: 1.2rem; margin-top: 2rem }
.generated { background: #fff4e5; border-left: 4px solid #D55E00; padding: .5rem .75rem; margin: .5rem 0 }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem 1rem; margin: .5rem 0 1rem;
         font-size: .875rem } .facts dt { color: #57606a } .facts dd { margin: 0 }
.hint { color: #57606a; margin: 1.5rem 0 .5rem; font-size: .9rem }
.scroll { overflow-x: auto; max-width: 100% }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; margin: 1rem 0 }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #d8dee4; text-align: left; white-space: nowrap }
td.meaning { white-space: normal; overflow-wrap: normal }
thead th { border-bottom: 2px solid #57606a } tbody tr:hover { background: #f6f8fa }
td.number, th.number { text-align: right }
code { background: #f6f8fa; padding: .1em .3em; border-radius: 4px; font-size: .875em }
details { margin-top: 2rem } summary { cursor: pointer; font-weight: 600 }
.legend { display: flex; flex-wrap: wrap; gap: .25rem .5rem }
.legend button { font: inherit; font-size: .875rem; text-align: left; color: inherit; background: none; cursor: pointer;
                 border: 1px solid #d8dee4; border-radius: 4px; padding: .1rem .5rem }
.legend button[aria-pressed=false] { opacity: .45 } .legend svg { margin-right: .35rem }
@media (max-width: 40rem) { body { padding: 1rem .75rem } h1 { font-size: 1.3rem } }
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


def write(findings: Findings, path: Path, title: str = "Study", command: str = "") -> None:
    """Writes the page: what the study is of, its first table, the figure, the rest of the text, every column of the
    table.

    Figures show single runs and their means, with every run's details under the pointer and a legend that hides and
    shows methods (`ctr.report.interactive`).

    Args:
        findings: of ``points``, those with an AUC and a rate above 0 are shown; rows whose method starts with "paper"
            are printed values, as diamonds, shown on a click, because AUCs depend on the amount of data.
        path: the HTML file, 5 MB where it has a figure: it includes plotly.
        title: what the study is of.
        command: that made it.

    Raises:
        CtrError: the extra ``report`` is not installed.
    """
    require()
    heading, first, rest = _parts(findings.text)
    body = f"""{heading or f"<h1>{html.escape(title)}</h1>"}
{_about(findings.runs, title, command)}
{first}
{draw(findings)}
{rest}
<details open>
<summary>All columns (result.csv)</summary>
<div class="scroll">{_table(findings.table)}</div>
</details>
{_meanings(findings.columns)}"""
    document.write(path, title, STYLE, body)


def _parts(text: str) -> tuple[str, str, str]:
    """The text as HTML: its heading, what follows up to the end of its first table, the rest."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    kinds = [token.type for token in tokens]
    begin = kinds.index("heading_close") + 1 if kinds[:1] == ["heading_open"] else 0
    end = kinds.index("table_close") + 1 if "table_close" in kinds else begin
    parts = (tokens[:begin], tokens[begin:end], tokens[end:])
    heading, first, rest = (reader.renderer.render(part, reader.options, {}) for part in parts)
    return heading, _scrolling(first), _scrolling(rest)


def _scrolling(text: str) -> str:
    """Each table in a box of its own, which scrolls where the page is narrower."""
    return text.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")


def _about(runs: pd.DataFrame, title: str, command: str) -> str:
    """What the finished runs are of: data and where they are from, seeds, machine; and the command of all."""
    done = runs[runs["source"].notna()] if "source" in runs else runs.head(0)

    def every(column: str) -> str:
        return ", ".join(str(value) for value in dict.fromkeys(done[column].dropna())) if column in done else ""

    generated = GENERATED in {*done["source"]} if "source" in done else False
    facts = {
        "study": title,
        "dataset": every("dataset"),
        "source": "" if done.empty else "generated rows" if generated else "real rows",
        "seeds": every("seed"),
        "command": command,
        "machine": every("machine"),
    }
    lines = [
        f"<dt>{name}</dt><dd>{f'<code>{html.escape(value)}</code>' if name == 'command' else html.escape(value)}</dd>"
        for name, value in facts.items()
        if value
    ]
    warning = "Generated rows: these figures say nothing about real clicks."
    banner = f'<p class="generated">{warning}</p>\n' if generated else ""
    return f'{banner}<dl class="facts">{"".join(lines)}</dl>'


def _table(table: pd.DataFrame) -> str:
    """The table as HTML, numbers to the right."""
    import pandas as pd

    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]

    def row(tag: str, values: list[str]) -> str:
        cells = zip(values, numeric, strict=True)
        number = ' class="number"'
        return "".join(f"<{tag}{number if right else ''}>{html.escape(text)}</{tag}>" for text, right in cells)

    lines = [
        row("td", [number_text(value) if right else _text(value) for value, right in zip(values, numeric, strict=True)])
        for values in table.itertuples(index=False)
    ]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{row('th', [str(n) for n in table.columns])}</tr></thead>\n<tbody>{body}</tbody></table>"


def _meanings(columns: Sequence[Column]) -> str:
    if not columns:
        return ""
    lines = [
        f'<tr><td>{html.escape(one.name)}</td><td class="meaning">{html.escape(one.meaning)}</td></tr>'
        for one in columns
    ]
    table = f'<div class="scroll"><table><tbody>{"".join(lines)}</tbody></table></div>'
    return f"<details>\n<summary>What the columns mean</summary>\n{table}\n</details>"


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)
