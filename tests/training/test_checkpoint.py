"""Runs that are stopped go on from their checkpoints with the figures of runs that never were, to the last bit."""

import errno
import json
import os
import random
import signal
import threading
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from time import sleep
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ctr.config.compose import resolve
from ctr.datasets.prepared import Prepared
from ctr.errors import CtrError, DataError, warn_once
from ctr.files import TMP_PREFIX, read_sealed, sealed
from ctr.optim import OPTIMIZERS
from ctr.provenance import digest
from ctr.training import checkpoint, compiled_net, precopy, snapshot
from ctr.training.checkpoint import Checkpoints, load_final, read_final
from ctr.training.compiled_net import CompiledNet
from ctr.training.experiment import run_family
from ctr.training.interrupts import Interrupts
from ctr.training.precopy import PreCopy
from ctr.training.run import Run
from ctr.training.tensors import Pieces, verify, write_tensors
from ctr.training.tracking import NoTracker
from ctr.training.trainer import train
from tests.datasets.criteo_text import lines, write
from tests.limits import file_size_limit
from tests.native.built import BACKENDS, needs_kernels
from tests.training.runs import configuration, equal, magnitude, new_run, untimed

NATIVE = ("adam", "adagrad", "group_adam", "group_adagrad")
PLAIN = [name.removeprefix("group_") for name in OPTIMIZERS]
EVERY = ["checkpoint.every_steps=2"]
STEPS = 11  # 342 rows in batches of 32


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each checkpoint is whole when the run goes on, so that tests know which there are."""
    monkeypatch.setattr(checkpoint, "goes_on", lambda run: False)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a log, and of undisturbed runs."""
    return tmp_path_factory.mktemp("log")


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


