"""Figure 2: which norm decides that a feature dies, s or s~ (section 4.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ctr.report import figures, markdown
from ctr.report.findings import Column, Findings, Row, rows
from ctr.report.statistics import Comparison, compare, summary
from ctr.studies import learning_rates, matched, paper, sentences
from ctr.studies.columns import GAP, LAMBDA21, LR, adjust, compared, differences, interval, known, mean_std, spread
from ctr.studies.curves import auc_at
from ctr.studies.runs import Run, Runs, aucs, gap, measured, points, rates
from ctr.studies.study import Ask, Lambdas, Options

NORMS = {
    "s": "s (practical rule)",
    "s_tilde": "s~, exponent -1/2 (theorem 1)",
    "s_tilde_eq10": "s~, exponent -1 (Eq. 10 as printed)",
}
COLUMNS = [
    Column("norm", "norm that decides that a feature dies (opt.norm)", lambda name: NORMS[name]),
    LAMBDA21,
    LR,
    *spread("auc", "test AUC", markdown.auc),
    *spread("rate", "feature rate", markdown.rate),
    Column("seeds", "finished seeds"),
    *differences("AUC of s, read at this point's feature rate, − this AUC", "s_minus_this_at_its_rate"),
    Column("seeds_compared", "seeds whose feature rate is within those of s"),
    GAP,
]
LAYOUT: markdown.Layout = [
    ("Norm", "norm"), ("λ21", "lambda21"), ("AUC (rate)", markdown.cell),
    ("s − s~ at this rate", "s_minus_this_at_its_rate"),
    ("95% interval", interval("s_minus_this_at_its_rate")), ("p", "p"), ("p Holm", "p_holm"),
]  # fmt: skip


def lambda21_of(norm: str, lambda21: float, lr: float) -> float:
    """The lambda21 for a norm that leaves about as many features as `lambda21` does for s.

    s~ is s divided by a power of D/2 + lambda2 with D = sqrt(V)/lr: its scale follows the learning rate. The factors
    and the root made the rates of a 0.3 % sample of Criteo about equal; they only place the points, the comparison is
    at measured rates.
    """
    if norm == "s_tilde":
        return 10 * lambda21 * math.sqrt(lr / 1e-2)
    if norm == "s_tilde_eq10":
        return 10 * math.sqrt(lambda21) * lr / 1e-2
    return lambda21


def study(ask: Ask, options: Options, *, lambda21: Lambdas) -> Findings:
    """Group Adam with each norm at as many lambda21 as given: 3 x lambda21 x seeds runs."""
    runs = Runs(ask)
    lr = learning_rates.choose_one(runs, options, "adam")
    places = {(norm, value): lambda21_of(norm, value, lr.value) for norm in NORMS for value in lambda21}
    found = runs(
        {
            (norm, value, seed): matched.group_adam(options, seed, lr.value, place, {"opt.norm": norm})
            for (norm, value), place in places.items()
            for seed in options.seeds
        }
    )
    cells = {of: [found[(*of, seed)] for seed in options.seeds] for of in places}
    of_s = [cells["s", value] for value in lambda21]
    table = pd.DataFrame(
        adjust([_row(norm, places[norm, value], lr.value, of, of_s) for (norm, value), of in cells.items()], "p")
    )
    scope = sentences.scope(options, found.values())
    text = [
        f"# Figure 2 · s against s~ · {options.dataset}",
        "Group Adam's AUC mean±std over seeds and (feature rate) by the norm that decides that a feature dies. "
        "To the right, s − s~ at that point's rate, seed by seed: s's AUC is read from its line, linear in the "
        "logarithm of the rate, and missing beyond its ends.",
        markdown.view(rows(table), COLUMNS, LAYOUT),
        markdown.bullets(
            [
                *scope,
                sentences.learning_rate(options, "adam", lr),
                *(_sentence(rows(table), norm) for norm in NORMS if norm != "s"),
                *_papers_lambdas(options),
                *sentences.notes(options, runs),
            ]
        ),
    ]
    dots = points((NORMS[norm], places[norm, value], seed, run) for (norm, value, seed), run in found.items())
    drawn = {"fig2": _figure(options, rows(table), scope)}
    return Findings(table, "\n\n".join(text) + "\n", drawn, runs.frame(), dots, COLUMNS)


def gain_of_s(found: Sequence[Run], of_s: Sequence[Sequence[Run]]) -> Comparison:
    """AUC of s, at each run's feature rate, minus the run's AUC, seed by seed.

    Args:
        found: by seed.
        of_s: the runs of s, by lambda21 and seed.
    """
    lines = [[point[i] for point in of_s] for i in range(len(found))]
    read = [auc_at(run.feature_rate, rates(line), measured(line)) for run, line in zip(found, lines, strict=True)]
    return compare(np.array(read), measured(found))


def _row(norm: str, lambda21: float, lr: float, found: Sequence[Run], of_s: Sequence[Sequence[Run]]) -> Row:
    gain = gain_of_s(found, of_s) if norm != "s" else compare([], [])
    return {
        "norm": norm,
        "lambda21": lambda21,
        "lr": lr,
        **mean_std("auc", aucs(found)),
        **mean_std("rate", rates(found)),
        "seeds": summary(aucs(found)).n,
        **compared(gain, "s_minus_this_at_its_rate"),
        "seeds_compared": gain.pairs,
        "gap": gap(found),
    }


def _sentence(found: Sequence[Row], norm: str) -> str:
    gain = "s_minus_this_at_its_rate"
    done = [row for row in found if row["norm"] == norm and known(row[gain])]
    if not done:
        return f"Against {NORMS[norm]}: no point is within the rates of s, nothing to compare."
    up, down = [row for row in done if row[gain] > 0], [row for row in done if row[gain] < 0]
    of_up, of_down = (sentences.sure(rows, gain) for rows in (up, down))
    return (
        f"Against {NORMS[norm]}: s is higher at {len(up)} of {len(done)} comparable points{of_up}, lower at "
        f"{len(down)}{of_down}. This {sentences.agreement(len(up), len(done))} with the paper, where s is higher at "
        "the same rate."
    )


def _papers_lambdas(options: Options) -> list[str]:
    if not options.in_paper:
        return []
    kept = ", ".join(markdown.power(value) for value in paper.TABLE9["s_tilde"])
    return [
        f"The paper's λ21 for s~ (table 9, as far as the print is legible: {kept}) does not say which exponent it "
        "was made with: Eq. 10 prints -1, the minimiser of Eq. 6 takes -1/2. Its AUCs are printed as a drawing "
        "only."
    ]


def _figure(options: Options, found: Sequence[Row], scope: Sequence[str]) -> Figure:
    series = [
        figures.line(name, [row for row in found if row["norm"] == norm], "rate", "auc", look)
        for look, (norm, name) in enumerate(NORMS.items())
    ]
    caption = " ".join(["Means over seeds, bars: one standard deviation.", *scope])
    panel = figures.Panel("", figures.RATE, figures.AUC, series)
    return figures.draw([[panel]], f"Figure 2 · {options.dataset}: s against s~", caption)
