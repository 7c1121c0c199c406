"""Checkpoints are written when they are due; one that cannot be written does not end the run."""

import errno
import os
import threading
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from time import sleep
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ctr.datasets.prepared import Prepared
from ctr.errors import CtrError, DataError
from ctr.training import checkpointing, precopy, snapshot
from ctr.training.checkpoint import load_final, read_final
from ctr.training.checkpointing import Checkpoints
from ctr.training.precopy import PreCopy
from ctr.training.tensors import Pieces, verify, write_tensors
from ctr.training.tracking import NoTracker
from ctr.training.trainer import train
from tests.limits import file_size_limit
from tests.native.built import BACKENDS, needs_kernels
from tests.training.checkpoints import EVERY, STEPS, figures, flip, found, go, stopped, whole
from tests.training.runs import equal, new_run


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
    save = Checkpoints._save

    def save_and_wait(self: Checkpoints, *arguments: Any) -> None:
        save(self, *arguments)
        if self._writing is not None:
            wait([self._writing])  # else a run that ends throws away what is being written

    monkeypatch.setattr(checkpointing, "goes_on", lambda run: not waits)
    expected = whole(log)
    monkeypatch.setattr(Checkpoints, "_save", save_and_wait)
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

    monkeypatch.setattr(Checkpoints, "_new", fail)
    monkeypatch.setattr(checkpointing, "goes_on", lambda run: not waits)
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
        patch.setattr(checkpointing, "write_tensors", lambda *arguments: os.close(-1))
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
    real = checkpointing.write_tensors

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

    given_up = Checkpoints.give_up
    monkeypatch.setattr(precopy, "WAIT", -1)
    monkeypatch.setattr(checkpointing, "write_tensors", slow)
    monkeypatch.setattr(Checkpoints, "give_up", give_up)
    run = go(log, tmp_path, *EVERY)
    assert figures(run)["rows_train"] == 342
    assert ended.is_set()
    assert not (run.folder / "checkpoints").exists()


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
