"""A run's own page: one HTML file with its figures and drawings, that loads nothing.

matplotlib, which takes most of a second to load, is imported when a page is written.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctr.artifact.format import OTHERS, VOCABULARY, WEIGHTS
from ctr.files import size
from ctr.report import document
from ctr.training.curve import COLUMNS, SAMPLE
from ctr.training.details import Details, FieldCount, Norms
from ctr.training.folder import MANIFEST, MODEL
from ctr.training.naming import run_name
from ctr.training.result import GENERATED, Result, readable, versions
from ctr.training.settings import Settings

SCORED_BEFORE = "training rows, each scored before it was learned from"
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --back: #fff; --grid: #d8dee4; --first: #0072b2;
        --second: #d55e00; --faint: #9aa7b4; --well: #f6f8fa; --warn: #fff3d6 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9aa7b4; --back: #0f1419; --grid: #30373f; --first: #58b0ea; --second: #f0884a;
          --faint: #6b7785; --well: #1a2129; --warn: #3d3113 }
}
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, "Segoe UI", "Liberation Sans", sans-serif; color: var(--ink); background: var(--back);
       max-width: 78rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem } h2 { font-size: 1.15rem; margin: 2rem 0 .25rem }
p { margin: .25rem 0 .75rem; max-width: 48rem } p.note { color: var(--soft) }
.warn { background: var(--warn); padding: .4rem .7rem; border-radius: 6px }
pre, code { font: .85rem/1.45 ui-monospace, "Liberation Mono", monospace }
pre { background: var(--well); padding: .6rem .8rem; border-radius: 6px; white-space: pre-wrap;
      overflow-wrap: anywhere }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; max-width: 100% }
th, td { padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--grid); text-align: left; vertical-align: top;
         overflow-wrap: anywhere }
th { font-weight: 600; min-width: 9rem } td { white-space: pre-wrap } .number { text-align: right; white-space: nowrap }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem 1.5rem }
.panels section { min-width: 0; max-width: 36rem } .panels h2 { margin-top: 1rem }
svg { width: 100%; height: auto; display: block } svg text { font-family: system-ui, "Liberation Sans", sans-serif }
.bars { width: 30%; min-width: 4rem } .wide { width: 100%; max-width: 52rem }
.wide th { min-width: 5.5rem } .wide th.number, th.bars { min-width: 0 } td.bars { white-space: normal }
.bar { height: .55rem; border-radius: 2px; background: var(--first); margin-top: .1rem }
.bar.of { background: var(--faint); opacity: .6 }
"""


def write(path: Path, settings: Settings, result: Result, details: Details, command: str) -> None:
    """Writes the page of a finished run.

    Args:
        path: the HTML file, in the run's folder: beside its saved model, if it has left one.
        settings, result, details: of the run.
        command: the line that makes it again; empty where nobody knows.
    """
    panels = "\n".join(
        f"<section>\n{drawing}\n{_note(note)}\n</section>" for drawing, note in _drawings(settings, result, details)
    )
    parts = [
        _head(settings, result, command),
        f'<div class="panels">\n{panels}\n</div>',
        _sizes(path.parent / MODEL, result, details),
        _fields(details.fields) if _removes(result) else "",
    ]
    body = "\n".join(part for part in parts if part)
    document.write(path, f"{run_name(settings)}: a run of ctr", STYLE, body)


def _head(settings: Settings, result: Result, command: str) -> str:
    """What the run was, and its figures."""
    lines = readable(result)
    options = ", ".join(f"{name}={value}" for name, value in result.opt_options.items() if value is not None)
    lines |= {"options": options, "versions": versions(result)}
    warnings = [f"Generated rows: {GENERATED.partition(': ')[2]}."] if result.source == "generated" else []
    warnings += [f"Warning: {warning}" for warning in result.warnings]
    told = "".join(f'<p class="warn">{html.escape(text)}</p>\n' for text in warnings)
    again = f"<p>The command that makes this run again:</p>\n<pre>{html.escape(command)}</pre>\n" if command else ""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>\n" for name, value in lines.items()
    )
    note = _note(
        "What the run printed; the same figures and more, with all their digits, are in result.json beside it."
    )
    return (
        f"<h1>{html.escape(run_name(settings))}</h1>\n{told}{again}<h2>Figures</h2>\n{note}\n<table>\n{rows}</table>\n"
        "<h2>Drawings</h2>"
    )


