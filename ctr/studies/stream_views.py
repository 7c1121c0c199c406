"""The views of the table of `ctr.studies.stream`: Markdown, sentences, figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from matplotlib.figure import Figure

from ctr.report import figures, markdown
from ctr.report.findings import Column, Row
from ctr.report.statistics import Summary
from ctr.studies import sentences
from ctr.studies.columns import APART, FINETUNE, GAP, LAMBDA21, LR, TIED, differences, interval, known, spread
from ctr.studies.learning_rates import BATCH, Rate
from ctr.studies.runs import Run, Runs
from ctr.studies.study import Options

SOFT = "Group Adam, soft"
COLUMNS = [
    Column("steps", "batches of 512 rows to train on", markdown.count),
    Column("rows", "rows to train on", markdown.count),
    LAMBDA21,
    Column("method", "how features are selected"),
    LR,
    FINETUNE,
    TIED,
    *spread("auc", "test AUC", markdown.auc),
    *spread("rate", "feature rate", markdown.rate),
    Column("seeds", "finished seeds"),
    Column("auc_at_soft_rate", "AUC at the soft rule's feature rate, mean over the seeds", markdown.auc),
    *differences("AUC at the soft rule's feature rate − the soft rule's", "minus_soft"),
    APART,
    *spread("auc_retrained", "AUC of a plain retrain on the features that were kept", markdown.auc),
    *differences("retrained AUC − the soft rule's retrained", "retrained_minus_soft_retrained", "p_retrained"),
    *differences("retrained AUC − AUC", "retrained_minus_auc", "p_shrinkage"),
    GAP,
]
AGAINST_SOFT = [
    column.name
    for of in (("minus_soft", "p"), ("retrained_minus_soft_retrained", "p_retrained"))
    for column in differences("", *of)
]


def _against_soft(form: Callable[[Row], str]) -> Callable[[Row], str]:
    return lambda row: "" if row["method"] == SOFT else form(row)


def _schedule(row: Row) -> str:
    """`` (30%, a tie with 10%)`` for what was fine-tuned."""
    if not known(row["finetune"]) or row["finetune"] == 0:
        return ""
    return f" ({row['finetune']:.0%}{sentences.tie([row['tied']] if row['tied'] else [])})"


LAYOUT: markdown.Layout = [
    ("Steps", "steps"),
    ("Method", lambda row: row["method"] + _schedule(row)),
    ("AUC (rate)", markdown.cell),
    ("− soft", _against_soft(lambda row: markdown.difference(row["minus_soft"]))),
    ("95% interval", _against_soft(interval("minus_soft"))),
    ("p Holm", _against_soft(lambda row: markdown.p_value(row["p_holm"]))),
    ("Retrained", lambda row: markdown.auc(row["auc_retrained_mean"], row["auc_retrained_std"])),
    ("− soft's", _against_soft(lambda row: markdown.difference(row["retrained_minus_soft_retrained"]))),
    ("95% interval", _against_soft(interval("retrained_minus_soft_retrained"))),
]


def text(options: Options, runs: Runs, found: Sequence[Row], lrs: Mapping[int, Rate], soft: Sequence[Run]) -> str:
    """The study's Markdown."""
    parts = [
        f"# AUC against rows seen · {options.dataset}",
        "Adam is pruned, seed by seed, to as many features as Group Adam with the soft rule kept. The hard rule "
        "keeps another number at the same λ21: its difference is taken at the soft rule's rate, read between its own "
        "λ21, and missing beyond them. 'Retrained' is a plain run from the initial weights on the features that were "
        "kept.",
        markdown.table(
            ["Steps", "Rows", "Learning rate"],
            [[f"{steps:,}", f"{steps * BATCH:,}", markdown.power(lr.value)] for steps, lr in lrs.items()],
        ),
    ]
    for lambda21 in dict.fromkeys(row["lambda21"] for row in found):
        here = [row for row in found if row["lambda21"] == lambda21]
        view = markdown.view(here, COLUMNS, LAYOUT)
        parts += [f"## λ21 = {markdown.power(lambda21)}", view, markdown.bullets(_sentences(here))]
    pruned = sum(row["seeds"] for row in found if known(row["finetune"]))
    of_all = [
        *sentences.scope(options, soft),
        *(sentences.learning_rate(options, "adam", lr, f" at {steps:,} steps") for steps, lr in lrs.items()),
        sentences.choice(options, "Fine-tuning schedules were"),
        sentences.counts(found, f"All {pruned} pruned runs keep exactly the soft rule's number of features."),
        *sentences.notes(options, runs),
    ]
    return "\n\n".join([*parts, "## Of all", markdown.bullets(of_all)]) + "\n"


