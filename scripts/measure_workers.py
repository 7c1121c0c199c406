"""Rows/s of a training step, of one process and of several workers, and what these exchange.

    python scripts/measure_workers.py --threads 2                               one process
    torchrun --nproc-per-node 2 scripts/measure_workers.py --threads 1          two workers

Each prints a line for every backend and global batch size: Criteo's generated rows, DCN, Group Adam; nothing is
evaluated or saved. The first tenth of the steps is not counted. ``--out FILE`` also appends a line of JSON, of which
``scripts/predict_workers.py`` takes the medians and fits a cost model to them.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ctr.config import workers
from ctr.config.compose import compose, resolve
from ctr.datasets.source import open_data
from ctr.training.build import start
from ctr.training.distributed import Group, join
from ctr.training.experiment import set_up

BATCHES = (512, 4096, 16384)
MEGABYTES, TRIALS = 4, 50


def measure(overrides: list[str], rows: int, group: Group | None) -> dict[str, Any]:
    """Seconds of a step, and in exchanges: of the worker that waits least in them; bytes that workers send each other
    for each row."""
    config = compose("train", overrides)
    if group is None:
        settings = resolve(config)
    else:
        settings = workers.for_workers(workers.resolved(config), config.slices, group)
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
    seconds = (time.perf_counter() - began) / (steps - first)
    found = {"workers": group.size if group else 0, "slices": config.slices, "batch": settings.batch_size}
    found |= {"threads": settings.threads, "seconds": seconds, "exchange": 0.0, "bytes": 0.0}
    if group is not None:
        told = group.collect(((group.seconds - before) / (steps - first), group.sent / (steps - first)))
        found["exchange"] = min(spent for spent, _ in told)
        found["bytes"] = sum(sent for _, sent in told) / settings.batch_size
        found["latency"] = latency = _exchange(group, 1)
        found["per_byte"] = (_exchange(group, MEGABYTES << 20) - latency) / (MEGABYTES << 20)
    return found


def _exchange(group: Group, size: int) -> float:
    """The least seconds of an exchange in which all workers begin together and each sends ``size`` bytes."""
    to_each = -(-size // max(group.size - 1, 1))
    counts = [0 if rank == group.rank else to_each for rank in range(group.size)]
    values, least = torch.zeros(sum(counts), dtype=torch.uint8), float("inf")
    for _ in range(TRIALS):
        dist.barrier()
        began = time.perf_counter()
        group.exchange(values, counts, counts)
        least = min(least, time.perf_counter() - began)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--rows", type=int, default=200_000, help="rows to train on for each line, at most")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="rows of a global batch")
    parser.add_argument("--out", type=Path, help="file to append to")
    parser.add_argument("overrides", nargs="*", help="of ctr.train, after --")
    given = parser.parse_args()
    group = join() if "TORCHELASTIC_RUN_ID" in os.environ else None
    # compiled rows are what workers train with; one process alone has the wholly compiled step
    backends = ["rows"] if group is not None else ["rows", "native"]
    for batch in given.batches:
        for backend in backends:
            line = ["dataset=criteo", "dataset.source=sample", f"batch_size={batch}", f"threads={given.threads}"]
            found = measure([*line, *given.overrides, f"backend={backend}"], given.rows, group)
            if group is not None and not group.first:
                continue
            who = "1 process" if group is None else f"{group.size} worker{'s' if group.size > 1 else ''}"
            said = f"{who:<11} backend={backend:<7} batch {batch:>6,}: {batch / found['seconds']:>10,.0f} rows/s"
            if group is not None:
                share = found["exchange"] / found["seconds"]
                said += f", {found['bytes']:,.0f} bytes a row, {share:.0%} of the time in exchanges"
            print(said, flush=True)
            if given.out is not None:
                with given.out.open("a") as file:
                    file.write(json.dumps({**found, "backend": backend}) + "\n")
    if group is not None:
        group.leave()


if __name__ == "__main__":
    main()
