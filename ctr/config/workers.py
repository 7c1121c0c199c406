"""A run of several workers, of torchrun or of Ray: the command line of each, and what such a run cannot do yet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import torch
from omegaconf import DictConfig

from ctr.config import resume
from ctr.config.command_line import override
from ctr.errors import ArgumentError, warn_once
from ctr.training.distributed import AGENT, Group, run_folder
from ctr.training.settings import Settings


def command_line(group: Group, arguments: Sequence[str]) -> list[str]:
    """The arguments of one worker of ``ctr.train``: all work in one folder, and the first one alone writes there.

    Raises:
        ArgumentError: a sweep, or keys that say how many workers there are to be, which torchrun has been told.
    """
    if {"-m", "--multirun"} & {*arguments}:
        raise ArgumentError("a sweep (-m) under torchrun: torchrun trains one run; start each job with torchrun")
    for key in () if AGENT in os.environ else ("launcher", "ranks"):
        if (value := resume.value_of(arguments, key)) not in (None, "local"):
            raise ArgumentError(f"{key}={value} under torchrun, which has started the workers itself; leave one out")
    given = resume.value_of(arguments, "run_dir")
    folder = run_folder(group, given, _default)
    named = [] if given is not None else [override("run_dir", folder)]
    if group.first:
        return [*arguments, *named]
    log = override("hydra.job_logging.handlers.file.filename", f"{folder}/train-{group.rank}.log")
    return [
        *arguments,
        *named,
        "hydra.output_subdir=null",
        "~hydra.callbacks.sweep",
        log,
        "hydra.job_logging.handlers.screen.level=ERROR",
    ]


def _default() -> str:
    from ctr.config.compose import compose

    return str(compose("train", []).run_dir)


def resolved(config: DictConfig) -> Settings:
    """The settings of a run of several workers, all checked but for their number (`refuse`).

    Raises:
        ArgumentError: ``backend=native``; see :func:`ctr.config.compose.resolve`.
    """
    from ctr.config.compose import resolve

    if config.backend == "native":
        raise ArgumentError(
            "backend=native trains in one process; for several workers give backend=rows, torch or auto"
        )
    return resolve(config, several=True)


def refuse(settings: Settings, slices: int, size: int) -> None:
    """
    Raises:
        ArgumentError: what a run of ``size`` workers cannot do.
    """
    if size > slices:
        raise ArgumentError(f"slices={slices} for {size} workers: each needs one; give slices={size}")
    device = torch.device(settings.device)
    if device.type == "cuda" and device.index is not None:
        raise ArgumentError(f"device={device}: each of several workers has a GPU of its own; give device=cuda")


def for_workers(settings: Settings, slices: int, group: Group) -> Settings:
    """The settings of one worker.

    Raises:
        ArgumentError: what several workers cannot do.
    """
    refuse(settings, slices, group.size)
    device, here = torch.device(settings.device), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if device.type == "cuda":
        if here > (gpus := torch.cuda.device_count()):
            raise ArgumentError(
                f"device=cuda: {here} workers on a machine with {gpus} GPU(s); each needs one of its own"
            )
        device = torch.device("cuda", torch.cuda.current_device())
    on_host = here * settings.threads
    if group.first and on_host > (cores := len(os.sched_getaffinity(0))):
        warn_once(f"threads={settings.threads} of each worker are {on_host} here, on {cores} cores; give threads=1")
    return replace(settings, slices=slices, device=str(device))


def again(folder: str, group: Group) -> str:
    """The command that goes on with a run."""
    return f"{program(group)} -m ctr.train {override(resume.RESUME, folder)}"


def program(group: Group) -> str:
    """What starts as many workers on a machine as there are on this one."""
    return f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', group.size)}"
