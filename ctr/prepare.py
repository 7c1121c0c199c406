"""Raw log -> prepared rows: ``python -m ctr.prepare dataset=criteo dataset.raw=PATH``.

`ctr.train` does the same by itself when it has to; this command does it ahead of time and shows what came out. It also
checks every byte of rows that were prepared earlier, and prepares damaged ones anew.
"""

from __future__ import annotations

import ctr.environment  # before all that takes time

# isort: split

from typing import cast

import hydra
from omegaconf import DictConfig

import ctr.config
from ctr.cli import make_dataset, open_data, report_failure, run_command
from ctr.config import PrepareConfig
from ctr.datasets.known import compare
from ctr.datasets.prepared import Prepared
from ctr.datasets.schema import Published


def table(data: Prepared, published: Published | None) -> str:
    """What a prepared folder holds, for a reader; compared with the published counts of the full log if given."""
    manifest, split = data.manifest, data.split
    generated = "  (generated)" if manifest.recipe.source == "generated" else ""
    lines = {
        "input": manifest.input.path + generated,
        "prepared rows": f"{data.folder}{'  (was there already)' if data.reused else ''}",
        "rows": f"{manifest.rows:,}: {split.rows_train:,} to train on, {split.rows_test:,} to test on",
        "click rate": f"{manifest.positives / manifest.rows:.4f}",
        "features": f"{manifest.num_features:,}, of which {split.features_train:,} occur in training",
        "values per field": "  ".join(
            f"{name} {count:,}" for name, count in zip(manifest.fields, manifest.values_per_field, strict=True)
        ),
    }
    if manifest.recipe.num_buckets is not None:
        lines["hash collisions"] = (
            f"{manifest.collision_rate:.4f} of {sum(manifest.values_per_field):,} distinct values "
            "found their bucket taken"
        )
    if manifest.rows_skipped:
        lines["bad rows"] = f"{manifest.rows_skipped:,} left out; the first: {manifest.first_skipped}"
    if published is not None and manifest.recipe.source == "raw":
        lines["this log"] = compare(data, published)
    return "\n".join(f"  {name:<17} {value}" for name, value in lines.items())


ctr.config.register()


@hydra.main(config_path="pkg://ctr.conf", config_name="prepare", version_base="1.3")
def main(config: DictConfig) -> None:
    try:
        ctr.config.refuse_unknown(config, PrepareConfig)
        dataset = cast(PrepareConfig, config).dataset
        print(table(open_data(dataset, verify=True), make_dataset(dataset).published))
    except (Exception, KeyboardInterrupt) as error:
        report_failure(error)
        raise


if __name__ == "__main__":
    run_command(main, "prepare")
