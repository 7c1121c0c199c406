"""Table 2 and figure 1: Group Adam against Adam pruned to the same number of features."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ctr.report import figures, markdown
from ctr.report.statistics import summary
from ctr.studies import learning_rates, matched, paper, sentences
from ctr.studies.learning_rates import Rate
from ctr.studies.matched import Match
from ctr.studies.runs import Runs, points
from ctr.studies.study import Ask, Findings, Options

NAMES = {"norm": "Adam, pruned by norm", "effect": "Adam, pruned by effect"}


def study(ask: Ask, options: Options) -> Findings:
    """Table 2: one row for each lambda21 and pruning score."""
    return _findings(ask, options, f"# Table 2 · Adam against Group Adam at equal sparsity · {options.dataset}")


def fig1(ask: Ask, options: Options) -> Findings:
    """Figure 1 is drawn from table 2's cells: the same runs, the same table."""
    return _findings(ask, options, f"# Figure 1 · AUC against feature rate · {options.dataset}")


def _findings(ask: Ask, options: Options, title: str) -> Findings:
    runs = Runs(ask)
    lr = learning_rates.choose_one(runs, options, "adam")
    matches = matched.match(runs, options, lr.value)
    text = "\n\n".join(
        [
            title,
            "AUC mean±std over seeds and (feature rate); lambda1 = lambda2 = 0. The best of each row is bold. Adam is "
            "pruned, seed by seed, to as many features as Group Adam kept with that seed.",
            *(_like_the_paper(options, matches, score) for score in options.scores),
            "In detail, Group Adam − pruned Adam:",
            _details(matches),
            *_beside_the_paper(options, matches),
            markdown.bullets(_words(options, runs, matches, lr)),
        ]
    )
    rows = [_row(options, match, lr.value) for match in matches]
    return Findings(pd.DataFrame(rows), text + "\n", {"fig1": figure(options, matches)}, runs.frame(), _points(matches))


def _row(options: Options, match: Match, lr: float) -> dict[str, object]:
    test, covered = match.auc, paper.covers(options.dataset, options.model)
    cell = paper.table2(options.model, match.lambda21) if covered else None
    adam = paper.adam_auc(options.model, match.lambda21) if covered else None
    return {
        "lambda21": match.lambda21,
        "score": match.score,
        "lr": lr,
        "finetune": match.finetune,
        "group_adam_auc_mean": match.group_auc.mean,
        "group_adam_auc_std": match.group_auc.std,
        "group_adam_rate_mean": match.group_rate.mean,
        "group_adam_rate_std": match.group_rate.std,
        "adam_auc_mean": match.pruned_auc.mean,
        "adam_auc_std": match.pruned_auc.std,
        "adam_rate_mean": match.pruned_rate.mean,
        "adam_rate_std": match.pruned_rate.std,
        "difference": test.difference,
        "p_student": test.student,
        "p_welch": test.welch,
        "p_paired": test.paired,
        "seeds_group_adam": match.group_auc.n,
        "seeds_adam": match.pruned_auc.n,
        "features_apart": match.features_apart,
        "paper_adam_auc": adam,
        "paper_group_adam_auc": cell.group_adam if cell else None,
        "paper_rate": cell.rate if cell else None,
        "paper_p": cell.p if cell else None,
        "paper_difference": cell.group_adam - adam if cell and adam is not None else None,
        "adam_minus_paper": match.pruned_auc.mean - adam if adam is not None else None,
        "group_adam_minus_paper": match.group_auc.mean - cell.group_adam if cell else None,
        "rate_minus_paper": match.group_rate.mean - cell.rate if cell else None,
        "gap": match.gap,
    }


def _like_the_paper(options: Options, matches: list[Match], score: str) -> str:
    model = paper.PRINTED.get(options.model, options.model)
    rows = []
    for match in matches:
        if match.score != score:
            continue
        adam = markdown.cell(match.pruned_auc, match.pruned_rate)
        group = markdown.cell(match.group_auc, match.group_rate)
        if match.auc.difference > 0:
            group = markdown.bold(group)
        elif match.auc.difference < 0:
            adam = markdown.bold(adam)
        rows.append([markdown.power(match.lambda21), adam, group, markdown.p_value(match.auc.student)])
    return markdown.table([f"λ21 ({model})", NAMES[score], "Group Adam", "P-Value"], rows)


def _details(matches: list[Match]) -> str:
    head = [
        "λ21",
        "pruned by",
        "fine-tuned on",
        "difference",
        "p Student",
        "p Welch",
        "p paired",
        "seeds",
        "features apart",
    ]
    rows = [
        [
            markdown.power(match.lambda21),
            match.score,
            markdown.GAP if match.finetune is None else f"{match.finetune:.0%}",
            markdown.difference(match.auc.difference),
            *(markdown.p_value(p) for p in (match.auc.student, match.auc.welch, match.auc.paired)),
            f"{match.group_auc.n} / {match.pruned_auc.n}",
            markdown.GAP if match.features_apart is None else str(match.features_apart),
        ]
        for match in matches
    ]
    return markdown.table(head, rows)


