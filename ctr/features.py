"""Which values a model has kept: ``python -m ctr.features model=runs/mine out=features.csv``.

Keys and their defaults are in ``configs/features.yaml``; ``--help`` lists them.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

from collections.abc import Sequence
from pathlib import Path

from ctr.cli import run_command
from ctr.config import plain
from ctr.config.schema import FeaturesConfig
from ctr.files import expect_new_file


def main(overrides: Sequence[str]) -> None:
    values = plain.compose("features", overrides, FeaturesConfig)
    out = Path(values["out"])
    from ctr.artifact.saved import load
    from ctr.artifact.stream import WRITERS
    from ctr.report import features

    expect_new_file(out, "out", WRITERS)
    model = load(values["model"], allow_module=values["allow_module"])
    features.write(model, out)
    features.draw(model, out.with_suffix(".png"))
    print(features.report(model, out), flush=True)


if __name__ == "__main__":
    run_command(lambda: plain.run(main), "features")
