"""Table 5: the learning rates of plain Adam and Adagrad, by the paper's rule."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ctr.config.learning_rates import SEARCHED as OPTS
from ctr.report import markdown
from ctr.report.statistics import student, summary
from ctr.studies import learning_rates, paper, sentences
from ctr.studies.learning_rates import Found, Rate
from ctr.studies.runs import Runs, aucs
from ctr.studies.study import Ask, Findings, Options

NAMES = {"adam": "Adam/Group Adam", "adagrad": "AdaGrad/Group AdaGrad"}


def study(ask: Ask, options: Options) -> Findings:
    """Every learning rate with every seed, for Adam and Adagrad: 2 x lrs x seeds runs, more where an end is best."""
    runs = Runs(ask)
    searched = learning_rates.search(runs, options, [(opt, None) for opt in OPTS])
    by_opt = {opt: searched[opt, None] for opt in OPTS}
    chosen = {opt: learning_rates.best(by_opt[opt]) for opt in OPTS}
    rows = [_row(options, opt, lr, by_opt[opt], chosen[opt]) for opt in OPTS for lr in chosen[opt].tried]
    lines = [_line(options, opt, by_opt[opt], chosen[opt]) for opt in OPTS]
    of = "held-out training rows" if options.select == "validation" else "the test part"
    text = "\n\n".join(
        [
            f"# Table 5 · learning rates · {options.dataset}",
            f"AUC on {of}, mean±std over seeds; the best of each row is bold and taken by the group optimizer too.",
            _like_the_paper(options, rows),
            markdown.bullets(
                [
                    *lines,
                    *sentences.scope(options, (run for f in by_opt.values() for run in f.values())),
                    *sentences.notes(runs),
                ]
            ),
        ]
    )
    return Findings(pd.DataFrame(rows), text + "\n", {}, runs.frame())


def _row(options: Options, opt: str, lr: float, found: Found, chosen: Rate) -> dict[str, Any]:
    of_lr = [found[lr, seed] for seed in options.seeds]
    mean = summary(aucs(of_lr))
    return {
        "opt": opt,
        "lr": lr,
        "auc_mean": mean.mean,
        "auc_std": mean.std,
        "seeds": mean.n,
        "diverged": sum(run.diverged for run in of_lr),
        "chosen": lr == chosen.value,
        "paper_lr": _published(options, opt),
        "gap": "; ".join(dict.fromkeys(run.error for run in of_lr if run.error and not run.diverged)),
    }


def _like_the_paper(options: Options, rows: list[dict[str, Any]]) -> str:
    lrs = sorted({row["lr"] for row in rows})
    cells = {(row["opt"], row["lr"]): _cell(row) for row in rows}
    return markdown.table(
        ["Optimizer", *map(markdown.power, lrs), "Paper's choice"],
        [
            [NAMES[opt], *(cells.get((opt, lr), markdown.GAP) for lr in lrs), _shown(_published(options, opt))]
            for opt in OPTS
        ],
    )


def _cell(row: dict[str, Any]) -> str:
    text = markdown.auc(row["auc_mean"], row["auc_std"])
    text = markdown.bold(text) if row["chosen"] else text
    if not row["diverged"]:
        return text
    return f"{text} ({row['diverged']} diverged)" if row["seeds"] else "diverged"


def _line(options: Options, opt: str, found: Found, chosen: Rate) -> str:
    if math.isnan(chosen.value):
        return f"{opt}: no run finished, nothing was chosen."
    line = sentences.learning_rate(options, opt, chosen)
    means = {lr: summary(aucs(found[lr, seed] for seed in options.seeds)).mean for lr in chosen.tried}
    others = [lr for lr in chosen.tried if lr != chosen.value and not math.isnan(means[lr])]
    if others:
        second = max(others, key=lambda lr: means[lr])
        p = student(*(aucs(found[lr, seed] for seed in options.seeds) for lr in (chosen.value, second)))
        behind = sentences.difference(means[chosen.value] - means[second])
        sure = "" if math.isnan(p) else f" (p = {markdown.p_value(p)})"
        line += f" The next best, {markdown.power(second)}, is {behind} behind{sure}."
    return line


def _published(options: Options, opt: str) -> float | None:
    return paper.TABLE5[opt].get(options.model) if paper.covers(options.dataset, options.model) else None


def _shown(lr: float | None) -> str:
    return markdown.GAP if lr is None else markdown.power(lr)
