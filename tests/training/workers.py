"""Workers of one run as processes of this machine, without torchrun."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ctr.config import workers
from ctr.config.compose import resolve
from ctr.training.details import Details
from ctr.training.distributed import Group
from ctr.training.experiment import run_family
from ctr.training.run import Follower, Run
from ctr.training.settings import Settings
from ctr.training.trainer import TrainingRun
from tests.commands import Forked, composed, execute
from tests.training.runs import configuration, equal, untimed


def together(
    folder: Path, size: int, function: Callable[..., object], *arguments: object, **more: object
) -> list[dict[str, Any]]:
    """What ``function(group, *arguments, **more)`` returns in each of some workers that start together."""
    place = folder / f"workers-{len(list(folder.glob('workers-*')))}"
    place.mkdir(parents=True)
    started = [Forked(folder, _work, place, rank, size, function, arguments, more) for rank in range(size)]
    for worker in started:
        done = worker.end()
        assert done.returncode == 0, done.stderr
    return [torch.load(place / f"{rank}.pt", weights_only=False) for rank in range(size)]


def torchrun(folder: Path, size: int, *overrides: str) -> None:
    """``torchrun --nproc-per-node <size> -m ctr.train <overrides>`` in a folder, without its agent: `Forked` workers in
    the environment that it gives them, as each new process loads the libraries for seconds."""
    with socket.socket() as free, pytest.MonkeyPatch.context() as patch:
        free.bind(("127.0.0.1", 0))
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1], "TORCHELASTIC_RUN_ID": "none"}
        sizes = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        free.close()
        started = []
        for rank in range(size):
            for name, value in {**meet, **sizes, "RANK": rank, "LOCAL_RANK": rank}.items():
                patch.setenv(name, str(value))
            started.append(Forked(folder, execute, "ctr.train", overrides))
    for worker in started:
        done = worker.end()
        assert done.returncode == 0, done.stderr


def group_of(place: Path, rank: int, size: int) -> Group:
    store = dist.FileStore(str(place / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    return Group(rank, size, store)


def _work(
    place: Path,
    rank: int,
    size: int,
    function: Callable[..., object],
    arguments: tuple[object, ...],
    more: dict[str, object],
) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.save(function(group_of(place, rank, size), *arguments, **more), place / f"{rank}.pt")
    os._exit(0)  # as `Group.leave`


class Trained:
    """Keeps what a run has trained, in place of its saved model: rows with their state, net, figures."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def __call__(
        self, folder: Path, settings: Settings, data: Any, training: TrainingRun, result: Any, *_: Any
    ) -> None:
        embedding, optimizer = training.model.embedding, training.learner.row_optimizer
        state = optimizer.ensure_state(embedding.weight)
        every = torch.ones(len(embedding.weight), dtype=torch.bool)
        for name in ("weight", "u", *optimizer.buffers):
            table = embedding.weight.detach() if name == "weight" else state[name]
            self.found[name] = embedding.kept(table, every).clone()
        self.found["seen"] = embedding.whole(embedding.seen).clone()
        net = {name: value for name, value in training.model.state_dict().items() if not name.startswith("embedding.")}
        self.found["net"] = {name: value.clone() for name, value in net.items()}
        self.found["state"] = training.learner.net_optimizer.state_dict()["state"]
        self.found["steps"], self.found["shard"] = state["step"], len(embedding.weight)
        self.found["lambda21"] = training.lambda21

    def draw(self, path: Path, settings: Settings, result: Any, details: Details, command: str) -> None:
        """In place of the page."""
        histograms = {name: norms for name in ("before", "after") if (norms := getattr(details, name)) is not None}
        self.found["norms"] = {name: [*norms.counts.tolist(), norms.zero] for name, norms in histograms.items()}
        self.found["fields"] = [(field.seen, field.kept) for field in details.fields]


def run(
    group: Group | None, log: Path | None, folder: Path, *overrides: str, resume: bool = False, stop: int | None = None
) -> dict[str, Any]:
    """One run, of this worker or of this process alone: what it has trained (`Trained`), and its result.

    Args:
        log: see `configuration`; None: the overrides name another.
        stop: the number of rows after which it is interrupted; then nothing is returned.
    """
    line = ["save=model", "report=true", "threads=1", *overrides]
    config = composed("train", *line) if log is None else configuration(log, *line)
    trained = Trained()
    how: dict[str, Any] = {"save": trained, "draw": trained.draw, "resume": resume}
    if group is None:
        one = Run(resolve(config), folder, **how)
    else:
        settings = workers.for_workers(workers.resolved(config), config.slices, group)
        one = (Run if group.first else Follower)(settings, folder, **how, group=group)
    done = 0

    def on_rows(rows: int) -> None:
        nonlocal done
        done += rows
        if stop is not None and done >= stop:
            raise KeyboardInterrupt

    try:
        run_family([one], on_rows)
    except KeyboardInterrupt:
        return {}
    if one.error is not None:
        raise one.error
    assert one.result is not None
    return {**trained.found, "result": untimed(asdict(one.result))}


def runs(group: Group | None, log: Path, folder: Path, many: dict[str, list[str]], **how: Any) -> dict[str, Any]:
    """Several runs, one after the other, by name."""
    return {name: run(group, log, folder / name, *overrides, **how) for name, overrides in many.items()}


def alone_in(folder: Path) -> Group:
    """The group of this process alone."""
    store = dist.FileStore(str(folder / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    return Group(0, 1, store)


class Lonely(Group):
    """A worker without others, which needs no library to exchange anything."""

    def begin(self, values: Tensor, given: Sequence[int], taken: Sequence[int]) -> Callable[[], Tensor]:
        return lambda: values


def lonely() -> Group:
    return Lonely(0, 1, dist.HashStore())


def group(rank: int, size: int, **more: Any) -> Group:
    """One that exchanges nothing."""
    return Group(rank, size, dist.HashStore(), **more)


def figures(result: dict[str, Any], *but: str) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in ("machine", "git_sha", *but)}


def expect_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in expected.keys() - {"shard", "result"}:
        assert equal(found[name], expected[name]), name
    assert figures(found["result"]) == figures(expected["result"])


def expect_near(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert [sum(counts) for counts in found["norms"].values()] == [sum(counts) for counts in expected["norms"].values()]
    assert found["fields"] == expected["fields"]
    for table in ("weight", "u", "seen"):
        np.testing.assert_allclose(found[table].float(), expected[table].float(), atol=1e-6, rtol=1e-4)
    for parameter, value in expected["net"].items():
        np.testing.assert_allclose(found["net"][parameter], value, atol=1e-6, rtol=1e-4)
    assert torch.equal((found["weight"] == 0).all(1), (expected["weight"] == 0).all(1))
    got, wanted = (figures(its["result"], "config_hash") for its in (found, expected))
    assert got.keys() == wanted.keys()
    for figure, value in wanted.items():
        if isinstance(value, float) or figure == "auc_blocks":
            assert got[figure] == pytest.approx(value, abs=1e-5), figure
        elif figure not in ("auc_by_day", "auc_progressive_by_day"):
            assert got[figure] == value, figure
