"""AUC against the number of rows seen: when which method wins, and how much is selection and how much shrinkage.

Beyond the paper: Group Adam with the soft rule (the paper's), the hard one, and the hard one with lambda21 ramped;
Adam pruned by norm and by effect, with and without fine-tuning, to as many features as the soft rule kept with that
seed. A retrain on the features that a method kept, from the initial weights and without regularisers, leaves of each
method its choice of features alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from ctr.errors import ArgumentError, TooFewRows
from ctr.report import figures, markdown
from ctr.report.statistics import Comparison, Summary, compare, summary
from ctr.studies import learning_rates, matched, stream_text
from ctr.studies.curves import auc_at
from ctr.studies.learning_rates import BATCH, Rate
from ctr.studies.runs import HOLDOUT, Run, Runs, aucs
from ctr.studies.runs import rates as rates_of
from ctr.studies.study import Ask, Findings, Job, Options

SOFT = "Group Adam, soft"
GROUPS: dict[str, dict[str, object]] = {
    SOFT: {"opt.threshold": "soft"},
    "Group Adam, hard": {"opt.threshold": "hard"},
    "Group Adam, hard, ramped": {"opt.threshold": "hard", "opt.lambda_schedule": "cubic"},
}

Place = tuple[int, float]  # batches, lambda21
Key = tuple[str, int, float, int]  # method, batches, lambda21, seed
Tried = tuple[str, float, int, float, int]  # score, share to fine-tune on, batches, lambda21, seed


@dataclass(frozen=True)
class Cell:
    """One method at one length of stream and one lambda21, beside the soft rule's runs there.

    Attributes:
        runs, soft: by seed, None where there was nothing to prune to.
        at_soft_rate: by seed, this method's AUC at the soft rule's feature rate: its own where it is matched, read
            between its lambda21 where it is not (NaN beyond them).
        finetune: share of the rows to fine-tune on, None for Group Adam.
    """

    method: str
    steps: int
    lambda21: float
    runs: list[Run | None]
    soft: list[Run]
    at_soft_rate: list[float]
    finetune: float | None

    @property
    def auc(self) -> Summary:
        return summary([run.auc for run in self.runs if run])

    @property
    def rate(self) -> Summary:
        return summary([run.feature_rate for run in self.runs if run])

    @property
    def retrained(self) -> Summary:
        return summary([run.auc_retrained for run in self.runs if run])

    @property
    def gain(self) -> Comparison:
        """AUC over the soft rule's at the soft rule's rate."""
        return compare(self.at_soft_rate, aucs(self.soft))

    @property
    def of_selection(self) -> Comparison:
        """AUC retrained over the soft rule's retrained: which choice of features is better."""
        mine = [run.auc_retrained if run else math.nan for run in self.runs]
        return compare(mine, [run.auc_retrained for run in self.soft])

    @property
    def of_retraining(self) -> Comparison:
        """AUC retrained over AUC: what shrinkage, or pruning late, costs on the same features."""
        runs = [run for run in self.runs if run]
        return compare([run.auc_retrained for run in runs], [run.auc for run in runs])


def study(ask: Ask, options: Options) -> Findings:
    """Every method at every length of stream and every lambda21; the learning rate by the rule at each length.

    Raises:
        ArgumentError: a stream is to be longer than the rows to train on.
    """
    try:
        return _study(ask, options)
    except TooFewRows as error:
        raise ArgumentError(
            f"steps={options.steps}: {error.asked // BATCH:,} batches of {BATCH} rows are {error.asked:,} rows, but "
            f"there are {error.there:,} to train on; expected at most {error.there // BATCH:,}"
        ) from error


def _study(ask: Ask, options: Options) -> Findings:
    runs = Runs(ask)
    found = learning_rates.choose(runs, options, ["adam"], options.steps)
    lrs = {steps: found.get(("adam", steps), learning_rates.NONE) for steps in options.steps}
    group = runs(
        {
            (method, steps, lambda21, seed): matched.group_adam(
                options, seed, lrs[steps].value, lambda21, {**changes, **_span(steps), "retrain": True}
            )
            for method, changes in GROUPS.items()
            for steps in options.steps
            for lambda21 in options.lambda21
            for seed in options.seeds
        }
    )
    places = [(steps, lambda21) for steps in options.steps for lambda21 in options.lambda21]
    cells = [_group_cell(options, group, method, *place) for place in places for method in GROUPS]
    cells += _pruned_cells(runs, options, lrs, group, places)
    cells.sort(key=lambda cell: (cell.lambda21, cell.steps))
    return Findings(
        pd.DataFrame([_row(cell, lrs[cell.steps].value) for cell in cells]),
        stream_text.write(options, runs, cells, lrs),
        {f"stream-{markdown.power(lambda21)}": _figure(options, cells, lambda21) for lambda21 in options.lambda21},
        runs.frame(),
        _points(options, cells),
    )


