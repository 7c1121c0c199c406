"""Raw log -> prepared rows: ``python -m ctr.prepare dataset=criteo dataset.raw=PATH``.

`ctr.train` does the same by itself when it has to; this command does it ahead of time and shows what came out. It also
checks every byte of rows that were prepared earlier, and prepares damaged ones anew. ``workers=N memory=2GiB`` prepares
a large log by several processes in bounded memory: the rows are the same.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import logging
from dataclasses import replace
from functools import partial

import hydra
import numpy as np
from omegaconf import DictConfig

from ctr.cli import report_failure, run_command
from ctr.config import schema, search
from ctr.config.data import resolve_data, resolve_limits
from ctr.datasets.prepared import Prepared
from ctr.datasets.published import compare
from ctr.datasets.rare import Gathered, Unseen, gather
from ctr.datasets.schema import Published
from ctr.datasets.source import open_data


def table(data: Prepared, published: Published | None, min_count: int = 1, unseen: Unseen = "zero") -> str:
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
    gathered = gather(data, min_count, unseen)
    if isinstance(gathered, Gathered):
        few = int(np.count_nonzero(gathered.rare & gathered.seen))
        lines["rare"] = (
            f"{few:,} of those occur fewer than {min_count:,} times and share {(gathered.own >= 0).sum():,} rows: "
            f"{gathered.split.features_train:,} are left"
        )
    if manifest.transforms:
        lines["numbers"] = "  ".join(f"{transform.name} {transform.kind}" for transform in manifest.transforms)
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


search.register()


@hydra.main(config_path="pkg://ctr.conf", config_name="prepare", version_base="1.3")
def main(config: DictConfig) -> None:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ctr").setLevel(logging.INFO)  # what the columns are taken as
    try:
        settings = resolve_data(config)
        limits = resolve_limits(config)
        if limits is not None and config.launcher == "ray":
            from ctr.jobs.ray_tasks import RayWorkers  # loads what else only training needs

            limits = replace(limits, pool=partial(RayWorkers, schema.plain_dict(config.ray)))
        data = open_data(settings, verify=True, limits=limits)
        print(table(data, settings.format.published, settings.min_count, settings.unseen))
    except (Exception, KeyboardInterrupt) as error:
        report_failure(error)
        raise


if __name__ == "__main__":
    run_command(main, "prepare")
