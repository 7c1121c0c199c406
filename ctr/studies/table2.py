"""Table 2: Group Adam against Adam pruned to the same number of features."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from ctr.report import figures, markdown
from ctr.report.findings import Column, Findings, Row, rows
from ctr.report.statistics import Summary, compare, summary
from ctr.studies import columns, learning_rates, matched, paper, sentences
from ctr.studies.columns import (
    APART,
    FINETUNE,
    GAP,
    LAMBDA21,
    LR,
    SCORE,
    TIED,
    adjust,
    compared,
    differences,
    interval,
    known,
    mean_std,
    spread,
)
from ctr.studies.matched import Match
from ctr.studies.runs import Runs, aucs, measured, points, rates
from ctr.studies.study import Ask, Lambdas, Options, Scores, Shares

NAMES = {"norm": "Adam, pruned by norm", "effect": "Adam, pruned by effect"}
COLUMNS = [
    LAMBDA21,
    SCORE,
    LR,
    FINETUNE,
    TIED,
    *spread("group_adam_auc", "test AUC of Group Adam", markdown.auc),
    *spread("group_adam_rate", "feature rate of Group Adam", markdown.rate),
    *spread("adam_auc", "test AUC of pruned Adam", markdown.auc),
    *spread("adam_rate", "feature rate of pruned Adam", markdown.rate),
    *differences("Group Adam − pruned Adam"),
    Column("seeds_group_adam", "finished seeds of Group Adam"),
    Column("seeds_adam", "finished seeds of pruned Adam"),
    APART,
    Column("paper_adam_auc", "the paper's AUC of pruned Adam (a lost one: the best of its table 8)", markdown.auc),
    Column("paper_group_adam_auc", "the paper's AUC of Group Adam", markdown.auc),
    Column("paper_rate", "the paper's feature rate", markdown.rate),
    Column("paper_p", "the paper's p-value", markdown.p_value),
    Column("paper_difference", "the paper's AUC of Group Adam − pruned Adam", markdown.difference),
    Column("adam_minus_paper", "AUC of pruned Adam − the paper's", markdown.difference),
    Column("group_adam_minus_paper", "AUC of Group Adam − the paper's", markdown.difference),
    Column("rate_minus_paper", "feature rate of Group Adam − the paper's", markdown.difference),
    GAP,
]
DETAILS: markdown.Layout = [
    ("λ21", "lambda21"), ("pruned by", "score"), ("fine-tuned on", "finetune"), ("tie with", lambda row: row["tied"]),
    ("difference", "difference"), ("95% interval", interval()), ("p", "p"), ("p Holm", "p_holm"),
    ("seeds", lambda row: f"{row['seeds_group_adam']} / {row['seeds_adam']}"), ("features apart", "features_apart"),
]  # fmt: skip


def study(ask: Ask, options: Options, *, lambda21: Lambdas, finetune: Shares, scores: Scores) -> Findings:
    """One row for each lambda21 and pruning score."""
    title = f"# Table 2 · Adam against Group Adam at equal sparsity · {options.dataset}"
    return findings(ask, options, title, lambda21, finetune, scores)


def findings(
    ask: Ask, options: Options, title: str, lambda21: Sequence[float], finetune: Sequence[float], scores: Sequence[str]
) -> Findings:
    runs = Runs(ask)
    lr = learning_rates.choose_one(runs, options, "adam")
    matches = matched.match(runs, options, lr.value, lambda21, finetune, scores)
    table = pd.DataFrame(adjust([_row(options, match, lr.value) for match in matches], "p"))
    found, group = rows(table), [run for match in matches for run in match.group]
    scope, full_size = sentences.scope(options, group), sentences.full_size(options, group)
    text = [
        title,
        "AUC mean±std over seeds and (feature rate); lambda1 = lambda2 = 0. The higher of a row is bold where Holm's p "
        "is below .05. Adam is pruned, seed by seed, to as many features as Group Adam kept with that seed.",
        *(_in_the_papers_form(options, _by(found, score), score) for score in scores),
        "In detail, Group Adam − pruned Adam:",
        markdown.view(found, COLUMNS, DETAILS),
        *_beside_the_paper(options, _by(found, "norm")),
        markdown.bullets(
            [
                *scope,
                sentences.learning_rate(options, "adam", lr),
                sentences.choice(options, "Adam's fine-tuning schedules were"),
                sentences.counts(
                    found,
                    f"In all {_pairs(found)} cells both methods keep the same number of features with every seed.",
                ),
                *(sentences.tally("Group Adam", NAMES[score], _by(found, score)) for score in scores),
                *(_sentence(options, row, full_size) for row in found),
                *sentences.notes(options, runs),
            ]
        ),
    ]
    drawn = figure(options, found, scores, scope)
    return Findings(table, "\n\n".join(text) + "\n", {"fig1": drawn}, runs.frame(), _points(options, matches), COLUMNS)


def _row(options: Options, match: Match, lr: float) -> Row:
    cell = paper.table2(options.model, match.lambda21) if options.in_paper else None
    adam = paper.adam_auc(options.model, match.lambda21) if options.in_paper else None
    group_auc, adam_auc = summary(aucs(match.group)), summary(aucs(match.pruned))
    apart = columns.features_apart(match.group, match.pruned)
    return {
        "lambda21": match.lambda21,
        "score": match.score,
        "lr": lr,
        "finetune": match.finetune.best,
        "tied": ", ".join(map(markdown.share, match.finetune.ties)),
        **mean_std("group_adam_auc", aucs(match.group)),
        **mean_std("group_adam_rate", rates(match.group)),
        **mean_std("adam_auc", aucs(match.pruned)),
        **mean_std("adam_rate", rates(match.pruned)),
        **compared(compare(measured(match.group), measured(match.pruned))),
        "seeds_group_adam": group_auc.n,
        "seeds_adam": adam_auc.n,
        "features_apart": None if apart is None else int(apart),
        "paper_adam_auc": adam,
        "paper_group_adam_auc": cell.group_adam if cell else None,
        "paper_rate": cell.rate if cell else None,
        "paper_p": cell.p if cell else None,
        "paper_difference": cell.group_adam - adam if cell and adam is not None else None,
        "adam_minus_paper": adam_auc.mean - adam if adam is not None else None,
        "group_adam_minus_paper": group_auc.mean - cell.group_adam if cell else None,
        "rate_minus_paper": summary(rates(match.group)).mean - cell.rate if cell else None,
        "gap": match.gap,
    }


def _by(found: Sequence[Row], score: str) -> list[Row]:
    return [row for row in found if row["score"] == score]


def _pairs(found: Sequence[Row]) -> int:
    return sum(known(row["features_apart"]) for row in found)


def _in_the_papers_form(options: Options, found: Sequence[Row], score: str) -> str:
    layout: markdown.Layout = [
        (f"λ21 ({paper.PRINTED.get(options.model, options.model)})", "lambda21"),
        (
            NAMES[score],
            lambda row: markdown.bold(markdown.cell(row, "adam_"), sentences.wins(row) and row["difference"] < 0),
        ),
        (
            "Group Adam",
            lambda row: markdown.bold(markdown.cell(row, "group_adam_"), sentences.wins(row) and row["difference"] > 0),
        ),
        ("P-Value", "p"),
    ]
    return markdown.view(found, COLUMNS, layout)


def _beside_the_paper(options: Options, found: Sequence[Row]) -> list[str]:
    """Ours beside the paper's, for what it pruned by: the norm."""
    found = [row for row in found if known(row["paper_difference"])]
    if not found:
        return []
    lost = [row["lambda21"] for row in found if paper.is_lost(options.model, row["lambda21"])]
    layout: markdown.Layout = [
        ("λ21", "lambda21"),
        ("Adam: paper", lambda row: markdown.auc(row["paper_adam_auc"]) + "*" * (row["lambda21"] in lost)),
        ("ours", "adam_auc_mean"),
        ("− paper", "adam_minus_paper"),
        ("Group Adam: paper", "paper_group_adam_auc"),
        ("ours", "group_adam_auc_mean"),
        ("− paper", "group_adam_minus_paper"),
        ("rate: paper", "paper_rate"),
        ("ours", "group_adam_rate_mean"),
        ("p: paper", "paper_p"),
        ("ours", "p"),
    ]
    note = ["\\* lost in the print at hand: the best of the paper's table 8."] if lost else []
    return ["Beside the paper's table 2 (pruned by norm):", markdown.view(found, COLUMNS, layout), *note]