def _span(steps: int) -> dict[str, object]:
    return {"train_rows": steps * BATCH}


def _group_cell(options: Options, group: dict[Key, Run], method: str, steps: int, lambda21: float) -> Cell:
    own = [group[method, steps, lambda21, seed] for seed in options.seeds]
    soft = [group[SOFT, steps, lambda21, seed] for seed in options.seeds]
    if method == SOFT:
        return Cell(method, steps, lambda21, [*own], soft, aucs(own), None)
    read = []
    for seed, run in zip(options.seeds, soft, strict=True):
        line = [group[method, steps, other, seed] for other in options.lambda21]
        read.append(auc_at(run.feature_rate, rates_of(line), aucs(line)))
    return Cell(method, steps, lambda21, [*own], soft, read, None)


def _pruned_cells(
    runs: Runs, options: Options, lrs: dict[int, Rate], group: dict[Key, Run], places: list[Place]
) -> list[Cell]:
    """Adam pruned by each score without fine-tuning, and with the best of the other schedules."""
    soft = {
        (steps, lambda21, seed): group[SOFT, steps, lambda21, seed]
        for steps, lambda21 in places
        for seed in options.seeds
    }
    tuned = [share for share in options.finetune if share > 0]
    validation = options.select == "validation"

    def prune(key: Tried, more: dict[str, object]) -> Job:
        score, share, steps, lambda21, seed = key
        rate = soft[steps, lambda21, seed].feature_rate
        return matched.pruned_adam(options, seed, lrs[steps].value, score, rate, share, {**_span(steps), **more})

    def keys(score: str, share: float, place: Place) -> list[Tried]:
        return [(score, share, *place, seed) for seed in options.seeds if soft[(*place, seed)].prunable]

    cases = [(score, place) for place in places for score in options.scores]
    whole = {key: prune(key, {"retrain": True}) for score, place in cases for key in keys(score, 0.0, place)}
    trials = {
        key: prune(key, {"holdout": HOLDOUT} if validation else {})
        for score, place in cases
        for share in tuned
        for key in keys(score, share, place)
    }
    # One call for all of them: what can go in parallel does.
    answers = runs(
        {("whole", *key): job for key, job in whole.items()} | {("trial", *key): job for key, job in trials.items()}
    )
    cells = [
        _pruned_cell(
            options,
            soft,
            f"Adam, pruned by {score}",
            place,
            0.0,
            {key: answers["whole", *key] for key in keys(score, 0.0, place)},
        )
        for score, place in cases
    ]
    chosen = {}
    for score, place in cases:
        means = {share: summary([answers["trial", *key].auc for key in keys(score, share, place)]) for share in tuned}
        most = max((mean.n for mean in means.values()), default=0)
        if most:
            chosen[score, place] = max((s for s in tuned if means[s].n == most), key=lambda s: means[s].mean)
    final = runs({key: prune(key, {}) for (score, place), share in chosen.items() for key in keys(score, share, place)})
    cells += [
        _pruned_cell(
            options,
            soft,
            f"Adam, pruned by {score}, fine-tuned",
            place,
            share,
            {key: final[key] for key in keys(score, share, place)},
        )
        for (score, place), share in chosen.items()
    ]
    return cells


def _pruned_cell(
    options: Options,
    soft: dict[tuple[int, float, int], Run],
    method: str,
    place: Place,
    share: float,
    found: dict[Tried, Run],
) -> Cell:
    by_seed = {key[-1]: run for key, run in found.items()}
    own = [by_seed.get(seed) for seed in options.seeds]
    matched_aucs = [run.auc if run else math.nan for run in own]
    return Cell(method, *place, own, [soft[(*place, seed)] for seed in options.seeds], matched_aucs, share)


