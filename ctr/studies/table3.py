"""Table 3: plain Adam and Adagrad against their group optimizers with the best regularisers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

import pandas as pd

from ctr.report import markdown
from ctr.report.findings import Column, Findings, Row, rows
from ctr.report.statistics import Summary, compare, summary
from ctr.studies import learning_rates, paper, sentences
from ctr.studies.columns import GAP, LAMBDA21, LR, adjust, compared, differences, known, mean_std, spread
from ctr.studies.learning_rates import Rate
from ctr.studies.paper import Regularisers
from ctr.studies.runs import Choice, Run, Runs, aucs, choose, gap, held_out, job, lambdas, measured, points, rates
from ctr.studies.study import Ask, Job, Lambdas, Options

FAMILIES = {"adam": ("Adam", "Group Adam"), "adagrad": ("Adagrad", "Group Adagrad")}
PAPERS, BEST = "the paper's regularisers", "the best of the grid"
COLUMNS = [
    Column("family", "adam or adagrad"),
    Column("regularisers", "where they are from"),
    Column("ties", "other choices of the grid whose AUC cannot be told from it"),
    Column("lambda1", "regularisation term of single weights", markdown.power),
    LAMBDA21,
    Column("lambda2", "regularisation term of the damping", markdown.power),
    LR,
    *spread("plain_auc", "test AUC of the plain optimizer", markdown.auc),
    Column("plain_rate_mean", "feature rate of the plain optimizer, mean over the seeds", markdown.rate),
    *spread("group_auc", "test AUC of the group optimizer", markdown.auc),
    *spread("group_rate", "feature rate of the group optimizer", markdown.rate),
    *differences("group − plain optimizer"),
    *differences("feature rate of the group − of the plain optimizer", "rate_difference", "p_rate", "seeds"),
    Column("seeds_plain", "finished seeds of the plain optimizer"),
    Column("seeds_group", "finished seeds of the group optimizer"),
    Column("paper_plain_auc", "the paper's AUC of the plain optimizer", markdown.auc),
    Column("paper_group_auc", "the paper's AUC of the group optimizer", markdown.auc),
    Column("paper_group_rate", "the paper's feature rate of the group optimizer", markdown.rate),
    Column("paper_p", "the paper's p-value of the AUCs", markdown.p_value),
    Column("plain_minus_paper", "AUC of the plain optimizer − the paper's", markdown.difference),
    Column("group_minus_paper", "AUC of the group optimizer − the paper's", markdown.difference),
    GAP,
]
BESIDE: markdown.Layout = [
    ("", lambda row: f"{FAMILIES[row['family']][1]}, {row['regularisers']}"),
    ("plain: paper", "paper_plain_auc"), ("ours", "plain_auc_mean"), ("− paper", "plain_minus_paper"),
    ("group: paper", "paper_group_auc"), ("ours", "group_auc_mean"), ("− paper", "group_minus_paper"),
    ("rate: paper", "paper_group_rate"), ("ours", "group_rate_mean"),
    ("p: paper", "paper_p"), ("ours", "p"),
]  # fmt: skip

GridKey = tuple[str, Regularisers, int]  # family, lambdas, seed


def study(ask: Ask, options: Options, *, lambda1: Lambdas, lambda21: Lambdas, lambda2: Lambdas) -> Findings:
    """Plain, the paper's regularisers (tables 6 and 7) and the best of lambda1 x lambda21 x lambda2 at hand."""
    runs = Runs(ask)
    lrs = {family: lr for (family, _), lr in learning_rates.choose(runs, options, list(FAMILIES)).items()}
    grid = [Regularisers(a, b, c) for a in lambda1 for b in lambda21 for c in lambda2 if a or b or c]  # all 0: plain
    plain = runs(
        {(family, seed): job(options, family, seed, lrs[family].value) for family in FAMILIES for seed in options.seeds}
    )
    tried = runs(_group_jobs(options, lrs, dict.fromkeys(FAMILIES, grid), held_out(options)))
    published = {family: paper.REGULARISERS[family].get(options.model) for family in FAMILIES}
    best_of = {family: _best_of(options, tried, family, grid) for family in FAMILIES}
    chosen = {family: of.best for family, of in best_of.items()}
    wanted = {family: [one for one in (published[family], chosen[family]) if one] for family in FAMILIES}
    final = runs(_group_jobs(options, lrs, wanted, {}))
    cells = [
        (
            family,
            which,
            one,
            len(best_of[family].ties) if which == BEST else None,
            [plain[family, seed] for seed in options.seeds],
            [final[family, one, seed] for seed in options.seeds] if one else [],
        )
        for which, of in ((PAPERS, published), (BEST, chosen))
        for family, one in of.items()
    ]
    table = pd.DataFrame(adjust([_row(options, lrs, *cell) for cell in cells], "p", "p_rate"))
    found, all_runs = rows(table), [run for *_, of_plain, of_group in cells for run in (*of_plain, *of_group)]
    full_size = sentences.full_size(options, all_runs)
    text = [
        f"# Table 3 · group optimizers against plain ones · {options.dataset}",
        "AUC mean±std over seeds and (feature rate); the higher AUC is bold where Holm's p is below .05; p-value of "
        "the AUCs and, in parentheses, of the rates, over seeds alone (missing where no rate varies).",
        _in_the_papers_form(options, found),
        *(["Beside the paper's table 3:", markdown.view(found, COLUMNS, BESIDE)] if options.in_paper else []),
        markdown.bullets(
            [
                *sentences.scope(options, all_runs),
                *(sentences.learning_rate(options, family, lr) for family, lr in lrs.items()),
                sentences.choice(options, f"The best of the grid was, among {len(grid)} choices,"),
                *(_sentence(options, row, full_size) for row in found),
                *_papers_plain_rate(options),
                *sentences.notes(options, runs),
            ]
        ),
    ]
    shown = final if held_out(options) else tried
    dots = points((FAMILIES[family][1], one.lambda21, seed, run) for (family, one, seed), run in shown.items())
    return Findings(table, "\n\n".join(text) + "\n", {}, runs.frame(), dots, COLUMNS)


