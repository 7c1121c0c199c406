"""Thirty days of a generated log: one model goes on every morning, against training anew from all days so far.

    python scripts/thirty_days.py --out runs/thirty-days              # about ten minutes on two cores
    python scripts/thirty_days.py --out runs/try --days 4 --rows 5000 # a look

Every day brings new values (`ctr.datasets.synthetic.days`). A day's AUC is that of its rows, each scored before it was
learned from. The ways to go on:

    keep          the whole state of the day before; every value keeps its row
    drop, N days  the same, without rows that are zero and were not touched for N days
    admit 3       the whole state of the day before; a value has a row of its own from its third occurrence on
    ..., drop     the same, without such rows and values of three days
    from model    the saved model of the day before: living rows alone, without the optimizer's state
    anew          a new model, trained on all days so far (every few days, as it takes as many passes)

It leaves ``thirty_days.csv``, ``thirty_days.md`` and ``thirty_days.png`` in the folder. Days that are done are not done
again: after a stop the same command goes on.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from ctr.artifact.save import save_model
from ctr.config.compose import compose, resolve
from ctr.datasets.source import GENERATED_MARK
from ctr.datasets.synthetic.days import FIRST_DAY, write_day
from ctr.files import atomic_path, atomic_write_text
from ctr.progress import bar
from ctr.report.figures import LOOKS, STYLE
from ctr.training.experiment import run_family
from ctr.training.folder import RESULT, read_result
from ctr.training.run import Run

OPTIONS = ("opt.lr=1e-3", "opt.lambda21=1e-3")
FIXED = (
    "dataset=avazu",
    "dataset.test_fraction=0",
    "progressive=true",
    "tracking=none",
    "report=false",
    "checkpoint.every_minutes=null",
)
ADMIT = ("admit=3", "dataset.unseen=row")


@dataclass(frozen=True)
class Way:
    """How the model of one day comes from that of the day before.

    Attributes:
        name: for a reader.
        keys: of a run that goes on; None trains anew on all days so far.
        model: goes on with the saved model in place of the run.
        always: keys of every run, the first day's too.
    """

    name: str
    keys: tuple[str, ...] | None
    model: bool = False
    always: tuple[str, ...] = ()


WAYS = (  # the most memory last: what a process has once held is not all given back
    Way("from model", (), model=True),
    Way("drop, 0 days", ("evict=dead", "evict_after=0")),
    Way("drop, 3 days", ("evict=dead", "evict_after=3")),
    Way("admit 3, drop", ("evict=dead", "evict_after=3"), always=ADMIT),
    Way("admit 3", (), always=ADMIT),
    Way("keep", ()),
    Way("anew", None),
)


@dataclass(frozen=True)
class Days:
    """The log, and what is trained on it.

    Attributes:
        out: the folder of all files.
        days, rows: number of days, and of rows in each.
        anew_every: days between two trainings anew.
        seed: of log and model.
        overrides: further keys for every run.
        ways: names of those that are taken.
    """

    out: Path
    days: int
    rows: int
    anew_every: int
    seed: int
    overrides: tuple[str, ...]
    ways: tuple[str, ...]

    def runs(self) -> Iterator[tuple[Way, int]]:
        """Every run in its order."""
        for way in WAYS:
            if way.name not in self.ways:
                continue
            for day in range(self.days):
                if way.keys is not None or (day + 1) % self.anew_every == 0:
                    yield way, day

    def folder(self, way: Way, day: int) -> Path:
        return self.out / "runs" / way.name.replace(", ", "-").replace(" ", "-") / f"{day + 1:02d}"

    def raw(self, day: int) -> Path:
        """The log of a day, generated unless it is there."""
        path = self.out / "raw" / f"{day + 1:02d}" / "train.csv"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / GENERATED_MARK).write_text("# Generated\n\nBy scripts/thirty_days.py: none of it is real.\n")
            write_day(path, day, self.days, self.rows, self.seed)
        return path

    def all_raw(self, day: int) -> Path:
        """The logs of all days up to one, in one file."""
        path = self.out / "raw" / f"to-{day + 1:02d}" / "train.csv"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.raw(0).parent / GENERATED_MARK, path.parent)
            with atomic_path(path) as tmp, tmp.open("wb") as whole:
                for number in range(day + 1):
                    with self.raw(number).open("rb") as part:
                        header = part.readline()
                        whole.write(header if number == 0 else b"")
                        shutil.copyfileobj(part, whole)
        return path

    def run(self, way: Way, day: int) -> None:
        """Trains a day, unless that is done; then the state of the day before is no longer needed."""
        folder = self.folder(way, day)
        if (folder / RESULT).exists():
            return
        raw = self.all_raw(day) if way.keys is None else self.raw(day)
        keys = [*FIXED, *OPTIONS, f"seed={self.seed}", *self.overrides, f"dataset.raw={raw}", f"run_dir={folder}"]
        keys += [f"dataset.prepared={self.out / 'prepared'}", *way.always]
        before = self.folder(way, day - 1)
        if way.keys is not None:
            keys += [f"checkpoint.final={str(not way.model).lower()}", f"save={'model' if way.model else 'none'}"]
            if day:
                keys += [f"init={before / 'model' if way.model else before}", *way.keys]
        else:
            keys += ["save=none"]
        train(keys, folder)
        if way.keys is None:
            shutil.rmtree(raw.parent)
        elif day:
            for name in ("checkpoints", "model"):
                shutil.rmtree(before / name, ignore_errors=True)

    def row(self, way: Way, day: int) -> dict[str, object]:
        folder = self.folder(way, day)
        result = read_result(folder / RESULT)
        return {
            "way": way.name,
            "day": day + 1,
            "auc": result["auc_progressive_by_day"][str(20_000_000 + FIRST_DAY + day)],
            "rows": result["table_rows"],
            "living": result["features_nonzero"],
            "seconds": result["train_seconds"],
            "memory_mib": result["peak_rss_bytes"] / 2**20,
        }


def train(keys: Sequence[str], folder: Path) -> None:
    """What ``python -m ctr.train`` does, without bars."""
    one = Run(resolve(compose("train", keys)), folder, save=save_model)
    run_family([one], on_rows=lambda rows: None)
    if one.error is not None:
        sys.exit(f"error: {one.error}; in: python -m ctr.train {' '.join(keys)}")


def table(found: pd.DataFrame, days: int) -> str:
    """Markdown: the ways in rows, their mean AUC once begun and their last figures in columns."""
    late = found[found.day > days // 3]
    lines = [
        f"| | AUC, days {days // 3 + 1} to {days} | AUC, day {days} | rows, day {days} | of them living | "
        f"peak memory, MiB | seconds of training, day {days} |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for way in found.way.unique():
        mine = found[found.way == way]
        last = mine.iloc[-1]
        mean = f"{late[late.way == way].auc.mean():.4f}" if len(mine) == days else ""
        lines.append(
            f"| {way} | {mean} | {last.auc:.6f} | {last.rows:,} | {last.living:,} | {last.memory_mib:,.0f} | "
            f"{last.seconds:.1f} |"
        )
    return "\n".join(lines) + "\n"


def figure(found: pd.DataFrame) -> Figure:
    """AUC, rows and seconds by day."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(10, 3.2), layout="constrained")
        panels = drawn.subplots(1, 3)
        for axes, (column, title) in zip(
            panels,
            [
                ("auc", "AUC of the day, before learning"),
                ("rows", "rows of the table"),
                ("seconds", "seconds of training"),
            ],
            strict=True,
        ):
            for way, (colour, marker, line) in zip(found.way.unique(), LOOKS, strict=False):
                mine = found[found.way == way]
                axes.plot(mine.day, mine[column], color=colour, marker=marker, linestyle=line, markersize=3, label=way)
            axes.set(title=title, xlabel="day")
        panels[1].legend()
        panels[2].set_yscale("log")
    return drawn


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for logs, runs and figures")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rows", type=int, default=61_440, help="of each day; whole batches of 512")
    parser.add_argument("--anew-every", type=int, default=10, help="days between two trainings anew")
    names = tuple(way.name for way in WAYS)
    parser.add_argument("--ways", nargs="+", choices=names, default=names, help="some of the ways to go on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="further keys of ctr.train, for every run")
    asked = parser.parse_args(arguments)
    days = Days(
        asked.out, asked.days, asked.rows, asked.anew_every, asked.seed, tuple(asked.overrides), tuple(asked.ways)
    )
    _expect_same(days)
    runs = list(days.runs())
    with bar(len(runs), "runs", "days") as progress:
        for way, day in runs:
            progress.set_postfix_str(f"day {day + 1}, {way.name}")
            days.run(way, day)
            progress.update()
    found = pd.DataFrame([days.row(way, day) for way, day in runs])
    with atomic_path(days.out / "thirty_days.csv") as tmp:
        found.to_csv(tmp, index=False)
    with atomic_path(days.out / "thirty_days.png") as tmp:
        figure(found).savefig(tmp)
    text = table(found, days.days)
    atomic_write_text(days.out / "thirty_days.md", text)
    print(text, end="")


def _expect_same(days: Days) -> None:
    """Refuses a folder of other days: its runs would be taken for these."""
    path, asked = days.out / "asked.json", {**vars(days), "out": None, "options": OPTIONS}
    del asked["ways"]  # others may be added
    text = json.dumps(asked)
    if not path.exists():
        days.out.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, text)
    elif path.read_text() != text:
        sys.exit(f"error: {days.out} has runs of {path.read_text()}; this asks for {text}; give another --out")


if __name__ == "__main__":
    main()
