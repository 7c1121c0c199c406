"""The views of the table of `ctr.studies.stream`: Markdown, sentences, figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from matplotlib.figure import Figure

from ctr.report import figures, markdown
from ctr.report.findings import Column, Row
from ctr.studies import sentences
from ctr.studies.columns import APART, FINETUNE, GAP, LAMBDA21, LR, known, p_values, spread
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
    *spread("auc", "test AUC", markdown.auc),
    *spread("rate", "feature rate", markdown.rate),
    Column("seeds", "finished seeds"),
    Column("auc_at_soft_rate", "AUC at the soft rule's feature rate, mean over the seeds", markdown.auc),
    Column("minus_soft", "AUC at the soft rule's feature rate − the soft rule's", markdown.difference),
    *p_values(),
    APART,
    *spread("auc_retrained", "AUC of a plain retrain on the features that were kept", markdown.auc),
    Column("retrained_minus_soft_retrained", "retrained AUC − the soft rule's retrained", markdown.difference),
    Column("p_retrained_paired", "p-value of that difference by the t-test paired by seed", markdown.p_value),
    Column("retrained_minus_auc", "retrained AUC − AUC", markdown.difference),
    GAP,
]
AGAINST_SOFT = (
    "minus_soft", "p_student", "p_welch", "p_paired", "retrained_minus_soft_retrained", "p_retrained_paired",
)  # fmt: skip
# Columns that only the views need: they are not published.
FOR_VIEWS = ["minus_soft_std", "retrained_minus_soft_retrained_std", "p_retrained_student"]


def _against_soft(column: str, form: Callable[[float], str]) -> Callable[[Row], str]:
    return lambda row: "" if row["method"] == SOFT else form(row[column])


LAYOUT: markdown.Layout = [
    ("Steps", "steps"),
    ("Method", lambda row: row["method"] + (f" ({row['finetune']:.0%})" if (row["finetune"] or 0) > 0 else "")),
    ("AUC (rate)", markdown.cell),
    ("− soft", _against_soft("minus_soft", markdown.difference)),
    ("p", _against_soft("p_student", markdown.p_value)),
    ("p paired", _against_soft("p_paired", markdown.p_value)),
    ("Retrained", lambda row: markdown.auc(row["auc_retrained_mean"], row["auc_retrained_std"])),
    ("− soft's", _against_soft("retrained_minus_soft_retrained", markdown.difference)),
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
    lines = [f"{name}: {_course(rows, 'minus_soft', 'p_student')}." for name, rows in by_name.items()]
    lines.append("Shrinkage (soft rule, retrained on the same features): " + _shrinkage(soft) + ".")
    for name, rows in by_name.items():
        if rows[0]["finetune"] == 0:
            course = _course(rows, "retrained_minus_soft_retrained", "p_retrained_student")
            lines.append(f"Selection alone, {name}, both retrained: {course}.")
    return lines


def _by_method(found: Sequence[Row]) -> dict[str, list[Row]]:
    by_name: dict[str, list[Row]] = {}
    for row in found:
        by_name.setdefault(row["method"], []).append(row)
    return by_name


def _course(found: Sequence[Row], gain: str, p: str) -> str:
    """Who is ahead at which length, and between which lengths that changes."""
    done = [row for row in found if known(row[gain])]
    if not done:
        return "nothing to compare with the soft rule"
    said = [
        f"{markdown.difference(row[gain])} at {row['steps']:,} steps"
        + (f" (p = {markdown.p_value(row[p])})" if known(row[p]) else "")
        for row in done
    ]
    turns = [
        f"between {a['steps']:,} and {b['steps']:,} steps the soft rule "
        + ("falls behind" if b[gain] > 0 else "gets ahead")
        for a, b in pairwise(done)
        if a[gain] * b[gain] < 0
    ]
    return f"over the soft rule {', '.join(said)}; {'; '.join(turns) or 'the ordering never changes'}"


def _shrinkage(soft: Sequence[Row]) -> str:
    said = [
        f"{markdown.difference(row['retrained_minus_auc'])} at {row['steps']:,} steps"
        for row in soft
        if known(row["retrained_minus_auc"])
    ]
    return ", ".join(said) or "no retrain finished"


def figure(options: Options, found: Sequence[Row], lambda21: float, generated: bool) -> Figure:
    """Four panels against the rows seen, for one lambda21."""
    by_name = dict(sorted(_by_method(found).items(), key=lambda item: _look(item[0])))
    others = [name for name in by_name if name != SOFT]
    retrained = [name for name in others if any(known(row["auc_retrained_mean"]) for row in by_name[name])]

    def lines(names: Sequence[str], mean: str, std: str) -> list[figures.Series]:
        """Each a little aside, so that the bars of one length do not cover each other."""
        return [
            figures.Series(
                name,
                figures.at([row["rows"] * 1.04 ** (_look(name) - 3) for row in by_name[name]]),
                figures.column(by_name[name], mean, std),
                _look(name),
            )
            for name in names
        ]

    seen, groups = "rows seen (log scale)", [name for name in by_name if name.startswith("Group")]
    matched = lines(others, "minus_soft", "minus_soft_std")
    selected = lines(retrained, "retrained_minus_soft_retrained", "retrained_minus_soft_retrained_std")
    panels = [
        [
            figures.Panel("AUC", seen, figures.AUC, lines([*by_name], "auc_mean", "auc_std")),
            figures.Panel("AUC at the soft rule's feature rate", seen, "AUC − soft rule's", matched, line=0.0),
        ],
        [
            figures.Panel("Plain retrain on the kept features", seen, "AUC − soft rule's retrain", selected, line=0.0),
            figures.Panel(
                "Features kept", seen, "feature rate (log scale)", lines(groups, "rate_mean", "rate_std"), log_y=True
            ),
        ],
    ]
    caption = (
        f"Means over {len(options.seeds)} seeds, bars: one standard deviation, of "
        "differences seed by seed. Adam is pruned to the soft rule's number of features. The hard rule's AUC at the "
        "soft rule's rate is read between its λ21. Points of one length are drawn side by side."
    )
    title = f"{options.dataset}: AUC against rows seen, λ21 = {markdown.power(lambda21)}"
    return figures.draw(panels, title, caption + (" The rows are generated." if generated else ""))


def _look(name: str) -> int:
    """The place of a method in the order of colours and markers."""
    groups = [SOFT, "Group Adam, hard", "Group Adam, hard, ramped"]
    return [*groups, *(f"Adam, pruned by {s}{t}" for s in ("norm", "effect") for t in ("", ", fine-tuned"))].index(name)
