"""The paper's rule for learning rates (section 4.1, table 5): powers of ten, the one with the best AUC of the
unregularised optimizer, which the regularised one then takes over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ctr.errors import ArgumentError
from ctr.studies import paper
from ctr.studies.runs import Run, Runs, held_out, job
from ctr.studies.runs import choose as choose_of
from ctr.studies.study import Options

# What a rate is chosen for: plain optimizer, batches of the stream (None: all rows).
Case = tuple[str, int | None]
Found = dict[tuple[float, int], Run]  # by learning rate and seed
BATCH = 512
FURTHER = 3  # learning rates that a search may try beyond its grid


@dataclass(frozen=True)
class Rate:
    """A learning rate, NaN where none could be chosen.

    Attributes:
        value: the learning rate.
        tried: those that it is the best of; empty where it was not searched for.
        ties: those of them whose AUC cannot be told from its own.
    """

    value: float
    tried: tuple[float, ...] = ()
    ties: tuple[float, ...] = ()


def plain(opt: str) -> str:
    """The optimizer without regularisers: its learning rate is the one to choose (theorem 2)."""
    return opt.removeprefix("group_").replace("adaembed", "adam")


def choose(
    runs: Runs, options: Options, opts: Sequence[str], steps: Sequence[int | None] = (None,)
) -> dict[Case, Rate]:
    """A learning rate for every optimizer at every length of stream; all searches run at once.

    ``options.lr``: "auto" runs table 5's search and takes the best mean AUC; "paper" takes table 5's number for the
    model; a number is taken as it is.

    Raises:
        ArgumentError: the paper has no number for an optimizer with this model.
    """
    wanted = [(name, length) for name in dict.fromkeys(plain(opt) for opt in opts) for length in steps]
    if options.lr == "paper":
        return {case: Rate(_published(options, case[0])) for case in wanted}
    if options.lr != "auto":
        return {case: Rate(float(options.lr)) for case in wanted}
    return {case: best(found) for case, found in search(runs, options, wanted).items()}


def choose_one(runs: Runs, options: Options, opt: str) -> Rate:
    """The learning rate for one optimizer on all rows."""
    return choose(runs, options, [opt])[plain(opt), None]


def search(runs: Runs, options: Options, wanted: Sequence[Case]) -> dict[Case, Found]:
    """Runs every learning rate with every seed; with ``select=validation`` the AUCs are of the held-out rows.

    While the best is at an end of its grid, the next power of ten is tried too, up to `FURTHER` times. Runs that
    diverge do not count as failed if another rate was chosen.
    """
    grids = {case: list(options.lrs) for case in wanted}
    for _ in range(1 + FURTHER):
        plan = {
            (case, lr, seed): job(options, case[0], seed, lr, {**span(case[1]), **held_out(options)})
            for case, lrs in grids.items()
            for lr in lrs
            for seed in options.seeds
        }
        found = runs(plan)
        by_case = {case: {key[1:]: run for key, run in found.items() if key[0] == case} for case in wanted}
        beyond = {case: next_rate for case in wanted if (next_rate := _beyond(best(by_case[case])))}
        if not beyond:
            break
        for case, lr in beyond.items():
            grids[case].append(lr)
    chosen = {case: best(by_case[case]).value for case in wanted}
    runs.excuse(one for (case, lr, _), one in plan.items() if not math.isnan(chosen[case]) and lr != chosen[case])
    return by_case


def _beyond(chosen: Rate) -> float | None:
    """The next power of ten if the best is at an end of a grid."""
    factors = {chosen.tried[0]: 0.1, chosen.tried[-1]: 10.0}
    if len(chosen.tried) < 2 or chosen.value not in factors:
        return None
    return float(f"{chosen.value * factors[chosen.value]:.12g}")  # 1e-6, not 1.0000000000000002e-06


def best(found: Mapping[tuple[float, int], Run]) -> Rate:
    """The learning rate with the best mean AUC, NaN if no run has one."""
    tried = tuple(sorted({lr for lr, _ in found}))
    seeds = dict.fromkeys(seed for _, seed in found)
    chosen = choose_of({lr: [found[lr, seed] for seed in seeds] for lr in tried})
    return Rate(math.nan if chosen.best is None else chosen.best, tried, chosen.ties)


def span(length: int | None) -> dict[str, object]:
    """The overrides for a stream of ``length`` batches; None: all rows."""
    return {} if length is None else {"train_rows": length * BATCH}


def _published(options: Options, opt: str) -> float:
    try:
        return paper.TABLE5[opt][options.model]
    except KeyError:
        raise ArgumentError(
            f"lr=paper: the paper has no learning rate for {opt} with {options.model}; try lr=auto"
        ) from None
