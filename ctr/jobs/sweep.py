"""A sweep on the screen: what each block belongs to, and in the end a table of all jobs, also of those that had been
finished earlier, in other processes or not at all.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ctr.cli import fail, message
from ctr.errors import CtrError
from ctr.files import expect_writable
from ctr.training.folder import RESULT, claim, read_result, reserve

RECORD = "sweep.jsonl"  # in the sweep's folder: a line for each job that ended
_folder: Path | None = None  # of the sweep that this process began
_lock: FileLock | None = None  # on it


class Began(Callback):
    """Hydra calls it before it writes anything, in the process that starts a run or a sweep, which with a parallel
    launcher runs no job itself. What is raised here Hydra would only warn of."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.run.dir)
        try:
            expect_writable(folder, f"run_dir={folder}")
            reserve(folder)
        except (CtrError, OSError) as error:
            fail(error)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        global _folder, _lock
        folder = Path(config.hydra.sweep.dir)
        try:
            expect_writable(folder, f"run_dir={folder}")
            _lock = claim(folder, ".sweep.lock")
            (folder / RECORD).unlink(missing_ok=True)
        except (CtrError, OSError) as error:
            fail(error)
        _folder = folder


def head() -> str:
    """The running job's number and overrides."""
    hydra = HydraConfig.get()
    return f"#{hydra.job.num}  {' '.join(hydra.overrides.task)}"


def record(folder: Path | None, error: BaseException | None = None) -> None:
    """Notes how the running job ended: where its result is, or what stopped it."""
    hydra = HydraConfig.get()
    row = {
        "job": hydra.job.num,
        "overrides": list(hydra.overrides.task),
        "folder": None if folder is None else os.path.relpath(folder),
        "error": None if error is None else message(error) or "interrupted",
    }
    with Path(hydra.sweep.dir, RECORD).open("a") as file:
        file.write(json.dumps(row) + "\n")


def closing() -> str:
    """The table of the sweep that this process began; empty without one."""
    if _folder is None or not (_folder / RECORD).exists():
        return ""
    rows = []
    for line in (_folder / RECORD).read_text().splitlines():
        with suppress(ValueError):  # cut by a full disk, which the job reported
            rows.append(json.loads(line))
    return table(sorted(rows, key=lambda row: int(row["job"])))


def table(rows: list[dict[str, Any]]) -> str:
    """One line per job; overrides that all have are left out."""
    shared = set.intersection(*(set(row["overrides"]) for row in rows)) if len(rows) > 1 else set()
    lines = [["job", "overrides", "test AUC", "feature rate", "folder"]]
    for row in rows:
        own = " ".join(override for override in row["overrides"] if override not in shared)
        lines.append([f"#{row['job']}", own, *_figures(row)])
    widths = [max(len(line[column]) for line in lines if column < len(line) - 1) for column in range(len(lines[0]) - 1)]
    padded = ("  ".join([*map(str.ljust, line[:-1], widths), line[-1]]) for line in lines)  # the last one is free
    return "\n".join(f"  {line}" for line in padded)


def _figures(row: dict[str, Any]) -> list[str]:
    if row["error"] is not None:
        return [f"failed: {row['error']}"]
    try:
        result = read_result(Path(row["folder"], RESULT))
    except (CtrError, FileNotFoundError):
        return [f"deleted or damaged meanwhile: {row['folder']}"]
    auc = "undefined" if result["auc"] is None else f"{result['auc']:.4f}"
    return [auc, f"{result['feature_rate']:.4f}", row["folder"]]
