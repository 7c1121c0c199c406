"""Table 8: the fine-tuning schedules of magnitude pruning in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ctr.report import markdown
from ctr.report.findings import Column, Findings, Row, rows
from ctr.report.statistics import compare, summary
from ctr.studies import learning_rates, matched, paper, sentences
from ctr.studies.columns import (
    FINETUNE,
    GAP,
    LAMBDA21,
    SCORE,
    TIES,
    adjust,
    compared,
    differences,
    interval,
    known,
    mean_std,
    spread,
)
from ctr.studies.matched import GroupKey, PrunedKey
from ctr.studies.runs import NO_RUN, Choice, Run, Runs, aucs, gap, held_out, measured, points, rates
from ctr.studies.study import Ask, Lambdas, Options, Scores, Shares

COLUMNS = [
    SCORE,
    LAMBDA21,
    FINETUNE,
    Column("rate_mean", "feature rate of Group Adam, to which Adam is pruned, mean over the seeds", markdown.rate),
    *spread("auc", "test AUC", markdown.auc),
    Column("seeds", "finished seeds"),
    Column("best", "whether the schedule is the best at its feature rate"),
    TIES,
    *differences("AUC − that without fine-tuning"),
    Column("paper_auc", "the paper's AUC", markdown.auc),
    Column("minus_paper", "AUC − the paper's", markdown.difference),
    GAP,
]


def study(ask: Ask, options: Options, *, lambda21: Lambdas, finetune: Shares, scores: Scores) -> Findings:
    """Adam pruned to Group Adam's rate at every lambda21 with every schedule: one row for each, by each score.

    ``select=validation`` runs each schedule on held-out rows as well, to tell the best.
    """
    runs = Runs(ask)
    lr = learning_rates.choose_one(runs, options, "adam")
    group = matched.group_runs(runs, options, lr.value, lambda21)
    tried = matched.all_schedules(runs, options, lr.value, group, scores, finetune, {})
    judged = matched.all_schedules(runs, options, lr.value, group, scores, finetune, held_out(options))
    shares = sorted(finetune, reverse=True)  # as in the paper: 30 % first
    best = {
        (score, value): matched.best_schedule(judged, options.seeds, score, value)
        for score in scores
        for value in lambda21
    }
    cells = [
        _row(options, group, tried, score, value, share, best[score, value])
        for score in scores
        for value in lambda21
        for share in shares
    ]
    table = pd.DataFrame(adjust(cells, "p"))
    found = rows(table)
    which = "the one chosen on the held-out rows" if held_out(options) else "the best of each rate"
    text = [
        f"# Table 8 · fine-tuning schedules of pruned Adam · {options.dataset}",
        "AUC mean±std over seeds, by the share of the training rows that is left for fine-tuning; "
        + which
        + " is bold, and what ties with it is marked =.",
        *(_in_the_papers_form(found, score) for score in scores),
        markdown.bullets(
            [
                *sentences.scope(options, group.values()),
                sentences.learning_rate(options, "adam", lr),
                sentences.choice(options, "The best schedules were"),
                *(_sentence(options, found, score, value) for score in scores for value in lambda21),
                *(_gap(row) for row in found if row["gap"]),
                *sentences.notes(options, runs),
            ]
        ),
    ]
    dots = points(
        (f"pruned by {score}, {share:.0%} fine-tuning", value, seed, run)
        for of in ((score, share) for score in scores for share in shares)
        for (score, value, share, seed), run in tried.items()
        if (score, share) == of
    )
    return Findings(table, "\n\n".join(text) + "\n", {}, runs.frame(), dots, COLUMNS)


def _row(
    options: Options,
    group: Mapping[GroupKey, Run],
    tried: Mapping[PrunedKey, Run],
    score: str,
    lambda21: float,
    share: float,
    best: Choice[float],
) -> Row:
    found = _by_seed(options, tried, score, lambda21, share)
    ours = summary(aucs(found))
    untuned = _by_seed(options, tried, score, lambda21, 0.0) if share > 0 else []
    covered = options.in_paper and score == "norm"
    published = paper.table8(options.model, lambda21, share) if covered else None
    unpruned = [seed for seed in options.seeds if not group[lambda21, seed].prunable]
    gaps = [*(f"nothing to prune to with seed {seed}" for seed in unpruned), *filter(None, [gap(found)])]
    return {
        "score": score,
        "lambda21": lambda21,
        "finetune": share,
        "rate_mean": summary(rates(group[lambda21, seed] for seed in options.seeds)).mean,
        **mean_std("auc", aucs(found)),
        "seeds": ours.n,
        "best": best.best == share,
        "ties_best": share in best.ties,
        **compared(compare(measured(found if untuned else []), measured(untuned))),
        "paper_auc": published,
        "minus_paper": None if published is None else ours.mean - published,
        "gap": "; ".join(gaps) or None,
    }


def _by_seed(options: Options, tried: Mapping[PrunedKey, Run], score: str, lambda21: float, share: float) -> list[Run]:
    return [tried.get((score, lambda21, share, seed), NO_RUN) for seed in options.seeds]


def _in_the_papers_form(found: Sequence[Row], score: str) -> str:
    layout: markdown.Layout = [
        ("Ratio of samples", "finetune"),
        ("λ21", "lambda21"),
        ("Feature rate", "rate_mean"),
        (
            f"AUC, pruned by {score}",
            lambda row: markdown.choice(markdown.auc(row["auc_mean"], row["auc_std"]), row["best"], row["ties_best"]),
        ),
        ("− without", "difference"),
        ("95% interval", interval()),
        ("p Holm", "p_holm"),
        ("Paper's AUC", "paper_auc"),
        ("ours − paper", "minus_paper"),
    ]
    return markdown.view([row for row in found if row["score"] == score], COLUMNS, layout)


def _sentence(options: Options, found: Sequence[Row], score: str, lambda21: float) -> str:
    cells = [row for row in found if (row["score"], row["lambda21"]) == (score, lambda21) and row["seeds"]]
    chosen = next((row for row in cells if row["best"]), None)
    line = f"λ21 = {markdown.power(lambda21)}, by {score}: "
    if chosen is None:
        none = "no run on the held-out rows finished: nothing was chosen" if cells else "no schedule finished"
        return f"{line}{none}."
    best, tied = chosen["finetune"], [markdown.share(row["finetune"]) for row in cells if row["ties_best"]]
    line += f"{best:.0%} is best{' on the held-out rows' if held_out(options) else ''}{sentences.tie(tied)}"
    if options.in_paper and score == "norm":
        line += _against_the_paper(options, lambda21, best)
    if known(chosen["difference"]):
        line += f"; {markdown.difference(chosen['difference'])} {interval()(chosen)} over no fine-tuning"
        line += f" (Holm p = {markdown.p_value(chosen['p_holm'])})" if known(chosen["p_holm"]) else ""
    return line + "."


def _against_the_paper(options: Options, lambda21: float, best: float) -> str:
    published = {share: paper.table8(options.model, lambda21, share) for share in paper.FINETUNE}
    printed = {share: auc for share, auc in published.items() if auc is not None}
    if not printed:
        return " (λ21 not in the paper)"
    papers = max(printed, key=lambda share: printed[share])
    return f" ({'as in' if papers == best else f'{papers:.0%} in'} the paper)"


def _gap(row: Row) -> str:
    at = f"λ21 = {markdown.power(row['lambda21'])}, by {row['score']}, {row['finetune']:.0%}"
    return f"gap at {at}: {row['gap']}."
