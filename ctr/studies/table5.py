"""Table 5: the learning rates of plain Adam and Adagrad, by the paper's rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from ctr.config.learning_rates import SEARCHED as OPTS
from ctr.report import markdown
from ctr.report.findings import Column, Findings, Row, rows
from ctr.report.statistics import compare, summary
from ctr.studies import learning_rates, paper, sentences
from ctr.studies.columns import GAP, LR, TIES, mean_std, spread
from ctr.studies.learning_rates import Found, Rate
from ctr.studies.runs import Runs, aucs, gap, measured
from ctr.studies.study import Ask, Options

NAMES = {"adam": "Adam/Group Adam", "adagrad": "AdaGrad/Group AdaGrad"}
COLUMNS = [
    Column("opt", "optimizer"),
    LR,
    *spread("auc", "AUC on the test part, or on the held-out rows with select=validation", markdown.auc),
    Column("seeds", "finished seeds"),
    Column("diverged", "seeds whose run diverged"),
    Column("chosen", "whether it is the best of the optimizer"),
    TIES,
    Column("paper_lr", "the learning rate that the paper chose", markdown.power),
    GAP,
]


def study(ask: Ask, options: Options) -> Findings:
    """Every learning rate with every seed, for Adam and Adagrad: 2 x lrs x seeds runs, more where an end is best."""
    runs = Runs(ask)
    searched = learning_rates.search(runs, options, [(opt, None) for opt in OPTS])
    by_opt = {opt: searched[opt, None] for opt in OPTS}
    chosen = {opt: learning_rates.best(by_opt[opt]) for opt in OPTS}
    table = pd.DataFrame([_row(options, opt, lr, by_opt[opt], chosen[opt]) for opt in OPTS for lr in chosen[opt].tried])
    found = rows(table)
    of = "held-out training rows" if options.select == "validation" else "the test part"
    text = [
        f"# Table 5 · learning rates · {options.dataset}",
        f"AUC on {of}, mean±std over seeds; the best of each row is bold and taken by the group optimizer "
        "too; what ties with it is marked =.",
        _in_the_papers_form(found),
        markdown.bullets(
            [
                *(_sentence(options, opt, found, by_opt[opt], chosen[opt]) for opt in OPTS),
                *sentences.scope(options, [run for of_opt in by_opt.values() for run in of_opt.values()]),
                *sentences.notes(options, runs),
            ]
        ),
    ]
    return Findings(table, "\n\n".join(text) + "\n", {}, runs.frame(), columns=COLUMNS)


def _row(options: Options, opt: str, lr: float, found: Found, chosen: Rate) -> Row:
    of_lr = [found[lr, seed] for seed in options.seeds]
    return {
        "opt": opt,
        "lr": lr,
        **mean_std("auc", aucs(of_lr)),
        "seeds": summary(aucs(of_lr)).n,
        "diverged": sum(run.diverged for run in of_lr),
        "chosen": lr == chosen.value,
        "ties_best": lr in chosen.ties,
        "paper_lr": paper.TABLE5[opt].get(options.model) if options.in_paper else None,
        "gap": gap(run for run in of_lr if not run.diverged),
    }


def _in_the_papers_form(found: Sequence[Row]) -> str:
    lrs = sorted({row["lr"] for row in found})
    cells = {(row["opt"], row["lr"]): _cell(row) for row in found}
    papers = {row["opt"]: markdown.power(row["paper_lr"]) for row in found}
    return markdown.table(
        ["Optimizer", *map(markdown.power, lrs), "Paper's choice"],
        [[NAMES[opt], *(cells.get((opt, lr), markdown.GAP) for lr in lrs), papers[opt]] for opt in OPTS],
    )


def _cell(row: Row) -> str:
    text = markdown.choice(markdown.auc(row["auc_mean"], row["auc_std"]), row["chosen"], row["ties_best"])
    if not row["diverged"]:
        return text
    return f"{text} ({row['diverged']} diverged)" if row["seeds"] else "diverged"


def _sentence(options: Options, opt: str, table: Sequence[Row], found: Found, chosen: Rate) -> str:
    if math.isnan(chosen.value):
        return f"{opt}: no run finished, nothing was chosen."
    line = sentences.learning_rate(options, opt, chosen)
    means = {row["lr"]: row["auc_mean"] for row in table if row["opt"] == opt and row["seeds"]}
    others = [lr for lr in means if lr != chosen.value]
    if others:
        second = max(others, key=lambda lr: means[lr])
        test = compare(*(measured(found[lr, seed] for seed in options.seeds) for lr in (chosen.value, second)))
        behind = f"{sentences.difference(test.difference)} {markdown.interval(test.low, test.high)} behind"
        line += f" The next best, {markdown.power(second)}, is {behind}."
    return line