def _row(cell: Cell, lr: float) -> dict[str, object]:
    gain, selection, retraining = cell.gain, cell.of_selection, cell.of_retraining
    apart = [
        abs(run.features_nonzero - soft.features_nonzero)
        for run, soft in zip(cell.runs, cell.soft, strict=True)
        if run and not run.error and cell.finetune is not None
    ]
    return {
        "steps": cell.steps,
        "rows": cell.steps * BATCH,
        "lambda21": cell.lambda21,
        "method": cell.method,
        "lr": lr,
        "finetune": cell.finetune,
        "auc_mean": cell.auc.mean,
        "auc_std": cell.auc.std,
        "rate_mean": cell.rate.mean,
        "rate_std": cell.rate.std,
        "seeds": cell.auc.n,
        "auc_at_soft_rate": summary(cell.at_soft_rate).mean,
        "minus_soft": gain.difference if cell.method != SOFT else None,
        "p_student": gain.student if cell.method != SOFT else None,
        "p_welch": gain.welch if cell.method != SOFT else None,
        "p_paired": gain.paired if cell.method != SOFT else None,
        "features_apart": max(apart) if apart else None,
        "auc_retrained_mean": cell.retrained.mean,
        "auc_retrained_std": cell.retrained.std,
        "retrained_minus_soft_retrained": selection.difference if cell.method != SOFT else None,
        "p_retrained_paired": selection.paired if cell.method != SOFT else None,
        "retrained_minus_auc": retraining.difference,
        "gap": "; ".join(dict.fromkeys(run.error for run in cell.runs if run and run.error))
        or ("nothing to prune to with some seeds" if None in cell.runs else None),
    }


def _figure(options: Options, cells: list[Cell], lambda21: float) -> Figure:
    here = [cell for cell in cells if cell.lambda21 == lambda21]
    names = sorted({cell.method for cell in here}, key=_order)
    by_name = {name: [cell for cell in here if cell.method == name] for name in names}

    def lines(values: dict[str, list[Summary]]) -> list[figures.Series]:
        series = []
        for name, found in values.items():
            look = _order(name)
            aside = 1.04 ** (look - 3)  # so that the bars of one length stand side by side
            rows = [cell.steps * BATCH * aside for cell in by_name[name]]
            series.append(figures.Series(name, figures.at(rows), found, look))
        return series

    apart = {name: [_spread(cell.at_soft_rate, aucs(cell.soft)) for cell in of] for name, of in by_name.items()}
    chosen = {
        name: [
            _spread(
                [run.auc_retrained if run else math.nan for run in cell.runs], [run.auc_retrained for run in cell.soft]
            )
            for cell in of
        ]
        for name, of in by_name.items()
        if any(cell.retrained.n for cell in of)
    }
    rows = "rows seen (log scale)"
    others = [name for name in names if name != SOFT]
    panels = [
        [
            figures.Panel("AUC", rows, figures.AUC, lines({n: [c.auc for c in of] for n, of in by_name.items()})),
            figures.Panel(
                "AUC at the soft rule's feature rate",
                rows,
                "AUC − soft rule's",
                lines({name: apart[name] for name in others}),
                line=0.0,
            ),
        ],
        [
            figures.Panel(
                "Plain retrain on the kept features",
                rows,
                "AUC − soft rule's retrain",
                lines({name: chosen[name] for name in others if name in chosen}),
                line=0.0,
            ),
            figures.Panel(
                "Features kept",
                rows,
                "feature rate (log scale)",
                lines({n: [c.rate for c in of] for n, of in by_name.items() if n.startswith("Group")}),
                log_y=True,
            ),
        ],
    ]
    caption = (
        f"Means over {len(options.seeds)} seeds, bars: one standard deviation, of "
        "differences seed by seed. Adam is pruned to the soft rule's number of features. The hard rule's AUC at the "
        "soft rule's rate is read between its λ21. Points of one length stand side by side."
    )
    source = " The rows are generated." if any(run.source == "generated" for c in here for run in c.soft) else ""
    title = f"{options.dataset}: AUC against rows seen, λ21 = {markdown.power(lambda21)}"
    return figures.draw(panels, title, caption + source)


def _order(name: str) -> int:
    names = [*GROUPS, *(f"Adam, pruned by {s}{t}" for s in ("norm", "effect") for t in ("", ", fine-tuned"))]
    return names.index(name)


def _spread(a: list[float], b: list[float]) -> Summary:
    return summary([x - y for x, y in zip(a, b, strict=True)])


def _points(options: Options, cells: list[Cell]) -> pd.DataFrame:
    rows = [
        (f"{cell.method}, {cell.steps:,} steps", cell.lambda21, seed, run.auc, run.feature_rate)
        for cell in cells
        for seed, run in zip(options.seeds, cell.runs, strict=True)
        if run and not math.isnan(run.auc)
    ]
    return pd.DataFrame(rows, columns=["method", "lambda21", "seed", "auc", "feature_rate"])
