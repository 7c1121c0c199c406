"""AUC against the number of rows seen: when which method wins, and how much is selection and how much shrinkage.

Beyond the paper: Group Adam with the soft rule (the paper's), the hard one, and the hard one with lambda21 ramped;
Adam pruned by norm and by effect, with and without fine-tuning, to as many features as the soft rule kept with that
seed. A retrain on the features that a method kept, from the initial weights and without regularisers, shows
what its choice of features alone is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ctr.errors import ArgumentError, TooFewRows
from ctr.report import markdown
from ctr.report.findings import Findings, Row, rows
from ctr.report.statistics import compare, summary
from ctr.studies import learning_rates, matched, stream_views
from ctr.studies.columns import adjust, compared, features_apart, mean_std
from ctr.studies.curves import auc_at
from ctr.studies.learning_rates import BATCH, Rate, span
from ctr.studies.runs import (
    NO_RUN,
    Choice,
    Run,
    Runs,
    aucs,
    choose,
    gap,
    held_out,
    measured,
    measured_retrained,
    points,
    rates,
)
from ctr.studies.stream_views import AGAINST_SOFT, COLUMNS, SOFT
from ctr.studies.study import Ask, Counts, Job, Lambdas, Options, Scores, Shares

GROUPS: dict[str, dict[str, object]] = {
    SOFT: {"opt.threshold": "soft"},
    "Group Adam, hard": {"opt.threshold": "hard"},
    "Group Adam, hard, ramped": {"opt.threshold": "hard", "opt.lambda_schedule": "cubic"},
}

Place = tuple[int, float]  # batches, lambda21
Schedule = Choice[float]  # the share to fine-tune on
UNPRUNED, UNTUNED = Schedule(None, ()), Schedule(0.0, ())
Cells = dict[tuple[str, Place], tuple[Schedule, list[Run]]]  # by method: schedule, runs by seed


def study(
    ask: Ask, options: Options, *, steps: Counts, lambda21: Lambdas, finetune: Shares, scores: Scores
) -> Findings:
    """Every method at every length of stream and every lambda21; the learning rate by the rule at each length.

    Raises:
        ArgumentError: a stream is to be longer than the rows to train on.
    """
    try:
        return _study(ask, options, steps, lambda21, finetune, scores)
    except TooFewRows as error:
        raise ArgumentError(
            f"steps={steps}: {error.asked // BATCH:,} batches of {BATCH} rows are {error.asked:,} rows, but "
            f"there are {error.there:,} to train on; expected at most {error.there // BATCH:,}"
        ) from error


def _study(
    ask: Ask,
    options: Options,
    steps: Sequence[int],
    lambda21: Sequence[float],
    finetune: Sequence[float],
    scores: Sequence[str],
) -> Findings:
    runs = Runs(ask)
    found = learning_rates.choose(runs, options, ["adam"], steps)
    lrs = {length: found["adam", length] for length in steps}
    places = [(length, value) for length in steps for value in lambda21]
    cells = _group_cells(runs, options, lrs, places)
    soft = {place: cells[SOFT, place][1] for place in places}
    cells |= _pruned_cells(runs, options, lrs, soft, finetune, scores)
    lines = [
        _row(method, place, lrs[place[0]].value, schedule, of, soft[place], _at_soft_rate(cells, method, place))
        for place in sorted(places, key=lambda place: (place[1], place[0]))
        for (method, at), (schedule, of) in cells.items()
        if at == place
    ]
    table = pd.DataFrame(adjust(lines, "p", "p_retrained", "p_shrinkage"))
    shown = rows(table)
    text = stream_views.text(options, runs, shown, lrs, [run for of in soft.values() for run in of])
    generated = any(run.source == "generated" for of in soft.values() for run in of)
    drawn = {
        f"stream-{markdown.power(value)}": stream_views.figure(
            options, [row for row in shown if row["lambda21"] == value], value, generated
        )
        for value in lambda21
    }
    dots = points(
        (f"{row['method']}, {row['steps']:,} steps", row["lambda21"], seed, run)
        for row in shown
        for seed, run in zip(options.seeds, cells[row["method"], (row["steps"], row["lambda21"])][1], strict=True)
    )
    return Findings(table, text, drawn, runs.frame(), dots, COLUMNS)


def _group_cells(runs: Runs, options: Options, lrs: Mapping[int, Rate], places: Sequence[Place]) -> Cells:
    found = runs(
        {
            (method, (length, value), seed): matched.group_adam(
                options, seed, lrs[length].value, value, {**changes, **span(length), "retrain": True}
            )
            for method, changes in GROUPS.items()
            for length, value in places
            for seed in options.seeds
        }
    )
    return {
        (method, place): (UNPRUNED, [found[method, place, seed] for seed in options.seeds])
        for place in places
        for method in GROUPS
    }


def _pruned_cells(
    runs: Runs,
    options: Options,
    lrs: Mapping[int, Rate],
    soft: Mapping[Place, Sequence[Run]],
    finetune: Sequence[float],
    scores: Sequence[str],
) -> Cells:
    """Adam pruned by each score without fine-tuning, and with the best of the other schedules."""
    tuned = [share for share in finetune if share > 0]
    cases = [(score, place) for place in soft for score in scores]

    def plan(score: str, place: Place, share: float, more: Mapping[str, object]) -> dict[tuple[object, ...], Job]:
        length, _ = place
        return {
            (score, place, share, seed): matched.pruned_adam(
                options, seed, lrs[length].value, score, run.feature_rate, share, {**span(length), **more}
            )
            for seed, run in zip(options.seeds, soft[place], strict=True)
            if run.prunable
        }

    whole = {key: job for case in cases for key, job in plan(*case, 0.0, {"retrain": True}).items()}
    trials = {
        key: job for case in cases for share in tuned for key, job in plan(*case, share, held_out(options)).items()
    }
    answers = runs(whole | trials)  # one call: all that can run in parallel does

    def by_seed(found: Mapping[tuple[object, ...], Run], score: str, place: Place, share: float) -> list[Run]:
        return [found.get((score, place, share, seed), NO_RUN) for seed in options.seeds]

    cells: Cells = {
        (f"Adam, pruned by {score}", place): (UNTUNED, by_seed(answers, score, place, 0.0)) for score, place in cases
    }
    chosen = {case: choose({share: by_seed(answers, *case, share) for share in tuned}) for case in cases}
    shares = {case: of.best for case, of in chosen.items() if of.best is not None}
    final = runs({key: job for case, share in shares.items() for key, job in plan(*case, share, {}).items()})
    for (score, place), share in shares.items():
        name = f"Adam, pruned by {score}, fine-tuned"
        cells[name, place] = chosen[score, place], by_seed(final, score, place, share)
    return cells


def _at_soft_rate(cells: Cells, method: str, place: Place) -> np.ndarray:
    """By seed, a method's AUC, with its uncertainty (`measured`), at the soft rule's feature rate: its own where it is
    matched, read between its lambda21 where it is not (NaN beyond them)."""
    length, _ = place
    schedule, own = cells[method, place]
    if method == SOFT or schedule.best is not None:
        return measured(own)
    lines = [of for (name, at), (_, of) in cells.items() if name == method and at[0] == length]
    soft = cells[SOFT, place][1]
    by_seed = zip(soft, zip(*lines, strict=True), strict=True)
    return np.array([auc_at(run.feature_rate, rates(line), measured(line)) for run, line in by_seed])


def _row(
    method: str,
    place: Place,
    lr: float,
    schedule: Schedule,
    own: Sequence[Run],
    soft: Sequence[Run],
    at_soft_rate: np.ndarray,
) -> Row:
    steps, lambda21 = place
    retrained, softs = measured_retrained(own), measured_retrained(soft)
    gain, selection = compare(at_soft_rate, measured(soft)), compare(retrained, softs)
    row = {
        "steps": steps,
        "rows": steps * BATCH,
        "lambda21": lambda21,
        "method": method,
        "lr": lr,
        "finetune": schedule.best,
        "tied": ", ".join(map(markdown.share, schedule.ties)),
        **mean_std("auc", aucs(own)),
        **mean_std("rate", rates(own)),
        "seeds": summary(aucs(own)).n,
        "auc_at_soft_rate": summary(at_soft_rate[:, 0]).mean,
        **compared(gain, "minus_soft"),
        "features_apart": None if schedule.best is None else features_apart(own, soft),
        **mean_std("auc_retrained", retrained[:, 0]),
        **compared(selection, "retrained_minus_soft_retrained", "p_retrained"),
        **compared(compare(retrained, measured(own)), "retrained_minus_auc", "p_shrinkage"),
        "gap": gap(own) or ("nothing to prune to with some seeds" if NO_RUN in own else None),
    }
    return {name: None if method == SOFT and name in AGAINST_SOFT else value for name, value in row.items()}