@pytest.mark.parametrize(
    ("backend", "opt"),
    [
        *(("torch", opt) for opt in [*PLAIN, *OPTIMIZERS]),
        *(pytest.param("native", opt, marks=needs_kernels) for opt in NATIVE),
        *(pytest.param("rows", opt, marks=needs_kernels) for opt in OPTIMIZERS),
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
    monkeypatch.setattr(CompiledNet, "_compile", lambda net, tensors: net._pass)
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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cut", [False, True])
def test_a_checkpoint_holds_the_rows_that_a_batch_has_held(
    data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Any, cut: bool
) -> None:
    """In one piece or in many."""
    if cut:
        monkeypatch.setattr(snapshot, "PIECE", 1)
        monkeypatch.setattr(snapshot, "TOGETHER", 4)
    whole, run, second = (new_run(data, backend=backend, lambda21=1e-3) for _ in range(3))
    train(whole)
    train(run, until=9)
    touched = run.model.embedding.seen.clone()
    kept = torch.cat(run.learner.tables, dim=1)[touched]
    taken = snapshot.take(run)
    rows, state = tmp_path / "rows", tmp_path / "state"
    verify(rows, write_tensors(rows, snapshot.part(run, touched.numpy())))
    verify(state, write_tensors(state, taken.tensors))
    train(run)
    assert {0, 1} < {float(piece.float().mean()) for piece in touched.split(4)}  # and some with a part of their rows
    assert torch.equal(load_file(rows)["rows"], kept)  # by the library
    with snapshot.opened(state, taken.values, taken.columns, [rows]) as opened:
        (part,) = opened.parts
        assert torch.equal(part.ids, touched.nonzero().squeeze(1))
        assert torch.equal(opened.state["model"]["embedding.seen"], touched)
        snapshot.restore(second, opened)
    train(second)
    assert equal(second.state_dict(), whole.state_dict())


@needs_kernels
@pytest.mark.parametrize(("backend", "opt"), [("native", "group_adam"), ("rows", "group_adagrad")])
def test_rows_that_change_while_they_are_copied_are_copied_again(
    data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Any, opt: str
) -> None:
    """Steps of the run fall between the pieces of the first two parts; the third is written while the run waits."""
    monkeypatch.setattr(snapshot, "PIECE", 1)
    monkeypatch.setattr(snapshot, "TOGETHER", 4)
    monkeypatch.setattr(precopy, "WAIT", 0)
    monkeypatch.setattr(precopy, "ROUNDS", 3)
    whole, run, second = (new_run(data, opt, backend=backend, lambda21=1e-3) for _ in range(3))
    train(whole)
    train(run, until=3)
    copy = PreCopy(run, lambda: (run.steps, snapshot.take(run)))
    read, allowed, ends = [0], [0], []
    files = [tmp_path / f"rows-{number}" for number in range(3)]

    def slowly(pieces: Any) -> Any:
        for piece in pieces:
            yield piece
            read[0] += 1
            while read[0] > allowed[0]:
                sleep(1e-4)

    def write() -> None:
        for (part, end), file in zip(copy.parts(), files, strict=True):
            rows = part["rows"]
            pieces = slowly(rows.pieces) if end is None else rows.pieces
            write_tensors(file, {**part, "rows": replace(rows, pieces=pieces)})
            ends.append(end)
        copy.close()

    thread = threading.Thread(target=write)
    thread.start()
    copy.hand_over()
    while run.changed is not None:
        train(run, until=run.steps + 1)
        allowed[0] += 100
        while read[0] < allowed[0] and not copy._waits.is_set():
            sleep(1e-4)
        copy.hand_over()
    assert 5 < run.steps < STEPS
    at, rows = run.steps, torch.cat(run.learner.tables, dim=1).clone()
    train(run)
    thread.join()
    assert ends[:2] == [None, None]
    steps, taken = ends[2]
    assert steps == at
    write_tensors(tmp_path / "state", taken.tensors)
    with snapshot.opened(tmp_path / "state", taken.values, taken.columns, files) as opened:
        first, *later = opened.parts
        stale = (first.rows[:] != rows[first.ids]).any(dim=1)
        assert 0 < int(stale.sum()) < len(first.ids)
        for part in later:
            assert 0 < len(part.ids) < len(rows)
        snapshot.restore(second, opened)
    train(second)
    assert equal(second.state_dict(), whole.state_dict())


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


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(5).randrange(len(content))] ^= 4
    path.write_bytes(content)


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


@pytest.mark.usefixtures("waiting")
def test_how_many_stay(log: Path, tmp_path: Path) -> None:
    stopped(log, tmp_path, 10, "checkpoint.every_steps=1", "checkpoint.keep=3")
    assert found(tmp_path / "checkpoints") == [("train", 7), ("train", 8), ("train", 9)]


@pytest.mark.parametrize("retrain", ["false", "true"])
def test_the_end_of_training_can_stay(log: Path, tmp_path: Path, retrain: str) -> None:
    options = ["opt.lambda21=0.01", "checkpoint.every_steps=4", "checkpoint.final=true", f"retrain={retrain}"]
    run = go(log, tmp_path, *options)
    assert {path.name for path in (run.folder / "checkpoints").iterdir()} == {"final"}
    final = load_final(run.folder)
    got = figures(run)
    assert (final.phase, final.steps) == ("trained", STEPS)
    assert final.manifest["identity"]["data_hash"] == got["data_hash"]
    with final.stored() as stored:
        (part,) = stored.parts
        assert len(part.ids) == got["features_present"]
        weights = part.rows[:][:, :8]
        assert stored.columns == ["weight", "u", "m", "v"]
    assert int(weights.any(dim=1).sum()) == got["features_nonzero"]
    flip(run.folder / "checkpoints" / "final" / "state.safetensors")
    advice = rf"; train it again with checkpoint\.final=true, or go on with its saved model: init={run.folder}/model$"
    with pytest.raises(DataError, match=rf"final/state\.safetensors: bytes .* are not as written .*{advice}"):
        load_final(run.folder)
    flip(run.folder / "checkpoints" / "final" / "manifest.json")
    with pytest.raises(DataError, match=rf"final/manifest\.json: .*{advice}"):
        read_final(run.folder)
    assert not (go(log, tmp_path, *options[:1]).folder / "checkpoints").exists()  # of the run before
    with pytest.raises(CtrError, match=r"final: no such folder; a run leaves it with checkpoint\.final=true"):
        load_final(run.folder)


@pytest.mark.parametrize("where", ["before result.json", "after it"])
@pytest.mark.parametrize("links", [True, False])
def test_no_kill_loses_the_end_of_training(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, links: bool
) -> None:
    """Also where a file cannot have two names."""
    options = ["checkpoint.every_steps=4", "checkpoint.final=true"]
    killed = NoTracker if where == "before result.json" else Checkpoints

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: os.link("nothing", tmp_path / "name"))
    with monkeypatch.context() as patch:
        patch.setattr(killed, "finish", kill)
        with pytest.raises(KeyboardInterrupt):
            go(log, tmp_path, *options)
    assert (tmp_path / "result.json").exists() == (where == "after it")
    assert load_final(tmp_path).steps == STEPS
    if where == "before result.json":
        run = go(log, tmp_path, *options, resume=True)
        assert figures(run) == whole(log)
        assert load_final(tmp_path).steps == STEPS
        assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"final"}


@pytest.mark.parametrize("waits", [True, False])
def test_a_disk_that_is_full_does_not_end_the_run(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, waits: bool
) -> None:
    """While the run waits, and in the thread that writes while it goes on."""
    save = checkpoint.Checkpoints._save

    def save_and_wait(self: checkpoint.Checkpoints, *arguments: Any) -> None:
        save(self, *arguments)
        if self._writing is not None:
            wait([self._writing])  # else a run that ends throws away what is being written

    monkeypatch.setattr(checkpoint, "goes_on", lambda run: not waits)
    expected = whole(log)
    monkeypatch.setattr(checkpoint.Checkpoints, "_save", save_and_wait)
    with file_size_limit(30_000):
        run = go(log, tmp_path, *EVERY)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"warning: no checkpoint could be written: {tmp_path / 'checkpoints' / '000001'}")
    assert "a limit on the size of files is reached" in warning
    assert figures(run) == expected
    assert not run.checkpoints.folder.exists()


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device", "here"), MemoryError()])
def test_a_checkpoint_that_cannot_begin_does_not_end_the_run(
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    waits: bool,
) -> None:
    """Nor does the run wait for it for ever."""

    def fail(self: Any) -> Any:
        raise error

    monkeypatch.setattr(checkpoint.Checkpoints, "_new", fail)
    monkeypatch.setattr(checkpoint, "goes_on", lambda run: not waits)
    run = go(log, tmp_path, *EVERY)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("warning: no checkpoint could be written: ")
    assert ("No space left" if isinstance(error, OSError) else "there is no memory for it") in warning
    assert figures(run) == whole(log)


