"""Group Adam against Adam pruned to as many features (section 4.2): the runs behind tables 2, 8 and figure 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ctr.report.statistics import Comparison, Summary, compare, summary
from ctr.studies.runs import HOLDOUT, Run, Runs, aucs, job, rates
from ctr.studies.study import Job, Options

GroupKey = tuple[float, int]  # lambda21, seed
PrunedKey = tuple[str, float, float, int]  # score, lambda21, share of rows to fine-tune on, seed


@dataclass(frozen=True)
class Match:
    """Group Adam at one lambda21 against Adam pruned, seed by seed, to as many features.

    Attributes:
        finetune: the chosen schedule; None where no schedule finished.
        group, pruned: runs by seed; a seed is missing in `pruned` where there was nothing to prune to.
        gap: why seeds are missing, or None.
    """

    lambda21: float
    score: str
    finetune: float | None
    group: dict[int, Run]
    pruned: dict[int, Run]
    gap: str | None

    @property
    def auc(self) -> Comparison:
        nothing = float("nan")
        pruned = [self.pruned[seed].auc if seed in self.pruned else nothing for seed in self.group]
        return compare(aucs(self.group.values()), pruned)

    @property
    def group_auc(self) -> Summary:
        return summary(aucs(self.group.values()))

    @property
    def group_rate(self) -> Summary:
        return summary(rates(self.group.values()))

    @property
    def pruned_auc(self) -> Summary:
        return summary(aucs(self.pruned.values()))

    @property
    def pruned_rate(self) -> Summary:
        return summary(rates(self.pruned.values()))

    @property
    def features_apart(self) -> int | None:
        """The most by which the two differ in features, over the seeds; None where no pair finished."""
        apart = [
            abs(run.features_nonzero - self.group[seed].features_nonzero)
            for seed, run in self.pruned.items()
            if run.error is None and self.group[seed].error is None
        ]
        return int(max(apart)) if apart else None


def group_runs(runs: Runs, options: Options, lr: float) -> dict[GroupKey, Run]:
    """Group Adam at every lambda21 with every seed, lambda1 = lambda2 = 0."""
    return runs(
        {
            (lambda21, seed): group_adam(options, seed, lr, lambda21)
            for lambda21 in options.lambda21
            for seed in options.seeds
        }
    )


def group_adam(
    options: Options, seed: int, lr: float, lambda21: float, more: Mapping[str, object] | None = None
) -> Job:
    lambdas = {"opt.lambda1": 0.0, "opt.lambda21": lambda21, "opt.lambda2": 0.0}
    return job(options, "group_adam", seed, lr, {**lambdas, **(more or {})})


def pruned_adam(
    options: Options,
    seed: int,
    lr: float,
    score: str,
    rate: float,
    finetune: float,
    more: Mapping[str, object] | None = None,
) -> Job:
    """Adam pruned to a feature rate: a run's own, so that N = rate x features present is its count to the feature."""
    prune = {
        "prune": "magnitude",
        "prune.feature_rate": rate,
        "prune.finetune": finetune,
        "prune.score": score,
    }
    return job(options, "adam", seed, lr, {**prune, **(more or {})})


def all_schedules(
    runs: Runs, options: Options, lr: float, group: Mapping[GroupKey, Run], holdout: bool = False
) -> dict[PrunedKey, Run]:
    """Adam pruned to the rate of every Group Adam run by every score and schedule, at once."""
    more = {"holdout": HOLDOUT} if holdout else {}
    return runs(
        {
            (score, lambda21, finetune, seed): pruned_adam(options, seed, lr, score, run.feature_rate, finetune, more)
            for (lambda21, seed), run in group.items()
            if run.prunable
            for score in options.scores
            for finetune in options.finetune
        }
    )


def match(runs: Runs, options: Options, lr: float) -> list[Match]:
    """Every lambda21 with every score, with the schedule that ``options.select`` picks by mean AUC over the seeds."""
    group = group_runs(runs, options, lr)
    validation = options.select == "validation"
    tried = all_schedules(runs, options, lr, group, holdout=validation)
    chosen = {
        (score, lambda21): best_schedule(options, tried, score, lambda21)
        for lambda21 in options.lambda21
        for score in options.scores
    }
    wanted = {
        (score, lambda21, finetune, seed): pruned_adam(
            options, seed, lr, score, group[lambda21, seed].feature_rate, finetune
        )
        for (score, lambda21), finetune in chosen.items()
        if finetune is not None
        for seed in options.seeds
        if group[lambda21, seed].prunable
    }
    pruned = runs(wanted)  # with select=test they have been run by now
    matches = []
    for (score, lambda21), finetune in chosen.items():
        ours = {seed: group[lambda21, seed] for seed in options.seeds}
        theirs = {seed: pruned[key] for seed in options.seeds if (key := (score, lambda21, finetune, seed)) in pruned}
        failed = [run for key, run in tried.items() if key[:2] == (score, lambda21) and run.error]
        matches.append(Match(lambda21, score, finetune, ours, theirs, _gap(ours, theirs, failed)))
    return matches


def best_schedule(options: Options, tried: Mapping[PrunedKey, Run], score: str, lambda21: float) -> float | None:
    """The share to fine-tune on with the best mean AUC; schedules that failed with some seeds only stand back."""
    means = {
        finetune: summary(
            [tried[key].auc for seed in options.seeds if (key := (score, lambda21, finetune, seed)) in tried]
        )
        for finetune in options.finetune
    }
    most = max(mean.n for mean in means.values())
    if most == 0:
        return None
    return max((share for share, mean in means.items() if mean.n == most), key=lambda share: means[share].mean)


def _gap(group: Mapping[int, Run], pruned: Mapping[int, Run], failed: list[Run]) -> str | None:
    reasons = []
    for seed, run in group.items():
        if run.error:
            reasons.append(f"Group Adam failed with seed {seed}: {run.error}")
        elif not run.prunable:
            reasons.append(f"Group Adam keeps no feature with seed {seed}: nothing to prune to")
    reasons += [f"pruned Adam failed with seed {seed}: {run.error}" for seed, run in pruned.items() if run.error]
    others = {run.error for run in failed} - {run.error for run in pruned.values()}
    if others:
        reasons.append(f"{len(failed)} runs of the schedules failed: {sorted(map(str, others))[0]}")
    return "; ".join(reasons) or None
