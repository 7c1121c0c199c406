"""The paper's rule for learning rates (section 4.1, table 5): powers of ten, the one with the best AUC of the
unregularised optimizer, which the regularised one then takes over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ctr.errors import CtrError
from ctr.studies import paper
from ctr.studies.options import Ask, Options
from ctr.studies.runs import HOLDOUT, Run, Runs, aucs, job
from ctr.studies.statistics import summary

# Table 5's runs: (optimizer, batches of the stream or None for all, learning rate, seed) -> run.
RateKey = tuple[str, int | None, float, int]
BATCH = 512


def plain(opt: str) -> str:
    """The optimizer without regularisers: its learning rate is the one to choose (theorem 2)."""
    return opt.removeprefix("group_")


def learning_rate(ask: Ask, options: Options, opt: str) -> float:
    """The learning rate for an optimizer, by ``options.lr``.

    "auto" asks for table 5's runs and takes the best mean AUC; "paper" takes table 5's number for the model.

    Raises:
        CtrError: no run finished, or the paper has no number for this optimizer and model.
    """
    return choose(Runs(ask), options, [opt])[plain(opt), None]


def choose(
    runs: Runs, options: Options, opts: Sequence[str], steps: Sequence[int | None] = (None,)
) -> dict[tuple[str, int | None], float]:
    """(plain optimizer, length of stream) -> learning rate; all runs that it takes are asked for at once."""
    wanted = [(name, length) for name in dict.fromkeys(plain(opt) for opt in opts) for length in steps]
    if options.lr == "paper":
        return {(name, length): _published(options, name) for name, length in wanted}
    if options.lr != "auto":
        return {key: float(options.lr) for key in wanted}
    found = search(runs, options, wanted)
    return {key: best(options, {k[2:]: run for k, run in found.items() if k[:2] == key}, key[0]) for key in wanted}


def search(runs: Runs, options: Options, wanted: Sequence[tuple[str, int | None]]) -> dict[RateKey, Run]:
    """Runs every learning rate with every seed; with ``select=validation`` the AUCs are of the held-out rows."""
    return runs(
        {
            (opt, length, lr, seed): job(options, opt, seed, lr, _span(options, length))
            for opt, length in wanted
            for lr in options.lrs
            for seed in options.seeds
        }
    )


def best(options: Options, found: Mapping[tuple[float, int], Run], opt: str) -> float:
    """The learning rate with the best mean AUC; those that failed with some seeds only stand back."""
    means = {lr: summary(aucs(found[lr, seed] for seed in options.seeds)) for lr in options.lrs}
    most = max(mean.n for mean in means.values())
    if most == 0:
        errors = [run.error for run in found.values() if run.error]
        why = f": {errors[0]}" if errors else ": no run has an AUC"
        raise CtrError(f"no learning rate can be chosen for {opt}, none of lrs={options.lrs} finished{why}")
    return max((lr for lr in options.lrs if means[lr].n == most), key=lambda lr: means[lr].mean)


def _span(options: Options, length: int | None) -> dict[str, object]:
    return {
        **({} if length is None else {"train_rows": length * BATCH}),
        **({"holdout": HOLDOUT} if options.select == "validation" else {}),
    }


def _published(options: Options, opt: str) -> float:
    try:
        return paper.TABLE5[opt][options.model]
    except KeyError:
        raise CtrError(
            f"lr=paper: the paper has no learning rate for {opt} with {options.model}; try lr=auto"
        ) from None