def _beside_the_paper(options: Options, matches: list[Match]) -> list[str]:
    """Ours beside the paper's, for what it pruned by: the norm."""
    if not paper.covers(options.dataset, options.model):
        return []
    rows = []
    for match in matches:
        cell, adam = paper.table2(options.model, match.lambda21), paper.adam_auc(options.model, match.lambda21)
        if cell is None or adam is None or match.score != "norm":
            continue
        rows.append(
            [
                markdown.power(match.lambda21),
                f"{markdown.auc(adam)}{'*' if cell.adam is None else ''}",
                markdown.auc(match.pruned_auc.mean),
                markdown.difference(match.pruned_auc.mean - adam),
                markdown.auc(cell.group_adam),
                markdown.auc(match.group_auc.mean),
                markdown.difference(match.group_auc.mean - cell.group_adam),
                markdown.rate(cell.rate),
                markdown.rate(match.group_rate.mean),
                markdown.p_value(cell.p),
                markdown.p_value(match.auc.student),
            ]
        )
    if not rows:
        return []
    minus = "− paper"
    head = [
        "λ21",
        "Adam: paper",
        "ours",
        minus,
        "Group Adam: paper",
        "ours",
        minus,
        "rate: paper",
        "ours",
        "p: paper",
        "ours",
    ]
    note = (
        "\\* lost in the print at hand: the best of the paper's table 8." if any("*" in row[1] for row in rows) else ""
    )
    return ["Beside the paper's table 2 (pruned by norm):", markdown.table(head, rows), *([note] if note else [])]


def _words(options: Options, runs: Runs, matches: list[Match], lr: Rate) -> list[str]:
    lines = sentences.scope(options, (run for match in matches for run in match.group.values()))
    lines.append(sentences.learning_rate(options, "adam", lr))
    lines.append(sentences.choice(options, "Adam's fine-tuning schedules were"))
    lines.append(_counts(matches))
    for score in options.scores:
        against = NAMES[score]
        lines.append(sentences.tally("Group Adam", against, (m.auc for m in matches if m.score == score)) + ".")
    for match in matches:
        line = f"λ21 = {markdown.power(match.lambda21)}, by {match.score}: "
        line += sentences.winner("Group Adam", "pruned Adam", match.auc)
        lines.append(line + _against_the_paper(options, match) + (f"; gap: {match.gap}" if match.gap else "") + ".")
    return lines + sentences.notes(runs)


def _against_the_paper(options: Options, match: Match) -> str:
    if not paper.covers(options.dataset, options.model) or match.score != "norm":
        return ""
    cell, adam = paper.table2(options.model, match.lambda21), paper.adam_auc(options.model, match.lambda21)
    if cell is None or adam is None:
        return "; not in the paper"
    line = (
        f"; {sentences.sign_agrees(match.auc.difference, cell.group_adam - adam)} (its p = {markdown.p_value(cell.p)})"
    )
    if sentences.full_size(options, match.group.values()):
        line += f"; Group Adam's AUC against the paper's: {sentences.near(match.group_auc, cell.group_adam)}"
        line += f"; pruned Adam's: {sentences.near(match.pruned_auc, adam)}"
    return line


def _counts(matches: list[Match]) -> str:
    apart = [match.features_apart for match in matches if match.features_apart is not None]
    if not apart:
        return "No pair of runs finished whose numbers of features could be held against each other."
    if max(apart) == 0:
        return f"In all {len(apart)} cells both methods keep the same number of features with every seed."
    wrong = sum(number > 0 for number in apart)
    return f"NOT MATCHED: in {wrong} of {len(apart)} cells the numbers of features differ, by up to {max(apart):,}."


def figure(options: Options, matches: list[Match]) -> Figure:
    """AUC against feature rate, a line for each method (the paper's figure 1)."""
    first = [match for match in matches if match.score == options.scores[0]]
    series = [
        figures.Series("Group Adam", [m.group_rate for m in first], [m.group_auc for m in first], 0),
        *(
            figures.Series(
                NAMES[score],
                [match.pruned_rate for match in matches if match.score == score],
                [match.pruned_auc for match in matches if match.score == score],
                1 + options.scores.index(score),
            )
            for score in options.scores
        ),
    ]
    panel = figures.Panel("", figures.RATE, figures.AUC, series)
    caption = "Means over seeds, bars: one standard deviation. " + " ".join(
        sentences.scope(options, (run for match in first for run in match.group.values()))
    )
    zero = sum(summary([run.feature_rate for run in match.group.values()]).mean == 0 for match in first)
    caption += f" Not drawn: {zero} λ21 at which no feature is left." if zero else ""
    return figures.draw([[panel]], f"Figure 1 · {options.dataset}: AUC against feature rate", caption)


def _points(matches: list[Match]) -> pd.DataFrame:
    group = {(m.lambda21, seed): run for m in matches for seed, run in m.group.items()}
    parts = [points("Group Adam", group)]
    for score in dict.fromkeys(match.score for match in matches):
        pruned = {(m.lambda21, seed): run for m in matches if m.score == score for seed, run in m.pruned.items()}
        parts.append(points(NAMES[score], pruned))
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else points("", {})