def _drawings(settings: Settings, result: Result, details: Details) -> list[tuple[str, str]]:
    """The drawings that apply to the run, each with how to read it."""
    from ctr.report import run_figures as draw

    found = _courses(settings, result, details.curve)
    days = {"test": result.auc_by_day, "progressive": result.auc_progressive_by_day}
    if shown := {name: aucs for name, aucs in days.items() if sum(auc is not None for auc in aucs.values()) > 1}:
        note = "AUC within each day: one that falls from day to day says that the model grows old."
        note += f" Progressive: {SCORED_BEFORE}." * ("progressive" in shown)
        found.append((draw.by_day(shown), note))
    if details.calibration:
        note = (
            f"The {'test rows' if result.rows_test else SCORED_BEFORE} by their prediction, in "
            f"{len(details.calibration)} bins of about equal numbers: "
            "points on the line promise the clicks that come, points below it too many. Bars are 95 % intervals."
        )
        ratio = "" if result.calibration is None else f" Clicks predicted / observed: {result.calibration:.4f}."
        found.append((draw.calibration(details.calibration), note + ratio))
    return [*found, (draw.norms(details.before, details.after), _of_norms(details))]


def _courses(settings: Settings, result: Result, curve: np.ndarray) -> list[tuple[str, str]]:
    """The training curves."""
    from ctr.report.run_figures import course

    passes = " A thin line ends each pass; from the second on rows were learned from before." * (result.epochs > 1)
    by = "schedule" if result.budget is None else f"budget, so that {result.budget:,} features live at the end"
    # Of each column its title, its unit, whether it applies, and how to read it.
    columns: dict[str, tuple[str, str, bool, str]] = {
        "loss": (
            *("Training loss", "logloss", _points(curve, "loss") > 1),
            f"Logloss of the training rows before they are learned from, over {settings.window:,} steps or more: lower "
            f"is better; a curve that still falls at the end asks for more rows.{passes}",
        ),
        "auc": (
            *("Training AUC", "AUC", _points(curve, "auc") > 1),
            f"AUC of the same rows, mean of windows of {settings.window:,} steps: .5 is chance, 1 is best.{passes}",
        ),
        "living": (
            *("Living rows", "feature rate", _points(curve, "living") > 1 and _removes(result)),
            f"Share of the rows touched so far that are not zero, of a sample of at most {SAMPLE:,} rows of the table. "
            f"When the run was done it was {result.feature_rate:.4f} of all.",
        ),
        "lambda21": (
            *("lambda21", "lambda21", _varies(curve, "lambda21")),
            "How hard rows are pulled to zero: a row lives while its evidence exceeds it. It is set by the "
            f"{by}; there it is {result.lambda21:.3g}.",
        ),
    }
    return [
        (course(curve, name, title=title, y=unit, rows=result.rows_train), note)
        for name, (title, unit, applies, note) in columns.items()
        if applies
    ]


def _removes(result: Result) -> bool:
    """Whether the run has set rows to zero."""
    return result.features_nonzero < result.features_present


def _points(curve: np.ndarray, name: str) -> int:
    """How many points of a column are known."""
    return int((~np.isnan(curve[:, COLUMNS.index(name)])).sum())


def _varies(curve: np.ndarray, name: str) -> bool:
    values = curve[:, COLUMNS.index(name)]
    return len(np.unique(values[~np.isnan(values)])) > 1


