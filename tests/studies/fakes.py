"""What runs a family in the tests of the runner: seconds and figures are made up from the configuration."""

import errno
import json
import os
import signal
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ctr.cli import open_data
from ctr.config import config_hash
from ctr.errors import CtrError
from ctr.files import atomic_write_text
from ctr.store import CODE, LOG, RESULT, confirm, result_text
from tests.datasets.criteo_text import lines


def jobs(
    configs: Sequence[Any], folders: Sequence[Path], on_rows: Callable[[int], None], keys: Sequence[str]
) -> list[BaseException | None]:
    """Sleeps ``window`` hundredths of a second, then each run ends as its seed says.

    13 fails, 14 too but leaves a result, 99 kills the process, 98 does so amid an answer. 15 changes the log.
    16 fails and finds that nothing can be written any more.
    """
    with Path("calls.jsonl").open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), "seeds": [config.seed for config in configs]}) + "\n")
    for _ in range(configs[0].window):
        time.sleep(0.01)
        on_rows(1)
    errors: list[BaseException | None] = []
    for config, folder, key in zip(configs, folders, keys, strict=True):
        if config.seed == 99:
            os.kill(os.getpid(), signal.SIGKILL)
        if config.seed == 98:
            os.write(on_rows.__self__.fileno(), struct.pack("!i", 100) + b"so much of them")  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)
        if config.seed == 16:
            (folder / LOG).unlink()
            (folder / LOG).symlink_to("/dev/full")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / RESULT))
        if config.seed == 13:
            errors.append(CtrError("the loss is nan"))
            continue
        result = {"auc": 0.5 + config.seed / 100, "seed": config.seed, "opt": "of the run", "pid": os.getpid()}
        result |= {"config_hash": config_hash(config), "data_hash": data_hash(config), "code_hash": CODE}
        try:
            confirm(key, result["config_hash"], result["data_hash"])
        except CtrError as error:
            errors.append(error)
            continue
        result["openmp_threads"] = os.environ["OMP_NUM_THREADS"]
        atomic_write_text(folder / "result.json", result_text({**result, "auc_retrained": None, "auc_by_day": {}}))
        errors.append(CtrError("not recorded") if config.seed == 14 else None)
    return errors


def data_hash(config: Any) -> str:
    """Of the log as it is now; seed 15 finds another one than was planned for."""
    if config.seed == 15:
        with Path(config.dataset.raw).open("a") as file:
            file.write("\n".join(lines(10)) + "\n")
    return open_data(config.dataset, quiet=True).manifest.data_hash


def passes(configs: Sequence[Any]) -> float:
    return float(len(configs))


def check(config: Any) -> None:
    if config.seed < 0:
        raise CtrError("seed")
