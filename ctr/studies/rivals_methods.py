"""The methods that `ctr.studies.rivals` compares: what each run is given so that it ends with N features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ctr.studies.runs import lambdas

Place = Literal["in", "after", "before"]


@dataclass(frozen=True)
class Target:
    """What a run is to end with.

    Attributes:
        rate: share of the features present in training that are left.
        features: N = rate x features present, rounded.
        min_count: the smallest ``dataset.min_count`` that leaves at most N; None where none does, or none is needed.
        embedding_dim: d x rate, rounded, at least 1: all features with about as many weights as N rows of d have.
    """

    rate: float
    features: int
    min_count: int | None
    embedding_dim: int


@dataclass(frozen=True)
class Method:
    """One way to a smaller model.

    Attributes:
        title: its name in tables and figures.
        place: whether features are chosen before, in or after training; None: none are.
        equal: what makes the number of features N.
        overrides: what a run is given for a target, beside what all have; or why it cannot reach it.
        opt: the optimizer.
        searched: the key of the regulariser that is searched for until N features are left; None: nothing is searched.
    """

    title: str
    place: Place | None
    equal: str
    overrides: Callable[[Target], Mapping[str, object] | str]
    opt: str = "adam"
    searched: str | None = None


EXACT = "exactly N"
SEARCH = "lambda searched for each seed"
CUT = "at most N, by the cut-off"
MOST = "at most N at a time"
LIMIT = "at most N"
BUCKETS = "N buckets"
WEIGHTS = "all features, as many weights"
RARE = 5  # a value that training rows hold fewer times is rare for `budget_row`


def _group(title: str, searched: str, opt: str = "group_adam", **own: object) -> Method:
    given = {**lambdas(), **{f"opt.{key}": value for key, value in own.items()}}
    return Method(title, "in", SEARCH, lambda target: given, opt, searched)


def _cut_off(title: str, unseen: str) -> Method:
    def overrides(target: Target) -> Mapping[str, object] | str:
        if target.min_count is None:
            return f"no dataset.min_count leaves at most {target.features:,}, with a row for each field's rare values"
        return {"dataset.min_count": target.min_count, "dataset.unseen": unseen}

    return Method(title, "before", CUT, overrides)


WHOLE = Method("Adam, all features", None, "all features", lambda target: {})
METHODS: dict[str, Method] = {
    "budget": Method("Group Adam, budget", "in", EXACT, lambda target: {"opt.budget": target.rate}, opt="group_adam"),
    "budget_row": Method(
        "Group Adam, budget, rare as one",
        "in",
        LIMIT,
        lambda target: {"opt.budget": target.features, "dataset.min_count": RARE, "dataset.unseen": "row"},
        opt="group_adam",
    ),
    "soft": _group("Group Adam, soft", "opt.lambda21", threshold="soft"),
    "ramp": _group("Group Adam, hard, ramped", "opt.lambda21", threshold="hard", lambda_schedule="cubic"),
    "l1": _group("Group Adam, l1 alone", "opt.lambda1"),
    "ftrl": _group("FTRL: Group Adagrad, l1 alone", "opt.lambda1", opt="group_adagrad"),
    "adaembed": Method(
        "AdaEmbed-style", "in", MOST, lambda target: {"opt.features": target.features}, opt="group_adaembed"
    ),
    "cafe": Method(
        "CAFE-style importance",
        "in",
        MOST,
        lambda target: {"opt.features": target.features, "opt.importance": "share"},
        opt="group_adaembed",
    ),
    "cut": _cut_off("count cut-off, unseen as zero", "zero"),
    "cut_row": _cut_off("count cut-off, unseen as rare", "row"),
    "hash": Method(
        "hashing",
        "before",
        BUCKETS,
        lambda target: {"dataset.encoding": "hash", "dataset.num_buckets": target.features},
    ),
    "dim": Method("smaller dimension", "before", WEIGHTS, lambda target: {"model.embedding_dim": target.embedding_dim}),
}
PRUNED = ("norm", "effect", "count")
NAMES = (
    *("budget", "soft", "ramp", "l1", "ftrl", *PRUNED),
    *("cut", "cut_row", "hash", "dim", "adaembed", "cafe", "budget_row"),
)


def chosen(names: Sequence[str], finetune: Sequence[float]) -> list[Method]:
    """The methods by name, in the order of the names; those that prune once for each share to fine-tune on."""
    return [method for name in names for method in (_pruned(name, finetune) if name in PRUNED else [METHODS[name]])]


def _pruned(score: str, finetune: Sequence[float]) -> list[Method]:
    def method(share: float) -> Method:
        def overrides(target: Target) -> Mapping[str, object]:
            return {
                "prune": "magnitude",
                "prune.feature_rate": target.rate,
                "prune.finetune": share,
                "prune.score": score,
            }

        tuned = f", fine-tuned on {share:.0%}" if share else ""
        return Method(f"Adam, pruned by {score}{tuned}", "after", EXACT, overrides)

    return [method(share) for share in finetune]