def _best_of(
    options: Options, tried: Mapping[GridKey, Run], family: str, grid: Sequence[Regularisers]
) -> Choice[Regularisers]:
    """The regularisers with the best mean AUC."""
    return choose({one: [tried[family, one, seed] for seed in options.seeds] for one in grid})


def _group_jobs(
    options: Options, lrs: Mapping[str, Rate], grids: Mapping[str, Sequence[Regularisers]], more: Mapping[str, object]
) -> dict[GridKey, Job]:
    return {
        (family, one, seed): job(
            options, f"group_{family}", seed, lrs[family].value, {**lambdas(*astuple(one)), **more}
        )
        for family, grid in grids.items()
        for one in grid
        for seed in options.seeds
    }


def _row(
    options: Options,
    lrs: Mapping[str, Rate],
    family: str,
    which: str,
    chosen: Regularisers | None,
    ties: int | None,
    plain: list[Run],
    group: list[Run],
) -> Row:
    cell = paper.TABLE3[options.model][family] if options.in_paper else None
    paired = plain if group else []
    plain_auc, group_auc = summary(aucs(plain)), summary(aucs(group))
    return {
        "family": family,
        "regularisers": which,
        "ties": ties,
        "lambda1": chosen.lambda1 if chosen else None,
        "lambda21": chosen.lambda21 if chosen else None,
        "lambda2": chosen.lambda2 if chosen else None,
        "lr": lrs[family].value,
        **mean_std("plain_auc", aucs(plain)),
        "plain_rate_mean": summary(rates(plain)).mean,
        **mean_std("group_auc", aucs(group)),
        **mean_std("group_rate", rates(group)),
        **compared(compare(measured(group), measured(paired))),
        **compared(compare(rates(group), rates(paired)), "rate_difference", "p_rate"),
        "seeds_plain": plain_auc.n,
        "seeds_group": group_auc.n,
        "paper_plain_auc": cell.plain if cell else None,
        "paper_group_auc": cell.group if cell else None,
        "paper_group_rate": cell.group_rate if cell else None,
        "paper_p": cell.p if cell else None,
        "plain_minus_paper": plain_auc.mean - cell.plain if cell else None,
        "group_minus_paper": group_auc.mean - cell.group if cell else None,
        "gap": gap((*plain, *group)),
    }


def described(lambda1: float | None, lambda21: float | None, lambda2: float | None) -> str:
    """``λ1 = 4e-4, λ21 = 5e-4, λ2 = 1e-5``."""
    if not known(lambda1):
        return "no run finished"
    terms = {"λ1": lambda1, "λ21": lambda21, "λ2": lambda2}
    return ", ".join(f"{name} = {markdown.power(value)}" for name, value in terms.items())


def _in_the_papers_form(options: Options, found: Sequence[Row]) -> str:
    head, lines = ["Regularisers"], []
    for names in FAMILIES.values():
        head += [*names, "P-Value"]
    for which in (PAPERS, BEST):
        line = [f"{paper.PRINTED.get(options.model, options.model)}, {which}"]
        for row in found:
            if row["regularisers"] == which:
                line += [
                    markdown.bold(markdown.cell(row, "plain_"), sentences.wins(row) and row["difference"] < 0),
                    markdown.bold(markdown.cell(row, "group_"), sentences.wins(row) and row["difference"] > 0),
                    f"{markdown.p_value(row['p'])} ({markdown.p_value(row['p_rate'])})",
                ]
        lines.append(line)
    return markdown.table(head, lines)


def _sentence(options: Options, row: Row, full_size: bool) -> str:
    plain, group = FAMILIES[row["family"]]
    chosen = described(row["lambda1"], row["lambda21"], row["lambda2"])
    line = f"{group} with {row['regularisers']} ({chosen}): "
    line += sentences.winner(group, plain, row)
    if known(row["ties"]) and row["ties"]:
        others = "1 other of the grid ties" if row["ties"] == 1 else f"{row['ties']:.0f} others of the grid tie"
        line += f"; {others} with it"
    if row["seeds_group"]:
        line += f"; feature rate {markdown.rate(row['group_rate_mean'])}"
        line += _against_the_paper(row, full_size) if options.in_paper else ""
    return line + "."


def _against_the_paper(row: Row, full_size: bool) -> str:
    sign = sentences.sign_agrees(row["difference"], row["paper_group_auc"] - row["paper_plain_auc"])
    line = f" (paper: {markdown.rate(row['paper_group_rate'])}); {sign} (its p = {markdown.p_value(row['paper_p'])})"
    if full_size:
        ours = Summary(row["group_auc_mean"], row["group_auc_std"], row["seeds_group"])
        line += f"; AUC against the paper's: {sentences.near(ours, row['paper_group_auc'])}"
    return line


def _papers_plain_rate(options: Options) -> list[str]:
    if options.model != "opnn" or not options.in_paper:
        return []
    return [
        "The paper prints a feature rate of 0.827 for plain Adam and Adagrad with OPNN; a plain optimizer zeroes "
        "no feature that it has seen, ours is 1."
    ]
