"""Table 3: plain Adam and Adagrad against their group optimizers with the best regularisers."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ctr.report import markdown
from ctr.report.statistics import Comparison, Summary, compare, summary
from ctr.studies import learning_rates, paper, sentences
from ctr.studies.learning_rates import Rate
from ctr.studies.paper import Regularisers
from ctr.studies.runs import HOLDOUT, Run, Runs, aucs, job
from ctr.studies.runs import rates as rates_of
from ctr.studies.study import Ask, Findings, Job, Options

FAMILIES = {"adam": ("Adam", "Group Adam"), "adagrad": ("Adagrad", "Group Adagrad")}
PAPERS, BEST = "the paper's regularisers", "the best of the grid"

GridKey = tuple[str, Regularisers, int]  # family, lambdas, seed


@dataclass(frozen=True)
class Row:
    """A group optimizer with one choice of regularisers against the plain one."""

    family: str
    which: str
    lambdas: Regularisers | None
    plain: list[Run]
    group: list[Run]

    @property
    def auc(self) -> Comparison:
        """Group − plain."""
        return compare(aucs(self.group), aucs(self.plain)) if self.group else compare([], [])

    @property
    def rate(self) -> Comparison:
        return compare(rates_of(self.group), rates_of(self.plain)) if self.group else compare([], [])

    def summaries(self) -> tuple[Summary, Summary, Summary, Summary]:
        """Plain AUC and rate, group AUC and rate."""
        values = (aucs(self.plain), rates_of(self.plain), aucs(self.group), rates_of(self.group))
        a, b, c, d = map(summary, values)
        return a, b, c, d


def study(ask: Ask, options: Options) -> Findings:
    """Plain, the paper's regularisers (tables 6 and 7) and the best of lambda1 x lambda21 x lambda2 at hand."""
    runs = Runs(ask)
    found = learning_rates.choose(runs, options, list(FAMILIES))
    lrs = {family: found.get((family, None), learning_rates.NONE) for family in FAMILIES}
    grid = [
        Regularisers(lambda1, lambda21, lambda2)
        for lambda1 in options.lambda1
        for lambda21 in options.lambda21
        for lambda2 in options.lambda2
        if lambda1 or lambda21 or lambda2  # all 0 is the plain optimizer
    ]
    plain = runs(
        {(family, seed): job(options, family, seed, lrs[family].value) for family in FAMILIES for seed in options.seeds}
    )
    published = {family: paper.REGULARISERS[family].get(options.model) for family in FAMILIES}
    holdout = options.select == "validation"
    tried = runs(_group_jobs(options, lrs, dict.fromkeys(FAMILIES, grid), holdout))
    chosen = {family: best_of(options, tried, family, grid) for family in FAMILIES}
    final = runs(
        _group_jobs(
            options,
            lrs,
            {
                family: list(dict.fromkeys(lambdas for lambdas in (published[family], chosen[family]) if lambdas))
                for family in FAMILIES
            },
            holdout=False,
        )
    )
    rows = [
        Row(
            family,
            which,
            lambdas,
            [plain[family, seed] for seed in options.seeds],
            [final[family, lambdas, seed] for seed in options.seeds] if lambdas else [],
        )
        for which, choice in ((PAPERS, published), (BEST, chosen))
        for family, lambdas in choice.items()
    ]
    text = "\n\n".join(
        [
            f"# Table 3 · group optimizers against plain ones · {options.dataset}",
            "AUC mean±std over seeds and (feature rate); the higher AUC is bold; p-value of the AUCs and, in "
            "parentheses, of the rates (missing where no rate varies).",
            _like_the_paper(options, rows),
            "Beside the paper's table 3:" if paper.covers(options.dataset, options.model) else "",
            _beside_the_paper(options, rows) if paper.covers(options.dataset, options.model) else "",
            markdown.bullets(_words(options, runs, rows, lrs, list(tried.values()))),
        ]
    )
    return Findings(
        pd.DataFrame([_record(options, row, lrs[row.family].value) for row in rows]),
        text.replace("\n\n\n\n", "\n\n") + "\n",
        {},
        runs.frame(),
        _points(options, tried if not holdout else final),
    )


def best_of(options: Options, tried: dict[GridKey, Run], family: str, grid: list[Regularisers]) -> Regularisers | None:
    """The regularisers with the best mean AUC; those that failed with some seeds only stand back."""
    means = {lambdas: summary(aucs(tried[family, lambdas, seed] for seed in options.seeds)) for lambdas in grid}
    most = max((mean.n for mean in means.values()), default=0)
    if most == 0:
        return None
    return max((lambdas for lambdas in grid if means[lambdas].n == most), key=lambda lambdas: means[lambdas].mean)


def _group_jobs(
    options: Options, lrs: dict[str, Rate], grids: dict[str, list[Regularisers]], holdout: bool
) -> dict[GridKey, Job]:
    more = {"holdout": HOLDOUT} if holdout else {}
    return {
        (family, lambdas, seed): job(
            options, f"group_{family}", seed, lrs[family].value, {**overrides(lambdas), **more}
        )
        for family, grid in grids.items()
        for lambdas in grid
        for seed in options.seeds
    }


def overrides(lambdas: Regularisers) -> dict[str, object]:
    return {
        "opt.lambda1": lambdas.lambda1,
        "opt.lambda21": lambdas.lambda21,
        "opt.lambda2": lambdas.lambda2,
    }


def described(lambdas: Regularisers | None) -> str:
    if lambdas is None:
        return "no run finished"
    return ", ".join(
        f"{name} = {markdown.power(value)}"
        for name, value in (("λ1", lambdas.lambda1), ("λ21", lambdas.lambda21), ("λ2", lambdas.lambda2))
    )


