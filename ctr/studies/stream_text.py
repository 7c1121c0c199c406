"""What `ctr.studies.stream` found, as tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ctr.report import markdown
from ctr.report.statistics import Comparison
from ctr.studies import sentences
from ctr.studies.learning_rates import BATCH, Rate
from ctr.studies.runs import Runs
from ctr.studies.study import Options

if TYPE_CHECKING:
    from ctr.studies.stream import Cell

MINUS = "−"


def write(options: Options, runs: Runs, cells: Sequence[Cell], lrs: Mapping[int, Rate]) -> str:
    """The study's Markdown."""
    parts = [
        f"# AUC against rows seen · {options.dataset}",
        "Adam is pruned, seed by seed, to as many features as Group Adam with the soft rule kept. The hard rule "
        "keeps another number at the same λ21: its difference is taken at the soft rule's rate, read between its own "
        "λ21, and missing beyond them. 'Retrained' is a plain run from the initial weights on the features that were "
        "kept.",
        _lrs(lrs),
    ]
    for lambda21 in options.lambda21:
        here = [cell for cell in cells if cell.lambda21 == lambda21]
        parts += [f"## λ21 = {markdown.power(lambda21)}", _table(here), markdown.bullets(_words(here))]
    soft = (run for cell in cells for run in cell.soft)
    rates = [sentences.learning_rate(options, "adam", lr, f" at {steps:,} steps") for steps, lr in lrs.items()]
    tail = [
        *sentences.scope(options, soft),
        *rates,
        sentences.choice(options, "Fine-tuning schedules were"),
        _counts(cells),
    ]
    parts += ["## Of all", markdown.bullets([*tail, *sentences.notes(runs)])]
    return "\n\n".join(parts) + "\n"


def _lrs(lrs: Mapping[int, Rate]) -> str:
    rows = [[f"{steps:,}", f"{steps * BATCH:,}", markdown.power(lr.value)] for steps, lr in lrs.items()]
    return markdown.table(["Steps", "Rows", "Learning rate"], rows)


def _table(cells: Sequence[Cell]) -> str:
    rows = []
    for cell in cells:
        compared = cell.method != "Group Adam, soft"
        finetune = f" ({cell.finetune:.0%})" if cell.finetune else ""
        rows.append(
            [
                f"{cell.steps:,}",
                cell.method + finetune,
                markdown.cell(cell.auc, cell.rate),
                markdown.difference(cell.gain.difference) if compared else "",
                markdown.p_value(cell.gain.student) if compared else "",
                markdown.p_value(cell.gain.paired) if compared else "",
                markdown.auc(cell.retrained.mean, cell.retrained.std),
                markdown.difference(cell.of_selection.difference) if compared else "",
            ]
        )
    head = ["Steps", "Method", "AUC (rate)", f"{MINUS} soft", "p", "p paired", "Retrained", f"{MINUS} soft's"]
    return markdown.table(head, rows)


def _words(cells: Sequence[Cell]) -> list[str]:
    lines = []
    soft = [cell for cell in cells if cell.method == "Group Adam, soft"]
    for name in dict.fromkeys(cell.method for cell in cells if cell.method != "Group Adam, soft"):
        own = [cell for cell in cells if cell.method == name]
        lines.append(f"{name}: {_course([(cell.steps, cell.gain) for cell in own])}.")
    lines.append("Shrinkage (soft rule, retrained on the same features): " + _shrinkage(soft) + ".")
    for name in dict.fromkeys(cell.method for cell in cells if cell.finetune == 0):
        own = [cell for cell in cells if cell.method == name]
        course = _course([(cell.steps, cell.of_selection) for cell in own])
        lines.append(f"Selection alone, {name}, both retrained: {course}.")
    return lines


def _course(gains: Sequence[tuple[int, Comparison]]) -> str:
    """Who is ahead at which length, and between which lengths that changes."""
    known = [(steps, gain) for steps, gain in gains if not math.isnan(gain.difference)]
    if not known:
        return "nothing to compare with the soft rule"
    said = [
        f"{markdown.difference(gain.difference)} at {steps:,} steps"
        + ("" if math.isnan(gain.student) else f" (p = {markdown.p_value(gain.student)})")
        for steps, gain in known
    ]
    turns = [
        f"between {a:,} and {b:,} steps the soft rule {'falls behind' if y.difference > 0 else 'gets ahead'}"
        for (a, x), (b, y) in pairwise(known)
        if x.difference * y.difference < 0
    ]
    ordering = "; ".join(turns) or "the ordering never changes"
    return f"over the soft rule {', '.join(said)}; {ordering}"


def _shrinkage(soft: Sequence[Cell]) -> str:
    said = [
        f"{markdown.difference(cell.of_retraining.difference)} at {cell.steps:,} steps"
        for cell in soft
        if not math.isnan(cell.of_retraining.difference)
    ]
    return ", ".join(said) or "no retrain finished"


def _counts(cells: Sequence[Cell]) -> str:
    apart = [
        abs(run.features_nonzero - soft.features_nonzero)
        for cell in cells
        if cell.finetune is not None
        for run, soft in zip(cell.runs, cell.soft, strict=True)
        if run and not run.error
    ]
    if not apart:
        return "No pruned run finished."
    wrong = sum(number > 0 for number in apart)
    if wrong:
        return f"NOT MATCHED: {wrong} of {len(apart)} pruned runs differ in features, by up to {max(apart):,.0f}."
    return f"All {len(apart)} pruned runs keep exactly the soft rule's number of features."
