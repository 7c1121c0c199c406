"""The views of the table of `ctr.studies.rivals`: Markdown, sentences, figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from ctr.report import figures, markdown
from ctr.report.findings import Column, Row
from ctr.studies import sentences
from ctr.studies.columns import GAP, LR, differences, interval, known, spread
from ctr.studies.lambda_search import NEAR
from ctr.studies.learning_rates import Rate
from ctr.studies.rivals_methods import WHOLE
from ctr.studies.runs import Run, Runs
from ctr.studies.study import Options


@dataclass(frozen=True)
class Of:
    """A figure of a run: its name there, what it is, and how it is written."""

    run: str
    meaning: str
    form: Callable[[Any], str]


def _number(digits: int) -> Callable[[Any], str]:
    return lambda value: f"{value:,.{digits}f}" if known(value) else markdown.GAP


def _size(value: float | None) -> str:
    return f"{value / 1e3:,.0f} kB" if value is not None and known(value) else markdown.GAP


FIGURES = {
    "auc": Of("auc", "test AUC", markdown.auc),
    "logloss": Of("logloss", "test logloss", _number(4)),
    "calibration": Of("calibration", "clicks predicted / clicks observed in the test rows", _number(3)),
    "features": Of("features_nonzero", "features whose row is not zero", markdown.count),
    "bytes": Of("model_bytes", "bytes of the saved float32 model, its dictionary included", _size),
    "seconds": Of("train_seconds", "seconds of training", _number(1)),
}
PLACES = {"in": "chosen in training", "after": "chosen after training", "before": "chosen before training"}


def columns(seeds: Sequence[int]) -> list[Column]:
    """What the table's columns mean."""
    return [
        Column("method", "how the model is made smaller"),
        Column("place", "whether features are chosen before, in or after training"),
        Column("equal", "what makes the number of features N"),
        Column("rate", "share of the features present in training that is asked for", lambda rate: f"{100 * rate:g} %"),
        Column("target", "N, the number of features asked for", markdown.count),
        Column("average", "share of the steps over which the net is averaged", markdown.share),
        LR,
        Column("given", "what the runs were given for this; from..to where that differs between seeds"),
        *(column for name, of in FIGURES.items() for column in spread(name, of.meaning, of.form)),
        Column("seeds", "finished seeds"),
        *differences("this − the first method at the same N and average"),
        Column(
            "auc_at_size",
            "AUC at the size of the first method's model, read between this one's; missing unless every seed has it",
            markdown.auc,
        ),
        Column("difference_at_size", "AUC at that size − the first method's", markdown.difference),
        GAP,
        *(
            Column(f"{name}_seed{seed}", f"{of.meaning}, seed {seed}", of.form)
            for name, of in FIGURES.items()
            for seed in seeds
        ),
    ]


DETAILS: markdown.Layout = [
    ("Method", "method"), ("asked", "rate"), ("features", "features_mean"), ("size", "bytes_mean"),
    ("AUC", lambda row: markdown.auc(row["auc_mean"], row["auc_std"])), ("logloss", "logloss_mean"),
    ("calibration", "calibration_mean"), ("seconds", "seconds_mean"), ("difference", "difference"),
    ("95 % interval", interval()), ("p", "p"), ("p Holm", "p_holm"), ("by", "equal"),
]  # fmt: skip


def text(options: Options, runs: Runs, found: Sequence[Row], lrs: Mapping[str, Rate], whole: Sequence[Run]) -> str:
    """The study's Markdown."""
    parts = [
        f"# Rivals at equal numbers of features and equal bytes · {options.dataset}",
        "Test AUC, means over seeds; the best of each column is bold. A size is that of the saved float32 model with "
        f"its dictionary. A \\* marks a number of features that is not N within {NEAR:.0%}: a lambda is searched for "
        "by the number of features alone, a cut-off leaves what it leaves, a smaller dimension keeps all features with "
        "about as many weights.",
    ]
    for share in dict.fromkeys(row["average"] for row in found):
        here = [row for row in found if row["average"] == share]
        compared = [row for row in here if row["method"] != WHOLE.title]
        parts.append(
            "## " + (f"The net averaged over the last {share:.0%} of the steps" if share else "The last weights")
        )
        if compared:
            parts += ["At N features:", _by_rate(compared, "auc_mean", _asked, _at_number)]
            parts += [
                f"At the size of {compared[0]['method']} with N features, each read between its own sizes (nothing is "
                "extrapolated by more than 5 %):",
                _by_rate(compared, "auc_at_size", _first_size, lambda row: markdown.auc(row["auc_at_size"])),
            ]
        parts += ["In detail:", markdown.view(here, columns(options.seeds), DETAILS)]
    of_all = [
        *sentences.scope(options, whole),
        *(sentences.learning_rate(options, opt, lr) for opt, lr in lrs.items()),
        *_winners(found),
        *_averaging(found),
        *_unequal(found),
        *_gaps(found),
        *sentences.notes(options, runs),
    ]
    return "\n\n".join([*parts, "## Of all", markdown.bullets(of_all)]) + "\n"


def _by_rate(found: Sequence[Row], value: str, heading: Callable[[Row], str], cell: Callable[[Row], str]) -> str:
    """A line for each method, a column for each rate; the best of each column is bold."""
    rates = dict.fromkeys(row["rate"] for row in found)
    best = {
        rate: max((row[value] for row in found if row["rate"] == rate and _comparable(row, value)), default=math.nan)
        for rate in rates
    }
    lines: dict[str, list[str]] = {}
    for row in found:
        top = row[value] == best[row["rate"]] and _comparable(row, value)
        lines.setdefault(row["method"], []).append(markdown.bold(cell(row), top))
    first = found[: len(rates)]
    return markdown.table(["Method", *map(heading, first)], [[name, *cells] for name, cells in lines.items()])


