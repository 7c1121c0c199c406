"""What a saved model has kept: a table of its values, and a picture of how many of each field."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from ctr.artifact.saved import SavedModel
from ctr.files import atomic_path
from ctr.report.figures import LOOKS, STYLE

SEEN, KEPT = "#c9d3dc", LOOKS[0][0]
SHOWN = 10  # values in the printed report
ALL = "all fields"


def write(model: SavedModel, out: Path) -> None:
    """Writes `SavedModel.features` as ``.csv`` or ``.parquet``."""
    with atomic_path(out) as tmp:
        (pq.write_table if out.suffix == ".parquet" else pacsv.write_csv)(model.feature_table(), str(tmp))


def by_field(model: SavedModel) -> list[tuple[str, int, int]]:
    """(field, values seen in training, values kept); one line for all fields where they share buckets."""
    fields = [(field.name, field.seen, field.kept) for field in model.manifest.fields]
    known = [(name, seen, kept) for name, seen, kept in fields if seen is not None and kept is not None]
    return known or [(ALL, int(model.manifest.run["features_present"]), model.manifest.rows)]


def draw(model: SavedModel, path: Path) -> None:
    """Draws how many of each field's values are kept, of those that training has seen."""
    names, seen, kept = zip(*by_field(model), strict=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 1.6 + 0.23 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        places = np.arange(len(names))[::-1]
        axes.barh(places, seen, height=0.72, color=SEEN, label="seen in training")
        axes.barh(places, kept, height=0.72, color=KEPT, label="kept (row not zero)")
        axes.set_xscale("log")
        axes.set_xlim(0.7, 25 * max(seen))
        axes.set_yticks(places, names)
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.grid(visible=False, axis="y")
        for place, of, left in zip(places, seen, kept, strict=True):
            axes.text(of * 1.15, place, f"{left:,} of {of:,}  ({_percent(left, of)})", va="center", fontsize=7)
        axes.set_xlabel("different values (log scale)")
        axes.set_title(_title(model), loc="left")
        figure.legend(loc="outside lower center", ncols=2)
        with atomic_path(path) as tmp:
            figure.savefig(tmp, format="png")


def _title(model: SavedModel) -> str:
    manifest, run = model.manifest, model.manifest.run
    auc = "" if run["auc"] is None else f", test AUC {run['auc']:.4f}"
    generated = ", generated rows" if run["source"] == "generated" else ""
    return (
        f"{manifest.dataset}{generated}, {manifest.model}, {run['opt']}{auc}\n{manifest.rows:,} of "
        f"{run['features_present']:,} values kept ({_percent(manifest.rows, run['features_present'])})"
    )


def report(model: SavedModel, out: Path) -> str:
    """The model's figures and its strongest values, for a reader."""
    manifest, run = model.manifest, model.manifest.run
    fields = "  ".join(f"{name} {kept:,}/{seen:,}" for name, seen, kept in by_field(model))
    lines = {
        "model": f"{os.path.relpath(model.folder)}: {manifest.model} on {manifest.dataset}, {run['opt']}",
        "kept": f"{manifest.rows:,} of {run['features_present']:,} values that training has seen "
        f"({_percent(manifest.rows, run['features_present'])})",
        "by field": fields,
        "table": f"{os.path.relpath(out)} (strongest first)",
        "picture": os.path.relpath(out.with_suffix(".png")),
    }
    table = model.feature_table().slice(0, SHOWN)
    rows = ["", f"  {'field':<17} {'value':<24} {'norm':>9} {'effect':>9} {'count':>12}"]
    for row in table.to_pylist():
        shown = f"{row['field'] or '':<17} {_value(row['value']):<24}"
        rows.append(f"  {shown} {row['norm']:>9.4f} {row['effect']:>9.4g} {row['count']:>12,}")
    return "\n".join([*(f"  {name:<17} {value}" for name, value in lines.items()), *rows])


def _value(value: object) -> str:
    return "(blank)" if value is None else str(value)[:24]


def _percent(part: int, whole: int) -> str:
    share = 100 * part / max(whole, 1)
    return f"{share:.1f} %" if share >= 0.1 or part == 0 else f"{share:.2g} %"
