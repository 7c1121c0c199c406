"""Table 8: the fine-tuning schedules of magnitude pruning in full."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ctr.report import markdown
from ctr.report.statistics import compare, summary
from ctr.studies import learning_rates, matched, paper, sentences
from ctr.studies.learning_rates import Rate
from ctr.studies.matched import GroupKey, PrunedKey
from ctr.studies.runs import Run, Runs, points
from ctr.studies.runs import rates as rates_of
from ctr.studies.study import Ask, Findings, Options


def study(ask: Ask, options: Options) -> Findings:
    """Adam pruned to Group Adam's rate at every lambda21 with every schedule: one row for each, by each score.

    ``select=validation`` runs each schedule on held-out rows as well, to tell the best.
    """
    runs = Runs(ask)
    lr = learning_rates.choose_one(runs, options, "adam")
    group = matched.group_runs(runs, options, lr.value)
    tried = matched.all_schedules(runs, options, lr.value, group)
    held_out = options.select == "validation"
    judged = matched.all_schedules(runs, options, lr.value, group, holdout=True) if held_out else tried
    shares = sorted(options.finetune, reverse=True)  # as in the paper: 30 % first
    rows = [
        _row(options, group, tried, score, lambda21, share, matched.best_schedule(options, judged, score, lambda21))
        for score in options.scores
        for lambda21 in options.lambda21
        for share in shares
    ]
    table = pd.DataFrame(rows)
    text = "\n\n".join(
        [
            f"# Table 8 · fine-tuning schedules of pruned Adam · {options.dataset}",
            "AUC mean±std over seeds, by the share of the training rows that is left for fine-tuning; "
            + ("the one chosen on the held-out rows" if held_out else "the best of each rate")
            + " is bold.",
            *(_like_the_paper(rows, score, options) for score in options.scores),
            markdown.bullets(_words(options, runs, group, tried, rows, lr)),
        ]
    )
    parts = [
        points(
            f"pruned by {score}, {share:.0%} fine-tuning",
            {(key[1], key[3]): run for key, run in tried.items() if key[0] == score and key[2] == share},
        )
        for score in options.scores
        for share in shares
    ]
    parts = [part for part in parts if len(part)]
    cloud = pd.concat(parts, ignore_index=True) if parts else points("", {})
    return Findings(table, text + "\n", {}, runs.frame(), cloud)


def _row(
    options: Options,
    group: dict[GroupKey, Run],
    tried: dict[PrunedKey, Run],
    score: str,
    lambda21: float,
    share: float,
    best: float | None,
) -> dict[str, Any]:
    found = _cell(options, tried, score, lambda21, share)
    ours = summary([run.auc for run in found])
    covered = paper.covers(options.dataset, options.model) and score == "norm"
    published = paper.table8(options.model, lambda21, share) if covered else None
    unpruned = [seed for seed in options.seeds if not group[lambda21, seed].prunable]
    gap = [f"nothing to prune to with seed {seed}" for seed in unpruned]
    gap += dict.fromkeys(run.error for run in found if run.error)
    return {
        "score": score,
        "lambda21": lambda21,
        "finetune": share,
        "rate_mean": summary(rates_of(group[lambda21, seed] for seed in options.seeds)).mean,
        "auc_mean": ours.mean,
        "auc_std": ours.std,
        "seeds": ours.n,
        "best": best == share,
        "paper_auc": published,
        "minus_paper": None if published is None else ours.mean - published,
        "gap": "; ".join(gap) or None,
    }


def _cell(options: Options, tried: dict[PrunedKey, Run], score: str, lambda21: float, share: float) -> list[Run]:
    keys = [(score, lambda21, share, seed) for seed in options.seeds]
    return [tried[key] for key in keys if key in tried]


def _like_the_paper(rows: list[dict[str, Any]], score: str, options: Options) -> str:
    lines = []
    for row in rows:
        if row["score"] != score:
            continue
        text = markdown.auc(row["auc_mean"], row["auc_std"])
        lines.append(
            [
                f"{row['finetune']:.0%}",
                markdown.power(row["lambda21"]),
                markdown.rate(row["rate_mean"]),
                markdown.bold(text) if row["best"] else text,
                markdown.auc(row["paper_auc"]),
                markdown.difference(row["minus_paper"]),
            ]
        )
    minus = "ours − paper"
    head = ["Ratio of samples", "λ21", "Feature rate", f"AUC, pruned by {score}", "Paper's AUC", minus]
    return markdown.table(head, lines)


def _words(
    options: Options,
    runs: Runs,
    group: dict[GroupKey, Run],
    tried: dict[PrunedKey, Run],
    rows: list[dict[str, Any]],
    lr: Rate,
) -> list[str]:
    lines = [*sentences.scope(options, group.values()), sentences.learning_rate(options, "adam", lr)]
    lines.append(sentences.choice(options, "The best schedules were"))
    where = " on the held-out rows" if options.select == "validation" else ""
    for score in options.scores:
        for lambda21 in options.lambda21:
            cells = [row for row in rows if row["score"] == score and row["lambda21"] == lambda21 and row["seeds"]]
            best = next((row["finetune"] for row in cells if row["best"]), None)
            if best is None:
                none = "no run on the held-out rows finished: nothing was chosen" if cells else "no schedule finished"
                lines.append(f"λ21 = {markdown.power(lambda21)}, by {score}: {none}.")
                continue
            line = f"λ21 = {markdown.power(lambda21)}, by {score}: {best:.0%} is best{where}"
            line += _against_the_paper(options, lambda21, best) if score == "norm" else ""
            lines.append(line + _gain(options, tried, score, lambda21, best) + ".")
    gaps = [row for row in rows if row["gap"]]
    lines += [
        f"gap at λ21 = {markdown.power(row['lambda21'])}, by {row['score']}, {row['finetune']:.0%}: {row['gap']}."
        for row in gaps
    ]
    return lines + sentences.notes(runs)


def _against_the_paper(options: Options, lambda21: float, best: float) -> str:
    if not paper.covers(options.dataset, options.model):
        return ""
    published = {share: paper.table8(options.model, lambda21, share) for share in paper.FINETUNE}
    known = {share: auc for share, auc in published.items() if auc is not None}
    if not known:
        return " (λ21 not in the paper)"
    papers = max(known, key=lambda share: known[share])
    return f" ({'as in' if papers == best else f'{papers:.0%} in'} the paper)"


def _gain(options: Options, tried: dict[PrunedKey, Run], score: str, lambda21: float, best: float) -> str:
    """What the best schedule gains on no fine-tuning at all."""
    if best == 0 or 0.0 not in options.finetune:
        return ""
    a, b = (_by_seed(options, tried, score, lambda21, share) for share in (best, 0.0))
    test = compare(a, b)
    gain, p = markdown.difference(test.difference), markdown.p_value(test.student)
    return f", {gain} over no fine-tuning (p = {p})"


def _by_seed(options: Options, tried: dict[PrunedKey, Run], score: str, lambda21: float, share: float) -> list[float]:
    keys = [(score, lambda21, share, seed) for seed in options.seeds]
    return [tried[key].auc if key in tried else float("nan") for key in keys]