def _comparable(row: Row, value: str) -> bool:
    """Whether a row may be the best of its column: at equal numbers only one with at most N features may."""
    return known(row[value]) and (value != "auc_mean" or row["features_mean"] <= (1 + NEAR) * row["target"])


def _near(row: Row) -> bool:
    return abs(row["features_mean"] - row["target"]) <= NEAR * row["target"]


def _asked(row: Row) -> str:
    return f"{100 * row['rate']:g} % ({markdown.count(row['target'])})"


def _first_size(row: Row) -> str:
    return _size(row["bytes_mean"])


def _at_number(row: Row) -> str:
    auc = markdown.auc(row["auc_mean"])
    return auc if auc == markdown.GAP or _near(row) else f"{auc} \\*"


def _compared(found: Sequence[Row]) -> dict[tuple[float, float], list[Row]]:
    """The rows of the methods by share averaged and rate."""
    by: dict[tuple[float, float], list[Row]] = {}
    for row in found:
        if row["method"] != WHOLE.title:
            by.setdefault((row["average"], row["rate"]), []).append(row)
    return by


def _winners(found: Sequence[Row]) -> list[str]:
    lines = []
    for (share, rate), here in _compared(found).items():
        able = [row for row in here if _comparable(row, "auc_mean")]
        if not able:
            lines.append(f"{_where(share, rate)}: no run finished.")
            continue
        best, first = max(able, key=lambda row: row["auc_mean"]), here[0]
        line = f"{_where(share, rate)}: the highest mean is {markdown.auc(best['auc_mean'])} of {best['method']}"
        if best is not first and known(best["difference"]):
            said = sentences.winner(best["method"], first["method"], best)
            line += f"; against {first['method']}: {said}"
        lines.append(line + ".")
    return lines


def _where(share: float, rate: float) -> str:
    return f"{100 * rate:g} % of the features" + (f", averaged over {share:.0%}" if share else "")


def _averaging(found: Sequence[Row]) -> list[str]:
    """What averaging changes, over all methods and rates."""
    base = {(row["method"], row["rate"]): row["auc_mean"] for row in found if row["average"] == 0}
    lines = []
    for share in dict.fromkeys(row["average"] for row in found if row["average"]):
        gains = [
            row["auc_mean"] - base[row["method"], row["rate"]]
            for row in found
            if row["average"] == share and (row["method"], row["rate"]) in base
        ]
        gains = [gain for gain in gains if known(gain)]
        if gains:
            ends = " to ".join(map(markdown.difference, (min(gains), max(gains))))
            lines.append(
                f"Averaging the net over the last {share:.0%} changes the mean AUC by "
                f"{markdown.difference(sum(gains) / len(gains))} ({ends} over {len(gains)} cells)."
            )
    return lines


def _unequal(found: Sequence[Row]) -> list[str]:
    """Which methods miss N, and by how much."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in found if row["method"] != WHOLE.title):
        done = [row for row in found if row["method"] == method and row["seeds"]]
        off = [row["features_mean"] / row["target"] for row in done if not _near(row)]
        if off:
            between = " to ".join(dict.fromkeys(f"{end:.3g}" for end in (min(off), max(off))))
            lines.append(f"{method}: not N features in {len(off)} of {len(done)} cells, {between} times as many.")
    return lines or ["Every finished cell has N features, within 2 %."]


def _gaps(found: Sequence[Row]) -> list[str]:
    return [
        f"gap: {row['method']}, {_where(row['average'], row['rate'])}: {row['gap']}." for row in found if row["gap"]
    ]


def drawn(options: Options, found: Sequence[Row], whole: Sequence[Run]) -> dict[str, Figure]:
    """AUC against features and against bytes: a line for each method, a panel for each place with the first method."""
    axes = {"features": "features (log scale)", "bytes": "bytes of the saved model (log scale)"}
    return {f"rivals-{name}": _figure(options, found, name, axis, whole) for name, axis in axes.items()}


def _figure(options: Options, found: Sequence[Row], name: str, axis: str, whole: Sequence[Run]) -> Figure:
    titles = list(dict.fromkeys(row["method"] for row in found if row["method"] != WHOLE.title))
    places = {row["method"]: row["place"] for row in found}
    shares = list(dict.fromkeys(row["average"] for row in found))

    def panel(share: float, place: str) -> figures.Panel:
        shown = [title for title in titles if places[title] == place or title == titles[0]]
        lines = [
            figures.line(
                title, [row for row in found if (row["method"], row["average"]) == (title, share)], name, "auc", look
            )
            for look, title in enumerate(titles)
            if title in shown
        ]
        heading = PLACES[place] + (f", net averaged over {share:.0%}" if share else "")
        everything = next(
            (row["auc_mean"] for row in found if (row["method"], row["average"]) == (WHOLE.title, share)), math.nan
        )
        return figures.Panel(heading, axis, figures.AUC, lines, line=everything if known(everything) else None)

    used = [place for place in PLACES if place in {places[title] for title in titles}] or ["in"]
    caption = " ".join(
        [
            "Means over seeds, bars: one standard deviation. Grey: Adam with all features.",
            *sentences.scope(options, whole),
        ]
    )
    rows = [[panel(share, place) for place in used] for share in shares]
    return figures.draw(rows, f"{options.dataset}: AUC against {name}", caption)
