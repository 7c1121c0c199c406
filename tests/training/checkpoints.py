"""Runs that are stopped, what they leave, and the figures that they are compared with."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctr.config.compose import resolve
from ctr.provenance import digest
from ctr.training.experiment import run_family
from ctr.training.run import Run
from tests.training.runs import configuration, untimed

EVERY = ["checkpoint.every_steps=2"]
STEPS = 11  # 342 rows in batches of 32


def go(
    log: Path, folder: Path, *overrides: str, on_rows: Callable[[int], None] = lambda rows: None, **more: Any
) -> Run:
    """One run within this process."""
    run = Run(resolve(configuration(log, *overrides)), folder, **more)
    run_family([run], on_rows)
    if run.error is not None:
        raise run.error
    return run


def whole(log: Path, *overrides: str) -> dict[str, Any]:
    """The figures of a run that nothing disturbs, made once."""
    computed = [option for option in overrides if not option.startswith("checkpoint.")]
    folder = log / digest(computed)
    if not (folder / "result.json").exists():
        go(log, folder, *computed, "checkpoint.every_minutes=null")
    return untimed(json.loads((folder / "result.json").read_text()))


def stop_at(call: int) -> Callable[[int], None]:
    """Interrupts the run in this call of ``on_rows``: a step of training, or a batch of an evaluation."""
    left = [call]

    def on_rows(rows: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    return on_rows


def stopped(log: Path, folder: Path, call: int, *overrides: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(log, folder, *overrides, on_rows=stop_at(call))


def figures(run: Run) -> dict[str, Any]:
    return untimed(json.loads((run.folder / "result.json").read_text()))


def found(folder: Path) -> list[tuple[str, int]]:
    """Phase and steps of each checkpoint, the oldest first."""
    manifests = [json.loads(path.read_text()) for path in sorted(folder.glob("[0-9]*/manifest.json"))]
    return [(manifest["phase"], manifest["steps"]) for manifest in manifests]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(5).randrange(len(content))] ^= 4
    path.write_bytes(content)
