"""Table 5: the learning rates of plain Adam and Adagrad, by the paper's rule."""

from __future__ import annotations

import math

import pandas as pd

from ctr.rates import SEARCHED as OPTS
from ctr.studies import markdown, paper, rates, words
from ctr.studies.options import Ask, Findings, Options
from ctr.studies.runs import Run, Runs, aucs
from ctr.studies.statistics import Summary, student, summary


def study(ask: Ask, options: Options) -> Findings:
    """Every learning rate with every seed, for Adam and Adagrad: 2 x lrs x seeds runs."""
    runs = Runs(ask)
    found = rates.search(runs, options, [(opt, None) for opt in OPTS])
    by_opt = {opt: {key[2:]: run for key, run in found.items() if key[0] == opt} for opt in OPTS}
    means = {(opt, lr): _mean(by_opt[opt], options, lr) for opt in OPTS for lr in options.lrs}
    chosen = {opt: rates.best(options, by_opt[opt], opt) for opt in OPTS if any(means[opt, lr].n for lr in options.lrs)}
    rows = [
        {
            "opt": opt,
            "lr": lr,
            "auc_mean": means[opt, lr].mean,
            "auc_std": means[opt, lr].std,
            "seeds": means[opt, lr].n,
            "chosen": chosen.get(opt) == lr,
            "paper_lr": _published(options, opt),
            "gap": "; ".join(
                dict.fromkeys(run.error for key, run in by_opt[opt].items() if key[0] == lr and run.error)
            ),
        }
        for opt in OPTS
        for lr in options.lrs
    ]
    lines = [_lines(options, opt, by_opt[opt], means, chosen) for opt in OPTS]
    of = "held-out training rows" if options.select == "validation" else "the test part"
    text = "\n\n".join(
        [
            f"# Table 5 · learning rates · {options.dataset}",
            f"AUC on {of}, mean±std over seeds; the best of each row is bold and taken by the group optimizer too.",
            markdown.table(
                ["Optimizer", *map(markdown.power, options.lrs), "Paper's choice"],
                [
                    [
                        {"adam": "Adam/Group Adam", "adagrad": "AdaGrad/Group AdaGrad"}[opt],
                        *(_cell(means[opt, lr], chosen.get(opt) == lr) for lr in options.lrs),
                        _shown(_published(options, opt)),
                    ]
                    for opt in OPTS
                ],
            ),
            markdown.bullets([*lines, *words.scope(options, found.values()), *words.failures(runs)]),
        ]
    )
    return Findings(pd.DataFrame(rows), text + "\n", {}, runs.frame())


def _lines(
    options: Options,
    opt: str,
    found: dict[tuple[float, int], Run],
    means: dict[tuple[str, float], Summary],
    chosen: dict[str, float],
) -> str:
    if opt not in chosen:
        return f"{opt}: no run finished, nothing was chosen."
    best = chosen[opt]
    line = words.learning_rate(options, opt, best, found=True)
    others = [lr for lr in options.lrs if lr != best and not math.isnan(means[opt, lr].mean)]
    if others:
        second = max(others, key=lambda lr: means[opt, lr].mean)
        p = student(*(aucs(found[lr, seed] for seed in options.seeds) for lr in (best, second)))
        ahead = markdown.difference(means[opt, best].mean - means[opt, second].mean)
        line += f" The next best is {markdown.power(second)}, {ahead} ahead of it (p = {markdown.p_value(p)})."
    return line


def _mean(found: dict[tuple[float, int], Run], options: Options, lr: float) -> Summary:
    return summary(aucs(found[lr, seed] for seed in options.seeds))


def _published(options: Options, opt: str) -> float | None:
    return paper.TABLE5[opt].get(options.model) if paper.covers(options.dataset, options.model) else None


def _cell(mean: Summary, best: bool) -> str:
    text = markdown.auc(mean.mean, mean.std)
    return markdown.bold(text) if best else text


def _shown(lr: float | None) -> str:
    return markdown.GAP if lr is None else markdown.power(lr)
