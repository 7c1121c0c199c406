"""A raw log in, click probabilities out: ``python -m ctr.predict model=runs/mine raw=today.txt out=preds.parquet``.

Keys and their defaults are in ``configs/predict.yaml``; ``--help`` lists them.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

from collections.abc import Sequence
from pathlib import Path

from ctr.cli import run_command
from ctr.config import plain
from ctr.config.data import paths
from ctr.config.schema import PredictConfig
from ctr.errors import ArgumentError
from ctr.files import expect_new_file
from ctr.progress import rows_bar


def main(overrides: Sequence[str]) -> None:
    values = plain.compose("predict", overrides, PredictConfig)
    out, raws = Path(values["out"]), paths(values["raw"], "raw")
    import pyarrow as pa
    import torch

    from ctr.artifact import stream
    from ctr.artifact.saved import load

    expect_new_file(out, "out", stream.WRITERS)
    if (rate := values["negative_rate"]) is not None and not 0 < rate <= 1:
        raise ArgumentError(f"negative_rate={rate:g}; expected a share above 0 and at most 1")
    model = load(**{"path": values["model"], **{key: values[key] for key in ("allow_module", "backend", "threads")}})
    threads = values["threads"] or model.manifest.threads
    torch.set_num_threads(threads)
    pa.set_cpu_count(threads)
    files = stream.locate(model, raws)
    options = {key: values[key] for key in ("bad_rows", "negative_rate")}
    with rows_bar("predict") as progress:
        found = stream.predict_log(model, files, out, **options, progress=progress)
    print(stream.report(model, found, out), flush=True)


if __name__ == "__main__":
    run_command(lambda: plain.run(main), "predict")
