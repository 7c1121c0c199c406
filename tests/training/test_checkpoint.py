"""Runs that are stopped go on from their checkpoints with the figures of runs that never were, to the last bit."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ctr.config.compose import resolve
from ctr.errors import CtrError, warn_once
from ctr.files import TMP_PREFIX, read_sealed, sealed
from ctr.optim import OPTIMIZERS
from ctr.training import compiled_net
from ctr.training.compiled_net import CompiledNet
from ctr.training.experiment import run_family
from ctr.training.run import Run
from tests.datasets.criteo_text import lines, write
from tests.native.built import needs_kernels
from tests.training.checkpoints import EVERY, STEPS, figures, flip, found, go, stop_at, stopped, whole
from tests.training.runs import configuration, magnitude

NATIVE = ("adam", "adagrad", "group_adam", "group_adagrad")
PLAIN = [name.removeprefix("group_") for name in OPTIMIZERS]
# On the rows a plain optimizer is the grouped one with lambdas of 0; of the nets' own states, these differ most.
PLAIN_FIRST = ("adam", "adahessian")


@pytest.mark.parametrize(
    ("backend", "opt"),
    [
        *(pytest.param("torch", opt, marks=() if opt in PLAIN_FIRST else pytest.mark.slow) for opt in PLAIN),
        *(("torch", opt) for opt in OPTIMIZERS),
        *(pytest.param("native", opt, marks=needs_kernels) for opt in NATIVE),
        pytest.param("rows", "group_adam", marks=needs_kernels),
        *(
            pytest.param("rows", opt, marks=[needs_kernels, pytest.mark.slow])
            for opt in OPTIMIZERS
            if opt != "group_adam"
        ),
    ],
)
@pytest.mark.usefixtures("waiting")
def test_every_optimizer_goes_on_to_the_last_bit(log: Path, tmp_path: Path, backend: str, opt: str) -> None:
    """With a schedule where there is one, dropout, and a window that is half full at the stop."""
    options = [
        f"opt={opt}",
        f"backend={backend}",
        "model=opnn",
        "model.hidden=[70,3]",
        "window=3",
        "opt.lr=0.01",
        *EVERY,
    ]
    options += ["opt.lambda_schedule=cubic", "opt.lambda21=0.002"] if opt in OPTIMIZERS else []
    call = random.Random(f"{backend} {opt}").randint(3, STEPS)
    stopped(log, tmp_path, call, *options)
    steps = (call - 1) // 2 * 2  # it stops in the step's call, before the checkpoint
    assert found(tmp_path / "checkpoints")[-1] == ("train", steps)
    rows: list[int] = []
    torch.manual_seed(99)  # a new process begins with another state
    again = go(log, tmp_path, *options, resume=True, on_rows=rows.append)
    assert rows[0] == 32 * steps
    assert sum(rows) == 342 + 58
    assert figures(again) == whole(log, *options)
    assert not (tmp_path / "checkpoints").exists()


COMPILED = ["backend=torch", "model=opnn", "model.hidden=[70,3]", "compile=auto"]


@pytest.mark.slow
@pytest.mark.usefixtures("waiting")
def test_a_run_with_a_compiled_net_goes_on_to_the_last_bit(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_net, "MIN_STEPS", STEPS)
    stopped(log, tmp_path, 8, *COMPILED, *EVERY)
    torch.manual_seed(99)
    again = go(log, tmp_path, *COMPILED, *EVERY, resume=True)
    assert figures(again) == whole(log, *COMPILED)


@pytest.mark.usefixtures("waiting")
def test_a_net_that_is_computed_in_another_way_is_warned_of(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stopped(log, tmp_path, 8, *COMPILED, *EVERY)
    monkeypatch.setattr(CompiledNet, "_compile", lambda net, of_size, _: dict.fromkeys(of_size, net._pass))
    monkeypatch.setattr(compiled_net, "MIN_STEPS", STEPS)
    warn_once.cache_clear()
    go(log, tmp_path, *COMPILED, *EVERY, "threads=1", resume=True)
    assert "the net was eager, is compiled for batches of 32 rows in one piece. The figures" in caplog.text


# Calls of `on_rows`: 8 steps, 3 of fine-tuning (or 11), a test, 11 steps of retraining, its test.
PARTS = {
    3: "train",
    8: "train",
    9: "train",
    11: "fine-tune",
    12: "trained",
    16: "retrain",
    23: "retrain",
    24: "retrain",
}


@pytest.mark.parametrize("call", PARTS)
@pytest.mark.parametrize("finetune", [0.3, pytest.param(0.0, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("waiting")
def test_pruned_runs_go_on_from_any_part(log: Path, tmp_path: Path, call: int, finetune: float) -> None:
    """Before the first pruning, between, after the last one, and in the retraining."""
    options = ["opt=adam", "checkpoint.every_steps=1", "retrain=true", *magnitude(0.2, finetune)]
    stopped(log, tmp_path, call, *options)
    rows: list[int] = []
    again = go(log, tmp_path, *options, resume=True, on_rows=rows.append)
    assert figures(again) == whole(log, *options)
    assert again.checkpoints.folder == tmp_path / "checkpoints"
    assert not again.checkpoints.folder.exists()
    begun = {part: first for first, part in reversed(PARTS.items())}
    if call >= begun["trained"]:  # what was trained is not trained again
        assert rows[0] == 342
    if call >= begun["retrain"]:
        assert rows[2] == 32 * min(call - 13, 10)


@needs_kernels
@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize("opt", ["group_adam", "adagrad"])
@pytest.mark.parametrize("first", ["native", "torch"])
def test_another_backend_goes_on_within_rounding(
    log: Path, tmp_path: Path, first: str, opt: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    second = "torch" if first == "native" else "native"
    stopped(log, tmp_path, 7, f"backend={first}", f"opt={opt}", *EVERY)
    again = figures(go(log, tmp_path, f"backend={second}", f"opt={opt}", *EVERY, resume=True))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"warning: since the checkpoint changed: backend was {first}, is {second}. ")
    expected = whole(log, f"backend={first}", f"opt={opt}")
    assert again["auc"] == pytest.approx(expected["auc"], abs=2e-3)
    assert again["logloss"] == pytest.approx(expected["logloss"], abs=1e-4)


def foreign(folder: Path) -> None:
    values = read_sealed(folder / "manifest.json")
    (folder / "manifest.json").write_text(sealed({**values, "format": 99}))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit of the tensors": lambda folder: flip(folder / "state.safetensors"),
    "a bit of the rows": lambda folder: flip(folder / "rows-0.safetensors"),
    "a bit of the manifest": lambda folder: flip(folder / "manifest.json"),
    "cut": lambda folder: os.truncate(folder / "state.safetensors", 1000),
    "empty": lambda folder: (folder / "state.safetensors").write_bytes(b"") and None,
    "no tensors": lambda folder: (folder / "state.safetensors").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "another format": foreign,
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.usefixtures("waiting")
def test_a_damaged_checkpoint_is_named_and_passed_over(
    log: Path, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    stopped(log, tmp_path, 9, *EVERY)
    folder = tmp_path / "checkpoints"
    assert found(folder) == [("train", 6), ("train", 8)]
    (folder / f"{TMP_PREFIX}half").mkdir()  # of a killed process
    DAMAGE[what](folder / "000004")
    rows: list[int] = []
    again = go(log, tmp_path, *EVERY, resume=True, on_rows=rows.append)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert str(folder / "000004") in warning
    assert warning.endswith("this checkpoint is passed over")
    assert rows[0] == 32 * 6
    assert figures(again) == whole(log)
    assert not folder.exists()


@pytest.mark.usefixtures("waiting")
def test_without_a_whole_checkpoint_it_starts_at_the_first_row(log: Path, tmp_path: Path) -> None:
    stopped(log, tmp_path, 9, *EVERY)
    for path in (tmp_path / "checkpoints").glob("*/rows-0.safetensors"):
        flip(path)
    rows: list[int] = []
    go(log, tmp_path, *EVERY, resume=True, on_rows=rows.append)
    assert rows[0] == 32


@pytest.mark.usefixtures("waiting")
def test_other_data_or_settings_are_refused(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    stopped(log, tmp_path, 9, "seed=3", *EVERY)
    with pytest.raises(CtrError, match=r"checkpoints/000004 is of another run: seed was 3, is 4\. "):
        go(log, tmp_path, "seed=4", *EVERY, resume=True)
    write(log / "train.txt", lines(400, seed=1))
    with pytest.raises(CtrError, match="of another run: the data's hash was "):
        go(log, tmp_path, "seed=3", *EVERY, resume=True)
    assert found(tmp_path / "checkpoints") == [("train", 6), ("train", 8)]


@pytest.mark.usefixtures("waiting")
def test_a_new_run_in_the_same_folder(log: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same run's checkpoints stay until it has its own; those of another run go."""
    stopped(log, tmp_path, 9, *EVERY)
    folder = tmp_path / "checkpoints"
    stopped(log, tmp_path, 2, *EVERY)
    assert found(folder) == [("train", 6), ("train", 8)]
    assert f"is of the same run at step 8: resume={tmp_path} goes on from there" in caplog.text
    stopped(log, tmp_path, 3, *EVERY)
    assert found(folder) == [("train", 8), ("train", 2)]
    stopped(log, tmp_path, 2, "seed=7", *EVERY)
    assert found(folder) == []


