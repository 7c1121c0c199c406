"""What a step takes on several workers: measured (`measure_workers.py --out FILE`), and predicted by a cost model.

    python scripts/predict_workers.py FILE

Seconds of a step = compute + exchange, of R workers with S slices and batches of B rows:

    compute  = fixed + per_slice * (most slices of a worker) + per_row * (rows of these slices)
    exchange = latency + bytes that a worker sends / bandwidth

The five constants are fitted to the medians of what was measured on this machine, by least squares of relative errors,
none below 0. The bytes are counted on the rows of the log, for any number of workers.

The fitted exchange includes that workers wait for each other, which is most of it where other work holds their cores.
So there are two predictions: one with the fitted exchange, and one with 5 exchanges as fast as the fastest that were
measured between workers that begin together. Both add the bytes' time on the wire, and for each exchange a message to
each peer beyond the first.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.optimize import nnls

from ctr.config.compose import compose, resolve
from ctr.datasets.source import open_data
from ctr.datasets.stream import RowStream
from ctr.training.build import start

PEER = 30e-6  # seconds for a message to one more peer: assumed
EXCHANGES = 5
WORKERS = (2, 4, 8, 16, 32, 64)
GIGABITS = (10, 25)
COUNTED = 3  # batches on which bytes are counted


def sent(ids: np.ndarray, workers: int, slices: int, dim: int, net: int) -> int:
    """Bytes that the workers send each other in a step (`ctr.training.sharded`).

    Args:
        ids: of a batch, [B, F].
        workers: R.
        slices: S.
        dim: of a row.
        net: parameters of the net.
    """
    bounds = [len(ids) * number // slices for number in range(slices + 1)]
    shares = [slices * rank // workers for rank in range(workers + 1)]
    total = 0
    for rank in range(workers):
        mine = range(shares[rank], shares[rank + 1])

        def abroad(start: int, stop: int, rank: int = rank) -> int:
            return int((np.unique(ids[start:stop]) % workers != rank).sum())

        first, last = bounds[mine[0]], bounds[mine[-1] + 1]
        rows = abroad(first, last)
        of_slices = sum(abroad(bounds[number], bounds[number + 1]) for number in mine)
        part = net * (rank + 1) // workers - net * rank // workers
        to_each = 8 * (1 + len(mine)) + 4 * (last - first + len(mine) + 1)  # counts; logits, losses, flag
        total += (workers - 1) * to_each + 4 * (rows + of_slices) + 4 * dim * (rows + of_slices)
        total += 4 * (len(mine) * (net - part) + -(-net // workers) * (workers - 1))
    return total


def measured(path: Path) -> list[dict[str, Any]]:
    """Medians of all rounds, with the rows/s of each; workers are 0 for one process."""
    rounds = defaultdict(list)
    for line in path.read_text().splitlines():
        one = json.loads(line)
        rounds[one["workers"], one["slices"], one["backend"], one["batch"]].append(one)
    return [
        {
            **its[0],
            **{name: median(one[name] for one in its) for name in ("seconds", "exchange", "bytes")},
            "latency": min((one["latency"] for one in its if "latency" in one), default=0.0),
            "per_byte": min((one["per_byte"] for one in its if "per_byte" in one), default=0.0),
            "speeds": [one["batch"] / one["seconds"] for one in its],
        }
        for _, its in sorted(rounds.items())
    ]


def fitted(columns: list[list[float]], seconds: list[float]) -> np.ndarray:
    """Coefficients, none below 0, by least squares of relative errors."""
    weights = 1 / np.asarray(seconds)
    found, _ = nnls(np.asarray(columns) * weights[:, None], np.ones(len(seconds)))
    return found


def _cut(batch: int, slices: int, workers: int) -> tuple[int, float]:
    """Most slices that a worker has, and the rows of these."""
    most = -(-slices // workers)
    return most, most * batch / slices


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="that measure_workers.py has written")
    parser.add_argument("--batches", type=int, nargs="+", default=(4096, 16384, 65536), help="to predict for")
    parser.add_argument("overrides", nargs="*", help="of ctr.train, as they were measured with, after --")
    given = parser.parse_args()
    settings = resolve(compose("train", ["dataset=criteo", "dataset.source=sample", *given.overrides]))
    data = open_data(settings.data)
    model: Any = start(settings, data).model
    dim = model.embedding.weight.shape[1]
    net = sum(p.numel() for p in model.parameters()) - model.embedding.weight.numel()

    def of_step(batch: int, workers: int, slices: int) -> float:
        counts = []
        for number, one in enumerate(RowStream(data.rows, data.split.train, batch)):
            if number == COUNTED:
                break
            counts.append(sent(one.ids.numpy(), workers, slices, dim, net))
        return float(np.mean(counts))

    found = measured(given.file)
    print("Measured: medians, with the least and the most of all rounds")
    print(
        "| workers | slices | backend | batch | rounds | rows/s | ms a step | ms in exchanges | bytes a row (counted) |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for one in found:
        workers, batch, slices, speeds = one["workers"], one["batch"], one["slices"], one["speeds"]
        cells = [f"one process, {one['threads']} threads", "-"] if not workers else [str(workers), str(slices)]
        cells += [one["backend"], f"{batch:,}", str(len(speeds))]
        cells += [f"{batch / one['seconds']:,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})", _ms(one["seconds"])]
        if workers:
            counted = of_step(batch, workers, slices) / batch
            cells += [_ms(one["exchange"]), f"{one['bytes']:,.0f} ({counted:,.0f})"]
        else:
            cells += ["", ""]
        print(f"| {' | '.join(cells)} |")

    runs = [one for one in found if one["workers"]]
    cuts = [_cut(one["batch"], one["slices"], one["workers"]) for one in runs]
    fixed, per_slice, per_row = fitted([[1, *cut] for cut in cuts], [one["seconds"] - one["exchange"] for one in runs])
    several = [one for one in runs if one["workers"] > 1]
    loads = [one["bytes"] * one["batch"] / one["workers"] for one in several]
    latency, per_byte = fitted([[1, load] for load in loads], [one["exchange"] for one in several])
    print(f"\nFitted: compute = {_ms(fixed)} ms + {_ms(per_slice)} ms a slice + {1e6 * per_row:.2f} us a row;")
    print(f"exchange = {_ms(latency)} ms + {1e9 * per_byte:.2f} ns a byte that a worker sends")
    print("| workers | slices | batch | compute, ms: measured, by the model | exchange, ms: measured, by the model |")
    print("|---|---|---|---|---|")
    for one, (most, rows) in zip(runs, cuts, strict=True):
        computed = fixed + per_slice * most + per_row * rows
        exchanged = latency + per_byte * one["bytes"] * one["batch"] / one["workers"] if one["workers"] > 1 else 0.0
        print(
            f"| {one['workers']} | {one['slices']} | {one['batch']:,} | {_ms(one['seconds'] - one['exchange'])}, "
            f"{_ms(computed)} | {_ms(one['exchange'])}, {_ms(exchanged)} |"
        )

    least = EXCHANGES * min(one["latency"] for one in several), min(one["per_byte"] for one in several)
    print(f"The fastest exchanges: {_ms(least[0])} ms for {EXCHANGES} + {1e9 * least[1]:.2f} ns a byte")

    print("\nPREDICTED, not measured: rows/s, and the share of R times the speed of one worker with the same slices")
    print(f"({1e6 * PEER:.0f} us for each message to one more peer are assumed)")
    heads = [f"{gigabits} Gbit/s{said}" for said in ("", ", waiting as here") for gigabits in GIGABITS]
    print(f"| batch | workers | slices | bytes a row | {' | '.join(heads)} |")
    print("|---" * (4 + len(heads)) + "|")
    for batch in given.batches:
        for workers in WORKERS:
            slices = workers * -(-12 // workers)
            most, rows = _cut(batch, slices, workers)
            compute = fixed + per_slice * most + per_row * rows
            alone = fixed + per_slice * slices + per_row * batch
            load = of_step(batch, workers, slices) / workers
            cells = []
            for waiting, byte in least, (latency, per_byte):
                for gigabits in GIGABITS:
                    exchange = waiting + EXCHANGES * PEER * (workers - 2) + load * (byte + 8e-9 / gigabits)
                    seconds = compute + exchange
                    cells.append(f"{batch / seconds:,.0f}, {alone / seconds / workers:.0%}")
            print(f"| {batch:,} | {workers} | {slices} | {load * workers / batch:,.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
