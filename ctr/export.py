"""A saved model as one file for serving: ``python -m ctr.export model=runs/mine to=onnx out=model.onnx``.

The file goes from the log's values to the click probability; docs/serving.md says how to use it. It gets its name only
after it has been run and has given the saved model's probabilities. Keys and their defaults are in
``configs/export.yaml``; ``--help`` lists them.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import os
from collections.abc import Sequence
from pathlib import Path

from ctr.cli import run_command
from ctr.config import plain
from ctr.config.schema import ExportConfig


def main(overrides: Sequence[str]) -> None:
    values = plain.compose("export", overrides, ExportConfig)
    out, rows = Path(values["out"]), values["rows"]
    from ctr.artifact import agreement, onnx
    from ctr.artifact.saved import load
    from ctr.artifact.scorer import scorer_of
    from ctr.files import atomic_path, expect_new_file, size

    expect_new_file(out, "out")
    onnx.expect_libraries()
    model = load(values["model"], allow_module=values["allow_module"])
    manifest = model.manifest
    log = None if values["raw"] is None else agreement.locate(model, Path(values["raw"]))
    scorer = scorer_of(model, rows)
    say("model", f"{os.path.relpath(model.folder)}: {manifest.model} on {manifest.dataset}, {manifest.rows:,} rows of "
        f"{manifest.embedding_dim}")  # fmt: skip
    with atomic_path(out) as file:
        onnx.write(file, onnx.to_onnx(model, scorer))
        session = onnx.session(file)
        found = agreement.check(session, model, scorer)
    say("file", f"{os.path.relpath(out)} ({size(out.stat().st_size)}, rows as {rows})")
    say("inputs", f"{len(session.get_inputs())} columns; the file's metadata (key {onnx.METADATA}) says in which form")
    say("probabilities", f"within {found.largest:.1e} of the saved model's, {found.mean:.1e} in the mean of "
        f"{found.rows:,} rows")  # fmt: skip
    if log is not None:
        auc = agreement.aucs(session, model, scorer, log)
        say("AUC", f"{auc.file:.6f} on {auc.rows:,} rows; the saved model's is {auc.model:.6f} "
            f"({auc.file - auc.model:+.1e})")  # fmt: skip


def say(name: str, value: str) -> None:
    print(f"  {name:<17} {value}", flush=True)


if __name__ == "__main__":
    run_command(lambda: plain.run(main), "export")