def members(log: Path, folder: Path, options: list[list[str]], *, resume: bool) -> list[Run]:
    configs = [configuration(log, "opt=adam", *EVERY, *own) for own in options]
    return [Run(resolve(config), folder / str(n), resume=resume) for n, config in enumerate(configs)]


@pytest.mark.parametrize("call", [20, *(pytest.param(call, marks=pytest.mark.slow) for call in (2, 6, 9, 12, 15, 28))])
@pytest.mark.usefixtures("waiting")
def test_a_family_goes_on(log: Path, tmp_path: Path, call: int) -> None:
    """Stopped in the shared part, in a run's own, and with some of its runs finished."""
    options = [magnitude(0.2), magnitude(0.2, 0.3), [], [*magnitude(0.1, 0.6), "retrain=true"], magnitude(0.1, 0.3)]
    first = members(log, tmp_path, options, resume=True)
    with pytest.raises(KeyboardInterrupt):
        run_family(first, stop_at(call))
    second = members(log, tmp_path, options, resume=True)
    missing = [run for run, before in zip(second, first, strict=True) if before.result is None]
    rows: list[int] = []
    run_family(missing, rows.append)
    assert [run.error for run in missing] == [None] * len(missing)
    for run, own in zip(second, options, strict=True):
        assert figures(run) == whole(log, "opt=adam", *own)
    assert not list(tmp_path.rglob("checkpoints"))
