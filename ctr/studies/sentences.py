"""Sentences computed from a table: who wins, what agrees with the paper, what can be compared at all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ctr.report import markdown
from ctr.report.findings import Row
from ctr.report.statistics import LEAST_SEEDS, LEVEL, Summary
from ctr.studies import paper
from ctr.studies.columns import known
from ctr.studies.learning_rates import Rate
from ctr.studies.runs import Run, Runs
from ctr.studies.study import Options

SIGNIFICANT = 0.05


def wins(row: Row, p: str = "p") -> bool:
    """Whether a difference is significant after Holm's correction; never without a p-value."""
    return bool(row[f"{p}_holm"] < SIGNIFICANT)


def winner(a: str, b: str, row: Row) -> str:
    """``Group Adam wins by .0034 [+.0012, +.0056] (Holm p = 0.012)``: below .05 it wins, else the mean is only higher.

    Args:
        row: with the mean AUC of a minus that of b (`ctr.studies.columns.compared`).
    """
    gain, low, high, p = (row[name] for name in ("difference", "difference_low", "difference_high", "p_holm"))
    if math.isnan(gain):
        return "nothing to compare"
    if gain == 0:
        return f"{a} and {b} are equal"
    first, ends = (a, (low, high)) if gain > 0 else (b, (-high, -low))
    by = difference(gain) + ("" if math.isnan(low) else f" {markdown.interval(*ends)}")
    if math.isnan(p):
        return f"{first} is higher by {by} (no p-value)"
    verb = "wins" if wins(row) else "is higher, not significantly,"
    return f"{first} {verb} by {by} (Holm p = {markdown.p_value(p)})"


def tally(a: str, b: str, rows: Sequence[Row]) -> str:
    """``Group Adam has the higher mean AUC in 3 of 5 cells (2 with Holm p < .05), pruned Adam in 2 (0).``"""
    done = [row for row in rows if not math.isnan(row["difference"])]
    up, down = [row for row in done if row["difference"] > 0], [row for row in done if row["difference"] < 0]
    return f"{a} has the higher mean AUC in {len(up)} of {len(done)} cells{sure(up)}, {b} in {len(down)}{sure(down)}."


def sure(rows: Sequence[Row], name: str = "difference") -> str:
    """`` (2 of them with Holm p < .05)``; without p-values how many intervals do not hold 0; nothing without those.

    Args:
        name: of the difference (`ctr.studies.columns.compared`).
    """
    if any(known(row["p_holm"]) for row in rows):
        return f" ({sum(map(wins, rows))} of them with Holm p < .05)"
    intervals = [(row[f"{name}_low"], row[f"{name}_high"]) for row in rows]
    if not any(known(low) for low, _ in intervals):
        return ""
    return f" ({sum(low > 0 or high < 0 for low, high in intervals)} of them with an interval that does not hold 0)"


def tie(others: Iterable[str]) -> str:
    """``, a tie with 10%, 0%``; nothing without others."""
    names = ", ".join(others)
    return f", a tie with {names}" if names else ""


def counts(rows: Sequence[Row], same: str) -> str:
    """Whether the numbers of features that were to be equal are.

    Args:
        same: what to say where they are all equal.
    """
    apart = [row["features_apart"] for row in rows if known(row["features_apart"])]
    if not apart:
        return "No pair of runs finished, so that no numbers of features can be compared."
    wrong = sum(number > 0 for number in apart)
    if not wrong:
        return same
    return f"NOT MATCHED: in {wrong} of {len(apart)} cells the numbers of features differ, by up to {max(apart):,.0f}."


def sign_agrees(ours: float, papers: float) -> str:
    """Whether two differences point the same way."""
    if math.isnan(ours):
        return "no difference of ours to compare"
    if round(papers, 6) == 0:
        return "the paper has a tie"
    if _rounds_to_zero(ours):
        return f"a tie to four digits, where the paper has {markdown.difference(papers)}"
    word = "agrees" if ours * papers > 0 else "disagrees"
    return f"the sign {word} with the paper's {markdown.difference(papers)}"


def agreement(same: int, of: int) -> str:
    """How well ``same`` of ``of`` comparisons with the paper's sign agree with it."""
    return "agrees" if same == of else "agrees in part" if same else "disagrees"


def difference(value: float) -> str:
    """How large it is, without its sign: ``.0034``."""
    return "less than .0001" if _rounds_to_zero(value) else markdown.difference(abs(value)).lstrip("+")


def _rounds_to_zero(difference: float) -> bool:
    """To the four digits that are shown."""
    return round(difference, 4) == 0


def near(ours: Summary, papers: float) -> str:
    """The distance from the paper's number to our mean, in our standard errors; the paper prints none."""
    gap = markdown.difference(ours.mean - papers)
    if math.isnan(ours.mean):
        return "missing"
    if math.isnan(ours.standard_error) or ours.standard_error == 0:
        return f"{gap} (no spread of ours to measure it by)"
    errors = abs(ours.mean - papers) / ours.standard_error
    return f"{gap}, {'within' if errors <= 2 else 'outside'} two of our standard errors ({errors:.1f})"


def full_size(options: Options, runs: Iterable[Run]) -> bool:
    """Whether absolute AUCs can be compared with the paper's: its dataset and model, real rows, about as many."""
    done = [run for run in runs if run.error is None]
    least = 0.9 * paper.ROWS_TRAIN.get(options.dataset, math.inf)
    real = all(run.source != "generated" and run.rows_train >= least for run in done)
    return bool(done) and real and options.in_paper


