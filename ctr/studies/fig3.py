"""Figure 3: the feature rate by lambda1 alone and by lambda21 alone (section 4.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from ctr.errors import CtrError
from ctr.report import figures, markdown
from ctr.report.findings import Column, Findings, Row, rows
from ctr.report.statistics import compare, summary
from ctr.studies import learning_rates, sentences
from ctr.studies.columns import GAP, LR, adjust, compared, differences, interval, known, mean_std, spread
from ctr.studies.runs import Run, Runs, aucs, gap, job, lambdas, points, rates
from ctr.studies.study import Ask, Lambdas, Options

TERMS = {"lambda1": "λ1 alone", "lambda21": "λ21 alone"}
COLUMNS = [
    Column("value", "value of lambda1 or of lambda21, the other terms 0", markdown.power),
    LR,
    *(
        column
        for term in TERMS
        for column in (
            *spread(f"{term}_rate", f"feature rate with {term} alone", markdown.rate),
            *spread(f"{term}_auc", f"test AUC with {term} alone", markdown.auc),
            Column(f"{term}_seeds", f"finished seeds with {term} alone"),
        )
    ),
    *differences("feature rate with lambda21 − with lambda1", "rate_difference", over="seeds"),
    GAP,
]


def study(ask: Ask, options: Options, *, lambda1: Lambdas, lambda21: Lambdas) -> Findings:
    """Group Adam at the same values of lambda1 and of lambda21, the others 0: 2 x values x seeds runs.

    The values are those above 0 of both lists.
    """
    values = sorted({value for value in (*lambda1, *lambda21) if value > 0})
    if not values:
        raise CtrError("study=fig3: lambda1 and lambda21 hold no value above 0")
    runs = Runs(ask)
    lr = learning_rates.choose_one(runs, options, "adam")
    found = runs(
        {
            (term, value, seed): job(options, "group_adam", seed, lr.value, lambdas(**{term: value}))
            for term in TERMS
            for value in values
            for seed in options.seeds
        }
    )
    cells = [
        _row(value, lr.value, {term: [found[term, value, seed] for seed in options.seeds] for term in TERMS})
        for value in values
    ]
    table = pd.DataFrame(adjust(cells, "p"))
    scope = sentences.scope(options, found.values())
    text = [
        f"# Figure 3 · λ1 against λ21 · {options.dataset}",
        "Group Adam's feature rate, mean over seeds, and (AUC mean±std) with one of the two terms at this value "
        "and the other terms 0; the lower rate is bold.",
        _in_the_papers_form(rows(table)),
        markdown.bullets(
            [
                *scope,
                sentences.learning_rate(options, "adam", lr),
                _sentence(rows(table)),
                *sentences.notes(options, runs),
            ]
        ),
    ]
    dots = points((TERMS[term], value, seed, run) for (term, value, seed), run in found.items())
    drawn = {"fig3": _figure(options, rows(table), scope)}
    return Findings(table, "\n\n".join(text) + "\n", drawn, runs.frame(), dots, COLUMNS)


def _row(value: float, lr: float, found: Mapping[str, Sequence[Run]]) -> Row:
    row: Row = {"value": value, "lr": lr}
    for term, runs in found.items():
        row |= {
            **mean_std(f"{term}_rate", rates(runs)),
            **mean_std(f"{term}_auc", aucs(runs)),
            f"{term}_seeds": summary(rates(runs)).n,
        }
    test = compare(rates(found["lambda21"]), rates(found["lambda1"]))
    failed = gap(run for runs in found.values() for run in runs)
    return {**row, **compared(test, "rate_difference"), "gap": failed}


def _in_the_papers_form(found: Sequence[Row]) -> str:
    def cell(row: Row, term: str) -> str:
        mean, others = row[f"{term}_rate_mean"], [row[f"{other}_rate_mean"] for other in TERMS if other != term]
        rate = markdown.bold(markdown.rate(mean), all(mean < other for other in others))
        return f"{rate} ({markdown.auc(row[f'{term}_auc_mean'], row[f'{term}_auc_std'])})"

    layout: markdown.Layout = [
        ("Value", "value"),
        (TERMS["lambda1"], lambda row: cell(row, "lambda1")),
        (TERMS["lambda21"], lambda row: cell(row, "lambda21")),
        ("λ21 − λ1, rates", "rate_difference"),
        ("95% interval", interval("rate_difference")),
        ("p Holm", "p_holm"),
    ]
    return markdown.view(found, COLUMNS, layout)


def _sentence(found: Sequence[Row]) -> str:
    done = [row for row in found if known(row["rate_difference"])]
    if not done:
        return "No value finished with both terms: nothing to compare."
    lower = [row for row in done if row["rate_difference"] < 0]
    sure = sentences.sure(lower, "rate_difference")
    return (
        f"λ21 leaves fewer features than λ1 of the same value at {len(lower)} of {len(done)} values"
        f"{sure}. This {sentences.agreement(len(lower), len(done))} with the paper, where λ21 is much "
        "the more effective. The paper prints its rates as a drawing only."
    )


def _figure(options: Options, found: Sequence[Row], scope: Sequence[str]) -> Figure:
    values = figures.at([row["value"] for row in found])
    series = [
        figures.Series(name, values, figures.column(found, f"{term}_rate_mean", f"{term}_rate_std"), look)
        for look, (term, name) in enumerate(TERMS.items())
    ]
    start = "Means over seeds, bars: one standard deviation; a rate of 0 has no place on the axis."
    caption = " ".join([start, *scope])
    panel = figures.Panel("", "value of λ1 or of λ21 (log scale)", "feature rate (log scale)", series, log_y=True)
    return figures.draw([[panel]], f"Figure 3 · {options.dataset}: λ1 against λ21", caption)
