"""What a campaign of `chaos` runs, what it must have found, and what must be whole on the disk."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from ctr.files import TMP_PREFIX
from ctr.jobs.sweep import RECORD
from ctr.training.folder import RESULT

NO_FIGURES = {  # never the same twice, the checksum and the commit included
    "samples_per_second", "train_seconds", "peak_rss_bytes", "git_sha", "checksum",
}  # fmt: skip
PREPARED = "dataset.prepared="


@dataclass(frozen=True)
class Command:
    """A line to run: ``python -m <module> <arguments>``; kind and variant name it in the report."""

    kind: str
    variant: str
    module: str
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.variant}"

    def line(self, tracked: bool) -> tuple[str, ...]:
        return (*self.arguments, *self._tracking(tracked))

    def resumption(self, tracked: bool) -> tuple[str, ...]:
        """The line that goes on with a run of this one."""
        return (f"resume=runs/{self.variant}", *self._tracking(tracked))

    def _tracking(self, tracked: bool) -> tuple[str, ...]:
        return () if self.kind == "prepare" else (f"tracking={'mlflow' if tracked else 'none'}",)


def _data(name: str, rows: int, *more: str) -> tuple[str, ...]:
    return (f"dataset={name}", "dataset.source=sample", f"dataset.sample_rows={rows}", *more)


CRITEO = _data("criteo", 3000, "dataset.prepared=data/criteo/prepared")
HASHED = _data(
    "criteo", 3000, "dataset.prepared=data/hashed/prepared", "dataset.encoding=hash", "dataset.num_buckets=900"
)
AVAZU = _data("avazu", 2000, "dataset.prepared=data/avazu/prepared")
SMALL = ("model=mlp", "model.embedding_dim=4", "model.hidden=[8]")
TRAIN = (*CRITEO, *SMALL, "batch_size=64")
KEPT = "checkpoint.every_steps=3"
PRUNED = ("opt=adam", "prune=magnitude", "prune.feature_rate=0.3", "prune.finetune=0.2")
TABLE2 = ("study=table2", *CRITEO, *SMALL, "seeds=[0]", "lambda21=[1e-3]", "finetune=[0.3]", "lr=1e-3")


def _train(variant: str, *arguments: str) -> Command:
    return Command("train", variant, "ctr.train", (*arguments, f"run_dir=runs/{variant}"))


def _sweep(variant: str, *arguments: str) -> Command:
    return Command("sweep", variant, "ctr.train", ("-m", *arguments, f"run_dir=runs/{variant}"))


COMMANDS = (
    *(
        Command("prepare", name, "ctr.prepare", data)
        for name, data in (("criteo", CRITEO), ("hashed", HASHED), ("avazu", AVAZU))
    ),
    _train("native", *TRAIN, "backend=native", "opt.lambda21=1e-2", KEPT),
    _train("torch", *TRAIN, "backend=torch", "opt.lambda21=1e-2", KEPT),
    _train("pruned", *TRAIN, *PRUNED, "backend=native", KEPT),
    _train("hashed", *HASHED, *SMALL, "backend=torch", *PRUNED, "retrain=true", KEPT),
    _train("days", *AVAZU, *SMALL, "opt.lambda21=1e-3"),
    _train("auto", *TRAIN, "opt.lr=auto"),
    _sweep("lambdas", *TRAIN, "opt.lambda21=1e-4,1e-3,1e-2"),
    _sweep("pruning", *TRAIN, *PRUNED, "seed=3,4"),
    _sweep("forced", *TRAIN, "opt=group_adam,adagrad", "force=true"),
    Command("study", "table2", "ctr.reproduce", (*TABLE2, "workers=1")),
    Command("study", "seeds", "ctr.reproduce", (*TABLE2, "seeds=[1,2]", "workers=2")),
)


def prepared_folder(work: Path, command: Command) -> Path:
    (prepared,) = (argument.partition("=")[2] for argument in command.arguments if argument.startswith(PREPARED))
    return work / prepared


def figures(command: Command, work: Path) -> Any:
    """Everything that a finished command found, but times, paths and memory."""
    if command.kind == "prepare":
        (folder,) = (path.parent for path in prepared_folder(work, command).glob("*/manifest.json"))
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["input"]["files"]
        manifest.pop("checksum", None)
        hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.arrow"))}
        return {"manifest": manifest, **hashes}
    if command.kind == "train":
        return _result(work / "runs" / command.variant)
    if command.kind == "sweep":
        lines = (work / "runs" / command.variant / RECORD).read_text().splitlines()
        rows = sorted((json.loads(line) for line in lines), key=lambda row: row["job"])
        return [
            (row["job"], row["overrides"], row["error"], row["error"] or _result(work / row["folder"])) for row in rows
        ]
    (folder,) = (work / "runs" / "studies").glob("table2*")
    runs = pd.read_csv(folder / "runs.csv").drop(columns=[*NO_FIGURES, "folder", "command"], errors="ignore")
    return {"result": (folder / "result.csv").read_text(), "runs": runs.to_csv()}


def _result(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / RESULT).read_text())
    return {name: value for name, value in result.items() if name not in NO_FIGURES}


def difference(found: Any, expected: Any) -> str:
    """Where two figures differ first, by path."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in {**expected, **found}:
            if found.get(name) != expected.get(name):
                return f"{name} {difference(found.get(name), expected.get(name))}"
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple) and len(found) == len(expected):
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            if one != other:
                return f"{number} {difference(one, other)}"
    return f"{str(found)[:150]}, expected {str(expected)[:150]}"


def half_written(work: Path, damaged: set[Path]) -> list[str]:
    """Files under their final names that are not whole."""
    readers: dict[str, Callable[[Path], object]] = {
        "*.json": lambda path: json.loads(path.read_text()),
        "*.jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
        "*.arrow": lambda path: pa.ipc.open_file(pa.py_buffer(path.read_bytes())).read_all(),
        "*.csv": pd.read_csv,
    }
    found = []
    for pattern, read in readers.items():
        for path in work.rglob(pattern):
            if path in damaged or any(part.startswith(TMP_PREFIX) for part in path.parts):
                continue
            try:
                read(path)
            except (ValueError, pa.ArrowException):
                found.append(str(path.relative_to(work)))
    return found


def damage(path: Path, chance: random.Random) -> str:
    """Flips bits, zeroes a stretch, cuts or empties a file; says what it did."""
    content = bytearray(path.read_bytes())
    kind = chance.choice(["flip", "flip", "flip", "zero", "zero", "cut", "empty"]) if content else "garbage"
    if kind == "flip":
        for _ in range(chance.choice([1, 1, 8])):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif kind == "zero":
        start = chance.randrange(len(content))
        stop = min(start + chance.choice([1, 16, 4096]), len(content))
        content[start:stop] = bytes(stop - start)
    elif kind == "cut":
        del content[chance.randrange(len(content)) :]
    else:
        content = bytearray(chance.randbytes(100) if kind == "garbage" else b"")
    path.write_bytes(content)
    return f"{kind} {path.name}"
