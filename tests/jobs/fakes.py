"""What runs a family in the tests of the pool: seconds and figures are made up from the settings."""

import errno
import json
import os
import signal
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ctr.datasets.source import open_data
from ctr.errors import CtrError
from ctr.files import atomic_write_text, sealed
from ctr.training.experiment import run_family as run_real_family
from ctr.training.folder import LOG, RESULT
from ctr.training.identity import CODE
from ctr.training.run import Run
from ctr.training.settings import Settings
from tests.datasets.criteo_text import lines


def run_family(runs: Sequence[Run], on_rows: Callable[[int], None]) -> None:
    """Sleeps ``window`` hundredths of a second, then each run ends as its seed says.

    13 fails, 14 too but leaves a result, 99 kills the process, 98 does so in the middle of an answer. 15 changes the
    log. 16 fails and finds that nothing can be written any more.
    """
    with Path("calls.jsonl").open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), "seeds": [run.settings.seed for run in runs]}) + "\n")
    for _ in range(runs[0].settings.window):
        time.sleep(0.01)
        on_rows(1)
    for run in runs:
        settings, folder = run.settings, run.folder
        if settings.seed == 99:
            os.kill(os.getpid(), signal.SIGKILL)
        if settings.seed == 98:
            os.write(on_rows.__self__.fileno(), struct.pack("!i", 100) + b"so much of them")  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)
        if settings.seed == 16:
            (folder / LOG).unlink()
            (folder / LOG).symlink_to("/dev/full")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / RESULT))
        if settings.seed == 13:
            run.error = CtrError("the loss is nan")
            continue
        result: dict[str, object] = {"auc": 0.5 + settings.seed / 100, "seed": settings.seed, "opt": "of the run"}
        data_hash = _data_hash(settings)
        result |= {"pid": os.getpid(), "config_hash": settings.config_hash, "data_hash": data_hash, "code_hash": CODE}
        try:
            run.confirm(data_hash)
        except CtrError as error:
            run.error = error
            continue
        atomic_write_text(
            folder / "result.json", sealed({**result, "auc_retrained": None, "auc_by_day": {}, "auc_blocks": [0.5]})
        )
        run.error = CtrError("not recorded") if settings.seed == 14 else None


def count_threads(runs: Sequence[Run], on_rows: Callable[[int], None]) -> None:
    """Trains, and notes the number of threads that torch used."""
    run_real_family(runs, on_rows)
    Path(f"threads-{runs[0].settings.threads}").write_text(str(torch.get_num_threads()))


def _data_hash(settings: Settings) -> str:
    """Of the log as it is now; seed 15 finds another one than was planned for."""
    if settings.seed == 15:
        with settings.data.raw[0].open("a") as file:
            file.write("\n".join(lines(10)) + "\n")
    return open_data(settings.data, quiet=True).manifest.data_hash