def test_an_end_of_training_that_cannot_be_kept_is_an_error(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which `init` would miss; a resumed run makes it good."""
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_tensors", lambda *arguments: os.close(-1))
        with pytest.raises(CtrError, match=rf"go on with resume={tmp_path}$") as error:
            go(log, tmp_path, "checkpoint.final=true")
    assert str(error.value).startswith(f"{tmp_path / 'checkpoints' / 'final'}: the end of training, which ")
    assert not (tmp_path / "result.json").exists()
    assert figures(go(log, tmp_path, "checkpoint.final=true", resume=True)) == whole(log)
    assert load_final(tmp_path).steps == STEPS


@needs_kernels  # elsewhere a run waits for each
def test_a_run_that_ends_does_not_wait_for_its_last_checkpoint(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the thread still writes is given up, and nothing of it is left."""
    begun, ended = threading.Event(), threading.Event()
    real = checkpoint.write_tensors

    def slow(path: Path, tensors: dict[str, Pieces]) -> Any:
        begun.set()
        assert ended.wait(20)
        return real(path, tensors)

    def give_up(self: Any) -> None:
        if self._copy is not None:
            assert begun.wait(20)
            self._copy.cancel()
            ended.set()
        given_up(self)

    given_up = checkpoint.Checkpoints.give_up
    monkeypatch.setattr(precopy, "WAIT", -1)
    monkeypatch.setattr(checkpoint, "write_tensors", slow)
    monkeypatch.setattr(checkpoint.Checkpoints, "give_up", give_up)
    run = go(log, tmp_path, *EVERY)
    assert figures(run)["rows_train"] == 342
    assert ended.is_set()
    assert not (run.folder / "checkpoints").exists()


def members(log: Path, folder: Path, options: list[list[str]], *, resume: bool) -> list[Run]:
    configs = [configuration(log, "opt=adam", *EVERY, *own) for own in options]
    return [Run(resolve(config), folder / str(n), resume=resume) for n, config in enumerate(configs)]


@pytest.mark.parametrize("call", [6, 12, 20, *(pytest.param(call, marks=pytest.mark.slow) for call in (2, 9, 15, 28))])
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


def test_interruptions_wait_until_they_may_act() -> None:
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.pending == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            interrupts.act()
    with pytest.raises(KeyboardInterrupt), Interrupts():  # at the latest at the end
        os.kill(os.getpid(), signal.SIGINT)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)  # a second one at once
        interrupts.pending = None
    with pytest.raises(KeyboardInterrupt), Interrupts(active=False):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # the system's: never touched


def test_sigterm_waits_too_and_does_not_hasten() -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        with Interrupts() as interrupts:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
            assert not got
            interrupts.act()
            assert got == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(got) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_state_that_cannot_be_stored_or_does_not_fit(data: Prepared, tmp_path: Path) -> None:
    run = new_run(data, "group_adam")
    train(run, until=2)
    taken = snapshot.take(run)
    write_tensors(tmp_path / "state", taken.tensors)
    write_tensors(tmp_path / "rows", snapshot.part(run, run.model.embedding.seen.numpy()))
    with (
        snapshot.opened(tmp_path / "state", taken.values, taken.columns, [tmp_path / "rows"]) as stored,
        pytest.raises(
            ValueError, match=r"its rows hold \['weight', 'u', 'm', 'v'\]; this optimizer's \['weight', 'u'\]"
        ),
    ):
        snapshot.restore(new_run(data, "group_sgd"), stored)
    run.metrics = SimpleNamespace(state_dict=lambda: {"logits": object()})  # type: ignore[assignment]
    with pytest.raises(CtrError, match=r"metrics\.logits of the run's state is of type object"):
        snapshot.take(run)


@pytest.mark.usefixtures("waiting")
def test_checkpoints_are_off_where_nothing_asks_for_them(log: Path, tmp_path: Path) -> None:
    stopped(log, tmp_path, 9, "checkpoint.every_minutes=null")
    assert not (tmp_path / "checkpoints").exists()
    stopped(log, tmp_path, 9, "checkpoint.every_minutes=1e-9")  # each time that it is asked
    assert found(tmp_path / "checkpoints")[-1] == ("train", 8)
