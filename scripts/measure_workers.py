"""Rows/s of a training step, of one process and of several workers, and what these exchange.

    python scripts/measure_workers.py --threads 2                               one process, both backends
    torchrun --nproc-per-node 2 scripts/measure_workers.py --threads 1          two workers

Each prints a line for every global batch size: Criteo's generated rows, DCN, Group Adam; nothing is evaluated or saved.
The first tenth of the steps is not counted.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import argparse
import os
import time

from ctr.config import workers
from ctr.config.compose import compose, resolve
from ctr.datasets.source import open_data
from ctr.training.build import start
from ctr.training.distributed import Group, join
from ctr.training.experiment import set_up

BATCHES = (512, 4096, 16384)


def measure(overrides: list[str], rows: int, group: Group | None) -> tuple[float, float, float]:
    """Rows/s, bytes that workers send each other for each row, share of the time that this one spends in exchanges."""
    config = compose("train", overrides)
    if group is None:
        settings = resolve(config)
    else:
        workers.settle(config)
        settings = workers.for_workers(resolve(config), config.slices, group)
    set_up(settings)
    run = start(settings, open_data(settings.data, quiet=group is not None and not group.first), group)
    steps = max(min(rows, run.stream.num_rows) // settings.batch_size, 2)
    began = before = 0.0
    for number, batch in enumerate(run.stream):
        if number == steps:
            break
        if number == max(steps // 10, 1):
            first, began = number, time.perf_counter()
            if group is not None:
                group.sent, before = 0, group.seconds
        run.step(batch)
    seconds = time.perf_counter() - began
    done = (steps - first) * settings.batch_size
    if group is None:
        return done / seconds, 0.0, 0.0
    return done / seconds, group.sent * group.size / done, (group.seconds - before) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--rows", type=int, default=200_000, help="rows to train on for each line, at most")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="rows of a global batch")
    parser.add_argument("overrides", nargs="*", help="of ctr.train")
    given = parser.parse_args()
    group = join() if "TORCHELASTIC_RUN_ID" in os.environ else None
    ways = ["backend=torch"] if group is not None else ["backend=torch", "backend=auto"]
    for batch in given.batches:
        for way in ways:
            line = ["dataset=criteo", "dataset.source=sample", f"batch_size={batch}", f"threads={given.threads}", way]
            speed, sent, share = measure([*line, *given.overrides], given.rows, group)
            if group is None:
                print(f"1 process   {way:<14} batch {batch:>6,}: {speed:>10,.0f} rows/s", flush=True)
            elif group.first:
                what = f"{sent:,.0f} bytes a row, {share:.0%} of the time in exchanges"
                print(f"{group.size} workers  {way:<14} batch {batch:>6,}: {speed:>10,.0f} rows/s, {what}", flush=True)
    if group is not None:
        group.leave()


if __name__ == "__main__":
    main()
