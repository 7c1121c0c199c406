"""Sentences about numbers, computed from them: who wins, what agrees with the paper, what can be compared at all."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ctr.provenance import git_sha
from ctr.report import markdown
from ctr.report.statistics import Comparison, Summary
from ctr.studies import paper
from ctr.studies.learning_rates import Rate
from ctr.studies.runs import Run, Runs
from ctr.studies.study import Options

SIGNIFICANT = 0.05


def winner(a: str, b: str, comparison: Comparison) -> str:
    """``Group Adam wins by .0034 (p = 0.012)``: Student's p below .05 makes a win, else the mean is only higher."""
    gain = comparison.difference
    if math.isnan(gain):
        return "nothing to compare"
    if gain == 0:
        return f"{a} and {b} are equal"
    first = a if gain > 0 else b
    by = difference(gain)
    if math.isnan(comparison.student):
        return f"{first} is higher by {by} (no p-value: too few seeds or no spread)"
    verb = "wins" if comparison.student < SIGNIFICANT else "is higher, not significantly,"
    return f"{first} {verb} by {by} (p = {markdown.p_value(comparison.student)})"


def tally(a: str, b: str, comparisons: Iterable[Comparison]) -> str:
    """``Group Adam has the higher mean AUC in 3 of 5 cells (2 with p < .05), pruned Adam in 2 (0)``."""
    known = [comparison for comparison in comparisons if not math.isnan(comparison.difference)]
    up = [comparison for comparison in known if comparison.difference > 0]
    down = [comparison for comparison in known if comparison.difference < 0]
    sure = [sum(comparison.student < SIGNIFICANT for comparison in part) for part in (up, down)]
    return (
        f"{a} has the higher mean AUC in {len(up)} of {len(known)} cells ({sure[0]} of them with p < .05), "
        f"{b} in {len(down)} ({sure[1]} of them with p < .05)"
    )


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


def difference(value: float) -> str:
    """How large it is, without its sign: ``.0034``."""
    return "less than .0001" if _rounds_to_zero(value) else markdown.difference(abs(value)).lstrip("+")


def _rounds_to_zero(difference: float) -> bool:
    """To the four digits that are shown."""
    return round(difference, 4) == 0


def near(ours: Summary, papers: float) -> str:
    """How far the paper's number lies from our mean, in our standard errors; it prints none of its own."""
    gap = markdown.difference(ours.mean - papers)
    if math.isnan(ours.mean):
        return "missing"
    if math.isnan(ours.standard_error) or ours.standard_error == 0:
        return f"{gap} (no spread of ours to measure it by)"
    errors = abs(ours.mean - papers) / ours.standard_error
    return f"{gap}, {'within' if errors <= 2 else 'outside'} two of our standard errors ({errors:.1f})"


def full_size(options: Options, runs: Iterable[Run]) -> bool:
    """Whether absolute AUCs can be held against the paper's: its dataset and model, real rows, about as many."""
    done = [run for run in runs if run.error is None]
    least = 0.9 * paper.ROWS_TRAIN.get(options.dataset, math.inf)
    real = all(run.source != "generated" and run.rows_train >= least for run in done)
    return bool(done) and real and paper.covers(options.dataset, options.model)


def scope(options: Options, runs: Iterable[Run]) -> list[str]:
    """What the numbers are of, and whether the paper's AUCs can be held against them."""
    done = [run for run in runs if run.error is None]
    lines = [f"Dataset {options.dataset}, model {options.model}, {_seeds(options)}."]
    if not paper.covers(options.dataset, options.model):
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
            "with the paper's, signs and orderings are what can be held against each other."
        )
    elif full:
        lines.append(f"{rows:,.0f} rows to train on, full size as in the paper.")
    return lines


def learning_rate(options: Options, opt: str, lr: Rate, at: str = "") -> str:
    """How the learning rate of a plain optimizer came about, and whether the paper has the same.

    Args:
        at: of which runs it is, where not of all: " at 230 steps".
    """
    if math.isnan(lr.value):
        return f"Learning rate of {opt}{at}: none could be chosen, no run of the search finished."
    if lr.tried:
        where = "on held-out training rows" if options.select == "validation" else "by test AUC, the paper's rule"
        how = f"the best of {', '.join(map(markdown.power, lr.tried))} {where}"
    else:
        how = "the paper's, table 5" if options.lr == "paper" else "as given"
    line = f"Learning rate of {opt}{at}: {markdown.power(lr.value)} ({how})"
    if len(lr.tried) > 1 and lr.value in (lr.tried[0], lr.tried[-1]):
        which = "smallest" if lr.value == lr.tried[0] else "largest"
        line += f"; it is the {which} tried, a better one may lie beyond"
    published = paper.TABLE5.get(opt, {}).get(options.model)
    if published is not None and paper.covers(options.dataset, options.model) and (lr.tried or options.lr != "paper"):
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


def notes(runs: Runs) -> list[str]:
    """What a reader should know of the runs as a whole: of which code they are, and which failed."""
    return [*_code(runs), *failures(runs)]


def _code(runs: Runs) -> list[str]:
    """A line where the finished runs are not all of the commit that writes this page.

    The code that decides a run's numbers is the same in all: a run is found again by it (`ctr.jobs.cache`).
    """
    shas, now = runs.code(), git_sha()
    if set(shas) <= {now}:
        return []
    of = ", ".join(f"{number} at {_state(sha)}" for sha, number in shas.items())
    return [f"The runs were made at other commits, with the same training code: {of}; this page at {_state(now)}."]


def _state(sha: str | None) -> str:
    """The first ten digits of a commit, and whether there were changes to it."""
    return "an unknown state" if sha is None else sha[:10] + ("-dirty" if sha.endswith("-dirty") else "")


def failures(runs: Runs) -> list[str]:
    """A line for each thing that went wrong, however many runs failed of it."""
    return [
        f"failed: {commands[0]}: {error}"
        if len(commands) == 1
        else f"failed: {len(commands)} runs: {error}; the first: {commands[0]}"
        for error, commands in runs.failures().items()
    ]


def _seeds(options: Options) -> str:
    return f"{len(options.seeds)} seed{'s' if len(options.seeds) != 1 else ''}"