def _sentences(found: Sequence[Row]) -> list[str]:
    by_name = _by_method(found)
    soft = by_name.pop(SOFT)
    lines = [f"{name}: {_course(rows, 'minus_soft', 'p')}." for name, rows in by_name.items()]
    lines.append("Shrinkage (soft rule, retrained on the same features): " + _shrinkage(soft) + ".")
    for name, rows in by_name.items():
        if rows[0]["finetune"] == 0:
            course = _course(rows, "retrained_minus_soft_retrained", "p_retrained")
            lines.append(f"Selection alone, {name}, both retrained: {course}.")
    return lines


def _by_method(found: Sequence[Row]) -> dict[str, list[Row]]:
    by_name: dict[str, list[Row]] = {}
    for row in found:
        by_name.setdefault(row["method"], []).append(row)
    return by_name


def _course(found: Sequence[Row], gain: str, p: str) -> str:
    """How far ahead at which length, and between which lengths the sign changes."""
    done = [row for row in found if known(row[gain])]
    if not done:
        return "nothing to compare with the soft rule"
    said = [
        f"{markdown.difference(row[gain])} at {row['steps']:,} steps"
        + (f" (Holm p = {markdown.p_value(row[f'{p}_holm'])})" if known(row[f"{p}_holm"]) else "")
        for row in done
    ]
    turns = [
        f"between {a['steps']:,} and {b['steps']:,} steps the mean of the soft rule "
        + ("falls behind" if b[gain] > 0 else "gets ahead")
        for a, b in pairwise(done)
        if a[gain] * b[gain] < 0
    ]
    return f"over the soft rule {', '.join(said)}; {'; '.join(turns) or 'the sign never changes'}"


def _shrinkage(soft: Sequence[Row]) -> str:
    said = [
        f"{markdown.difference(row['retrained_minus_auc'])} {interval('retrained_minus_auc')(row)} "
        f"at {row['steps']:,} steps"
        for row in soft
        if known(row["retrained_minus_auc"])
    ]
    return ", ".join(said) or "no retrain finished"


def figure(options: Options, found: Sequence[Row], lambda21: float, generated: bool) -> Figure:
    """Four panels against the rows seen, for one lambda21."""
    by_name = dict(sorted(_by_method(found).items(), key=lambda item: _look(item[0])))
    others = [name for name in by_name if name != SOFT]
    retrained = [name for name in others if any(known(row["auc_retrained_mean"]) for row in by_name[name])]

    def lines(names: Sequence[str], of: Callable[[Sequence[Row]], list[Summary]]) -> list[figures.Series]:
        """Each a little aside, so that the bars of one length do not cover each other."""
        return [
            figures.Series(
                name,
                figures.at([row["rows"] * 1.04 ** (_look(name) - 3) for row in by_name[name]]),
                of(by_name[name]),
                _look(name),
            )
            for name in names
        ]

    seen, groups = "rows seen (log scale)", [name for name in by_name if name.startswith("Group")]
    matched = lines(others, lambda rows: figures.differences(rows, "minus_soft"))
    selected = lines(retrained, lambda rows: figures.differences(rows, "retrained_minus_soft_retrained"))
    aucs = lines([*by_name], lambda rows: figures.column(rows, "auc_mean", "auc_std"))
    rates = lines(groups, lambda rows: figures.column(rows, "rate_mean", "rate_std"))
    panels = [
        [
            figures.Panel("AUC", seen, figures.AUC, aucs),
            figures.Panel("AUC at the soft rule's feature rate", seen, "AUC − soft rule's", matched, line=0.0),
        ],
        [
            figures.Panel("Plain retrain on the kept features", seen, "AUC − soft rule's retrain", selected, line=0.0),
            figures.Panel("Features kept", seen, "feature rate (log scale)", rates, log_y=True),
        ],
    ]
    caption = (
        f"Means over {len(options.seeds)} seeds, bars: one standard deviation, of differences the 95% interval over "
        "seeds and test rows. Adam is pruned to the soft rule's number of features. The hard rule's AUC at the "
        "soft rule's rate is read between its λ21. Points of one length are drawn side by side."
    )
    title = f"{options.dataset}: AUC against rows seen, λ21 = {markdown.power(lambda21)}"
    return figures.draw(panels, title, caption + (" The rows are generated." if generated else ""))


def _look(name: str) -> int:
    """The place of a method in the order of colours and markers."""
    groups = [SOFT, "Group Adam, hard", "Group Adam, hard, ramped"]
    return [*groups, *(f"Adam, pruned by {s}{t}" for s in ("norm", "effect") for t in ("", ", fine-tuned"))].index(name)