def _of_norms(details: Details) -> str:
    """What the two histograms are of."""
    before, after = details.before, details.after

    def told(norms: Norms) -> str:
        zero = f"; {norms.zero:,} more of them are zero and not drawn" if norms.zero else ""
        return f"{int(norms.counts.sum()):,} {norms.what}{zero}"

    grey = "Those before are not known: the run was resumed after that" if before is None else f"Grey: {told(before)}"
    return f"Lengths of the embedding rows. {grey}. Line: {told(after)}. Long rows move predictions most."


def _sizes(model: Path, result: Result, details: Details) -> str:
    """Bytes of the saved model by part, beside one that had removed no row."""
    row = 4 * details.dim
    rows, all_rows = result.features_nonzero * row, result.features_present * row
    told, estimated = "Bytes of the model by part; it was not saved, and its values are not counted.", ""
    parts = {"rows": (rows, all_rows), "net": (details.net_bytes, details.net_bytes)}
    if (model / MANIFEST).is_file():
        values, rest = sum(_bytes(model / name) for name in (VOCABULARY, OTHERS)), _bytes(model / MANIFEST)
        net = _bytes(model / WEIGHTS) - rows
        parts["net"] = net, net
        parts |= {"values": (values, details.dense_values_bytes), "manifest": (rest, rest)}
        told = "Bytes of the saved model by part; values: which value each row is of; manifest: what the model is."
        estimated = " (its values are estimated)"
    mine, whole = (sum(part[at] for part in parts.values()) for at in (0, 1))
    if _removes(result):
        told += (
            f" Beside it the same model with all {result.features_present:,} rows that training has touched"
            f"{estimated}: {whole / max(mine, 1):.3g} times as much. Bars: this model over that one."
        )
    most = max(map(max, parts.values()))

    def line(name: str, mine: int, whole: int, bars: str) -> str:
        cells = f'<td class="number">{size(mine)}</td>'
        cells += f'<td class="number">{size(whole)}</td>' if _removes(result) else ""
        return f"<tr><th>{name}</th>{cells}{bars}</tr>\n"

    body = "".join(
        line(name, *part, _bar(part[0], part[1] if _removes(result) else None, most)) for name, part in parts.items()
    )
    heads = '<th></th><th class="number">this model</th>' + '<th class="number">all rows</th>' * _removes(result)
    return (
        f'<h2>Size</h2>\n{_note(told)}\n<table class="wide">\n<tr>{heads}<th class="bars"></th></tr>\n'
        f"{body}{line('together', mine, whole, '<td></td>')}</table>"
    )


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _fields(fields: Sequence[FieldCount]) -> str:
    """How many values each field has kept, as numbers and bars."""
    if not fields:
        return ""
    most = math.log10(1 + max(field.seen for field in fields))
    body = "".join(
        f'<tr><th>{html.escape(field.name)}</th><td class="number">{field.kept:,}</td><td class="number">'
        f'{field.seen:,}</td><td class="number">{100 * field.kept / max(field.seen, 1):.3g}%</td>'
        f"{_bar(math.log10(1 + field.kept), math.log10(1 + field.seen), most)}</tr>\n"
        for field in fields
    )
    note = _note(
        "Values whose row is not zero, of those that training has seen: a field that keeps none has no effect on the "
        "prediction. Bars are on a log scale: kept over seen."
    )
    heads = "<th>field</th>" + "".join(f'<th class="number">{name}</th>' for name in ("kept", "seen", "share"))
    return (
        f"<h2>Features kept by field</h2>\n{note}\n"
        f'<table class="wide">\n<tr>{heads}<th class="bars"></th></tr>\n{body}</table>'
    )


def _bar(mine: float, whole: float | None, most: float) -> str:
    """A cell with a bar, over the bar of what it is a part of."""
    widths = [("bar", mine)] + ([] if whole is None else [("bar of", whole)])
    bars = (f'<div class="{kind}" style="width: {100 * value / (most or 1):.1f}%"></div>' for kind, value in widths)
    return f'<td class="bars">{"".join(bars)}</td>'


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'
