"""Group Adam against Adam pruned to as many features (section 4.2): the runs behind tables 2, 8 and figure 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ctr.studies.runs import NO_RUN, Choice, Run, Runs, choose, held_out, job, lambdas
from ctr.studies.study import Job, Options

GroupKey = tuple[float, int]  # lambda21, seed
PrunedKey = tuple[str, float, float, int]  # score, lambda21, share of rows to fine-tune on, seed
Overrides = Mapping[str, object]


@dataclass(frozen=True)
class Match:
    """Group Adam at one lambda21 against Adam pruned, seed by seed, to as many features.

    Attributes:
        finetune: the chosen schedule, None where no schedule finished, and those that tie with it.
        group, pruned: runs by seed; `NO_RUN` where there was nothing to prune to.
        gap: why runs are missing, or None.
    """

    lambda21: float
    score: str
    finetune: Choice[float]
    group: list[Run]
    pruned: list[Run]
    gap: str | None


def group_runs(runs: Runs, options: Options, lr: float, lambda21: Sequence[float]) -> dict[GroupKey, Run]:
    """Group Adam at every lambda21 with every seed, lambda1 = lambda2 = 0."""
    return runs(
        {(value, seed): group_adam(options, seed, lr, value, {}) for value in lambda21 for seed in options.seeds}
    )


def group_adam(options: Options, seed: int, lr: float, lambda21: float, more: Overrides) -> Job:
    return job(options, "group_adam", seed, lr, {**lambdas(lambda21=lambda21), **more})


def pruned_adam(
    options: Options, seed: int, lr: float, score: str, rate: float, finetune: float, more: Overrides
) -> Job:
    """Adam pruned to a feature rate: a run's own, so that N = rate x features present is its count to the feature."""
    prune = {"prune": "magnitude", "prune.feature_rate": rate, "prune.finetune": finetune, "prune.score": score}
    return job(options, "adam", seed, lr, {**prune, **more})


def all_schedules(
    runs: Runs,
    options: Options,
    lr: float,
    group: Mapping[GroupKey, Run],
    scores: Sequence[str],
    finetune: Sequence[float],
    more: Overrides,
) -> dict[PrunedKey, Run]:
    """Adam pruned to the rate of every Group Adam run by every score and schedule, at once."""
    return runs(
        {
            (score, lambda21, share, seed): pruned_adam(options, seed, lr, score, run.feature_rate, share, more)
            for (lambda21, seed), run in group.items()
            if run.prunable
            for score in scores
            for share in finetune
        }
    )


def match(
    runs: Runs, options: Options, lr: float, lambda21: Sequence[float], finetune: Sequence[float], scores: Sequence[str]
) -> list[Match]:
    """Every lambda21 with every score, with the schedule that ``options.select`` picks by mean AUC over the seeds."""
    group = group_runs(runs, options, lr, lambda21)
    tried = all_schedules(runs, options, lr, group, scores, finetune, held_out(options))
    chosen = {
        (score, value): best_schedule(tried, options.seeds, score, value) for value in lambda21 for score in scores
    }
    pruned = runs(  # with select=test they were run above
        {
            (score, value, seed): pruned_adam(options, seed, lr, score, group[value, seed].feature_rate, of.best, {})
            for (score, value), of in chosen.items()
            if of.best is not None
            for seed in options.seeds
            if group[value, seed].prunable
        }
    )
    matches = []
    for (score, value), finetune_on in chosen.items():
        ours = [group[value, seed] for seed in options.seeds]
        theirs = [pruned.get((score, value, seed), NO_RUN) for seed in options.seeds]
        failed = [run for key, run in tried.items() if key[:2] == (score, value) and run.error]
        matches.append(Match(value, score, finetune_on, ours, theirs, _gap(options.seeds, ours, theirs, failed)))
    return matches


def best_schedule(tried: Mapping[PrunedKey, Run], seeds: Sequence[int], score: str, lambda21: float) -> Choice[float]:
    """The share to fine-tune on with the best mean AUC, and those that cannot be told from it."""
    shares = dict.fromkeys(share for of, value, share, _ in tried if (of, value) == (score, lambda21))
    return choose({share: [tried.get((score, lambda21, share, seed), NO_RUN) for seed in seeds] for share in shares})


def _gap(seeds: Sequence[int], group: Sequence[Run], pruned: Sequence[Run], failed: Sequence[Run]) -> str | None:
    reasons = []
    for seed, run in zip(seeds, group, strict=True):
        if run.error:
            reasons.append(f"Group Adam failed with seed {seed}: {run.error}")
        elif not run.prunable:
            reasons.append(f"Group Adam keeps no feature with seed {seed}: nothing to prune to")
    reasons += [
        f"pruned Adam failed with seed {seed}: {run.error}"
        for seed, run in zip(seeds, pruned, strict=True)
        if run.error
    ]
    others = {run.error for run in failed} - {run.error for run in pruned}
    if others:
        reasons.append(f"{len(failed)} runs of the schedules failed: {sorted(map(str, others))[0]}")
    return "; ".join(reasons) or None
