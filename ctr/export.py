"""A saved model as one file for serving: ``python -m ctr.export model=runs/... to=onnx out=model.onnx``.

The file goes from the log's values to the click probability; docs/serving.md shows how to use it. It gets its name only
after it has been run and has given the probabilities of the saved model.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import os
from collections.abc import Iterator
from pathlib import Path

import hydra
from omegaconf import DictConfig

from ctr.cli import report_failure, run_command
from ctr.config import schema, search

search.register()


@hydra.main(config_path="pkg://ctr.conf", config_name="export", version_base="1.3")
def main(config: DictConfig) -> None:
    try:
        values = schema.plain_dict(schema.typed(config, schema.ExportConfig))
        values.pop("to")  # one format so far
        for line in export(**values):
            print(line, flush=True)
    except (Exception, KeyboardInterrupt) as error:
        report_failure(error)
        raise


def export(model: str, out: str, rows: str, raw: str | None, allow_module: bool) -> Iterator[str]:
    """Exports a model and yields what is to be said of it.

    Args:
        model: folder of the saved model or of its run.
        out: the file; an older one there is replaced.
        rows: what the embedding rows are stored as.
        raw: a log with labels; both models' AUC on it is said.
        allow_module: import the module that the model names.
    """
    from ctr.artifact import agreement, onnx
    from ctr.artifact.saved import load
    from ctr.artifact.scorer import Scorer
    from ctr.files import atomic_path

    onnx.expect_libraries()
    saved = load(model, allow_module=allow_module)
    manifest = saved.manifest
    logs = None if raw is None else saved.dataset.locate(Path(raw))
    scorer = Scorer(saved.net, saved.rows, rows, manifest.dense)
    with atomic_path(Path(out)) as file:
        onnx.write(file, onnx.to_onnx(saved, scorer))
        session = onnx.session(file)
        difference = agreement.check(session, saved, scorer)
    size = Path(out).stat().st_size
    yield _line("model", f"{saved.folder}: {manifest.dataset} {manifest.model}, {manifest.rows:,} rows of "
                f"{manifest.embedding_dim}")  # fmt: skip
    yield _line("file", f"{os.path.relpath(out)} ({size / 1e6:,.1f} MB, rows as {rows})")
    yield _line("inputs", f"{len(session.get_inputs())} columns; their forms are in its metadata, under ctr")
    yield _line("probabilities", f"differ from the saved model's by up to {difference.largest:.1e}, {difference.mean:.1e} "
                f"in the mean of {difference.rows:,} rows")  # fmt: skip
    if logs is not None:
        auc = agreement.aucs(session, saved, scorer, logs)
        yield _line("AUC", f"{auc.file:.6f} on {auc.rows:,} rows of {raw}; the saved model's is {auc.model:.6f} "
                    f"({auc.file - auc.model:+.1e})")  # fmt: skip


def _line(name: str, value: str) -> str:
    return f"  {name:<17} {value}"


if __name__ == "__main__":
    run_command(main, "export")
