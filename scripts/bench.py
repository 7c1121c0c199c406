"""Speed of a whole training step at paper scale, against eager PyTorch in the same process.

    python scripts/bench.py                          # everything, about 15 minutes
    python scripts/bench.py --quick                  # under a minute per dataset
    python scripts/bench.py --datasets criteo --opts group_adam --threads 1 --json
    python scripts/bench.py --datasets criteo --from-file data/criteo/prepared/...     # file to model against memory
    python scripts/bench.py --budget                 # what a budget and an averaged net add to the compiled step
    python scripts/bench.py --rows-alone             # compiled rows under a net in torch, in ctr and in a plain loop
    python scripts/bench.py --compiled-net           # compiled rows under an eager and under a compiled net
    python scripts/bench.py --device cuda            # a loop with GroupAdam, and backend=torch, on a GPU
    python scripts/bench.py --device cuda --fbgemm   # fbgemm's table-batched embedding too, where it is installed

The reference is what one writes in PyTorch: ``nn.Embedding(sparse=True)`` with ``torch.optim.SparseAdam``, and fused
``Adam`` on the net; same model, same batches. Tables have their full size, the ids of a field follow Zipf's law,
scattered over the table (no help from their order), and all optimizer state has been touched before. The contestants
take turns of some steps; a ratio pairs two turns of one round, so that what else the machine does hits both. Reported:
the median ratio and its range over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import bench_fbgemm
import torch
from bench_loops import (
    CASES,
    DEEPFM,
    OPTS,
    Case,
    Step,
    compiled,
    eager,
    fbgemm,
    in_torch,
    make_batches,
    ours,
    plain_loop,
    rows_and_net,
    void,
)

from ctr.datasets.manifest import Manifest
from ctr.datasets.prepared import ROWS
from ctr.datasets.rows import Rows
from ctr.datasets.stream import Batch, RowStream
from ctr.errors import CtrError
from ctr.native.library import available
from ctr.optim import BudgetSchedule
from ctr.progress import bar
from ctr.training.average import NetAverage
from ctr.training.compiled.forward import MAX_DIM, MAX_ROWS, MAX_THREADS
from ctr.training.compiled_net import CompiledNet
from ctr.training.trainer import TrainingRun, train

TURN_ROWS = 64 * 512
SETTLE_SECONDS, SETTLE_STEPS = 0.03, 4


def now(device: str) -> float:
    """Seconds, when the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def turns(
    steps: dict[str, Step], batches: list[Batch], rounds: int, per_turn: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds per step of every contestant in every round; one round before to warm up.

    A turn begins with steps that are not timed: the threads of the contestant before go on spinning for some
    milliseconds (torch's OpenMP), and its data are still in the caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        first = number * per_turn
        mine = [batches[(first + i) % len(batches)] for i in range(per_turn)]
        for name, step in steps.items():
            until = time.perf_counter() + SETTLE_SECONDS
            while time.perf_counter() < until:
                for batch in batches[:SETTLE_STEPS]:
                    step(batch)
            began = now(device)
            for batch in mine:
                step(batch)
            if number:
                seconds[name].append((now(device) - began) / per_turn)
    return seconds


def entry(
    dataset: str,
    case: Case,
    opt: str,
    backend: str,
    size: int,
    threads: int,
    reference: list[float],
    times: list[float],
) -> dict[str, Any]:
    """One row of the report: speed, and ratio to the reference, paired by round."""
    ratios = [a / b for a, b in zip(reference, times, strict=True)]
    return {
        "dataset": dataset,
        "model": case.model,
        "optimizer": opt,
        "backend": backend,
        "rows_per_s": round(size / statistics.median(times)),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
        "table_rows": sum(case.sizes),
        "dim": case.dim,
        "batch_size": size,
        "threads": threads,
    }


def measure(dataset: str, case: Case, opts: list[str], size: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    per_turn = max(2, TURN_ROWS // size)
    batches = make_batches(case, per_turn * (rounds + 1), size)
    results = []
    references = {"eager": eager(case), "eager, huge pages": eager(case, huge=True)}
    if case.model == "opnn":
        references["eager, nn.Dropout"] = eager(case, torch_dropout=True)
    for opt in opts:
        seconds = turns({**references, opt: ours(case, opt, threads)}, batches, rounds, per_turn)
        for name, times in seconds.items():
            if name != opt and opt != opts[0]:
                continue
            backend, optimizer = ("native", opt) if name == opt else (name, "sparse_adam")
            results.append(entry(dataset, case, optimizer, backend, size, threads, seconds["eager"], times))
    return results


def end_to_end(
    dataset: str, case: Case, opt: str, size: int, threads: int, rounds: int, folder: Path
) -> dict[str, Any]:
    """The trainer from a prepared file (reading, progress bar, AUC) against the step alone on rows in memory."""
    per_turn = max(2, TURN_ROWS // size)
    manifest = Manifest.read(folder)
    if manifest is None:
        raise CtrError(f"{folder}: no prepared rows; expected the folder that ctr.prepare names")
    columns, expected = (len(manifest.fields), len(manifest.dense)), (len(case.sizes), case.dense)
    if columns != expected:
        raise CtrError(f"{folder} has {columns} fields and dense columns; {dataset} has {expected}")
    rows = Rows(folder / ROWS, manifest.blocks[ROWS], *columns)
    needed = per_turn * (rounds + 1) * size
    if len(rows) < needed:
        raise CtrError(f"{folder} has {len(rows):,} rows; {rounds} rounds of {size} rows a batch take {needed:,}")
    step = compiled(case, opt, threads)
    run = TrainingRun(step.model, step, RowStream(rows, [(0, len(rows))], size))  # type: ignore[arg-type]
    memory = list(islice(RowStream(rows, [(0, len(rows))], size), per_turn * (rounds + 1)))
    seconds: dict[str, list[float]] = {"memory": [], "file": []}
    with bar(len(rows), "rows", "train") as progress:
        for number in range(rounds + 1):
            for name, times in seconds.items():
                began = time.perf_counter()
                if name == "file":
                    train(run, on_step=lambda count, loss: progress.update(count), until=run.steps + per_turn)
                else:
                    for batch in memory[number * per_turn : (number + 1) * per_turn]:
                        step.train(batch)
                if number:
                    times.append((time.perf_counter() - began) / per_turn)
    return entry(dataset, case, opt, "native, from file", size, threads, seconds["memory"], seconds["file"])


def additions(dataset: str, case: Case, size: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    """One compiled step of Group Adam by itself, with a budget, and with the average of its net, on the same table."""
    per_turn = max(2, TURN_ROWS // size)
    batches = make_batches(case, per_turn * (rounds + 1), size)
    step = compiled(case, "group_adam", threads)
    optimizer = step.row_optimizer
    optimizer.param_groups[0]["lambda21"] = 0.0
    schedule = BudgetSchedule(optimizer, 0.02)
    net = NetAverage([p for group in step.net_optimizer.param_groups for p in group["params"]], 1.0, 1)

    def with_budget(batch: Batch) -> None:
        optimizer.histogram = schedule.histogram
        step.train(batch)
        schedule.step()

    def without(batch: Batch) -> None:
        optimizer.histogram = None
        step.train(batch)

    def averaged(batch: Batch) -> None:
        without(batch)
        net.step(1)

    steps = {"native": without, "budget": with_budget, "average": averaged}
    # In either order: the first to come finds the caches colder.
    halves = [turns(order, batches, rounds, per_turn) for order in (steps, dict(reversed(steps.items())))]
    seconds = {name: [*halves[0][name], *halves[1][name]] for name in steps}
    return [
        entry(dataset, case, "group_adam", name, size, threads, seconds["native"], times)
        for name, times in seconds.items()
    ]


def rows_alone(dataset: str, case: Case, size: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    """GroupAdam in a loop of one's own, and ``backend=rows``, against SparseAdam."""
    per_turn = max(2, TURN_ROWS // size)
    batches = make_batches(case, per_turn * (rounds + 1), size)
    step = rows_and_net(case)
    steps = {"eager": eager(case), "plain loop, fused": plain_loop(case), "rows": lambda batch: void(step.train(batch))}
    seconds = turns(steps, batches, rounds, per_turn)
    return entries(dataset, case, size, threads, seconds)


def elsewhere(
    dataset: str, case: Case, size: int, threads: int, rounds: int, device: str, peers: bool
) -> list[dict[str, Any]]:
    """GroupAdam in a loop of one's own and ``backend=torch`` on a device, and fbgemm, against SparseAdam there."""
    per_turn = max(2, TURN_ROWS // size)
    batches = make_batches(case, per_turn * (rounds + 1), size)
    steps = {"eager": eager(case, device=device), "plain loop": plain_loop(case, device)}
    steps["torch" if device == "cpu" else f"torch, {device}"] = in_torch(case, device)
    if peers:
        try:
            steps["fbgemm, adagrad"] = fbgemm(case, device)
        except bench_fbgemm.Unavailable as reason:
            print(f"fbgemm is left out of {dataset}: {reason}", file=sys.stderr)
    return entries(dataset, case, size, threads, turns(steps, batches, rounds, per_turn, device))


def compiled_net(dataset: str, case: Case, size: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    """``backend=rows`` with an eager net and with a compiled one, in turns on one table, against SparseAdam."""
    per_turn = max(2, TURN_ROWS // size)
    batches = make_batches(case, per_turn * (rounds + 1), size)
    step = rows_and_net(case)
    parameters = [p for group in step.net_optimizer.param_groups for p in group["params"]]
    net = CompiledNet(step.model, parameters, batches[0], threads)

    def train(batch: Batch, net: CompiledNet | None = None) -> None:
        step.net = net
        step.train(batch)

    steps: dict[str, Step] = {"eager": eager(case), "rows": train, "rows, compiled net": partial(train, net=net)}
    return entries(dataset, case, size, threads, turns(steps, batches, rounds, per_turn))


def entries(dataset: str, case: Case, size: int, threads: int, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """The rows of contestants with GroupAdam, and of the reference."""
    return [
        entry(
            dataset,
            case,
            {"eager": "sparse_adam", "fbgemm, adagrad": "adagrad"}.get(name, "group_adam"),
            name,
            size,
            threads,
            seconds["eager"],
            times,
        )
        for name, times in seconds.items()
    ]


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    found = {"cpu": model, "cores": os.cpu_count(), "system": platform.platform(), "torch": torch.__version__}
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def show(row: dict[str, Any]) -> str:
    return (
        f"{row['dataset']:8} {row['model']:5} {row['optimizer']:14} {row['backend']:18} {row['table_rows']:>11,} x "
        f"{row['dim']:<3} batch {row['batch_size']:<6} threads {row['threads']}  {row['rows_per_s']:>9,} rows/s  "
        f"{row['ratio']:.2f}x ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    several = {"nargs": "+", "type": int, "metavar": "N"}
    parser.add_argument(
        "--datasets", nargs="+", choices=CASES, default=list(CASES), help="whose table and model (default: all)"
    )
    parser.add_argument("--opts", nargs="+", choices=OPTS, help="optimizers (default: all; group_adam with --quick)")
    parser.add_argument("--batch-size", **several, default=[512], help="rows per step (default: 512)")
    parser.add_argument("--dim", **several, default=[None], help="embedding dimension (default: the paper's)")
    parser.add_argument("--rows", **several, default=[None], help="rows of the table (default: the dataset's)")
    parser.add_argument(
        "--threads", **several, default=[os.cpu_count() or 1], help="of either side (default: one per core)"
    )
    parser.add_argument(
        "--from-file",
        type=Path,
        metavar="FOLDER",
        help="prepared rows of the one dataset named: end to end, reader included",
    )
    parser.add_argument("--budget", action="store_true", help="what a budget and an averaged net add to the step")
    parser.add_argument(
        "--rows-alone",
        action="store_true",
        help="compiled rows under a net in torch; also of a DeepFM on Criteo's rows",
    )
    parser.add_argument(
        "--compiled-net",
        action="store_true",
        help="compiled rows under an eager and a compiled net; also of a DeepFM on Criteo's rows",
    )
    parser.add_argument("--device", default="cpu", help="cuda: what runs on a GPU, against SparseAdam there")
    parser.add_argument("--fbgemm", action="store_true", help="fbgemm's TBE as one more contestant on the device")
    parser.add_argument("--rounds", type=int, metavar="N", default=None, help="default 30; 8 with --quick")
    parser.add_argument("--quick", action="store_true", help="fewer rounds; group_adam unless --opts says others")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    args = parser.parse_args()
    try:
        torch.zeros(1, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {args.device}: {str(error).splitlines()[0]}")
    if args.device == "cpu" and not available():
        parser.error("it measures the compiled kernels, which cannot be used (pip install -e . builds them)")
    for name in ("batch_size", "dim", "rows", "threads"):
        for value in getattr(args, name):
            if value is not None and value < 1:
                parser.error(f"--{name.replace('_', '-')} {value}; expected at least 1")
    for name, most in (("dim", MAX_DIM), ("rows", MAX_ROWS), ("threads", MAX_THREADS)):
        if any(value is not None and value > most for value in getattr(args, name)):
            parser.error(f"--{name} above {most:,}, the most that the compiled step takes")
    if args.rounds is not None and args.rounds < 1:
        parser.error(f"--rounds {args.rounds}; expected at least 1")
    if args.from_file is not None and len(args.datasets) > 1:
        parser.error("--from-file needs --datasets with the one that it holds")
    opts = args.opts or (["group_adam"] if args.quick else list(OPTS))
    rounds = args.rounds or (8 if args.quick else 30)
    results = []
    cases = {name: CASES[name] for name in args.datasets}
    if args.rows_alone or (args.compiled_net and "criteo" in cases):
        cases |= DEEPFM
    for dataset in cases:
        for rows in args.rows:
            for dim in args.dim:
                for size in args.batch_size:
                    for threads in args.threads:
                        torch.set_num_threads(threads)
                        case = cases[dataset].scaled(rows, dim)
                        if args.fbgemm or args.device != "cpu":
                            found = elsewhere(dataset, case, size, threads, rounds, args.device, args.fbgemm)
                        elif args.rows_alone:
                            found = rows_alone(dataset, case, size, threads, rounds)
                        elif args.compiled_net:
                            found = compiled_net(dataset, case, size, threads, rounds)
                        elif args.budget:
                            found = additions(dataset, case, size, threads, rounds)
                        elif args.from_file is None:
                            found = measure(dataset, case, opts, size, threads, rounds)
                        else:
                            folder = args.from_file
                            found = [end_to_end(dataset, case, opt, size, threads, rounds, folder) for opt in opts]
                        results += found
                        if not args.json:
                            print("\n".join(map(show, found)), flush=True)
    if args.json:
        print(json.dumps({"machine": machine(), "results": results}))
    else:
        print(machine(), f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    try:
        main()
    except (CtrError, OSError) as error:
        raise SystemExit(f"bench.py: {error}") from None