def _like_the_paper(options: Options, rows: list[Row]) -> str:
    head, lines = ["Regularisers"], []
    for names in FAMILIES.values():
        head += [*names, "P-Value"]
    for which in (PAPERS, BEST):
        line = [f"{paper.PRINTED.get(options.model, options.model)}, {which}"]
        for row in rows:
            if row.which != which:
                continue
            plain_auc, plain_rate, group_auc, group_rate = row.summaries()
            plain, group = markdown.cell(plain_auc, plain_rate), markdown.cell(group_auc, group_rate)
            if row.auc.difference > 0:
                group = markdown.bold(group)
            elif row.auc.difference < 0:
                plain = markdown.bold(plain)
            p = f"{markdown.p_value(row.auc.student)} ({markdown.p_value(row.rate.student)})"
            line += [plain, group, p]
        lines.append(line)
    return markdown.table(head, lines)


def _beside_the_paper(options: Options, rows: list[Row]) -> str:
    minus = "− paper"
    head = ["", "plain: paper", "ours", minus, "group: paper", "ours", minus, "rate: paper", "ours", "p: paper", "ours"]
    lines = []
    for row in rows:
        cell = paper.TABLE3[options.model][row.family]
        plain_auc, _, group_auc, group_rate = row.summaries()
        lines.append(
            [
                f"{FAMILIES[row.family][1]}, {row.which}",
                markdown.auc(cell.plain),
                markdown.auc(plain_auc.mean),
                markdown.difference(plain_auc.mean - cell.plain),
                markdown.auc(cell.group),
                markdown.auc(group_auc.mean),
                markdown.difference(group_auc.mean - cell.group),
                markdown.rate(cell.group_rate),
                markdown.rate(group_rate.mean),
                markdown.p_value(cell.p),
                markdown.p_value(row.auc.student),
            ]
        )
    return markdown.table(head, lines)


def _words(options: Options, runs: Runs, rows: list[Row], lrs: dict[str, Rate], tried: list[Run]) -> list[str]:
    lines = sentences.scope(options, (run for row in rows for run in (*row.plain, *row.group)))
    lines += [sentences.learning_rate(options, family, lr) for family, lr in lrs.items()]
    choices = len(tried) // (len(options.seeds) * len(FAMILIES))
    lines.append(sentences.choice(options, f"The best of the grid was, among {choices} choices,"))
    for row in rows:
        plain, group = FAMILIES[row.family]
        line = f"{group} with {row.which} ({described(row.lambdas)}): {sentences.winner(group, plain, row.auc)}"
        _, _, group_auc, group_rate = row.summaries()
        if group_auc.n:
            line += f"; feature rate {markdown.rate(group_rate.mean)}"
        if paper.covers(options.dataset, options.model) and group_auc.n:
            cell = paper.TABLE3[options.model][row.family]
            line += f" (paper: {markdown.rate(cell.group_rate)})"
            line += f"; {sentences.sign_agrees(row.auc.difference, cell.group - cell.plain)}"
            line += f" (its p = {markdown.p_value(cell.p)})"
            if sentences.full_size(options, row.group):
                line += f"; AUC against the paper's: {sentences.near(group_auc, cell.group)}"
        lines.append(line + ".")
    if options.model == "opnn" and paper.covers(options.dataset, options.model):
        lines.append(
            "The paper prints a feature rate of 0.827 for plain Adam and Adagrad with OPNN; a plain optimizer zeroes "
            "no feature that it has seen, ours is 1."
        )
    return lines + sentences.notes(runs)


def _record(options: Options, row: Row, lr: float) -> dict[str, object]:
    plain_auc, plain_rate, group_auc, group_rate = row.summaries()
    covered = paper.covers(options.dataset, options.model)
    cell = paper.TABLE3[options.model][row.family] if covered else None
    return {
        "family": row.family,
        "regularisers": row.which,
        "lambda1": row.lambdas.lambda1 if row.lambdas else None,
        "lambda21": row.lambdas.lambda21 if row.lambdas else None,
        "lambda2": row.lambdas.lambda2 if row.lambdas else None,
        "lr": lr,
        "plain_auc_mean": plain_auc.mean,
        "plain_auc_std": plain_auc.std,
        "plain_rate_mean": plain_rate.mean,
        "group_auc_mean": group_auc.mean,
        "group_auc_std": group_auc.std,
        "group_rate_mean": group_rate.mean,
        "group_rate_std": group_rate.std,
        "difference": row.auc.difference,
        "p_student": row.auc.student,
        "p_welch": row.auc.welch,
        "p_paired": row.auc.paired,
        "p_rate_student": row.rate.student,
        "seeds_plain": plain_auc.n,
        "seeds_group": group_auc.n,
        "paper_plain_auc": cell.plain if cell else None,
        "paper_group_auc": cell.group if cell else None,
        "paper_group_rate": cell.group_rate if cell else None,
        "paper_p": cell.p if cell else None,
        "plain_minus_paper": plain_auc.mean - cell.plain if cell else None,
        "group_minus_paper": group_auc.mean - cell.group if cell else None,
        "gap": "; ".join(dict.fromkeys(run.error for run in (*row.plain, *row.group) if run.error)) or None,
    }


def _points(options: Options, found: dict[GridKey, Run]) -> pd.DataFrame:
    rows = [
        (FAMILIES[family][1], lambdas.lambda21, seed, run.auc, run.feature_rate)
        for (family, lambdas, seed), run in found.items()
        if run.auc == run.auc
    ]
    return pd.DataFrame(rows, columns=["method", "lambda21", "seed", "auc", "feature_rate"])