def scope(options: Options, runs: Iterable[Run]) -> list[str]:
    """What the numbers are of, and whether they can be compared with the paper's AUCs."""
    done = [run for run in runs if run.error is None]
    lines = [f"Dataset {options.dataset}, model {options.model}, {_seeds(options)}."]
    if not options.in_paper:
        lines.append("The paper has no numbers for this dataset with this model.")
    if not done:
        return [*lines, "No run finished."]
    generated = any(run.source == "generated" for run in done)
    rows = max((run.rows_train for run in done if not math.isnan(run.rows_train)), default=math.nan)
    full = paper.ROWS_TRAIN.get(options.dataset)
    if generated:
        lines.append(
            f"The rows are generated ({rows:,.0f} to train on): nothing here says anything about real clicks, "
            "and absolute AUCs are not comparable with the paper's."
        )
    elif full and rows < 0.9 * full:
        share = 100 * rows / full
        lines.append(
            f"{rows:,.0f} rows to train on are {share:.2g} % of the paper's {full:,}: absolute AUCs are not comparable "
            "with the paper's; signs and orderings are."
        )
    elif full:
        lines.append(f"{rows:,.0f} rows to train on, full size as in the paper.")
    return lines


def learning_rate(options: Options, opt: str, lr: Rate, at: str = "") -> str:
    """How the learning rate of a plain optimizer was chosen, and whether the paper has the same.

    Args:
        at: the runs that it is for, if not for all: " at 230 steps".
    """
    if math.isnan(lr.value):
        return f"Learning rate of {opt}{at}: none could be chosen, no run of the search finished."
    if lr.tried:
        where = "on held-out training rows" if options.select == "validation" else "by test AUC, the paper's rule"
        how = f"the best of {', '.join(map(markdown.power, lr.tried))} {where}{tie(map(markdown.power, lr.ties))}"
    else:
        how = "the paper's, table 5" if options.lr == "paper" else "as given"
    line = f"Learning rate of {opt}{at}: {markdown.power(lr.value)} ({how})"
    if len(lr.tried) > 1 and lr.value in (lr.tried[0], lr.tried[-1]):
        which = "smallest" if lr.value == lr.tried[0] else "largest"
        line += f"; it is the {which} tried, a better one may be beyond it"
    published = paper.TABLE5.get(opt, {}).get(options.model)
    if published is not None and options.in_paper and (lr.tried or options.lr != "paper"):
        same = math.isclose(published, lr.value, rel_tol=1e-6)
        line += f"; {'the same as' if same else 'not'} the paper's {markdown.power(published)}"
    return line + "."


def choice(options: Options, what: str) -> str:
    """How the best of several was chosen."""
    if options.select == "validation":
        return (
            f"{what} chosen on the last tenth of the training rows, which those runs did not train on; "
            "the AUCs are of the test part after training on all rows."
        )
    return f"{what} chosen by AUC on the test part, as the paper does: this flatters whatever is chosen."


def notes(options: Options, runs: Runs) -> list[str]:
    """What a reader should know of the runs as a whole: how sure differences are, the machines and commits that made
    them, and which failed."""
    return [*_uncertainty(options, runs), *_machines(runs), *_code(options.commit, runs), *failures(runs)]


def _uncertainty(options: Options, runs: Runs) -> list[str]:
    """How intervals, ties and p-values are to be read (`ctr.report.statistics.compare`)."""
    over = "seeds and test rows together" if len(options.seeds) > 1 else "the test rows alone: one seed"
    lines = [
        f"Intervals in brackets are {LEVEL:.0%} intervals of a difference of AUCs over {over}. A tie: the interval "
        "holds 0, without a correction for the number of choices."
    ]
    if len(options.seeds) < LEAST_SEEDS:
        lines.append(f"No p-value is given: they need at least {LEAST_SEEDS} seeds.")
    else:
        lines.append("p-values are those of the intervals; Holm p: corrected for all cells of the table.")
    if missing := runs.without_blocks():
        lines.append(f"{missing} runs have no record of their test rows: differences with them have no interval.")
    return lines


def _machines(runs: Runs) -> list[str]:
    """What the finished runs were made on."""
    found = {name: number for name, number in runs.counts("machine").items() if name is not None}
    if len(found) < 2:
        return [f"Machine: {name}." for name in found]
    return ["Machines: " + ". ".join(f"{number} runs on {name}" for name, number in found.items()) + "."]


def _code(now: str | None, runs: Runs) -> list[str]:
    """A line if the finished runs are not all of the commit that writes this page.

    The code that decides a run's numbers is the same in all: it is part of a run's key (`ctr.jobs.cache`).
    """
    shas = runs.counts("git_sha")
    if set(shas) <= {now}:
        return []
    of = ", ".join(f"{number} at {_state(sha)}" for sha, number in shas.items())
    return [f"The runs were made at other commits, with the same training code: {of}; this page at {_state(now)}."]


def _state(sha: str | None) -> str:
    """The first ten digits of a commit, with "-dirty" if files were changed."""
    return "an unknown state" if sha is None else sha[:10] + ("-dirty" if sha.endswith("-dirty") else "")


def failures(runs: Runs) -> list[str]:
    """A line for each error, however many runs failed with it."""
    return [
        f"failed: {commands[0]}: {error}"
        if len(commands) == 1
        else f"failed: {len(commands)} runs: {error}; the first: {commands[0]}"
        for error, commands in runs.failures().items()
    ]


def _seeds(options: Options) -> str:
    return f"{len(options.seeds)} seed{'s' if len(options.seeds) != 1 else ''}"
