"""Table 4: the feature rate by embedding dimension, with Group Adam."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from itertools import pairwise

import pandas as pd

from ctr.errors import CtrError
from ctr.report import markdown
from ctr.report.findings import Column, Findings, Row, rows
from ctr.report.statistics import compare, summary
from ctr.studies import learning_rates, paper, sentences
from ctr.studies.columns import GAP, LR, TIES, mean_std, spread
from ctr.studies.runs import Choice, Run, Runs, aucs, choose, gap, job, lambdas, measured, points, rates
from ctr.studies.study import Ask, Counts, Options
from ctr.studies.table3 import described

COLUMNS = [
    Column("embedding_dim", "embedding dimension"),
    LR,
    *spread("rate", "feature rate", markdown.rate),
    *spread("auc", "test AUC", markdown.auc),
    Column("seeds", "finished seeds"),
    Column("best", "whether it has the best AUC"),
    TIES,
    Column("paper_rate", "the paper's feature rate", markdown.rate),
    Column("paper_auc", "the paper's AUC", markdown.auc),
    Column("rate_minus_paper", "feature rate − the paper's", markdown.difference),
    Column("auc_minus_paper", "AUC − the paper's", markdown.difference),
    GAP,
]


def study(ask: Ask, options: Options, *, dims: Counts) -> Findings:
    """Group Adam with table 6's regularisers of the model at every dimension: dims x seeds runs.

    The learning rate is that of the model's own dimension, as in the paper.
    """
    chosen = paper.REGULARISERS["adam"].get(options.model)
    if chosen is None:
        raise CtrError(f"study=table4: the paper has no regularisers for {options.model}; expected dcn, mlp or opnn")
    runs = Runs(ask)
    lr = learning_rates.choose_one(runs, options, "adam")
    found = runs(
        {
            (dim, seed): job(
                options, "group_adam", seed, lr.value, {**lambdas(*astuple(chosen)), "model.embedding_dim": dim}
            )
            for dim in dims
            for seed in options.seeds
        }
    )
    by_dim = {dim: [found[dim, seed] for seed in options.seeds] for dim in dims}
    best = choose(by_dim)
    table = pd.DataFrame([_row(options, dim, of_dim, lr.value, best) for dim, of_dim in by_dim.items()])
    lines = [*sentences.scope(options, found.values()), sentences.learning_rate(options, "adam", lr)]
    lines += [] if options.dataset == "criteo" else ["The paper's table 4 is of DCN on Criteo only."]
    text = [
        f"# Table 4 · embedding dimensions · {options.dataset}",
        f"Group Adam with {described(*astuple(chosen))} (the paper's table 6): feature rate and (AUC mean±std over "
        "seeds); the lowest rate and the best AUC are bold, and what ties with that AUC is marked =.",
        _in_the_papers_form(rows(table)),
        markdown.bullets([*lines, *_compared(rows(table), by_dim, best), *sentences.notes(options, runs)]),
    ]
    dots = points((f"Group Adam, dimension {dim}", chosen.lambda21, seed, run) for (dim, seed), run in found.items())
    return Findings(table, "\n\n".join(text) + "\n", {}, runs.frame(), dots, COLUMNS)


def _row(options: Options, dim: int, found: list[Run], lr: float, best: Choice[int]) -> Row:
    published = paper.TABLE4.get(dim) if options.in_paper and options.dataset == "criteo" else None
    return {
        "embedding_dim": dim,
        "lr": lr,
        **mean_std("rate", rates(found)),
        **mean_std("auc", aucs(found)),
        "seeds": summary(aucs(found)).n,
        "best": dim == best.best,
        "ties_best": dim in best.ties,
        "paper_rate": published[0] if published else None,
        "paper_auc": published[1] if published else None,
        "rate_minus_paper": summary(rates(found)).mean - published[0] if published else None,
        "auc_minus_paper": summary(aucs(found)).mean - published[1] if published else None,
        "gap": gap(found),
    }


def _in_the_papers_form(found: Sequence[Row]) -> str:
    known = [row for row in found if row["seeds"]]
    lowest = min((row["rate_mean"] for row in known), default=math.nan)

    def ours(row: Row) -> str:
        rate = markdown.bold(markdown.rate(row["rate_mean"]), row["rate_mean"] == lowest)
        auc = markdown.choice(markdown.auc(row["auc_mean"], row["auc_std"]), row["best"], row["ties_best"])
        return f"{rate} ({auc})" if row["seeds"] else markdown.GAP

    def papers(row: Row) -> str:
        rate, auc = markdown.rate(row["paper_rate"]), markdown.auc(row["paper_auc"])
        return markdown.GAP if auc == markdown.GAP else f"{rate} ({auc})"

    layout: markdown.Layout = [
        ("Embedding dimension", "embedding_dim"),
        ("Group Adam", ours),
        ("Paper", papers),
        ("AUC − paper's", "auc_minus_paper"),
    ]
    return markdown.view(found, COLUMNS, layout)


def _compared(found: Sequence[Row], by_dim: Mapping[int, Sequence[Run]], best: Choice[int]) -> list[str]:
    done = sorted((row for row in found if row["seeds"]), key=lambda row: row["embedding_dim"])
    if len(done) < 2:
        return ["Fewer than two dimensions finished: nothing to compare."]
    pairs = list(pairwise(row["rate_mean"] for row in done))
    down = sum(a > b for a, b in pairs)
    agrees = "agrees" if down == len(pairs) else "disagrees"
    others = [row for row in done if not row["best"]]
    other = max(others, key=lambda row: row["auc_mean"])["embedding_dim"]
    assert best.best is not None  # two are done
    test = compare(measured(by_dim[best.best]), measured(by_dim[other]))
    ahead = f"{markdown.difference(test.difference)} {markdown.interval(test.low, test.high)} ahead of"
    return [
        f"The feature rate falls from one dimension to the next in {down} of {len(pairs)} steps: this {agrees} with "
        "the paper, where it falls in every step (the square root of the dimension multiplies λ21).",
        f"The best AUC is at dimension {best.best} (the paper's on Criteo: 16), {ahead} dimension {other}"
        f"{sentences.tie(map(str, best.ties))}.",
    ]
