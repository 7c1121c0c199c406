"""Table 4: the feature rate by embedding dimension, with Group Adam."""

from __future__ import annotations

import math
from itertools import pairwise

import pandas as pd

from ctr.errors import CtrError
from ctr.report import markdown
from ctr.report.statistics import student, summary
from ctr.studies import learning_rates, paper, sentences, table3
from ctr.studies.learning_rates import Rate
from ctr.studies.runs import Run, Runs, aucs, job
from ctr.studies.runs import rates as rates_of
from ctr.studies.study import Ask, Findings, Options


def study(ask: Ask, options: Options) -> Findings:
    """Group Adam with table 6's regularisers of the model at every dimension: dims x seeds runs.

    The learning rate is that of the model's own dimension, as in the paper.
    """
    lambdas = paper.REGULARISERS["adam"].get(options.model)
    if lambdas is None:
        raise CtrError(f"study=table4: the paper has no regularisers for {options.model}; expected dcn, mlp or opnn")
    runs = Runs(ask)
    lr = learning_rates.choose_one(runs, options, "adam")
    found = runs(
        {
            (dim, seed): job(
                options, "group_adam", seed, lr.value, {**table3.overrides(lambdas), "model.embedding_dim": dim}
            )
            for dim in options.dims
            for seed in options.seeds
        }
    )
    by_dim = {dim: [found[dim, seed] for seed in options.seeds] for dim in options.dims}
    rows = [_row(options, dim, of_dim, lr.value) for dim, of_dim in by_dim.items()]
    table = pd.DataFrame(rows)
    text = "\n\n".join(
        [
            f"# Table 4 · embedding dimensions · {options.dataset}",
            f"Group Adam with {table3.described(lambdas)} (the paper's table 6): feature rate and (AUC mean±std over "
            "seeds); the lowest rate and the best AUC are bold.",
            _like_the_paper(by_dim, options),
            markdown.bullets(_words(options, runs, by_dim, lr)),
        ]
    )
    return Findings(table, text + "\n", {}, runs.frame(), _points(by_dim, options, lambdas.lambda21))


def _row(options: Options, dim: int, found: list[Run], lr: float) -> dict[str, object]:
    auc, rate = summary(aucs(found)), summary(rates_of(found))
    published = paper.TABLE4.get(dim) if paper.covers(options.dataset, options.model) and _has_it(options) else None
    return {
        "embedding_dim": dim,
        "lr": lr,
        "rate_mean": rate.mean,
        "rate_std": rate.std,
        "auc_mean": auc.mean,
        "auc_std": auc.std,
        "seeds": auc.n,
        "paper_rate": published[0] if published else None,
        "paper_auc": published[1] if published else None,
        "rate_minus_paper": rate.mean - published[0] if published else None,
        "auc_minus_paper": auc.mean - published[1] if published else None,
        "gap": "; ".join(dict.fromkeys(run.error for run in found if run.error)) or None,
    }


def _has_it(options: Options) -> bool:
    return options.dataset == "criteo"  # table 4 is of DCN alone


def _like_the_paper(by_dim: dict[int, list[Run]], options: Options) -> str:
    means = {dim: (summary(rates_of(found)), summary(aucs(found))) for dim, found in by_dim.items()}
    known = [pair for pair in means.values() if pair[1].n]
    lowest = min((rate.mean for rate, _ in known), default=math.nan)
    highest = max((auc.mean for _, auc in known), default=math.nan)
    covered = paper.covers(options.dataset, options.model) and _has_it(options)
    lines = []
    for dim, (rate, auc) in means.items():
        left, right = markdown.rate(rate.mean), markdown.auc(auc.mean, auc.std)
        left = markdown.bold(left) if rate.mean == lowest else left
        right = markdown.bold(right) if auc.mean == highest else right
        published = paper.TABLE4.get(dim) if covered else None
        lines.append(
            [
                str(dim),
                f"{left} ({right})" if auc.n else markdown.GAP,
                f"{markdown.rate(published[0])} ({markdown.auc(published[1])})" if published else markdown.GAP,
                markdown.difference(auc.mean - published[1]) if published else markdown.GAP,
            ]
        )
    minus = "AUC − paper's"
    return markdown.table(["Embedding dimension", "Group Adam", "Paper", minus], lines)


def _words(options: Options, runs: Runs, by_dim: dict[int, list[Run]], lr: Rate) -> list[str]:
    lines = sentences.scope(options, (run for found in by_dim.values() for run in found))
    lines.append(sentences.learning_rate(options, "adam", lr))
    if not _has_it(options):
        lines.append("The paper's table 4 is of DCN on Criteo alone.")
    done = {dim: found for dim, found in sorted(by_dim.items()) if summary(aucs(found)).n}
    if len(done) < 2:
        return [*lines, "Fewer than two dimensions finished: nothing to compare.", *sentences.notes(runs)]
    falling = [summary(rates_of(found)).mean for found in done.values()]
    pairs = list(pairwise(falling))
    down = sum(a > b for a, b in pairs)
    agrees = "agrees" if down == len(pairs) else "disagrees"
    lines.append(
        f"The feature rate falls from one dimension to the next in {down} of {len(pairs)} steps: this {agrees} with "
        "the paper, where it falls in every step (the square root of the dimension multiplies λ21)."
    )
    best = max(done, key=lambda dim: summary(aucs(done[dim])).mean)
    line = f"The best AUC is at dimension {best} (the paper's on Criteo: 16)"
    others = [dim for dim in done if dim != best]
    second = max(others, key=lambda dim: summary(aucs(done[dim])).mean)
    gap = summary(aucs(done[best])).mean - summary(aucs(done[second])).mean
    p = markdown.p_value(student(aucs(done[best]), aucs(done[second])))
    lines.append(f"{line}, {markdown.difference(gap)} ahead of dimension {second} (p = {p}).")
    return lines + sentences.notes(runs)


def _points(by_dim: dict[int, list[Run]], options: Options, lambda21: float) -> pd.DataFrame:
    rows = [
        (f"Group Adam, dimension {dim}", lambda21, seed, run.auc, run.feature_rate)
        for dim, found in by_dim.items()
        for seed, run in zip(options.seeds, found, strict=True)
        if not math.isnan(run.auc)
    ]
    return pd.DataFrame(rows, columns=["method", "lambda21", "seed", "auc", "feature_rate"])
