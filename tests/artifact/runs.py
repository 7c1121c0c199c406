"""Small trained runs with their models, each trained once in a session; and the rows that they were tested on as a log
of its own."""

import functools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctr.config.compose import resolve
from ctr.datasets.prepared import Prepared
from ctr.datasets.source import open_data
from ctr.training.settings import Settings
from tests.commands import composed, job

_places: list[tempfile.TemporaryDirectory[str]] = []


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        folder: of the run.
        settings: it was made with.
        data: it was trained and tested on.
        result: its figures.
    """

    folder: Path
    settings: Settings
    data: Prepared
    result: dict[str, Any]

    @property
    def raw(self) -> Path:
        return Path(self.data.manifest.input.path)


@functools.cache
def trained(*overrides: str) -> Trained:
    """A run on 2,000 generated rows; nobody may change its files."""
    place = _root()
    sizes = ["dataset.sample_rows=2000", "dataset.num_buckets=900", "batch_size=128", "opt.lr=3e-3"]
    dataset = next(text.partition("=")[2] for text in overrides if text.startswith("dataset="))
    prepared = f"dataset.prepared={place / dataset / 'prepared'}"
    config = composed("train", "dataset.source=sample", "tracking=none", *sizes, prepared, *overrides)
    folder = Path(tempfile.mkdtemp(dir=place))
    job(config, folder)
    settings = resolve(config)
    data = open_data(settings.data, quiet=True)
    return Trained(folder, settings, data, json.loads((folder / "result.json").read_text()))


@functools.cache
def _root() -> Path:
    _places.append(tempfile.TemporaryDirectory(prefix="ctr-models-"))
    return Path(_places[0].name)


def log_of_test_rows(run: Trained, folder: Path, *, labels: bool = True) -> Path:
    """The rows that a run was tested on, as a raw log of its own."""
    name, rows = run.settings.data.name, run.result["rows_test"]
    if name == "ipinyou":
        for path in run.raw.glob("*.txt"):
            kind, day, _ = path.name.split(".")
            if day in run.result["auc_by_day"] and (labels or kind == "imp"):
                (folder / path.name).write_bytes(path.read_bytes())
        return folder
    delimiter, label = ("\t", 0) if name == "criteo" else (",", 1)
    head, lines = [], run.raw.read_text().splitlines()
    if name == "avazu":
        head, lines = lines[:1], lines[1:]
    cells = [line.split(delimiter) for line in [*head, *lines[-rows:]]]
    kept = [delimiter.join(row if labels else row[:label] + row[label + 1 :]) for row in cells]
    path = folder / f"{'labelled' if labels else 'unlabelled'}-{run.raw.name}"
    path.write_text("\n".join(kept) + "\n")
    return path