def _sentence(options: Options, row: Row, full_size: bool) -> str:
    line = f"λ21 = {markdown.power(row['lambda21'])}, by {row['score']}: "
    line += sentences.winner("Group Adam", "pruned Adam", row)
    if options.in_paper and row["score"] == "norm":
        line += _against_the_paper(row, full_size)
    return line + (f"; gap: {row['gap']}" if row["gap"] else "") + "."


def _against_the_paper(row: Row, full_size: bool) -> str:
    if not known(row["paper_difference"]):
        return "; not in the paper"
    sign = sentences.sign_agrees(row["difference"], row["paper_difference"])
    line = f"; {sign} (its p = {markdown.p_value(row['paper_p'])})"
    if full_size and row["seeds_group_adam"]:
        ours = Summary(row["group_adam_auc_mean"], row["group_adam_auc_std"], row["seeds_group_adam"])
        adams = Summary(row["adam_auc_mean"], row["adam_auc_std"], row["seeds_adam"])
        line += f"; Group Adam's AUC against the paper's: {sentences.near(ours, row['paper_group_adam_auc'])}"
        line += f"; pruned Adam's: {sentences.near(adams, row['paper_adam_auc'])}"
    return line


def figure(options: Options, found: Sequence[Row], scores: Sequence[str], scope: Sequence[str]) -> Figure:
    """AUC against feature rate, a line for each method (the paper's figure 1)."""
    first = _by(found, scores[0])
    series = [figures.line("Group Adam", first, "group_adam_rate", "group_adam_auc", 0)]
    for look, score in enumerate(scores, start=1):
        series.append(figures.line(NAMES[score], _by(found, score), "adam_rate", "adam_auc", look))
    zero = sum(row["group_adam_rate_mean"] == 0 for row in first)
    caption = " ".join(["Means over seeds, bars: one standard deviation.", *scope])
    caption += f" Not drawn: {zero} λ21 at which no feature is left." if zero else ""
    panel = figures.Panel("", figures.RATE, figures.AUC, series)
    return figures.draw([[panel]], f"Figure 1 · {options.dataset}: AUC against feature rate", caption)


def _points(options: Options, matches: Sequence[Match]) -> pd.DataFrame:
    group = [("Group Adam", match.lambda21, match.group) for match in matches if match.score == matches[0].score]
    pruned = [
        (NAMES[score], match.lambda21, match.pruned)
        for score in dict.fromkeys(match.score for match in matches)
        for match in matches
        if match.score == score
    ]
    return points(
        (method, lambda21, seed, run)
        for method, lambda21, found in (*group, *pruned)
        for seed, run in zip(options.seeds, found, strict=True)
    )
