"""Beyond the paper: its method and its rivals at equal numbers of features and at equal bytes.

Group Adam (a budget, alone or with a row for each field's rare values; lambda21 with the soft rule or the hard one
ramped), l1 alone, FTRL, AdaEmbed- and CAFE-style, Adam pruned by norm, effect or count, a count cut-off before
training, hashing and a smaller dimension; each with and without the net averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, cast

import numpy as np
import pandas as pd

from ctr.config.command_line import override
from ctr.errors import ArgumentError
from ctr.report.findings import Findings, Row, rows
from ctr.report.statistics import compare, summary
from ctr.studies import learning_rates, rivals_views
from ctr.studies.columns import adjust, compared, mean_std
from ctr.studies.curves import auc_at
from ctr.studies.cut_off import cut_offs, settings_of
from ctr.studies.lambda_search import search
from ctr.studies.rivals_methods import NAMES, WHOLE, Method, Target, chosen
from ctr.studies.rivals_views import FIGURES, columns
from ctr.studies.runs import NO_RUN, Run, Runs, aucs, gap, job, measured, points
from ctr.studies.study import Ask, Each, Job, Options, Shares

FeatureRates = Annotated[
    list[float], Each("shares above 0 and below 1", lambda value: isinstance(value, int | float) and 0 < value < 1)
]
Methods = Annotated[list[str], Each(", ".join(NAMES), lambda value: value in NAMES)]

# A size beyond a method's own by this share is read at its end: models of as many features differ by their texts.
SLACK = 0.05
Given = Mapping[str, object] | str  # what a run is given beside what all have; or why it cannot be made


@dataclass(frozen=True)
class Cell:
    """A method with one target and one share of the steps averaged: its learning rate, and by seed its runs and what
    they were given."""

    method: Method
    target: Target
    average: float
    lr: float
    runs: list[Run]
    given: list[Given]


def study(
    ask: Ask, options: Options, *, rates: FeatureRates, methods: Methods, finetune: Shares, average: Shares
) -> Findings:
    """Every method at every rate, with every share of the steps averaged; the first method is what others are
    compared with.

    Raises:
        ArgumentError: a rate leaves fewer than two features.
    """
    runs, compared = Runs(ask), chosen(methods, finetune)
    lrs = learning_rates.choose(runs, options, ["adam", *(method.opt for method in compared)])
    lr_of = {method: lrs[learning_rates.plain(method.opt), None].value for method in (WHOLE, *compared)}
    everything = Target(1.0, 0, None, 0)
    whole = _cells(runs, options, lr_of, {(WHOLE, everything, seed): {} for seed in options.seeds}, average)
    present = next((run.features_present for cell in whole for run in cell.runs if run.error is None), math.nan)
    cells: list[Cell] = []
    if not math.isnan(present):
        targets = _targets(options, rates, methods, int(present))
        cells = _cells(runs, options, lr_of, _given(runs, options, lr_of, compared, targets), average)
    table = pd.DataFrame(adjust([_row(options, cell, cells) for cell in (*whole, *cells)], "p"))
    found, done = rows(table), [run for cell in whole for run in cell.runs]
    dots = points(
        (_name(cell), math.nan, seed, replace(run, feature_rate=run.features_nonzero / present))
        for cell in (*whole, *cells)
        for seed, run in zip(options.seeds, cell.runs, strict=True)
    )
    return Findings(
        table,
        rivals_views.text(options, runs, found, {opt: lr for (opt, _), lr in lrs.items()}, done),
        rivals_views.drawn(options, found, done),
        runs.frame(),
        dots,
        columns(options.seeds),
    )


def _name(cell: Cell) -> str:
    return cell.method.title + (f", averaged over {cell.average:.0%}" if cell.average else "")


def _targets(options: Options, rates: Sequence[float], methods: Sequence[str], present: int) -> list[Target]:
    """What each rate asks for, of the features that a plain run has seen."""
    counts = [round(rate * present) for rate in rates]
    if min(counts) < 2:
        raise ArgumentError(f"rates={rates}: {min(rates):g} of {present:,} features is less than two features")
    cuts: list[int | None] = [None] * len(counts)
    dim = 1
    if {"cut", "cut_row", "dim"} & {*methods}:
        settings = settings_of(options)
        dim = settings.model.embedding_dim
        if {"cut", "cut_row"} & {*methods}:
            cuts = cut_offs(settings, counts)
    return [
        Target(rate, count, cut, max(round(rate * dim), 1))
        for rate, count, cut in zip(rates, counts, cuts, strict=True)
    ]


def _given(
    runs: Runs, options: Options, lr_of: Mapping[Method, float], compared: Sequence[Method], targets: Sequence[Target]
) -> dict[tuple[Method, Target, int], Given]:
    """What each run is given to reach its target, by method, target and seed; regularisers are searched for first."""

    def tried(line: tuple[Method, int], value: float) -> Job:
        method, seed = line
        own = method.overrides(targets[0])
        assert method.searched is not None
        assert not isinstance(own, str)
        return job(options, method.opt, seed, lr_of[method], {**own, method.searched: value})

    lines = [(method, seed) for method in compared if method.searched for seed in options.seeds]
    lambdas = search(runs, tried, lines, [target.features for target in targets])

    def given(method: Method, target: Target, seed: int) -> Given:
        own = method.overrides(target)
        if method.searched is None or isinstance(own, str):
            return own
        value = lambdas[(method, seed), target.features]
        return "no run of the search finished" if math.isnan(value) else {**own, method.searched: value}

    return {
        (method, target, seed): given(method, target, seed)
        for method in compared
        for target in targets
        for seed in options.seeds
    }


def _cells(
    runs: Runs,
    options: Options,
    lr_of: Mapping[Method, float],
    given: Mapping[tuple[Method, Target, int], Given],
    average: Sequence[float],
) -> list[Cell]:
    """Runs what can be made, all at once; each leaves its model, whose size is asked for."""
    found = runs(
        {
            (*of, share): job(options, of[0].opt, of[2], lr_of[of[0]], {**own, "average": share, "save": "model"})
            for share in average
            for of, own in given.items()
            if not isinstance(own, str)
        }
    )
    places = dict.fromkeys((method, target) for method, target, _ in given)

    def cell(method: Method, target: Target, share: float) -> Cell:
        own = [given[method, target, seed] for seed in options.seeds]
        made = [
            Run(error=what) if isinstance(what, str) else found[method, target, seed, share]
            for seed, what in zip(options.seeds, own, strict=True)
        ]
        return Cell(method, target, share, lr_of[method], made, own)

    return [cell(*place, share) for share in average for place in places]


def _row(options: Options, cell: Cell, cells: Sequence[Cell]) -> Row:
    """A row of the table, with its difference from the first method at the same target."""
    of_share = [one for one in cells if one.average == cell.average]
    own = [one for one in of_share if one.method == cell.method]
    first = [one for one in of_share if one.method == of_share[0].method]
    beside = next((one for one in first if one.target == cell.target), None)
    none = [NO_RUN] * len(options.seeds)
    against = measured(beside.runs if beside and beside is not cell else none)
    sizes = [run.model_bytes for run in (beside.runs if beside else none)]
    at_size = np.array([_at_size(own, number, size) for number, size in enumerate(sizes)])
    if summary(at_size[:, 0]).n < summary(sizes).n:  # a mean of some seeds is not to be compared with one of all
        at_size[:] = math.nan
    figures = {name: [getattr(run, of.run) for run in cell.runs] for name, of in FIGURES.items()}
    return {
        "method": cell.method.title,
        "place": cell.method.place,
        "equal": cell.method.equal,
        "rate": cell.target.rate,
        "target": cell.target.features or None,
        "average": cell.average,
        "lr": cell.lr,
        "given": _shown(cell.given),
        **{column: value for name, values in figures.items() for column, value in mean_std(name, values).items()},
        "seeds": summary(aucs(cell.runs)).n,
        **compared(compare(measured(cell.runs), against)),
        "auc_at_size": summary(at_size[:, 0]).mean,
        "difference_at_size": compare(at_size, against).difference,
        "gap": gap(cell.runs),
        **{
            f"{name}_seed{seed}": value
            for name, values in figures.items()
            for seed, value in zip(options.seeds, values, strict=True)
        },
    }


def _at_size(line: Sequence[Cell], number: int, size: float) -> np.ndarray:
    """A method's AUC at a size, with the seed of this number, read between its own sizes; with what the test rows
    contribute (`ctr.studies.curves.auc_at`)."""
    of_seed = [cell.runs[number] for cell in line]
    sizes = [run.model_bytes for run in of_seed]
    known = [own for own in sizes if not math.isnan(own)]
    if known and min(known) / (1 + SLACK) <= size <= max(known) * (1 + SLACK):
        size = min(max(size, min(known)), max(known))
    return auc_at(size, sizes, measured(of_seed))


def _shown(given: Sequence[Given]) -> str | None:
    """What the runs were given, for a reader; from the least to the largest where that differs between seeds."""
    made = [own for own in given if not isinstance(own, str)]
    keys = dict.fromkeys(key for own in made for key in own)
    shown = []
    for key in keys:
        values = list(dict.fromkeys(own[key] for own in made))
        if len(values) == 1:
            shown.append(override(key, values[0]))
        else:  # a lambda that was searched for
            found = cast(list[float], values)
            shown.append(f"{override(key, min(found))}..{max(found):g}")
    return " ".join(shown) or None
