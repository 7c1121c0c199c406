"""Draws the picture of README: test AUC against the size of the saved model, from the tables of `study=rivals`.

python scripts/readme_picture.py [--results docs/results/real] [--out docs/images/auc-size.png]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MultipleLocator, NullFormatter, NullLocator

from ctr.report.figures import LOOKS

ROOT = Path(__file__).parents[1]
AVERAGE = 0.3  # the better half of each table: `average=0.3`, for all methods
ALL = "Adam, all features"
METHODS = {  # of the table: name in the picture, number of the look
    "Group Adam, budget": ("ctr: Group Adam, budget", 0),
    "Adam, pruned by norm, fine-tuned on 30%": ("Adam, pruned by norm", 1),
    "Adam, pruned by effect, fine-tuned on 30%": ("Adam, pruned by effect", 2),
    "count cut-off, unseen as rare": ("Adam, count cut-off", 3),
    "hashing": ("Adam, hashed values", 4),
    ALL: (ALL, 6),
}
DATASETS = {"avazu": "Avazu, MLP", "criteo": "Criteo, DCN"}
STYLE: dict[str, Any] = {  # 6 inches wide: readable at 400 pixels too
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "errorbar.capsize": 2.5,
}


def table(path: Path) -> pd.DataFrame:
    """The rows of a published table that the picture shows."""
    found = pd.read_csv(path)
    return found[(found["average"] == AVERAGE) & found["method"].isin(METHODS)]


def figure(tables: dict[str, pd.DataFrame]) -> Figure:
    """A panel for each dataset."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(6, 4.6), layout="constrained", facecolor="white")
        for axes, (dataset, rows) in zip(drawn.subplots(1, len(tables)), tables.items(), strict=True):
            _panel(axes, rows)
            axes.set_title(DATASETS[dataset], fontsize=11)
        drawn.axes[0].set_ylabel("test AUC")
        drawn.supxlabel("size of the saved model", fontsize=11)
        drawn.legend(*drawn.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=10)
    return drawn


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    for method, (name, look) in METHODS.items():
        line = rows[rows["method"] == method].sort_values("bytes_mean")
        color, marker, dashes = LOOKS[look]
        ours = look == 0
        axes.errorbar(
            line["bytes_mean"],
            line["auc_mean"],
            yerr=line["auc_std"],
            label=name,
            color=color,
            marker=marker,
            markersize=7 if ours else 5,
            linewidth=2.6 if ours else 1.4,
            linestyle=dashes,
            zorder=3 if ours else 2,
        )
    (whole,) = rows.loc[rows["method"] == ALL, "auc_mean"]
    axes.axhline(whole, color="#888888", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([2e5, 1e6, 4e6, 16e6]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size / 1e6:g} MB"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(MultipleLocator(0.02 if high - low > 0.03 else 0.004))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda auc, _: f"{auc:.3f}".lstrip("0")))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results" / "real")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "auc-size.png")
    chosen = parser.parse_args(arguments)
    figure({name: table(chosen.results / f"rivals-{name}.csv") for name in DATASETS}).savefig(chosen.out, dpi=200)
    print(chosen.out)


if __name__ == "__main__":
    main()
