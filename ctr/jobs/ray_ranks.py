"""The workers of one run on a Ray cluster: Ray Train places them and starts them again when one fails.

Each worker of Ray starts the process that torchrun would start, and hands it the same environment; exchanges,
checkpoints and the position in the stream are the run's own. What is said, and that it is to stop, goes through a
folder on the disk that all nodes share.
"""

from __future__ import annotations

import ctr.environment  # noqa: F401  # before torch

# isort: split

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from ctr.cli import WRONG_ARGUMENTS
from ctr.errors import ArgumentError, CtrError
from ctr.jobs.ray import connect, imported
from ctr.training.distributed import AGENT

STARTED, STOP = "started", "stop"  # files of the launch
POLL_SECONDS = 0.2


def launch(
    arguments: Sequence[str], folder: Path, ranks: int, resources: Mapping[str, float], parameters: Mapping[str, Any]
) -> int:
    """Runs ``python -m ctr.train`` as one run of several workers, and shows what they say.

    Args:
        arguments: of the command; all nodes see its working folder.
        folder: of the run, on a disk that all nodes see.
        ranks: number of workers.
        resources: that each needs, as Ray names them.
        parameters: ``address`` of a cluster (None: that of ``RAY_ADDRESS``, else Ray is started on this machine, and
            ended), ``max_failures``; others are those of Ray's ``ScalingConfig``.

    Returns:
        The exit code of the workers.

    Raises:
        ArgumentError: a parameter that is unknown to Ray, or resources that there are not.
        CtrError: Ray is not installed or cannot be reached; the run failed more than ``max_failures`` times.
        KeyboardInterrupt: stopped; the workers have ended.
    """
    ray = imported("train")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    others = {name: value for name, value in parameters.items() if name not in ("address", "max_failures")}
    failures, address = parameters["max_failures"], parameters["address"]
    try:
        each: Mapping[str, float] = others.pop("resources_per_worker", resources)
        scaling = ScalingConfig(
            num_workers=ranks, resources_per_worker=dict(each), **{"use_gpu": "GPU" in resources, **others}
        )
        if not isinstance(failures, int) or failures < 0:
            raise ValueError("max_failures is a whole number, at least 0")
        needed = {name: ranks * float(count) for name, count in each.items()}
        if any(count < 0 for count in needed.values()):
            raise ValueError("resources_per_worker are at least 0")
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"ray={dict(parameters)}: {str(error).splitlines()[0]}") from error
    board = Path(tempfile.mkdtemp(prefix=".ray-", dir=folder))
    try:
        connect(ray, address)
        if address is None and "RAY_ADDRESS" not in os.environ:  # a cluster may grow, this machine does not
            _expect_enough(needed, ray.cluster_resources())
        trainer = TorchTrainer(
            work,
            train_loop_config={"arguments": list(arguments), "folder": str(Path.cwd()), "board": str(board)},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=scaling,
            run_config=RunConfig(name="ray", storage_path=str(board), failure_config=FailureConfig(failures)),
        )
        return _followed(trainer, board, failures)
    finally:
        ray.shutdown()
        shutil.rmtree(board, ignore_errors=True)


def _expect_enough(needed: Mapping[str, float], there: Mapping[str, float]) -> None:
    for name, count in needed.items():
        if count > there.get(name, 0):
            raise ArgumentError(
                f"launcher=ray: all workers together need {count:g} {name}, this machine has {there.get(name, 0):g}; "
                "give fewer ranks or threads, or ray.address of a cluster"
            )


def _followed(trainer: Any, board: Path, failures: int) -> int:
    """Waits for the end, and shows what the workers say meanwhile."""
    outcome: Future[Any] = Future()

    def fit() -> None:  # in the main thread it would take Ctrl-C for itself, and kill the workers
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=fit, daemon=True).start()
    shown: dict[Path, int] = {}
    stopped: KeyboardInterrupt | None = None
    while not outcome.done():
        try:
            wait([outcome], POLL_SECONDS)
            if stopped is None:  # else they say how to go on as if torchrun had started them
                _show(board, shown)
        except KeyboardInterrupt as error:
            if stopped is not None or not (board / STARTED).exists():
                raise
            stopped = error
            (board / STOP).touch()
            print("the workers write a checkpoint and stop; Ctrl-C again ends at once", file=sys.stderr, flush=True)
    if stopped is not None:
        raise stopped
    _show(board, shown)
    if (failed := outcome.exception()) is not None:
        raise _explained(failed, failures) from failed
    return max(int(path.read_text()) for path in board.glob("*.code"))


def _show(board: Path, shown: dict[Path, int]) -> None:
    """Prints what the workers have written since."""
    for kind, stream in ("out", sys.stdout), ("err", sys.stderr):
        for path in sorted(board.glob(f"*.{kind}")):
            with path.open("rb") as file:
                file.seek(shown.get(path, 0))
                new = file.read()
            whole = new[: max(map(new.rfind, (b"\n", b"\r"))) + 1]
            shown[path] = shown.get(path, 0) + len(whole)
            if whole:
                print(whole.decode(errors="replace"), end="", file=stream, flush=True)


def _explained(error: BaseException, failures: int) -> CtrError:
    """What ended Ray's training: workers that failed, by rank, or something else of Ray's."""
    again = f"started again {failures} times (ray.max_failures={failures})" if failures else "ray.max_failures=0"
    if failed := getattr(error, "worker_failures", None):
        ranks = ", ".join(map(str, sorted(failed)))
        return CtrError(f"launcher=ray: rank {ranks} failed; {again}")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return CtrError(f"launcher=ray: {type(error).__name__}: {lines[-1]}")


def work(config: Mapping[str, Any]) -> None:
    """One worker: called by Ray Train, once its torch group with the others is there, whose store the process shares.

    Raises:
        RuntimeError: the process failed; Ray may start all workers again.
    """
    board, rank = Path(config["board"]), os.environ["RANK"]
    if (board / STOP).exists():
        return
    again = "0"
    if rank == "0":
        again = str(int((board / STARTED).exists()))
        (board / STARTED).touch()
    told = {
        "TORCHELASTIC_RUN_ID": "ray",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": again,
        AGENT: "1",
    }
    with (board / f"{rank}.out").open("ab") as out, (board / f"{rank}.err").open("ab") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "ctr.train", *config["arguments"]],
            cwd=config["folder"],
            env={**os.environ, **told},
            stdin=subprocess.PIPE,  # closes with this process
            stdout=out,
            stderr=err,
        )
    try:
        code, stopped = None, False
        while code is None:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(POLL_SECONDS)
            if not stopped and (board / STOP).exists():
                stopped = True
                process.terminate()
    finally:
        process.kill()
    if code not in (0, WRONG_ARGUMENTS) and not stopped:
        raise RuntimeError(f"rank {rank} ended with {code}")
    (board / f"{rank}.code").write_text(str(code))
