"""Figure 3: the feature rate by lambda1 alone and by lambda21 alone (section 4.4)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ctr.errors import CtrError
from ctr.report import figures, markdown
from ctr.report.statistics import compare, summary
from ctr.studies import learning_rates, sentences
from ctr.studies.learning_rates import Rate
from ctr.studies.runs import Run, Runs, aucs, job, points
from ctr.studies.runs import rates as rates_of
from ctr.studies.study import Ask, Findings, Options

TERMS = {"lambda1": "λ1 alone", "lambda21": "λ21 alone"}


def study(ask: Ask, options: Options) -> Findings:
    """Group Adam at the same values of lambda1 and of lambda21, the others 0: 2 x values x seeds runs.

    The values are those above 0 of both lists.
    """
    values = sorted({value for value in (*options.lambda1, *options.lambda21) if value > 0})
    if not values:
        raise CtrError("study=fig3: lambda1 and lambda21 hold no value above 0")
    runs = Runs(ask)
    lr = learning_rates.choose_one(runs, options, "adam")
    found = runs(
        {
            (term, value, seed): job(options, "group_adam", seed, lr.value, {**_zeros(), f"opt.{term}": value})
            for term in TERMS
            for value in values
            for seed in options.seeds
        }
    )
    by_value = {
        (term, value): [found[term, value, seed] for seed in options.seeds] for term in TERMS for value in values
    }
    rows = [_row(by_value, value, lr.value) for value in values]
    text = "\n\n".join(
        [
            f"# Figure 3 · λ1 against λ21 · {options.dataset}",
            "Group Adam's feature rate, mean over seeds, and (AUC mean±std) with one of the two terms at this value "
            "and the other terms 0; the lower rate is bold.",
            _table(by_value, values),
            markdown.bullets(_words(options, runs, by_value, values, lr)),
        ]
    )
    cloud = [points(name, {k[1:]: run for k, run in found.items() if k[0] == term}) for term, name in TERMS.items()]
    cloud = [part for part in cloud if len(part)]
    return Findings(
        pd.DataFrame(rows),
        text + "\n",
        {"fig3": _figure(options, by_value, values)},
        runs.frame(),
        pd.concat(cloud, ignore_index=True) if cloud else points("", {}),
    )


def _zeros() -> dict[str, object]:
    return {"opt.lambda1": 0.0, "opt.lambda21": 0.0, "opt.lambda2": 0.0}


def _row(by_value: dict[tuple[str, float], list[Run]], value: float, lr: float) -> dict[str, object]:
    row: dict[str, object] = {"value": value, "lr": lr}
    for term in TERMS:
        found = by_value[term, value]
        rate, auc = summary(rates_of(found)), summary(aucs(found))
        row |= {
            f"{term}_rate_mean": rate.mean,
            f"{term}_rate_std": rate.std,
            f"{term}_auc_mean": auc.mean,
            f"{term}_auc_std": auc.std,
            f"{term}_seeds": rate.n,
        }
    test = compare(*(rates_of(by_value[term, value]) for term in ("lambda21", "lambda1")))
    failed = [run.error for term in TERMS for run in by_value[term, value] if run.error]
    return {**row, "rate_difference": test.difference, "p_student": test.student, "gap": "; ".join(failed) or None}


def _table(by_value: dict[tuple[str, float], list[Run]], values: list[float]) -> str:
    lines = []
    for value in values:
        cells = {}
        means = {term: summary(rates_of(by_value[term, value])).mean for term in TERMS}
        for term in TERMS:
            auc = summary(aucs(by_value[term, value]))
            rate = markdown.rate(means[term])
            lower = means[term] == min(means.values()) and len(set(means.values())) > 1
            cells[term] = f"{markdown.bold(rate) if lower else rate} ({markdown.auc(auc.mean, auc.std)})"
        p = compare(*(rates_of(by_value[term, value]) for term in TERMS)).student
        lines.append([markdown.power(value), *cells.values(), markdown.p_value(p)])
    return markdown.table(["Value", *TERMS.values(), "p of the rates"], lines)


def _words(
    options: Options, runs: Runs, by_value: dict[tuple[str, float], list[Run]], values: list[float], lr: Rate
) -> list[str]:
    lines = sentences.scope(options, (run for found in by_value.values() for run in found))
    lines.append(sentences.learning_rate(options, "adam", lr))
    tests = [compare(*(rates_of(by_value[term, value]) for term in ("lambda21", "lambda1"))) for value in values]
    known = [test for test in tests if test.difference == test.difference]
    if known:
        lower = sum(test.difference < 0 for test in known)
        sure = sum(test.difference < 0 and test.student < sentences.SIGNIFICANT for test in known)
        verdict = "agrees" if lower == len(known) else "agrees in part" if lower else "disagrees"
        lines.append(
            f"λ21 leaves fewer features than λ1 of the same value at {lower} of {len(known)} values ({sure} with "
            f"p < .05). This {verdict} with the paper, where λ21 is much the more effective. The paper prints its "
            "rates as a drawing only."
        )
    else:
        lines.append("No value finished with both terms: nothing to compare.")
    return lines + sentences.notes(runs)


def _figure(options: Options, by_value: dict[tuple[str, float], list[Run]], values: list[float]) -> Figure:
    series = [
        figures.Series(name, figures.at(values), [summary(rates_of(by_value[term, value])) for value in values], look)
        for look, (term, name) in enumerate(TERMS.items())
    ]
    caption = "Means over seeds, bars: one standard deviation; a rate of 0 has no place on the axis. "
    caption += " ".join(sentences.scope(options, (run for found in by_value.values() for run in found)))
    panel = figures.Panel("", "value of λ1 or of λ21 (log scale)", "feature rate (log scale)", series, log_y=True)
    return figures.draw([[panel]], f"Figure 3 · {options.dataset}: λ1 against λ21", caption)
